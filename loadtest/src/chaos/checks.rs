//! The checks of a running system, under load, at rest and at the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{
    CONSUMERS, accounts,
    gateway::{Gateway, LEAVE_WITHIN, consumer_name},
    report::Usage,
    segment::{Segment, allowance},
    system::{INTERVAL, STORE_TIMEOUT, System},
    table,
};
use crate::{lab::LabError, machine::LatenessProbe};

const SAMPLE_INTERVAL: Duration = Duration::from_millis(250);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Time after which the last settlements are in the store and in the ledger: sidecars retry them every second or so.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);
/// Resident memory that a sidecar may use in addition to that at the start: its allocator keeps freed pages.
const RESIDENT_MORE: u64 = 64 << 20;
/// Bytes of Redis's memory for each key that a run may leave.
const BYTES_PER_KEY: u64 = 1024;
/// How much the size of Redis's tables and buffers may vary from one reading to the next, in bytes.
const BYTES_MORE: u64 = 1 << 20;

/// Requests of one consumer that a limit on concurrent requests counts.
const RUNNING: &str = "
local now = redis.call('TIME')
return redis.call('ZRANGEBYSCORE', KEYS[1], now[1] * 1000 + math.floor(now[2] / 1000), '+inf')";

const FIELDS: &str = "return redis.call('HGETALL', KEYS[1])";

impl System {
    /// Lets the system run for a time, and checks meanwhile that counts are the sums of their leases.
    pub(super) async fn observe(&mut self, time: Duration) {
        let ends = Instant::now() + time;
        loop {
            if let Ok(table) = table::read(&self.store).await {
                self.samples += 1;
                self.contradictions.extend(table.contradiction());
            }
            let now = Instant::now();
            if now >= ends {
                return;
            }
            tokio::time::sleep(SAMPLE_INTERVAL.min(ends - now)).await;
        }
    }
}

