//! Records that administrators set: balances and budgets of quotas. [`super::memory`] and [`super::redis`] give the same
//! answers.

use std::sync::Arc;

use async_trait::async_trait;
use evenkeel_domain::{
    StoreError,
    limit::{Attribute, Attributes, Bucket, CounterRule, Key},
};

/// Maximum number of changes stored per record.
pub const CHANGES_MAX: usize = 100;

/// One consumer's account in one quota.
#[derive(Clone, Debug)]
pub struct Account {
    pub consumer: Arc<str>,
    /// The bucket that contains the consumer's records.
    pub bucket: Arc<Bucket>,
    pub quota: Arc<str>,
    /// The current rule of the quota: prepaid or a budget.
    pub rule: CounterRule,
}

impl Account {
    /// Builds an account. Returns `None` if the consumer's name is empty.
    #[must_use]
    pub fn new(consumer: &str, quota: Arc<str>, rule: CounterRule) -> Option<Self> {
        let attributes = Attributes { consumer: consumer.to_owned(), ..Attributes::default() };
        let bucket = Key::new(vec![Attribute::Consumer]).bucket(&attributes, &quota)?;
        Some(Self { consumer: consumer.into(), bucket, quota, rule })
    }
}

/// The state of an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Whether the account has a record. If not, the configured default applies.
    pub recorded: bool,
    /// The balance after subtracting the reserved amounts.
    pub balance: u64,
    /// Amounts reserved for in-flight requests.
    pub reserved: u64,
    /// A budget's amount per period. 0 for a prepaid quota.
    pub amount: u64,
    pub used: u64,
    /// The amount used beyond the balance.
    pub overrun: u64,
    /// Time until the budget's period ends. 0 for a prepaid quota.
    pub reset_ms: u64,
}

impl Record {
    /// Builds the record of a budget. `used` includes the reserved amounts.
    pub(crate) fn of_budget(
        rule: &CounterRule,
        custom: Option<u64>,
        used: u64,
        reserved: u64,
        now: u64,
    ) -> Self {
        let default = if let CounterRule::Budget { default, .. } = rule { *default } else { None };
        let amount = custom.or(default).unwrap_or(0);
        Self {
            recorded: custom.is_some(),
            balance: amount.saturating_sub(used),
            reserved,
            amount,
            used: used.saturating_sub(reserved),
            overrun: used.saturating_sub(amount),
            reset_ms: rule.reset_ms(used, now),
        }
    }
}

/// A requested action on an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Sets the balance, or a budget's amount per period.
    Set(u64),
    /// Adds this difference, which may be negative. The result is clamped to
    /// 0..[`AMOUNT_MAX`](evenkeel_domain::limit::AMOUNT_MAX).
    Adjust(i64),
    /// Deletes the record, so that the configured default applies. The amount that a budget has used in this period
    /// remains.
    Delete,
}

impl Action {
    /// Returns the action's name in the history.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Set(_) => "set",
            Self::Adjust(_) => "adjust",
            Self::Delete => "delete",
        }
    }
}

/// A requested change of an account. The texts contain no control characters.
#[derive(Clone, Debug)]
pub struct Edit {
    pub action: Action,
    pub who: String,
    pub note: String,
    /// Identifies the edit. If one of the last [`CHANGES_MAX`] edits of this account has the same id, this edit changes
    /// nothing.
    pub id: String,
}

/// The result of an [`Edit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edited {
    /// False if an earlier edit had the same id, so that this edit changed nothing.
    pub applied: bool,
    /// Balance, or amount per period, before the edit.
    pub before: u64,
    /// Balance, or amount per period, after the edit.
    pub after: u64,
    pub record: Record,
}

/// One change in the history of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Time of the change by the store's clock, in ms since the Unix epoch.
    pub at_ms: u64,
    pub who: String,
    /// `set`, `adjust` or `delete`.
    pub what: String,
    /// Balance, or amount per period, before the edit.
    pub before: u64,
    /// Balance, or amount per period, after the edit.
    pub after: u64,
    pub note: String,
}

/// The result of [`RecordStore::quotas`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub records: Vec<(Arc<str>, Record)>,
    /// The last consumer that the store has compared, if it stopped before it found the wanted number of records.
    pub stopped_at: Option<String>,
}

/// Selects the records of a quota to list.
#[derive(Clone, Copy, Debug)]
pub struct Range<'a> {
    /// Only consumers whose names contain this text.
    pub search: &'a str,
    /// Only consumers after this one in name order. Empty: all consumers.
    pub after: &'a str,
    pub most: usize,
}

#[async_trait]
pub trait RecordStore: Send + Sync + 'static {
    /// Returns the state of an account.
    async fn quota(&self, account: &Account) -> Result<Record, StoreError>;

    /// Atomically changes an account and records the change in its history. Returns `None` if there is no record to
    /// delete.
    async fn edit_quota(&self, account: &Account, edit: &Edit) -> Result<Option<Edited>, StoreError>;

    /// Returns the last [`CHANGES_MAX`] changes of an account, newest first. The history outlives the record.
    async fn quota_changes(&self, account: &Account) -> Result<Vec<Change>, StoreError>;

    /// Returns the consumers that have a record, sorted by name. A record that a request created from the quota's
    /// default is listed only after an administrator has read it.
    async fn quotas(
        &self,
        quota: &Arc<str>,
        rule: &CounterRule,
        range: Range<'_>,
    ) -> Result<Found, StoreError>;
}
