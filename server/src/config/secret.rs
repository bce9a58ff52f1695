//! Secrets of the configuration, and the administrators they tell.

use std::fmt;

/// A secret: never printed.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself: for whom it is meant, and nobody else.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether a text is this secret, in a time that does not tell how much of it is right.
    #[must_use]
    pub fn is(&self, given: &str) -> bool {
        let digest = |text: &str| ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        digest(&self.0).as_ref() == digest(given).as_ref()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.is(&other.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Whether what is sent to a host stays on this machine: a secret must not be read on its way elsewhere.
pub(super) fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    bare.eq_ignore_ascii_case("localhost")
        || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// An administrator and the token that tells them.
#[derive(Clone, Debug, PartialEq)]
pub struct AdminToken {
    /// Their name, for records of who did what.
    pub name: String,
    /// What they have to show.
    pub secret: Secret,
}
