//! Versioned maps of records that administrators change and every sidecar applies, such as drains and overrides.
//! Sidecars poll the version, and read the map when the version has changed. [`super::memory`] and [`super::redis`]
//! give the same answers.

use async_trait::async_trait;
use evenkeel_domain::StoreError;

/// A record of a map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    /// When the record was put, by the store's clock, in ms since the Unix epoch.
    pub at_ms: u64,
    /// When the record expires, in ms since the Unix epoch. 0: never.
    pub expires_at_ms: u64,
    /// The content. Its type encodes and decodes it.
    pub value: String,
}

/// The result of [`VersionedMap::put`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put {
    /// When the record was put, by the store's clock, in ms since the Unix epoch.
    pub at_ms: u64,
    /// Whether this record replaced a previous record of this name.
    pub before: bool,
}

/// A type of records that a map contains.
pub trait Record: Sized {
    fn entry(&self) -> Entry;

    /// The inverse of [`Self::entry`]. Returns `None` for an entry in a layout that this version does not know.
    fn read(entry: &Entry) -> Option<Self>;
}

#[async_trait]
pub trait VersionedMap: Send + Sync + 'static {
    /// Puts a record. The store sets `at_ms`. Returns `None` if the map is full of other records that have not expired.
    async fn put(&self, new: &Entry) -> Result<Option<Put>, StoreError>;

    /// Removes a record. Returns false if there is none of this name.
    async fn remove(&self, name: &str) -> Result<bool, StoreError>;

    /// Returns a number that differs after each change.
    async fn version(&self) -> Result<u64, StoreError>;

    /// Returns the version and all records, in any order. They may include expired records.
    async fn read(&self) -> Result<(u64, Vec<Entry>), StoreError>;
}
