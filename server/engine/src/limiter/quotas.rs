//! Administration of quotas: reads and changes balances and budgets. Each change is recorded in the change log.

use std::sync::Arc;

use arc_swap::ArcSwap;
use evenkeel_domain::{
    DomainError, IDENTITY_BYTES_MAX, NAME_BYTES_MAX, check_name, check_text,
    clock::unix_ms,
    limit::{AMOUNT_MAX, CounterRule, Counts, LimitRules, QuotaKind, QuotaRule},
    page::{cut, page_size_of, wrong_token},
    shorten,
};
use evenkeel_store::{
    changes::AdminChange,
    records::{Account, Action, Change, Edit, Edited, Found, Range, Record, RecordStore},
};

use crate::change_log::ChangeLog;

/// Maximum length of a note, and of an id that the sidecar generates, in bytes.
const TEXT_BYTES_MAX: usize = 256;
/// Maximum length of an id that a client may set, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 64;

/// Reads and changes quotas.
pub struct Quotas {
    store: Arc<dyn RecordStore>,
    rules: Arc<ArcSwap<LimitRules>>,
    change_log: Arc<ChangeLog>,
}

/// One consumer's balance in one quota.
#[derive(Clone, Debug, PartialEq)]
pub struct QuotaView {
    pub quota: Arc<str>,
    pub consumer: Arc<str>,
    pub counts: Counts,
    pub record: Record,
}

/// A requested change of a quota.
#[derive(Clone, Debug)]
pub struct QuotaEdit {
    pub action: Action,
    /// Name of the admin token, or `gateway:<consumer>`.
    pub who: String,
    pub note: String,
    /// An id that makes the change idempotent: a change with a repeated id changes nothing. May be empty.
    pub request_id: String,
}

impl Quotas {
    #[must_use]
    pub fn new(
        store: Arc<dyn RecordStore>,
        rules: Arc<ArcSwap<LimitRules>>,
        change_log: Arc<ChangeLog>,
    ) -> Self {
        Self { store, rules, change_log }
    }

    /// Returns one consumer's balance. In this and the following methods, `quota` may be empty if only one quota is
    /// configured.
    ///
    /// # Errors
    /// In this and the following methods: if a name is invalid or the store is unavailable.
    pub async fn get(&self, quota: &str, consumer: &str) -> Result<QuotaView, DomainError> {
        let (rule, account) = self.account(quota, consumer)?;
        let record = self.store.quota(&account).await.map_err(DomainError::store("reading a quota"))?;
        Ok(view(&rule, account.consumer, record))
    }

    /// Sets or adjusts a balance or a budget, or deletes the record.
    ///
    /// # Errors
    /// Also if there is no record to delete.
    pub async fn edit(&self, quota: &str, consumer: &str, edit: QuotaEdit) -> Result<QuotaView, DomainError> {
        let expected = "at most 64 bytes without control characters";
        check_text("request_id", &edit.request_id, REQUEST_ID_BYTES_MAX, expected)?;
        self.apply(quota, consumer, edit).await
    }

    /// Does the same as [`Self::edit`], but allows a longer id.
    pub(super) async fn apply(
        &self,
        quota: &str,
        consumer: &str,
        edit: QuotaEdit,
    ) -> Result<QuotaView, DomainError> {
        let expected = "at most 256 bytes without control characters";
        check_text("note", &edit.note, TEXT_BYTES_MAX, expected)?;
        check_text("request_id", &edit.request_id, TEXT_BYTES_MAX, expected)?;
        match edit.action {
            Action::Set(amount) if amount > AMOUNT_MAX => {
                return Err(DomainError::invalid("amount", "at most 10^15", &amount.to_string()));
            }
            Action::Adjust(delta) if delta.unsigned_abs() > AMOUNT_MAX => {
                return Err(DomainError::invalid("delta", "-10^15..10^15", &delta.to_string()));
            }
            _ => {}
        }
        let (rule, account) = self.account(quota, consumer)?;
        let QuotaEdit { action, who, note, request_id } = edit;
        // A cluster client may send a call twice. The id ensures that the second call changes nothing.
        let id = if request_id.is_empty() { random_id() } else { request_id };
        let edit = Edit { action, who, note, id };
        let (store, change_log) = (Arc::clone(&self.store), Arc::clone(&self.change_log));
        let done = async move {
            let edited = store.edit_quota(&account, &edit).await;
            let edited = edited.map_err(DomainError::store("changing a quota"))?.ok_or_else(|| {
                DomainError::NotFound {
                    what: format!("record of {:?} in quota {:?}", account.consumer, rule.name),
                    hint: "the configured default applies to it already",
                }
            })?;
            if edited.applied {
                change_log.record(change(&account, edit, &edited)).await;
            }
            Ok(view(&rule, account.consumer, edited.record))
        };
        self.change_log.run_to_end(done).await
    }

