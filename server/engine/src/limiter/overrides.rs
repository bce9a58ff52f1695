//! Overrides: an administrator replaces the amount of a limit for one key, at run time.

use std::{collections::HashMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use evenkeel_domain::{
    DomainError,
    clock::unix_ms,
    limit::{AMOUNT_MAX, Limit, LimitRules},
    page::{cut, page_size_of, wrong_token},
};
use evenkeel_store::{
    changes::AdminChange,
    overrides::{OVERRIDES_MAX, Override, override_name},
    versioned::{Record as _, VersionedMap},
};
use tokio_util::sync::CancellationToken;

use super::override_key::canonical_key;
use crate::{
    change_log::ChangeLog,
    versioned::{RecordList, Versioned},
};

/// The amount that replaces the limit's amount for one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverrideAmount {
    /// `None`: unlimited.
    pub amount: Option<u64>,
    /// When the override expires, in ms since the Unix epoch. `None`: never.
    expires_at_ms: Option<u64>,
}

/// The active overrides, for lookups.
#[derive(Debug, Default)]
pub struct OverrideTable {
    by_limit: HashMap<Box<str>, HashMap<Box<str>, OverrideAmount>>,
}

impl OverrideTable {
    fn new(overrides: Vec<Override>) -> Self {
        let mut by_limit: HashMap<Box<str>, HashMap<Box<str>, OverrideAmount>> = HashMap::new();
        for Override { limit, key, amount, expires_at_ms, .. } in overrides.into_iter().take(OVERRIDES_MAX) {
            let of_limit = by_limit.entry(limit.into()).or_default();
            of_limit.insert(key.into(), OverrideAmount { amount, expires_at_ms });
        }
        Self { by_limit }
    }

    /// Returns the override of a key, unless it has expired. `key` is the key as
    /// [`Bucket`](evenkeel_domain::limit::Bucket) displays it.
    #[must_use]
    pub fn get(&self, limit: &str, key: &str) -> Option<&OverrideAmount> {
        let found = self.by_limit.get(limit)?.get(key)?;
        found.expires_at_ms.is_none_or(|at| unix_ms() < at).then_some(found)
    }

    /// Whether the limit has any override. If not, the caller need not build the key.
    #[must_use]
    pub fn any_of(&self, limit: &str) -> bool {
        self.by_limit.contains_key(limit)
    }

    /// Returns the number of overrides, including expired overrides.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_limit.values().map(HashMap::len).sum()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_limit.is_empty()
    }
}

/// Changes overrides, and applies the stored overrides at this sidecar.
pub struct Overrides {
    rules: Arc<ArcSwap<LimitRules>>,
    current: Arc<ArcSwap<OverrideTable>>,
    versioned: Arc<Versioned<OverrideRecords>>,
}

struct OverrideRecords {
    current: Arc<ArcSwap<OverrideTable>>,
}

impl RecordList for OverrideRecords {
    type Record = Override;

    const NAME: &'static str = "overrides";

    fn apply(&self, overrides: Vec<Override>) {
        self.current.store(Arc::new(OverrideTable::new(overrides)));
    }
}

impl Overrides {
    /// Creates the service. No override is active until [`Self::run`] has read the overrides.
    #[must_use]
    pub fn new(
        map: Arc<dyn VersionedMap>,
        rules: Arc<ArcSwap<LimitRules>>,
        change_log: Arc<ChangeLog>,
    ) -> Self {
        let current = Arc::<ArcSwap<OverrideTable>>::default();
        let records = OverrideRecords { current: Arc::clone(&current) };
        Self { rules, current, versioned: Versioned::new(map, records, change_log) }
    }

    /// Returns the active overrides. Each refresh replaces the table inside.
    #[must_use]
    pub fn current(&self) -> Arc<ArcSwap<OverrideTable>> {
        Arc::clone(&self.current)
    }

    /// Returns the configured limits.
    #[must_use]
    pub fn limits(&self) -> Vec<Arc<Limit>> {
        self.rules.load().limits.clone()
    }

    /// Sets an override. Replaces any previous override of the key. The override is active at this sidecar when the
    /// call returns, and at the other sidecars within a quarter of a KeepAlive interval.
    ///
    /// # Errors
    /// If the limit does not exist, the key does not fit the limit, the amount or the expiry is invalid, or the store
    /// is unavailable or full.
    pub async fn set(&self, mut new: Override) -> Result<Override, DomainError> {
        let limit = self.limit(&new.limit)?;
        new.key = canonical_key(&limit, &new.key)?;
        if let Some(amount) = new.amount.filter(|amount| *amount > AMOUNT_MAX) {
            return Err(DomainError::invalid("amount", "at most 10^15", &amount.to_string()));
        }
        if let Some(at) = new.expires_at_ms.filter(|at| *at <= unix_ms()) {
            let expected = "in the future (ms of the Unix epoch), or 0 for never";
            return Err(DomainError::invalid("expires_at_ms", expected, &at.to_string()));
        }
        let before = self.describe_active(&limit.name, &new.key).await;
        let map = Arc::clone(&self.versioned.map);
        let set = async move {
            let put = map.put(&new.entry()).await.map_err(DomainError::store("setting an override"))?;
            let put = put.ok_or_else(|| DomainError::Full {
                what: format!("there are {OVERRIDES_MAX} overrides already"),
                hint: "delete some, or change the limit in the configuration",
            })?;
            new.at_ms = put.at_ms;
            let mut after = shown(new.amount);
            if let Some(ends) = new.expires_at_ms.and_then(utc) {
                after = format!("{after} until {ends}");
            }
            let change = change("override.set", &new.who, &new.limit, &new.key, before, after);
            Ok((new, change))
        };
        self.versioned.change(set).await
    }

