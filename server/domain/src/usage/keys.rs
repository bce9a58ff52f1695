//! Keys of usage: a row's consumer, model and route, or a session's consumer and id, joined in one text.

use std::{borrow::Borrow, fmt, sync::Arc};

use crate::{NAME_BYTES_MAX, shorten};

/// Maximum length of a session id, in bytes.
pub const SESSION_BYTES_MAX: usize = 128;
/// Replaces the names of folded usage: usage that has no row of its own, because there are too many rows.
pub const OTHER: &str = "(other)";
/// Displayed in place of an empty name. As a filter, selects the empty name.
pub const NONE: &str = "(none)";
/// Separates the names in a key. No name contains the separator, because control characters in names are replaced.
pub const SEPARATOR: char = '\u{1f}';

/// The key of a usage row: consumer, model and route.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowKey(Arc<str>);

impl RowKey {
    /// [Shortens](shorten) and joins the names.
    #[must_use]
    pub fn new(consumer: &str, model: &str, route: &str) -> Self {
        let mut key = String::with_capacity(consumer.len() + model.len() + route.len() + 2);
        write_row(&mut key, consumer, model, route);
        Self(key.into())
    }

    /// Parses the text of a key. Returns `None` unless it has three parts.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        (text.matches(SEPARATOR).count() == 2).then(|| Self(text.into()))
    }

    /// Returns the names, separated by [`SEPARATOR`].
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns consumer, model and route.
    #[must_use]
    pub fn names(&self) -> [&str; 3] {
        let mut parts = self.0.splitn(3, SEPARATOR);
        std::array::from_fn(|_| parts.next().unwrap_or_default())
    }

    /// Returns the key to which this key's usage is added if there are too many rows: `(other)` of the same model.
    #[must_use]
    pub fn folded(&self) -> Self {
        Self::new(OTHER, self.names()[1], OTHER)
    }

    /// Returns the key to which usage is added if there are too many rows for [`Self::folded`] as well.
    #[must_use]
    pub fn other() -> Self {
        Self::new(OTHER, OTHER, OTHER)
    }
}

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey(Arc<str>);

impl SessionKey {
    /// [Shortens](shorten) and joins the names.
    #[must_use]
    pub fn new(consumer: &str, session: &str) -> Self {
        let mut key = String::with_capacity(consumer.len() + session.len() + 1);
        write_session(&mut key, consumer, session);
        Self(key.into())
    }

    /// Parses the text of a key. Returns `None` unless it has two parts.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        (text.matches(SEPARATOR).count() == 1).then(|| Self(text.into()))
    }

    /// Returns the names, separated by [`SEPARATOR`].
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    #[must_use]
    pub fn consumer(&self) -> &str {
        self.0.split_once(SEPARATOR).map_or("", |(consumer, _)| consumer)
    }

    #[must_use]
    pub fn session(&self) -> &str {
        self.0.split_once(SEPARATOR).map_or("", |(_, session)| session)
    }
}

impl Borrow<str> for RowKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for SessionKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RowKey{:?}", self.names())
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionKey({:?}, {:?})", self.consumer(), self.session())
    }
}

/// Writes the text of a [`RowKey`].
pub fn write_row(out: &mut String, consumer: &str, model: &str, route: &str) {
    out.push_str(&shorten(consumer, NAME_BYTES_MAX));
    out.push(SEPARATOR);
    out.push_str(&shorten(model, NAME_BYTES_MAX));
    out.push(SEPARATOR);
    out.push_str(&shorten(route, NAME_BYTES_MAX));
}

/// Writes the text of a [`SessionKey`].
pub fn write_session(out: &mut String, consumer: &str, session: &str) {
    out.push_str(&shorten(consumer, NAME_BYTES_MAX));
    out.push(SEPARATOR);
    out.push_str(&shorten(session, SESSION_BYTES_MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_hold_cleaned_names() {
        let key = RowKey::new("a\u{1f}b", "", "r|");
        assert_eq!(key.names(), ["a\u{fffd}b", "", "r|"]);
        assert_eq!(RowKey::from_text(key.as_str()), Some(key));
        assert_eq!(RowKey::from_text("a"), None);
        let key = SessionKey::new("c", &"s".repeat(200));
        assert_eq!((key.consumer(), key.session().len()), ("c", 128));
    }
}