impl Segment<'_> {
    /// Returns how the table differs from what the gateways know.
    pub(super) async fn table_difference(&self) -> Result<Option<String>, LabError> {
        // Between these two, a list may change the table, but no request begins or ends.
        let live = self.system.live();
        let table = table::read(&self.system.store).await?;
        Ok(table.contradiction().or_else(|| table.difference(&live)))
    }

    /// Returns how the requests that the limit on concurrent requests counts differ from those in flight.
    pub(super) async fn concurrency_difference(&self) -> Result<Option<String>, LabError> {
        let mut differences = Vec::new();
        for consumer in 0..CONSUMERS {
            differences.extend(self.running_difference(consumer).await?);
        }
        Ok((!differences.is_empty()).then(|| differences.join("; ")))
    }

    async fn running_difference(&self, consumer: usize) -> Result<Option<String>, LabError> {
        let name = consumer_name(consumer);
        let key = format!("ek2:{{consumer={name}}}:running:at-once");
        let counted: BTreeSet<String> = self.system.store.eval(RUNNING, &key).await?;
        let of = |gateway: &Gateway| {
            let leases = gateway.leases().into_iter().filter(|(_, live)| live.consumer == consumer);
            leases.map(|(lease, _)| format!("{}/{lease}", gateway.holder)).collect::<Vec<_>>()
        };
        let live: BTreeSet<String> = self.system.gateways.iter().flat_map(of).collect();
        let some = |mut of: Vec<&String>| {
            of.truncate(3);
            format!("{of:?}")
        };
        Ok((counted != live).then(|| {
            format!(
                "the concurrency limit counts {} requests of {name} instead of {}: missing {}, leaked {}",
                counted.len(),
                live.len(),
                some(live.difference(&counted).collect()),
                some(counted.difference(&live).collect())
            )
        }))
    }

    /// Ends all requests and gateways, and checks what remains.
    pub(super) async fn finish(&mut self, baseline: &Usage) -> Result<(), LabError> {
        self.system.gateways.iter().for_each(Gateway::leave);
        let start = Instant::now();
        while !self.system.gateways.iter().all(Gateway::has_left) && start.elapsed() < LEAVE_WITHIN {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        for gateway in std::mem::take(&mut self.system.gateways) {
            if !gateway.has_left() {
                let found = gateway.state().open_business();
                self.violation(
                    "unanswered",
                    format!("{} leaves within {LEAVE_WITHIN:?}", gateway.holder),
                    found,
                );
            }
            gateway.kill();
        }
        self.check_empty().await?;
        self.check_accounts(true).await?;
        self.check_usage(baseline).await
    }

    /// Checks that no lease remains once the holders are dead.
    async fn check_empty(&mut self) -> Result<(), LabError> {
        let lateness = LatenessProbe::start().map_err(LabError::io("starting a thread"))?;
        let deadline = Instant::now() + 2 * INTERVAL;
        let mut lateness = Some(lateness);
        let mut excused = Duration::ZERO;
        loop {
            let table = self.table_difference().await?;
            let Some(difference) = table.or(self.concurrency_difference().await?) else { return Ok(()) };
            if Instant::now() > deadline
                && let Some(probe) = lateness.take()
            {
                excused = allowance(&probe.stop());
            }
            if lateness.is_none() && Instant::now() > deadline + excused {
                self.violation("table", "no lease without a gateway".into(), difference);
                return Ok(());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Checks balances and the ledger, once the last settlements had time to arrive. Reports each wrong figure once.
    pub(super) async fn check_accounts(&mut self, at_end: bool) -> Result<(), LabError> {
        let start = Instant::now();
        let accounts = self.system.record.accounts();
        for (consumer, account) in accounts.iter().enumerate() {
            loop {
                let charged = match self.system.charged(consumer).await {
                    // The first call after a fault may go over a connection that is dead without notice, and on a machine that
                    // stalls, the sidecar may lose the store again.
                    Err(_) if start.elapsed() <= SETTLED_WITHIN => {
                        tokio::time::sleep(POLL_INTERVAL).await;
                        continue;
                    }
                    Err(error) => {
                        if self.reported.insert(("unreadable", consumer)) {
                            let expected = format!("a quota that can be read within {SETTLED_WITHIN:?}");
                            self.violation("recovery", expected, error.to_string());
                        }
                        break;
                    }
                    Ok(charged) => charged,
                };
                let mut wrong = accounts::check(consumer, account, &self.doubts, charged, at_end);
                wrong.retain(|wrong| !self.reported.contains(&(wrong.what, consumer)));
                if wrong.is_empty() {
                    break;
                }
                if start.elapsed() > SETTLED_WITHIN {
                    for mut wrong in wrong {
                        if wrong.what == "reservation" {
                            wrong.found += &format!("; records: {:?}", self.reservations().await?);
                        }
                        self.reported.insert((wrong.what, consumer));
                        self.violation(wrong.what, wrong.expected, wrong.found);
                    }
                    break;
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
        Ok(())
    }

    /// Returns the requests whose reservations nobody has settled: holder and lease.
    async fn reservations(&self) -> Result<BTreeSet<String>, LabError> {
        let mut reservations = BTreeSet::new();
        for key in self.system.store.keys().await?.iter().filter(|key| key.contains(":reserved:")) {
            let fields: Vec<(String, Vec<u8>)> = self.system.store.eval(FIELDS, key).await?;
            // The empty field is the epoch, and a record of 8 bytes marks a request that is settled.
            let open = fields.into_iter().filter(|(id, record)| !id.is_empty() && record.len() != 8);
            reservations.extend(open.map(|(id, _)| id));
        }
        Ok(reservations)
    }

    /// Returns what the system uses now.
    pub(super) async fn usage(&self) -> Result<Usage, LabError> {
        let mut keys = BTreeMap::new();
        for key in self.system.store.keys().await? {
            *keys.entry(kind_of(&key).to_owned()).or_default() += 1;
        }
        let redis_bytes = self.system.store.memory().await?;
        Ok(Usage { keys, redis_bytes, resident_bytes: self.system.resident() })
    }

    /// Checks that memory and keys are back to where they were, apart from what the documentation keeps for a time. The
    /// sweeps delete the last keys.
    async fn check_usage(&mut self, baseline: &Usage) -> Result<(), LabError> {
        let start = Instant::now();
        loop {
            let usage = self.usage().await?;
            let excess = self.excess(baseline, &usage);
            self.usage_at_end = usage;
            if excess.is_empty() {
                return Ok(());
            }
            if start.elapsed() > 3 * INTERVAL + STORE_TIMEOUT {
                for (kind, expected, found) in excess {
                    self.violation(kind, expected, found);
                }
                return Ok(());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Returns what the system uses too much: the kind of the violation, what was expected, and what was found.
    fn excess(&self, baseline: &Usage, now: &Usage) -> Vec<(&'static str, String, String)> {
        let (holders, instances) = (self.system.holders, self.system.instances);
        let (mut excess, mut more) = (Vec::new(), 0);
        for (kind, count) in &now.keys {
            let before = baseline.keys.get(kind).copied().unwrap_or(0);
            let allowed = match kind.as_str() {
                // The leases of a holder are gone with the holder.
                ":leases:" => 0,
                // A holder's secret stays for an hour.
                "ek2:holder:" => holders,
                // Each process of a sidecar numbers its batches, for a day and for each of 16 parts of sessions.
                ":applied:" => before.max(instances * 17),
                // Steps of 10 s and of 5 min.
                "{activity}" => before + 2 + self.quiet_points,
                // One day may end during the run.
                _ => 2 * before + 2,
            };
            more += allowed.saturating_sub(before);
            if *count > allowed {
                excess.push(("keys", format!("at most {allowed} keys with {kind}"), count.to_string()));
            }
        }
        let allowed = baseline.redis_bytes + BYTES_MORE + more * BYTES_PER_KEY;
        if now.redis_bytes > allowed {
            let found = format!("{} bytes; {} at the start", now.redis_bytes, baseline.redis_bytes);
            excess.push(("memory", format!("at most {allowed} bytes of data in Redis"), found));
        }
        for (sidecar, (now, before)) in now.resident_bytes.iter().zip(&baseline.resident_bytes).enumerate() {
            let allowed = before + RESIDENT_MORE;
            if *now > allowed {
                let expected = format!("at most {allowed} resident bytes of sidecar {sidecar}");
                excess.push(("memory", expected, format!("{now} bytes; {before} at the start")));
            }
        }
        excess
    }
}

/// Returns the kind of a key: its last part without names.
fn kind_of(key: &str) -> &str {
    let kinds =
        [":leases:", "ek2:holder:", ":applied:", ":running:", ":reserved:", "{activity}", ":counters"];
    kinds.into_iter().find(|kind| key.contains(kind)).unwrap_or("others")
}
