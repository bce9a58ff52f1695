//! The run of one topology: faults, each followed by checks at rest, and checks at the end.

use std::{
    collections::HashSet,
    path::Path,
    time::{Duration, Instant},
};

use super::{
    Progress,
    gateway::Gateway,
    plan::{Fault, Kind, Plan},
    record,
    report::{FaultReport, LatencyBound, SegmentReport, Usage, Violation},
    store::Topology,
    system::{CONNECT_TIMEOUT, INTERVAL, STORE_TIMEOUT, System},
    truth::Doubt,
};
use crate::{lab::LabError, machine::LatenessProbe, percentiles::Percentiles};

/// Longest time from the end of a fault until the system uses the store again: the longest interval between probes, the
/// timeout of a connection, and that of a silent stream.
const RECOVERY_MAX: Duration = Duration::from_secs(8);
/// Longest time from the recovery until every question is answered and every settlement acknowledged.
const QUIET_WITHIN: Duration = Duration::from_secs(5);
/// A run with more violations ends.
const VIOLATIONS_MAX: usize = 50;
const WARM_UP: Duration = Duration::from_secs(2);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How much longer than promised a check waits, to say whether the table is late or wrong.
const LATE_MAX: Duration = Duration::from_secs(3);

/// One topology's run so far.
pub(super) struct Segment<'a> {
    pub(super) system: System,
    /// Start of the whole run.
    started: Instant,
    repeat: String,
    pub(super) doubts: Vec<Doubt>,
    /// Spans in which a sidecar or a gateway could not ask or answer.
    stopped: Vec<(Instant, Instant)>,
    pub(super) last_fault: Option<Kind>,
    /// Wrong figures of consumers that have been reported.
    pub(super) reported: HashSet<(&'static str, usize)>,
    faults: Vec<FaultReport>,
    violations: Vec<Violation>,
    pub(super) quiet_points: u64,
    pub(super) usage_at_end: Usage,
    progress: Progress<'a>,
}

/// What one topology's run has done and found.
pub(super) struct Finished {
    pub(super) segment: SegmentReport,
    pub(super) faults: Vec<FaultReport>,
    pub(super) violations: Vec<Violation>,
}

/// What to run of one topology.
pub(super) struct Run<'a> {
    pub(super) topology: Topology,
    pub(super) seed: u64,
    pub(super) lasts: Duration,
    /// Start of the run of all topologies.
    pub(super) started: Instant,
    /// Only these faults; empty for all.
    pub(super) faults: &'a [Kind],
    /// Command that repeats the run.
    pub(super) repeat: &'a str,
}

/// Runs the faults of a topology for some time.
pub(super) async fn run(run: &Run<'_>, dir: &Path, progress: Progress<'_>) -> Result<Finished, LabError> {
    let Run { topology, seed, lasts, started, faults, repeat } = *run;
    let began = Instant::now();
    let ends = began + lasts;
    let lateness = LatenessProbe::start().map_err(LabError::io("starting a thread"))?;
    let system = System::start(topology, seed, dir).await?;
    let mut segment = Segment {
        system,
        started,
        repeat: repeat.to_owned(),
        doubts: Vec::new(),
        stopped: Vec::new(),
        last_fault: None,
        reported: HashSet::new(),
        faults: Vec::new(),
        violations: Vec::new(),
        quiet_points: 0,
        usage_at_end: Usage::default(),
        progress,
    };
    segment.system.observe(WARM_UP).await;
    let now = Instant::now();
    segment.rest(now, Within { table: INTERVAL, limit: INTERVAL * 3 / 2 }).await?;
    let baseline = segment.usage().await?;
    let clocks = segment.system.store.clock.is_some();
    let mut kinds = Kind::all(topology, clocks);
    kinds.retain(|kind| faults.is_empty() || faults.contains(kind));
    let skipped: Vec<&'static str> = match topology {
        Topology::AofAlways | Topology::AofEverysec if !clocks => vec!["clock jumps: cc is not installed"],
        _ => Vec::new(),
    };
    for fault in Plan::new(seed, kinds) {
        if Instant::now() >= ends || segment.violations.len() >= VIOLATIONS_MAX {
            break;
        }
        segment.fault(fault).await?;
    }
    segment.doubts.append(&mut segment.system.failovers);
    segment.finish(&baseline).await?;
    Ok(segment.into_finished(began, lateness.stop(), baseline, skipped))
}

/// Time since a recovery after which the table of requests in flight, and the concurrency limit, must be equal to the
/// gateways' leases.
#[derive(Clone, Copy)]
struct Within {
    table: Duration,
    limit: Duration,
}