    /// Returns one page of the consumers that have a record and whose names contain `search`, sorted by name, and the
    /// token of the next page.
    ///
    /// # Errors
    /// Also if the page size or token is invalid.
    pub async fn list(
        &self,
        quota: &str,
        search: &str,
        page_size: u32,
        page_token: &str,
    ) -> Result<(Vec<QuotaView>, String), DomainError> {
        let size = page_size_of(page_size)?;
        check_name("search", search)?;
        check_name("page_token", page_token).map_err(|_| wrong_token(page_token))?;
        let quota = self.quota(quota)?;
        let range = Range { search, after: page_token, most: size + 1 };
        let found = self.store.quotas(&quota.name, &rule_of(&quota), range).await;
        let Found { records, stopped_at } = found.map_err(DomainError::store("listing a quota"))?;
        let mut page: Vec<_> =
            records.into_iter().map(|(consumer, record)| view(&quota, consumer, record)).collect();
        let next = cut(&mut page, size, |last| last.consumer.to_string());
        Ok((page, if next.is_empty() { stopped_at.unwrap_or_default() } else { next }))
    }

    /// Returns the changes of one record, newest first.
    ///
    /// # Errors
    /// See [`Self::get`].
    pub async fn changes(&self, quota: &str, consumer: &str) -> Result<Vec<Change>, DomainError> {
        let (_, account) = self.account(quota, consumer)?;
        self.store.quota_changes(&account).await.map_err(DomainError::store("reading a quota's history"))
    }

    /// Returns the names of the configured quotas, in configuration order.
    #[must_use]
    pub fn names(&self) -> Vec<Arc<str>> {
        self.rules.load().quotas.iter().map(|quota| Arc::clone(&quota.name)).collect()
    }

    fn quota(&self, name: &str) -> Result<Arc<QuotaRule>, DomainError> {
        let rules = self.rules.load();
        match rules.quotas.as_slice() {
            [only] if name.is_empty() => Ok(Arc::clone(only)),
            quotas if name.is_empty() && !quotas.is_empty() => {
                let names: Vec<&str> = quotas.iter().map(|quota| &*quota.name).collect();
                Err(DomainError::invalid("quota", format!("one of {}", names.join(", ")), "none"))
            }
            quotas => {
                let found = quotas.iter().find(|quota| *quota.name == *name);
                found.cloned().ok_or_else(|| DomainError::NotFound {
                    what: format!("quota {name:?}"),
                    hint: "the configuration has no quota of this name",
                })
            }
        }
    }

    fn account(&self, quota: &str, consumer: &str) -> Result<(Arc<QuotaRule>, Account), DomainError> {
        let quota = self.quota(quota)?;
        let expected = "a name of 1..65536 bytes without control characters";
        check_text("consumer", consumer, IDENTITY_BYTES_MAX, expected)?;
        let consumer = shorten(consumer, NAME_BYTES_MAX);
        let account = Account::new(&consumer, Arc::clone(&quota.name), rule_of(&quota));
        let account = account.ok_or_else(|| DomainError::invalid("consumer", expected, "an empty one"))?;
        Ok((quota, account))
    }
}

fn view(quota: &QuotaRule, consumer: Arc<str>, record: Record) -> QuotaView {
    QuotaView { quota: Arc::clone(&quota.name), consumer, counts: quota.counts, record }
}

fn rule_of(quota: &QuotaRule) -> CounterRule {
    match &quota.kind {
        QuotaKind::Prepaid => CounterRule::Prepaid { default: quota.default },
        QuotaKind::Budget(period) => {
            let now = unix_ms();
            CounterRule::Budget { default: quota.default, window: period.window(now) }
        }
    }
}

fn random_id() -> String {
    format!("={:032x}", rand::random::<u128>())
}

