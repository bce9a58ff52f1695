//! Who uses the CPU: the processes of a run, other processes, other virtual machines.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::Machine;
use crate::cpu::{self, CoreTimes};

/// CPU times at one moment.
#[derive(Clone, Debug)]
pub struct CpuSample {
    /// CPU time of the processes of a run, by kind of process.
    kinds: BTreeMap<&'static str, Duration>,
    cores: CoreTimes,
}

/// CPU use between two samples, in cores: 1 is the whole time of one core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuUse {
    /// Fraction of the available cores that was busy, including other processes and stolen time.
    #[serde(rename = "machine")]
    pub busy: f64,
    /// Use by the processes of the run.
    pub ours_cores: f64,
    /// Use by other processes, including stolen time.
    pub others_cores: f64,
    /// Time in which the hypervisor ran another virtual machine.
    pub stolen_cores: f64,
}

impl CpuSample {
    /// Samples this process and the processes in `pids`.
    pub fn now(machine: &Machine, pids: impl IntoIterator<Item = (&'static str, u32)>) -> Self {
        let mut kinds: BTreeMap<&'static str, Duration> = BTreeMap::new();
        for (kind, pid) in pids {
            *kinds.entry(kind).or_default() += cpu::of_process(pid).unwrap_or_default();
        }
        kinds.insert("loadtest", cpu::of_self());
        Self { kinds, cores: cpu::of_cores(&machine.cores).unwrap_or_default() }
    }

    /// Returns the CPU time that one kind of process has used since `before`.
    pub fn of_kind(&self, kind: &str, before: &Self) -> Duration {
        let of = |sample: &Self| sample.kinds.get(kind).copied().unwrap_or_default();
        of(self).saturating_sub(of(before))
    }

    /// Returns the use of CPU since `before`.
    pub fn since(&self, before: &Self, machine: &Machine) -> CpuUse {
        let ours: Duration = self.kinds.keys().map(|kind| self.of_kind(kind, before)).sum();
        let busy = self.cores.busy.saturating_sub(before.cores.busy);
        let idle = self.cores.idle.saturating_sub(before.cores.idle);
        let stolen = self.cores.stolen.saturating_sub(before.cores.stolen);
        // The cores' own clock: on a stalled machine, the wall clock of this process can be off by a step.
        let wall = (busy + idle).as_secs_f64() / machine.cores.len().max(1) as f64;
        if wall <= 0.0 {
            return CpuUse::default();
        }
        let cores = |time: Duration| time.as_secs_f64() / wall;
        let (ours_cores, busy_cores) = (cores(ours), cores(busy));
        CpuUse {
            // Control groups can limit the run to less than its cores.
            busy: (busy_cores / machine.cores.len() as f64).max(ours_cores / machine.available_cores()),
            ours_cores,
            others_cores: (busy_cores - ours_cores).max(0.0),
            stolen_cores: cores(stolen),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(ours_s: u64, busy_s: u64, idle_s: u64, stolen_s: u64) -> CpuSample {
        let s = Duration::from_secs;
        CpuSample {
            kinds: [("envoy", s(ours_s))].into(),
            cores: CoreTimes { busy: s(busy_s), idle: s(idle_s), stolen: s(stolen_s) },
        }
    }

    #[test]
    fn cpu_that_the_run_does_not_use_belongs_to_others() {
        let machine = Machine { cores: vec![0, 1], quota_cores: None };
        let used = sample(15, 130, 110, 2).since(&sample(5, 100, 100, 0), &machine);
        // 40 s of core time in 20 s of wall time.
        let expected = CpuUse { busy: 0.75, ours_cores: 0.5, others_cores: 1.0, stolen_cores: 0.1 };
        assert_eq!(used, expected);
    }

    #[test]
    fn a_quota_is_busy_before_the_cores_are() {
        let machine = Machine { cores: vec![0, 1], quota_cores: Some(0.5) };
        let used = sample(8, 10, 30, 0).since(&sample(0, 0, 0, 0), &machine);
        assert_eq!((used.busy, used.ours_cores), (0.8, 0.4));
    }
}