    /// Deletes an override. Its limit need not be configured any more.
    ///
    /// # Errors
    /// If there is no such override or the store is unavailable.
    pub async fn delete(&self, limit: &str, key: &str, who: &str) -> Result<(), DomainError> {
        let key = match self.limit(limit) {
            Ok(limit) => canonical_key(&limit, key)?,
            Err(_) => key.to_owned(),
        };
        let before = self.describe_active(limit, &key).await;
        let (map, limit, who) = (Arc::clone(&self.versioned.map), limit.to_owned(), who.to_owned());
        let delete = async move {
            let deleted = map.remove(&override_name(&limit, &key)).await;
            if !deleted.map_err(DomainError::store("deleting an override"))? {
                return Err(DomainError::NotFound {
                    what: format!("override of limit {limit:?} for {key:?}"),
                    hint: "ListOverrides names those there are",
                });
            }
            Ok(((), change("override.delete", &who, &limit, &key, before, "none".to_owned())))
        };
        self.versioned.change(delete).await
    }

    /// Returns one page of the overrides that have not expired and whose keys contain `search`, sorted by limit and then
    /// by key, and the token of the next page.
    ///
    /// # Errors
    /// If the size or the token is invalid or the store is unavailable.
    pub async fn list(
        &self,
        limit: &str,
        search: &str,
        page_size: u32,
        page_token: &str,
    ) -> Result<(Vec<Override>, String), DomainError> {
        let size = page_size_of(page_size)?;
        let after = match page_token.split_once('|') {
            None if page_token.is_empty() => None,
            None => return Err(wrong_token(page_token)),
            after => after,
        };
        let read = self.versioned.read().await;
        let (_, mut page) = read.map_err(DomainError::store("reading overrides"))?;
        page.sort_by(|a, b| (&a.limit, &a.key).cmp(&(&b.limit, &b.key)));
        let now = unix_ms();
        page.retain(|o| {
            (limit.is_empty() || o.limit == limit)
                && o.key.contains(search)
                && o.expires_at_ms.is_none_or(|at| now < at)
                && after.is_none_or(|after| (o.limit.as_str(), o.key.as_str()) > after)
        });
        let next = cut(&mut page, size, |last| format!("{}|{}", last.limit, last.key));
        Ok((page, next))
    }

    /// Describes the active override, for the change log. If the store is unavailable, describes the override that was
    /// last read.
    async fn describe_active(&self, limit: &str, key: &str) -> String {
        // If the store fails, the change that follows reports the error.
        let _ = self.versioned.refresh().await;
        let current = self.current.load();
        current.get(limit, key).map_or_else(|| "none".to_owned(), |found| shown(found.amount))
    }

    fn limit(&self, name: &str) -> Result<Arc<Limit>, DomainError> {
        let rules = self.rules.load();
        let found = rules.limits.iter().find(|limit| *limit.name == *name);
        found.cloned().ok_or_else(|| DomainError::NotFound {
            what: format!("limit {name:?}"),
            hint: "the configuration has no limit of this name",
        })
    }

    /// Reads changed overrides from the store until `end`.
    pub async fn run(self: Arc<Self>, keep_alive_interval: Duration, end: CancellationToken) {
        self.versioned.run(keep_alive_interval, &end).await;
    }
}

fn change(what: &str, who: &str, limit: &str, key: &str, before: String, after: String) -> AdminChange {
    let (who, what, target) = (who.to_owned(), what.to_owned(), format!("{limit}/{key}"));
    AdminChange { who, what, target, before, after, ..AdminChange::default() }
}

fn utc(ms: u64) -> Option<String> {
    Some(jiff::Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?.to_string())
}

fn shown(amount: Option<u64>) -> String {
    amount.map_or_else(|| "unlimited".to_owned(), |amount| amount.to_string())
}

#[cfg(test)]
pub(super) mod tests {
    use evenkeel_domain::limit::{Algorithm, Attribute, Counts, Key, OnStoreFailure, Period, Rejected};
    use evenkeel_store::memory::MemoryMap;

    use super::*;
    use crate::change_log::tests::change_log;