fn change(account: &Account, edit: Edit, edited: &Edited) -> AdminChange {
    let default = if edit.action == Action::Delete { " (the default)" } else { "" };
    AdminChange {
        at_ms: 0,
        who: edit.who,
        what: format!("quota.{}", edit.action.name()),
        target: format!("{}/{}", account.quota, account.consumer),
        before: edited.before.to_string(),
        after: format!("{}{default}", edited.after),
        note: edit.note,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use evenkeel_domain::limit::{OnStoreFailure, Rejected};
    use evenkeel_store::memory::{MemoryCounters, MemoryRecords};

    use super::*;
    use crate::change_log::tests::change_log;

    pub(crate) fn quotas(names: &[&str]) -> Quotas {
        let rule = |name: &&str| {
            Arc::new(QuotaRule {
                name: (*name).into(),
                counts: Counts::Tokens,
                kind: QuotaKind::Prepaid,
                default: None,
                when: Vec::new(),
                shadow: false,
                rejected: Rejected::with_status(403),
                margin: 1.0,
                on_store_failure: OnStoreFailure::Open,
            })
        };
        let rules = LimitRules { quotas: names.iter().map(rule).collect(), ..LimitRules::default() };
        let records = Arc::new(MemoryRecords::new(Arc::new(MemoryCounters::default())));
        Quotas::new(records, Arc::new(ArcSwap::from_pointee(rules)), change_log())
    }

    pub(crate) fn edit(action: Action) -> QuotaEdit {
        QuotaEdit { action, who: "ops".into(), note: String::new(), request_id: String::new() }
    }

    #[tokio::test]
    async fn a_quotas_name_may_be_empty_if_only_one_is_configured() {
        let one = quotas(&["tokens"]);
        assert_eq!(&*one.get("", "alice").await.unwrap().quota, "tokens");
        let two = quotas(&["a", "b"]).get("", "alice").await.unwrap_err();
        assert_eq!(two.to_string(), "quota: must be one of a, b, got none");
        let none = quotas(&[]).get("", "alice").await.unwrap_err();
        assert!(matches!(none, DomainError::NotFound { .. }), "{none}");
    }

    #[tokio::test]
    async fn errors_name_the_invalid_field() {
        let quotas = quotas(&["tokens"]);
        let edit_of = |action, note: &str, id: &str| QuotaEdit {
            note: note.to_owned(),
            request_id: id.to_owned(),
            ..edit(action)
        };
        let cases = [
            ("", edit(Action::Set(1)), "consumer: "),
            ("a\n", edit(Action::Set(1)), "consumer: "),
            ("a", edit(Action::Set(AMOUNT_MAX + 1)), "amount: "),
            ("a", edit(Action::Adjust(i64::MIN)), "delta: "),
            ("a", edit_of(Action::Set(1), &"n".repeat(257), ""), "note: "),
            ("a", edit_of(Action::Set(1), "a\nb", ""), "note: "),
            ("a", edit_of(Action::Set(1), "", &"i".repeat(65)), "request_id: "),
            ("a", edit(Action::Delete), "record of \"a\" in quota \"tokens\" not found"),
        ];
        for (consumer, edit, begins) in cases {
            let error = quotas.edit("", consumer, edit).await.unwrap_err().to_string();
            assert!(error.starts_with(begins), "{error}");
        }
        assert!(quotas.list("", "", 0, "a\n").await.is_err());
        assert!(quotas.list("", "", 1001, "").await.is_err());
    }

    /// Consumers that differ only after the part of their names that is stored have their own records.
    #[tokio::test]
    async fn long_names_of_consumers_have_their_own_records() {
        let quotas = quotas(&["tokens"]);
        let name = |end: &str| "a".repeat(300) + end;
        for (end, amount) in [("1", 7), ("2", 9)] {
            let view = quotas.edit("", &name(end), edit(Action::Set(amount))).await.unwrap();
            assert_eq!(view.consumer.len(), NAME_BYTES_MAX);
            // A list shows the shortened name, with which a client can go on.
            for consumer in [&*name(end), &*view.consumer] {
                assert_eq!(quotas.get("", consumer).await.unwrap().record.balance, amount);
            }
        }
        let most = "a".repeat(IDENTITY_BYTES_MAX);
        quotas.get("", &most).await.unwrap();
        let error = quotas.get("", &(most + "a")).await.unwrap_err().to_string();
        assert!(error.starts_with("consumer: must be a name of 1..65536 bytes"), "{error}");
    }

    #[tokio::test]
    async fn a_repeated_change_is_in_the_log_once() {
        let quotas = quotas(&["tokens"]);
        let set = QuotaEdit { note: "welcome".into(), request_id: "x".into(), ..edit(Action::Set(7)) };
        for _ in 0..2 {
            quotas.edit("", "alice", set.clone()).await.unwrap();
        }
        quotas.edit("", "alice", edit(Action::Delete)).await.unwrap();
        quotas.edit("", "alice", edit(Action::Delete)).await.unwrap_err();
        let log = quotas.change_log.list(0, "").await.unwrap().0;
        let changes: Vec<_> = log
            .iter()
            .map(|c| [&c.who, &c.what, &c.target, &c.before, &c.after, &c.note].map(String::as_str))
            .collect();
        assert_eq!(
            changes,
            [
                ["ops", "quota.delete", "tokens/alice", "7", "0 (the default)", ""],
                ["ops", "quota.set", "tokens/alice", "0", "7", "welcome"],
            ]
        );
    }

    #[tokio::test]
    async fn every_change_without_an_id_takes_effect() {
        let quotas = quotas(&["tokens"]);
        for _ in 0..2 {
            quotas.edit("", "alice", edit(Action::Adjust(5))).await.unwrap();
        }
        let (page, next) = quotas.list("tokens", "al", 1, "").await.unwrap();
        assert_eq!((page[0].record.balance, next.as_str()), (10, ""));
        assert_eq!(quotas.changes("", "alice").await.unwrap().len(), 2);
    }
}
