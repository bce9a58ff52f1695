//! What the gateways have recorded together: the accounts of consumers, and every admission.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;

use super::truth::{Account, Settled};
use crate::percentiles::Percentiles;

/// How an admission was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Served {
    /// From the table that all sidecars share.
    Shared,
    /// From the sidecar's local knowledge.
    Local,
    /// By leaving the choice to the gateway.
    Open,
    Refused,
    /// Not on the stream or by the call that asked, which failed. The gateway asks again.
    Unanswered,
}

/// One question of a gateway and its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Admission {
    pub(super) asked_at: Instant,
    pub(super) latency: Duration,
    pub(super) served: Served,
}

/// Numbers of admissions by how they were answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ServedCounts {
    pub shared: u64,
    pub local: u64,
    pub open: u64,
    pub refused: u64,
    /// Questions that got no answer on their stream or call. The gateway asked again.
    pub unanswered: u64,
}

/// The memory of all gateways, which outlives them.
#[derive(Debug, Default)]
pub(super) struct Record {
    accounts: Mutex<Vec<Account>>,
    admissions: Mutex<Vec<Admission>>,
    problems: Mutex<Vec<String>>,
}

impl Record {
    pub(super) fn new(consumers: usize) -> Self {
        Self { accounts: Mutex::new(vec![Account::default(); consumers]), ..Self::default() }
    }

    pub(super) fn settled(&self, settled: Settled) {
        self.accounts.lock()[settled.consumer].settled.push(settled);
    }

    pub(super) fn abandoned(&self, consumer: usize) {
        self.accounts.lock()[consumer].abandoned += 1;
    }

    pub(super) fn repeated(&self, consumer: usize) {
        self.accounts.lock()[consumer].repeated += 1;
    }

    pub(super) fn accounts(&self) -> Vec<Account> {
        self.accounts.lock().clone()
    }

    pub(super) fn admission(&self, asked_at: Instant, served: Served) {
        self.admissions.lock().push(Admission { asked_at, latency: asked_at.elapsed(), served });
    }

    /// Records an answer that the protocol does not allow.
    pub(super) fn problem(&self, what: String) {
        self.problems.lock().push(what);
    }

    pub(super) fn take_problems(&self) -> Vec<String> {
        std::mem::take(&mut self.problems.lock())
    }

    /// Returns the admissions that were under way at some time of the span.
    pub(super) fn during(&self, from: Instant, to: Instant) -> Vec<Admission> {
        let overlaps = |a: &&Admission| a.asked_at <= to && a.asked_at + a.latency >= from;
        self.admissions.lock().iter().filter(overlaps).copied().collect()
    }
}

/// Counts admissions by how they were answered.
pub(super) fn count(admissions: &[Admission]) -> ServedCounts {
    let of = |served| admissions.iter().filter(|a| a.served == served).count() as u64;
    ServedCounts {
        shared: of(Served::Shared),
        local: of(Served::Local),
        open: of(Served::Open),
        refused: of(Served::Refused),
        unanswered: of(Served::Unanswered),
    }
}

/// Returns the percentiles and the worst latency of answered admissions, in milliseconds.
pub(super) fn latencies(admissions: &[Admission]) -> (Percentiles, f64) {
    let answered = admissions.iter().filter(|a| a.served != Served::Unanswered);
    let ms: Vec<f64> = answered.map(|a| a.latency.as_secs_f64() * 1e3).collect();
    let worst = ms.iter().copied().fold(0.0, f64::max);
    (Percentiles::of(ms), worst)
}