    pub(crate) fn limit(name: &str, key: &[&str]) -> Limit {
        Limit {
            name: name.into(),
            counts: Counts::Requests,
            amount: 1,
            period: Period::Length(Duration::from_secs(60)),
            algorithm: Algorithm::FixedWindow,
            key: Key::new(key.iter().map(|text| Attribute::parse(text).unwrap()).collect()),
            when: Vec::new(),
            exceptions: Vec::new(),
            shadow: false,
            rejected: Rejected::with_status(429),
            margin: 1.0,
            on_store_failure: OnStoreFailure::Open,
        }
    }

    fn overrides() -> Overrides {
        let limits = vec![Arc::new(limit("rpm", &["consumer"])), Arc::new(limit("all", &[]))];
        let rules = Arc::new(ArcSwap::from_pointee(LimitRules { limits, ..LimitRules::default() }));
        Overrides::new(Arc::new(MemoryMap::new(OVERRIDES_MAX)), rules, change_log())
    }

    fn of(limit: &str, key: &str) -> Override {
        Override {
            limit: limit.into(),
            key: key.into(),
            amount: Some(5),
            expires_at_ms: None,
            who: "ops".into(),
            at_ms: 0,
        }
    }

    #[tokio::test]
    async fn an_override_applies_until_it_expires_or_is_deleted() {
        let overrides = overrides();
        overrides.versioned.refresh().await.unwrap();
        overrides.set(of("rpm", "consumer=alice")).await.unwrap();
        let current = overrides.current();
        let short =
            Override { amount: None, expires_at_ms: Some(unix_ms() + 50), ..of("rpm", "consumer=bob") };
        overrides.set(short).await.unwrap();
        let now = current.load();
        assert_eq!(now.get("rpm", "consumer=alice").unwrap().amount, Some(5));
        assert!(now.any_of("rpm") && !now.any_of("all"));
        assert_eq!(now.get("rpm", "consumer=carol"), None);
        while now.get("rpm", "consumer=bob").is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(
            overrides.list("", "", 0, "").await.unwrap().0.len(),
            1,
            "an expired override is not listed"
        );
        overrides.delete("rpm", "consumer=alice", "ops").await.unwrap();
        assert!(matches!(
            overrides.delete("rpm", "consumer=alice", "ops").await,
            Err(DomainError::NotFound { .. })
        ));
        assert_eq!(current.load().get("rpm", "consumer=alice"), None);
        let log = overrides.versioned.change_log.list(0, "").await.unwrap().0;
        let changes: Vec<_> = log
            .iter()
            .map(|c| [&c.who, &c.what, &c.target, &c.before].map(String::as_str))
            .zip(log.iter().map(|c| c.after.split(" until ").next().unwrap()))
            .collect();
        assert_eq!(
            changes,
            [
                (["ops", "override.delete", "rpm/consumer=alice", "5"], "none"),
                (["ops", "override.set", "rpm/consumer=bob", "none"], "unlimited"),
                (["ops", "override.set", "rpm/consumer=alice", "none"], "5"),
            ]
        );
        assert!(log[1].after.ends_with('Z'), "{}", log[1].after);
    }

    #[tokio::test]
    async fn invalid_overrides_are_rejected() {
        let overrides = overrides();
        let unknown = overrides.set(of("nope", "consumer=a")).await.unwrap_err();
        assert_eq!(
            unknown.to_string(),
            "limit \"nope\" not found: the configuration has no limit of this name"
        );
        let past = Override { expires_at_ms: Some(1), ..of("rpm", "consumer=a") };
        assert!(overrides.set(past).await.unwrap_err().to_string().starts_with("expires_at_ms"));
        let much = Override { amount: Some(AMOUNT_MAX + 1), ..of("rpm", "consumer=a") };
        assert!(overrides.set(much).await.unwrap_err().to_string().starts_with("amount"));
        assert!(overrides.list("", "", 1001, "").await.is_err());
        assert!(overrides.list("", "", 0, "x").await.is_err());
    }

    #[tokio::test]
    async fn pages_are_sorted_by_limit_and_key() {
        let overrides = overrides();
        for i in 0..7 {
            overrides.set(of("rpm", &format!("consumer={i}"))).await.unwrap();
        }
        overrides.set(of("all", "limit=all")).await.unwrap();
        let (mut token, mut seen) = (String::new(), Vec::new());
        loop {
            let (page, next) = overrides.list("", "", 3, &token).await.unwrap();
            seen.extend(page.into_iter().map(|o| o.key));
            if next.is_empty() {
                break;
            }
            token = next;
        }
        assert_eq!(seen.len(), 8);
        assert_eq!(seen[..2], ["limit=all", "consumer=0"]);
        assert_eq!(overrides.list("all", "", 0, "").await.unwrap().0.len(), 1);
        assert_eq!(overrides.list("rpm", "mer=5", 0, "").await.unwrap().0[0].key, "consumer=5");
        assert!(overrides.list("all", "mer=5", 0, "").await.unwrap().0.is_empty());
    }
}
