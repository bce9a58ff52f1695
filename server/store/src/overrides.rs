//! Overrides of limits. A [versioned map](super::versioned) contains the overrides.

use crate::versioned::{Entry, Record};

pub const OVERRIDES_MAX: usize = 10_000;

/// An override of a limit's amount for one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    pub limit: String,
    /// The key, as the [`Bucket`](evenkeel_domain::limit::Bucket) displays it.
    pub key: String,
    /// `None`: unlimited.
    pub amount: Option<u64>,
    /// When the override expires, in ms since the Unix epoch. `None`: never.
    pub expires_at_ms: Option<u64>,
    /// Name of the admin token. Contains no control characters.
    pub who: String,
    /// When the override was set, by the store's clock, in ms since the Unix epoch.
    pub at_ms: u64,
}

impl Record for Override {
    fn entry(&self) -> Entry {
        let amount = self.amount.map_or(-1, |amount| amount as i64);
        Entry {
            name: override_name(&self.limit, &self.key),
            at_ms: self.at_ms,
            expires_at_ms: self.expires_at_ms.unwrap_or(0),
            value: format!("{amount}\n{}", self.who),
        }
    }

    fn read(entry: &Entry) -> Option<Self> {
        let (limit, key) = entry.name.split_once('|')?;
        let mut lines = entry.value.splitn(3, '\n');
        let amount: i64 = lines.next()?.parse().ok()?;
        Some(Self {
            limit: limit.to_owned(),
            key: key.to_owned(),
            amount: u64::try_from(amount).ok(),
            expires_at_ms: Some(entry.expires_at_ms).filter(|at| *at > 0),
            at_ms: entry.at_ms,
            who: lines.next()?.to_owned(),
        })
    }
}

/// Returns the name of the override of a limit for one key.
#[must_use]
pub fn override_name(limit: &str, key: &str) -> String {
    format!("{limit}|{key}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_survive_encoding() {
        let (limit, key, who) = ("tpm".to_owned(), "consumer=a|model=m".to_owned(), "ops".to_owned());
        let unlimited = Override { limit, key, amount: None, expires_at_ms: None, who, at_ms: 7 };
        let short = Override { amount: Some(0), expires_at_ms: Some(9), ..unlimited.clone() };
        for set in [unlimited, short] {
            assert_eq!(Override::read(&set.entry()), Some(set));
        }
        assert_eq!(Override::read(&Entry { value: "7\nops".to_owned(), ..Entry::default() }), None);
        assert_eq!(Override::read(&Entry { name: "tpm|k".to_owned(), ..Entry::default() }), None);
    }
}
