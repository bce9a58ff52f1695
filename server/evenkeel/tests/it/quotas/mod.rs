//! The contract of stores for quotas and overrides, and what is specific to Redis.

use std::{sync::Arc, time::Duration};

use evenkeel_domain::limit::{CounterRule, Meter, OnStoreFailure, Window};
use evenkeel_store::{
    counters::{Counters, Entry, ReservationId, Reserve, Settlement, Settler, Verdict},
    memory::{MemoryCounters, MemoryMap, MemoryRecords},
    overrides::OVERRIDES_MAX,
    records::{Account, Action, Edit, Edited, Range, Record, RecordStore},
    redis::RedisStore,
    versioned::VersionedMap,
};

use crate::support::store::{holder, lease};

mod agreement;
mod contract;
mod outage;
mod redis;

const HOUR: Window = Window::Length(3_600_000);
const TTL: Duration = Duration::from_secs(60);

/// One store under test.
struct Subject {
    records: Arc<dyn RecordStore>,
    overrides: Arc<dyn VersionedMap>,
    counters: Arc<dyn Counters>,
    /// Prefix of consumers' names, so that scenarios on one store use different consumers.
    name: &'static str,
}

impl Subject {
    fn redis(store: &Arc<RedisStore>, name: &'static str) -> Self {
        let overrides = Arc::new(store.map("overrides", OVERRIDES_MAX));
        Self { records: store.clone(), overrides, counters: store.clone(), name }
    }

    fn memory(counters: &Arc<MemoryCounters>, name: &'static str) -> Self {
        let overrides = Arc::new(MemoryMap::new(OVERRIDES_MAX));
        let records = Arc::new(MemoryRecords::new(Arc::clone(counters)));
        Self { records, overrides, counters: counters.clone(), name }
    }

    fn account(&self, consumer: &str, quota: &str, rule: CounterRule) -> Account {
        Account::new(&format!("{}/{consumer}", self.name), quota.into(), rule).unwrap()
    }

    async fn edit(&self, account: &Account, action: Action, id: &str) -> Option<Edited> {
        let edit = Edit { action, who: "ops".into(), note: format!("note of {id}"), id: id.into() };
        self.records.edit_quota(account, &edit).await.unwrap()
    }

    async fn read(&self, account: &Account) -> Record {
        self.records.quota(account).await.unwrap()
    }

    async fn reserve(&self, account: &Account, number: u64, cost: u64) -> (Verdict, ReservationId) {
        let id = ReservationId { holder: holder("h"), lease: lease(number) };
        let meters = vec![Meter {
            bucket: Arc::clone(&account.bucket),
            name: Arc::clone(&account.quota),
            rule: account.rule,
            cost,
            provisional: true,
            shadow: false,
            on_store_failure: OnStoreFailure::Open,
        }];
        (self.counters.reserve(Reserve { id: Some(id.clone()), meters }).await.unwrap(), id)
    }

    async fn settle(&self, account: &Account, (verdict, id): (Verdict, ReservationId), actual: u64) {
        let entries = vec![Entry {
            bucket: Arc::clone(&account.bucket),
            name: Arc::clone(&account.quota),
            rule: account.rule,
            window: verdict.states[0].window,
            reserved: verdict.states[0].taken,
            actual,
            provisional: true,
        }];
        let by = Settler::new(false);
        let settlement = Settlement { id, records: verdict.records, entries, tokens: 0, by };
        assert!(self.counters.settle(settlement).await.unwrap().is_first());
    }

    async fn names(
        &self,
        quota: &str,
        rule: &CounterRule,
        search: &str,
        after: &str,
        most: usize,
    ) -> Vec<String> {
        let range = Range { search, after, most };
        let page = self.records.quotas(&quota.into(), rule, range).await.unwrap();
        page.records.into_iter().map(|(name, _)| name.to_string()).collect()
    }
}
