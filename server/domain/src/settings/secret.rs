//! Secrets, and the tokens of administrators.

use std::fmt;

use subtle::ConstantTimeEq as _;

/// A secret; `Debug` never prints it.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Returns the text, for the one peer that must see it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Compares in constant time.
    #[must_use]
    pub fn is(&self, given: &str) -> bool {
        self.0.as_bytes().ct_eq(given.as_bytes()).into()
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

/// An administrator, authenticated by a bearer token.
#[derive(Clone, Debug, PartialEq)]
pub struct AdminToken {
    /// Shown as `who` in the change log.
    pub name: String,
    pub secret: Secret,
}
