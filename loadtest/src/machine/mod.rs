//! The machine on which a comparison runs: how much CPU its processes can get, who uses it, and how late threads run.

mod affinity;
mod cgroup;
mod lateness;
mod usage;

pub use lateness::LatenessProbe;
use serde::{Deserialize, Serialize};
pub use usage::{CpuSample, CpuUse};

/// The cores that this process and its children may use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Numbers of the cores in the CPU affinity of this process.
    pub cores: Vec<usize>,
    /// CPU limit of the control group, in cores; `None` without a limit.
    pub quota_cores: Option<f64>,
}

impl Machine {
    /// Reads the CPU affinity and the limits of the control groups of this process.
    pub fn detect() -> Self {
        Self { cores: affinity::cores(), quota_cores: cgroup::quota_cores() }
    }

    /// Returns how many cores' time this process and its children can get on an idle machine.
    pub fn available_cores(&self) -> f64 {
        let cores = self.cores.len() as f64;
        self.quota_cores.map_or(cores, |quota| quota.min(cores))
    }
}

#[cfg(test)]
mod tests {
    use super::Machine;

    #[test]
    fn the_tighter_of_affinity_and_quota_applies() {
        let machine = |quota_cores| Machine { cores: vec![0, 3], quota_cores };
        assert_eq!(machine(None).available_cores(), 2.0);
        assert_eq!(machine(Some(0.5)).available_cores(), 0.5);
        assert_eq!(machine(Some(8.0)).available_cores(), 2.0);
        assert!(Machine::detect().available_cores() > 0.0);
    }
}
