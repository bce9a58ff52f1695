//! Counters in Redis. On a single server, all operations share a lane, and one call takes from all counters or from
//! none. On Redis Cluster, each tag has its own lane. A request under several tags reserves under all of them at once,
//! and gives everything back if one refuses.

use std::{collections::HashMap, sync::Arc};

use async_trait::async_trait;
use evenkeel_domain::{StoreError, limit::Meter};
use futures::future::join_all;
use parking_lot::RwLock;
use tokio::sync::oneshot;

use super::{
    LANES_MAX, RedisStore, Shared,
    call::Call,
    count::CountWork,
    counter_operation::{How, Op, Place, id_text},
    keys::Keys,
    lane::Lane,
    link::Way,
    script::RENEW,
    stopped,
    windows::Windows,
};
use crate::counters::{
    CounterState, Counters, Entry, RecordRef, Renewal, ReservationId, Reserve, SettleResult, Settlement,
    Settler, Verdict,
};

/// Tag of all records of reservations on a single server.
const ALL: &str = "limits";
/// Maximum number of requests that one script call renews.
const RENEWALS_MAX: usize = 1000;
/// Maximum number of concurrent calls that renew requests.
const RENEWAL_CALLS_MAX: usize = 16;

/// The lanes of counters. A lane batches operations on the same keys.
pub(super) struct Lanes {
    keys: Keys,
    shared: Arc<Shared>,
    all: Arc<Lane<CountWork>>,
    /// On Redis Cluster, by tag.
    by_tag: Option<RwLock<ByTag>>,
}

type ByTag = HashMap<Arc<str>, Arc<Lane<CountWork>>>;

impl Lanes {
    pub(super) fn new(cluster: bool, keys: Keys, shared: Arc<Shared>) -> Self {
        let all = lane(&ALL.into(), &keys, &shared);
        Self { keys, shared, all, by_tag: cluster.then(RwLock::default) }
    }

    fn of(&self, tag: &str) -> Arc<Lane<CountWork>> {
        let Some(by_tag) = &self.by_tag else { return Arc::clone(&self.all) };
        if let Some(lane) = by_tag.read().get(tag) {
            return Arc::clone(lane);
        }
        let mut lanes = by_tag.write();
        // If no operation of a lane waits or is in progress, only this map references the lane.
        if lanes.len() >= LANES_MAX {
            lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
        }
        let tag: Arc<str> = tag.into();
        Arc::clone(lanes.entry(Arc::clone(&tag)).or_insert_with(|| lane(&tag, &self.keys, &self.shared)))
    }

    async fn reserve(
        &self,
        id: Option<ReservationId>,
        meters: Vec<Meter>,
        how: How,
    ) -> Result<Verdict, StoreError> {
        let (answer, answered) = oneshot::channel();
        let tag = meters.first().map_or("", |meter| &meter.bucket.tag);
        let span = self.shared.span("evenkeel.store count", "count");
        self.of(tag).submit(Op::Reserve { id, meters, how, answer, span });
        answered.await.unwrap_or_else(|_| Err(stopped()))
    }

    async fn settle(
        &self,
        id: ReservationId,
        record: Option<RecordRef>,
        entries: Vec<Entry>,
        by: Settler,
    ) -> Result<SettleResult, StoreError> {
        let (answer, answered) = oneshot::channel();
        let of_record = || record.as_ref().map_or("", |record| &record.tag);
        let tag = entries.first().map_or_else(of_record, |entry| &entry.bucket.tag);
        let span = self.shared.span("evenkeel.store count", "count");
        self.of(tag).submit(Op::Settle { id, record, entries, by, answer, span });
        answered.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Reserves under all tags at once. If one refuses or fails, gives back the others.
    async fn reserve_apart(&self, reserve: Reserve, how: How) -> Result<Verdict, StoreError> {
        let groups = by_tag(reserve.meters, |meter| &meter.bucket.tag);
        let answers = join_all(groups.iter().map(|group| {
            let meters = group.iter().map(|(_, meter)| meter.clone()).collect();
            self.reserve(reserve.id.clone(), meters, how)
        }))
        .await;
        let admitted = answers.iter().all(|answer| answer.as_ref().is_ok_and(|verdict| verdict.admitted));
        let mut merged = Verdict { admitted, ..Verdict::default() };
        merged.states = vec![CounterState::default(); groups.iter().map(Vec::len).sum()];
        let (mut back, mut failed) = (Vec::new(), None);
        for (group, answer) in groups.iter().zip(answers) {
            let verdict = match answer {
                Ok(verdict) => verdict,
                Err(error) => {
                    // If the store may have applied one part, the caller gives back the whole reservation later.
                    failed = Some(failed.filter(StoreError::may_be_applied).unwrap_or(error));
                    continue;
                }
            };
            if verdict.admitted && !admitted && how == How::Make {
                back.push(give_back(group, &verdict));
            }
            for ((at, _), state) in group.iter().zip(verdict.states) {
                merged.states[*at] = state;
            }
            merged.records.extend(verdict.records);
        }
        if !admitted {
            merged.records.clear();
            merged.states.iter_mut().for_each(|state| (state.taken, state.window) = (0, 0));
            // A reservation without an id has no record, so the settlement can use any id.
            let id = reserve.id.unwrap_or_else(ReservationId::nobody);
            let by = Settler::rollback();
            join_all(back.into_iter().map(|(record, entries)| self.settle(id.clone(), record, entries, by)))
                .await;
        }
        failed.map_or(Ok(merged), Err)
    }
}

fn lane(tag: &Arc<str>, keys: &Keys, shared: &Arc<Shared>) -> Arc<Lane<CountWork>> {
    let (tag, shared_by) = (Arc::clone(tag), Arc::clone(shared));
    let work = CountWork {
        place: Place { tag, keys: keys.clone(), shared: shared_by },
        windows: Windows::default(),
    };
    Lane::new(work, shared.tasks.clone())
}

/// Groups items by their tag, each with its index in the list.
fn by_tag<T>(items: Vec<T>, tag: impl Fn(&T) -> &str) -> Vec<Vec<(usize, T)>> {
    let mut groups: Vec<Vec<(usize, T)>> = Vec::new();
    for (at, item) in items.into_iter().enumerate() {
        match groups.iter_mut().find(|group| tag(&group[0].1) == tag(&item)) {
            Some(group) => group.push((at, item)),
            None => groups.push(vec![(at, item)]),
        }
    }
    groups
}

fn give_back(group: &[(usize, Meter)], verdict: &Verdict) -> (Option<RecordRef>, Vec<Entry>) {
    let entries =
        group.iter().zip(&verdict.states).map(|((_, meter), state)| Entry::settling(meter, state, 0));
    (verdict.records.first().cloned(), entries.collect())
}

#[async_trait]
impl Counters for RedisStore {
    async fn reserve(&self, reserve: Reserve) -> Result<Verdict, StoreError> {
        let Some(first) = reserve.meters.first() else {
            return Ok(Verdict { admitted: true, ..Verdict::default() });
        };
        let tag = &first.bucket.tag;
        if self.counters.by_tag.is_none() || reserve.meters.iter().all(|meter| meter.bucket.tag == *tag) {
            return self.counters.reserve(reserve.id, reserve.meters, How::Make).await;
        }
        self.counters.reserve_apart(reserve, How::Make).await
    }

