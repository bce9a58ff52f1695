//! Identities of holders: who may act in the name of a gateway worker, and which of its streams is the newest.
//! [`super::memory`] and [`super::redis`] give the same answers.

use std::fmt;

use async_trait::async_trait;
use evenkeel_domain::{HolderId, StoreError};
use subtle::ConstantTimeEq as _;

/// Length of a secret, in bytes.
pub const SECRET_BYTES: usize = 16;

/// Proves that a caller is a holder. Comparisons take the same time for all secrets, and `Debug` prints no bytes.
#[derive(Clone, Copy)]
pub struct Secret([u8; SECRET_BYTES]);

impl Secret {
    #[must_use]
    pub const fn new(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(bytes)
    }

    /// Returns `None` if the bytes do not have the length of a secret.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The epoch that a caller claims. Each stream of a holder has a larger epoch than all earlier streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epoch {
    /// The epoch of a new stream. It is a time, not a count, because a store that has lost its data must not repeat an
    /// epoch.
    Next,
    /// The epoch of a stream that exists. 0: the caller has no stream.
    AtLeast(u64),
}

/// What the store knows about a holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HolderRecord {
    pub secret: Secret,
    /// The epoch of the holder's newest stream. 0: the holder has never had a stream.
    pub epoch: u64,
}

#[async_trait]
pub trait HolderStore: Send + Sync + 'static {
    /// Reads a holder's record. If the record has this secret, renews the record's expiry and raises its epoch. If there
    /// is no record, creates one with this secret. If the record has another secret, changes nothing.
    async fn claim(
        &self,
        holder: &HolderId,
        secret: &Secret,
        epoch: Epoch,
    ) -> Result<HolderRecord, StoreError>;
}