impl Segment<'_> {
    /// Makes a fault happen, and checks what it leaves behind.
    async fn fault(&mut self, fault: Fault) -> Result<(), LabError> {
        self.system.observe(fault.after).await;
        self.last_fault = Some(fault.kind);
        let injected = self.system.inject(fault).await?;
        let recovered = self.recover(injected.healed).await;
        self.doubts
            .extend(injected.doubts.iter().map(|doubt| Doubt { to: doubt.to.max(recovered), ..*doubt }));
        if injected.outage {
            self.system.last_outage = Some((injected.began, recovered));
        }
        if fault.kind.stops_callers() {
            self.stopped.push((injected.began, recovered));
        }
        // Only the sweeps release the leases of a killed gateway.
        let table = INTERVAL * if fault.kind == Kind::GatewayKill { 2 } else { 1 };
        // A concurrency limit counts a request without a renewal for one and a half intervals. After Redis's clock was set
        // back, the next renewal of another request first brings its deadline forward.
        let clock = matches!(fault.kind, Kind::ClockStep | Kind::ClockJump);
        let limit = INTERVAL * if clock { 5 } else { 3 } / 2;
        let (recovered, exact) = self.rest(recovered, Within { table, limit: limit.max(table) }).await?;
        self.system.clean_up(injected.follow).await?;
        let admissions = self.system.record.during(injected.began, recovered);
        let report = FaultReport {
            topology: self.system.store.topology,
            at_s: injected.began.duration_since(self.started).as_secs_f64(),
            kind: fault.kind,
            target: injected.target,
            duration_s: injected.healed.duration_since(injected.began).as_secs_f64(),
            recovered_after_s: recovered.duration_since(injected.healed).as_secs_f64(),
            exact_after_s: exact.duration_since(recovered).as_secs_f64(),
            worst_admit_ms: record::latencies(&admissions).1,
            served: record::count(&admissions),
        };
        (self.progress)(&format!(
            "{} {:?} {}: recovered after {:.2} s, exact {:.2} s later, worst Admit {:.0} ms",
            self.system.store.topology.name(),
            report.kind,
            report.target,
            report.recovered_after_s,
            report.exact_after_s,
            report.worst_admit_ms
        ));
        self.faults.push(report);
        Ok(())
    }

    /// Waits until every sidecar uses the store and every gateway has a sidecar. Returns when.
    async fn recover(&mut self, healed: Instant) -> Instant {
        loop {
            let Some(what) = self.system.out_of_order().await else { return Instant::now() };
            if healed.elapsed() > RECOVERY_MAX {
                self.violation("recovery", format!("everything in order within {RECOVERY_MAX:?}"), what);
                return Instant::now();
            }
            self.system.observe(POLL_INTERVAL).await;
        }
    }

    /// Lets the gateways rest, and compares the table with their leases. Returns when the system recovered, and when they
    /// were equal. If a sidecar loses the store again meanwhile, such as on a machine that stalls, the system recovers
    /// later.
    ///
    /// `within`: time since the recovery after which they must be equal.
    async fn rest(&mut self, first: Instant, within: Within) -> Result<(Instant, Instant), LabError> {
        let lateness = LatenessProbe::start().map_err(LabError::io("starting a thread"))?;
        self.system.gateways.iter().for_each(Gateway::hush);
        self.await_quiet().await;
        self.system.adopt_primary(None).await?;
        let quiet = Instant::now();
        let (mut table, mut limit) = (Comparison::new(within.table), Comparison::new(within.limit));
        let mut recovered = first;
        while table.equal_at.is_none() || limit.equal_at.is_none() {
            if table.equal_at.is_none() {
                table.compared(self.table_difference().await?);
            }
            if limit.equal_at.is_none() {
                limit.compared(self.concurrency_difference().await?);
            }
            let now = Instant::now();
            if now < first + RECOVERY_MAX && self.system.out_of_order().await.is_some() {
                recovered = now;
            }
            if now > quiet.max(recovered + limit.within) + LATE_MAX {
                break;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        let allowed = allowance(&lateness.stop());
        for (kind, comparison) in [("table", &table), ("concurrency", &limit)] {
            if let Some((expected, found)) = comparison.fault(recovered, quiet, allowed) {
                self.violation(kind, expected, found);
            }
        }
        self.doubts.append(&mut self.system.failovers);
        self.check_accounts(false).await?;
        self.report_observations();
        self.quiet_points += 1;
        self.system.gateways.iter().for_each(Gateway::resume);
        let exact = table.equal_at.unwrap_or_else(Instant::now);
        Ok((recovered.min(exact), exact))
    }

    /// Waits until every question is answered and every settlement acknowledged.
    async fn await_quiet(&mut self) {
        let start = Instant::now();
        let open = |system: &System| -> Vec<String> {
            let open = system.gateways.iter().filter(|gateway| !gateway.state().is_quiet());
            open.map(|gateway| format!("{}: {}", gateway.holder, gateway.state().open_business())).collect()
        };
        while !open(&self.system).is_empty() {
            if start.elapsed() > QUIET_WITHIN {
                let found = open(&self.system).join("; ");
                let expected = format!("answers and acknowledgements within {QUIET_WITHIN:?}");
                return self.violation("unanswered", expected, found);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Reports what the observation under load and the gateways have found since the last time.
    fn report_observations(&mut self) {
        for found in std::mem::take(&mut self.system.contradictions) {
            self.violation("count", "counts that are the sums of their leases".into(), found);
        }
        for found in self.system.record.take_problems() {
            self.violation("protocol", "no such answer to a valid call".into(), found);
        }
    }

    pub(super) fn violation(&mut self, kind: &'static str, expected: String, found: String) {
        (self.progress)(&format!("VIOLATION ({kind}): expected {expected}, found {found}"));
        self.violations.push(Violation {
            kind,
            topology: self.system.store.topology,
            at_s: self.started.elapsed().as_secs_f64(),
            fault: self.last_fault.map(|fault| format!("{fault:?}")),
            expected,
            found,
            repeat: self.repeat.clone(),
            logs: self.system.dir.clone(),
        });
    }

    fn into_finished(
        self,
        began: Instant,
        late_ms: Vec<f64>,
        usage_at_start: Usage,
        skipped: Vec<&'static str>,
    ) -> Finished {
        let all = self.system.record.during(began, Instant::now());
        let mut calm = all.clone();
        calm.retain(|a| {
            !self.stopped.iter().any(|(from, to)| a.asked_at <= *to && a.asked_at + a.latency >= *from)
        });
        let (admit_ms, _) = record::latencies(&calm);
        let machine_late_ms = Percentiles::of(late_ms).p99;
        let promised_ms = STORE_TIMEOUT.as_secs_f64() * 1e3 + 5.0;
        let met = admit_ms.p99 <= promised_ms + LATE_HOPS * machine_late_ms;
        let accounts = self.system.record.accounts();
        let settled: Vec<_> = accounts.iter().flat_map(|account| &account.settled).collect();
        let in_doubt = settled.iter().filter(|s| self.doubts.iter().any(|doubt| doubt.charge(s))).count();
        let segment = SegmentReport {
            topology: self.system.store.topology,
            logs: self.system.dir.clone(),
            admit_ms,
            admit_bound: LatencyBound { promised_ms, machine_late_ms, met },
            served: record::count(&all),
            settled: settled.len() as u64,
            settled_in_doubt: in_doubt as u64,
            abandoned: accounts.iter().map(|account| account.abandoned).sum(),
            quiet_points: self.quiet_points,
            samples: self.system.samples,
            usage_at_start,
            usage_at_end: self.usage_at_end,
            skipped,
        };
        Finished { segment, faults: self.faults, violations: self.violations }
    }
}

/// When the store became equal to what the gateways know.
struct Comparison {
    within: Duration,
    equal_at: Option<Instant>,
    difference: String,
}

impl Comparison {
    fn new(within: Duration) -> Self {
        Self { within, equal_at: None, difference: String::new() }
    }

    fn compared(&mut self, difference: Option<String>) {
        match difference {
            Some(difference) => self.difference = difference,
            None => self.equal_at = Some(Instant::now()),
        }
    }

    /// Returns what was expected and what was found if they differ.
    ///
    /// `quiet`: when the comparisons began.
    fn fault(&self, recovered: Instant, quiet: Instant, allowed: Duration) -> Option<(String, String)> {
        let Self { within, equal_at, difference } = self;
        let late = equal_at.map(|at| at.saturating_duration_since(quiet.max(recovered + *within)));
        if late.is_some_and(|late| late <= allowed) {
            return None;
        }
        let found = match late {
            Some(late) => {
                format!("equal {late:.1?} later (this machine excuses {allowed:.1?}); before: {difference}")
            }
            None => difference.clone(),
        };
        Some((format!("the gateways' leases within {within:?} after the recovery"), found))
    }
}

/// An admission waits for four threads: the sidecar, Redis, the sidecar again and the gateway.
const LATE_HOPS: f64 = 4.0;

/// Returns how late the table may be on this machine: the duration of a list's call, and the delays of the threads that
/// take part.
pub(super) fn allowance(late_ms: &[f64]) -> Duration {
    let worst = late_ms.iter().copied().fold(0.0, f64::max);
    CONNECT_TIMEOUT + Duration::from_millis(200) + Duration::from_secs_f64(LATE_HOPS * worst / 1e3)
}
