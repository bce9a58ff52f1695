//! What administrators put on record: balances and budgets of quotas, and overrides of limits. As with the table of
//! requests in flight, [`super::memory`] and [`super::redis`] give the same answers.

use std::sync::Arc;

use async_trait::async_trait;
use evenkeel_domain::{
    StoreError,
    limit::{Attribute, Bucket, Facts, Key, Rule},
};

/// Changes kept of one record.
pub const CHANGES_MAX: usize = 100;
/// Most overrides.
pub const OVERRIDES_MAX: usize = 10_000;

/// One consumer in one quota.
#[derive(Clone, Debug)]
pub struct Account {
    /// The consumer.
    pub consumer: Arc<str>,
    /// Where the consumer's records are.
    pub bucket: Arc<Bucket>,
    /// Name of the quota.
    pub quota: Arc<str>,
    /// Its rule now: prepaid or a budget.
    pub rule: Rule,
}

impl Account {
    /// `None` where the consumer's name is empty.
    #[must_use]
    pub fn new(consumer: &str, quota: Arc<str>, rule: Rule) -> Option<Self> {
        let facts = Facts { consumer: consumer.to_owned(), ..Facts::default() };
        let bucket = Key::new(vec![Attribute::Consumer]).bucket(&facts, &quota)?;
        Some(Self { consumer: consumer.into(), bucket, quota, rule })
    }
}

/// An account as it stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Whether there is a record: otherwise the configured default applies.
    pub recorded: bool,
    /// What is left, reservations taken off.
    pub balance: u64,
    /// Reserved for requests under way.
    pub reserved: u64,
    /// Amount per period; 0 where prepaid.
    pub amount: u64,
    /// Used, reservations not included.
    pub used: u64,
    /// Used beyond what there was.
    pub overrun: u64,
    /// Time until the budget is full again; 0 where prepaid.
    pub reset_ms: u64,
}

impl Record {
    /// Of a budget: `used` includes what is reserved.
    pub(crate) fn of_budget(rule: &Rule, custom: Option<u64>, used: u64, reserved: u64, now: u64) -> Self {
        let default = if let Rule::Budget { default, .. } = rule { *default } else { None };
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

/// What is done to an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The balance, or a budget's amount per period, becomes this.
    Set(u64),
    /// So much is added, or taken where negative. The result is from 0 to
    /// [`AMOUNT_MAX`](evenkeel_domain::limit::AMOUNT_MAX).
    Adjust(i64),
    /// The record is forgotten, so that the configured default applies. What a budget has used in this period stays.
    Delete,
}

impl Action {
    /// Its name in the history.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Set(_) => "set",
            Self::Adjust(_) => "adjust",
            Self::Delete => "delete",
        }
    }
}

/// A change of an account. None of its texts holds a control character.
#[derive(Clone, Debug)]
pub struct Edit {
    /// What is done.
    pub action: Action,
    /// By whom.
    pub who: String,
    /// Why.
    pub note: String,
    /// An edit with the id of one of the last [`CHANGES_MAX`] of this account changes nothing.
    pub id: String,
}

/// What became of an [`Edit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edited {
    /// False where an earlier edit had the same id: nothing changed.
    pub applied: bool,
    /// Balance, or amount per period, before.
    pub before: u64,
    /// And after.
    pub after: u64,
    /// The account now.
    pub record: Record,
}

/// One change of an account, as history tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When, in ms of the Unix epoch, by the store's clock.
    pub at_ms: u64,
    /// By whom.
    pub who: String,
    /// `set`, `adjust` or `delete`.
    pub what: String,
    /// Balance, or amount per period, before.
    pub before: u64,
    /// And after.
    pub after: u64,
    /// Why.
    pub note: String,
}

/// Which records of a quota to list.
#[derive(Clone, Copy, Debug)]
pub struct Range<'a> {
    /// Only consumers whose names begin so.
    pub prefix: &'a str,
    /// Only consumers after this one; empty for all.
    pub after: &'a str,
    /// At most so many.
    pub most: usize,
}

/// Another amount of a limit for one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// Name of the limit.
    pub limit: String,
    /// The key, as [`Bucket`] is displayed.
    pub key: String,
    /// The amount instead; `None`: not limited.
    pub amount: Option<u64>,
    /// When it ends, ms of the Unix epoch; `None`: never.
    pub expires_at_ms: Option<u64>,
    /// Who set it. Without control characters.
    pub who: String,
    /// When, ms of the Unix epoch, by the store's clock.
    pub at_ms: u64,
}

/// All overrides at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OverrideList {
    /// Another one where they changed.
    pub version: u64,
    /// By limit, then key. Those that have ended may be among them.
    pub overrides: Vec<Override>,
}

/// Records.
#[async_trait]
pub trait Records: Send + Sync + 'static {
    /// An account as it stands.
    async fn quota(&self, account: &Account) -> Result<Record, StoreError>;

    /// Changes an account, and keeps the change in its history, in one step. `None` where there is no record to
    /// delete.
    async fn edit_quota(&self, account: &Account, edit: &Edit) -> Result<Option<Edited>, StoreError>;

    /// The last [`CHANGES_MAX`] changes of an account, newest first; they outlive the record.
    async fn quota_changes(&self, account: &Account) -> Result<Vec<Change>, StoreError>;

    /// Consumers with a record, by name. Of records that a request made from a quota's default only those that an
    /// administrator has looked at.
    async fn quotas(
        &self,
        quota: &Arc<str>,
        rule: &Rule,
        range: Range<'_>,
    ) -> Result<Vec<(Arc<str>, Record)>, StoreError>;

    /// Puts an override in place of the one before, if any; the store tells `at_ms`. `None` where there are
    /// [`OVERRIDES_MAX`] others.
    async fn set_override(&self, new: &Override) -> Result<Option<u64>, StoreError>;

    /// Takes an override away; false where there is none.
    async fn delete_override(&self, limit: &str, key: &str) -> Result<bool, StoreError>;

    /// All overrides.
    async fn overrides(&self) -> Result<OverrideList, StoreError>;

    /// [`OverrideList::version`] alone.
    async fn overrides_version(&self) -> Result<u64, StoreError>;
}