    async fn give_back(&self, reserve: Reserve) -> Result<(), StoreError> {
        let groups = match &self.counters.by_tag {
            None => vec![reserve.meters.into_iter().enumerate().collect()],
            Some(_) => by_tag(reserve.meters, |meter| &meter.bucket.tag),
        };
        let answers = join_all(groups.into_iter().map(|group| {
            let meters = group.into_iter().map(|(_, meter)| meter).collect();
            self.counters.reserve(reserve.id.clone(), meters, How::GiveBack)
        }));
        answers.await.into_iter().try_for_each(|answer| answer.map(drop))
    }

    async fn peek(&self, meters: Vec<Meter>) -> Result<Verdict, StoreError> {
        if meters.is_empty() {
            return Ok(Verdict { admitted: true, ..Verdict::default() });
        }
        if self.counters.by_tag.is_none() {
            return self.counters.reserve(None, meters, How::Look).await;
        }
        self.counters.reserve_apart(Reserve { id: None, meters }, How::Look).await
    }

    async fn settle(&self, settlement: Settlement) -> Result<SettleResult, StoreError> {
        let Settlement { id, mut records, entries, by, .. } = settlement;
        if self.counters.by_tag.is_none() {
            return self.counters.settle(id, records.pop(), entries, by).await;
        }
        let decides = records.first().cloned();
        let mut groups: Vec<(Option<RecordRef>, Vec<Entry>)> = by_tag(entries, |entry| &entry.bucket.tag)
            .into_iter()
            .map(|group| {
                let at = records.iter().position(|record| *record.tag == *group[0].1.bucket.tag);
                let record = at.map(|at| records.swap_remove(at));
                (record, group.into_iter().map(|(_, entry)| entry).collect())
            })
            .collect();
        // Also settles records whose limits are no longer configured.
        groups.extend(records.into_iter().map(|record| (Some(record), Vec::new())));
        let at = groups.iter().position(|(record, _)| *record == decides).unwrap_or(0);
        let answers =
            groups.into_iter().map(|(record, entries)| self.counters.settle(id.clone(), record, entries, by));
        let answers = join_all(answers).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(answers.get(at).copied().unwrap_or(SettleResult::First))
    }

    async fn renew(&self, renewals: Vec<Renewal>) -> Result<(), StoreError> {
        let groups = match &self.counters.by_tag {
            None => vec![renewals.into_iter().enumerate().collect()],
            Some(_) => by_tag(renewals, |renewal| &renewal.bucket.tag),
        };
        let parts: Vec<&[(usize, Renewal)]> =
            groups.iter().flat_map(|group: &Vec<(usize, Renewal)>| group.chunks(RENEWALS_MAX)).collect();
        for parts in parts.chunks(RENEWAL_CALLS_MAX) {
            let answers = join_all(parts.iter().map(|part| self.renew_part(part))).await;
            answers.into_iter().collect::<Result<(), _>>()?;
        }
        Ok(())
    }
}

impl RedisStore {
    async fn renew_part(&self, part: &[(usize, Renewal)]) -> Result<(), StoreError> {
        let keys: Vec<String> =
            part.iter().map(|(_, renewal)| self.keys().running(&renewal.bucket, &renewal.name)).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let mut call = Call::new(&RENEW, &keys);
        self.shared.clock.tell(&mut call);
        for (_, renewal) in part {
            call.arg(&id_text(&renewal.id)).number(renewal.ttl_ms);
        }
        self.shared.client.run(&call, Way::Beside).await.map(drop)
    }
}
