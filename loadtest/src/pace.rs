//! Chooses how fast and how large a comparison runs, so that the machine stays half idle.

use std::time::Duration;

use crate::verdict::{Cause, Fault};

/// Fraction of the available cores that a comparison and all other processes may use. Below
/// [`BUSY_MAX`](crate::verdict::BUSY_MAX), because the calibration is short and the load varies.
const BUSY_TARGET: f64 = 0.45;

/// Slowest useful time scale: slower than the hosts' own clock gains nothing.
const SCALE_MIN: f64 = 1.0;

/// How the time scale is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// The caller sets the time scale.
    Fixed(f64),
    /// The fastest scale up to `scale_max` at which the machine stays half idle. The run of a policy may take up to
    /// `run_max` of wall time.
    Measured { scale_max: f64, run_max: Duration },
}

/// Other processes are calm if they leave at least this fraction of the available cores.
const CALM_SHARE: f64 = BUSY_TARGET - 0.1;

/// What the machine can do, and what others use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Supply {
    /// Cores on which the comparison may run.
    pub cores: f64,
    /// How many cores' time it may use: fewer than `cores` if the control group has a lower limit.
    pub available_cores: f64,
    pub others_cores: f64,
}

/// What a comparison of full size needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Demand {
    /// CPU seconds per trace second under the policy that needs the most.
    pub cpu_s_per_trace_s: f64,
    /// Cores that the processes use without any traffic.
    pub idle_cores: f64,
}

/// A size in which the comparison can run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Size {
    /// Trace seconds in which a policy's requests arrive.
    pub trace_s: f64,
    /// Requests per trace second, as a fraction of those in full size.
    pub rate_share: f64,
    /// Number of gateways and sidecars, as a fraction of those in full size.
    pub process_share: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Index of the chosen size.
    pub size: usize,
    /// Trace seconds per wall second.
    pub time_scale: f64,
    /// Cores that the comparison will use, according to the calibration.
    pub cores: f64,
}

impl Supply {
    /// The limit of the control group does not apply to the other processes.
    fn spare_cores(&self) -> f64 {
        (BUSY_TARGET * self.available_cores).min(BUSY_TARGET * self.cores - self.others_cores)
    }

    /// Returns whether other processes hardly slow the comparison down.
    pub fn is_calm(&self) -> bool {
        self.spare_cores() >= CALM_SHARE * self.available_cores
    }

    /// Returns a fault if other processes alone use as much as all processes together may use.
    pub fn fault(&self) -> Option<Fault> {
        let Self { cores, others_cores, .. } = *self;
        let cause = Cause::OthersBusy { others_cores, cores };
        (self.spare_cores() <= 0.0).then_some(Fault { policy: None, cause })
    }
}

/// How fast and how long a comparison may run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    pub scale_max: f64,
    /// Lower than `scale_max` if the machine did not keep up at a faster scale.
    pub scale_kept_up: f64,
    /// Wall time that the run of a policy may take.
    pub run_max: Duration,
}

/// Chooses the first size that the machine can run within the time limit, and its fastest time scale.
///
/// # Errors
/// If the machine can run no size.
pub fn choose(supply: &Supply, demand: &Demand, sizes: &[Size], limits: &Limits) -> Result<Choice, Fault> {
    if let Some(fault) = supply.fault() {
        return Err(fault);
    }
    let Limits { scale_max, scale_kept_up, run_max } = *limits;
    let run_max_s = run_max.as_secs_f64();
    let mut needed_cores = f64::INFINITY;
    for (index, size) in sizes.iter().enumerate() {
        let idle = demand.idle_cores * size.process_share;
        let cost = demand.cpu_s_per_trace_s * size.rate_share;
        let scale = rounded_down(((supply.spare_cores() - idle) / cost).min(scale_max).min(scale_kept_up));
        // No scale is fast enough for a very long trace.
        let scale_min = (size.trace_s / run_max_s).max(SCALE_MIN).min(scale_max);
        if scale >= scale_min {
            return Ok(Choice { size: index, time_scale: scale, cores: idle + cost * scale });
        }
        needed_cores = needed_cores.min(idle + cost * scale_min);
    }
    let (spare_cores, available_cores) = (supply.spare_cores(), supply.available_cores);
    let cause = Cause::TooSlow { needed_cores, spare_cores, available_cores, run_max_s };
    Err(Fault { policy: None, cause })
}

/// Rounds down to a tenth, so that the chosen scale is easy to repeat with `--time-scale`.
fn rounded_down(scale: f64) -> f64 {
    (scale * 10.0).floor() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN_MAX: Duration = Duration::from_secs(100);
    const LIMITS: Limits = Limits { scale_max: 12.0, scale_kept_up: 12.0, run_max: RUN_MAX };
    const DEMAND: Demand = Demand { cpu_s_per_trace_s: 0.1, idle_cores: 0.1 };
    const SIZES: [Size; 3] = [
        Size { trace_s: 400.0, rate_share: 1.0, process_share: 1.0 },
        Size { trace_s: 200.0, rate_share: 1.0, process_share: 1.0 },
        Size { trace_s: 200.0, rate_share: 0.5, process_share: 0.5 },
    ];

    fn chosen(available_cores: f64, others_cores: f64) -> Result<(usize, f64), Cause> {
        let supply = Supply { cores: available_cores, available_cores, others_cores };
        let choice = choose(&supply, &DEMAND, &SIZES, &LIMITS).map_err(|fault| fault.cause)?;
        // Whatever is chosen, the machine stays half idle and the run stays within its time.
        assert!(choice.cores + others_cores <= BUSY_TARGET * available_cores + 1e-9, "{choice:?}");
        assert!(SIZES[choice.size].trace_s / choice.time_scale <= RUN_MAX.as_secs_f64(), "{choice:?}");
        Ok((choice.size, choice.time_scale))
    }

    #[test]
    fn the_scale_falls_with_the_spare_cores() {
        assert_eq!(chosen(16.0, 0.0), Ok((0, 12.0)));
        assert_eq!(chosen(2.0, 0.005), Ok((0, 7.9)));
        assert_eq!(chosen(2.0, 0.305), Ok((0, 4.9)));
    }

    #[test]
    fn the_comparison_shrinks_before_it_takes_too_long() {
        assert_eq!(chosen(1.0, 0.005), Ok((1, 3.4)));
        assert_eq!(chosen(1.0, 0.1925), Ok((2, 4.1)));
    }

    #[test]
    fn a_machine_without_spare_cores_is_refused() {
        assert!(matches!(chosen(2.0, 2.0), Err(Cause::OthersBusy { .. })));
        assert!(matches!(chosen(1.0, 0.45), Err(Cause::OthersBusy { .. })));
        let refused = chosen(1.0, 0.4);
        assert!(
            matches!(refused, Err(Cause::TooSlow { needed_cores, .. }) if needed_cores < 0.2),
            "{refused:?}"
        );
    }

    /// A container with two cores' time on a large machine.
    #[test]
    fn other_processes_do_not_use_the_limit_of_the_control_group() {
        let supply = Supply { cores: 64.0, available_cores: 2.0, others_cores: 20.0 };
        assert!(supply.is_calm());
        assert_eq!(choose(&supply, &DEMAND, &SIZES, &LIMITS).map(|choice| choice.time_scale), Ok(8.0));
        assert!(matches!(Supply { others_cores: 30.0, ..supply }.fault(), Some(Fault { policy: None, .. })));
    }

    #[test]
    fn a_tenth_of_the_machine_counts_as_calm() {
        let supply = |others_cores| Supply { cores: 2.0, available_cores: 2.0, others_cores };
        assert!(supply(0.0).is_calm() && supply(0.19).is_calm() && !supply(0.21).is_calm());
    }

    #[test]
    fn a_short_trace_may_run_as_fast_as_allowed() {
        let supply = Supply { cores: 64.0, available_cores: 64.0, others_cores: 1.0 };
        let short = [Size { trace_s: 1.0, rate_share: 1.0, process_share: 1.0 }];
        let limits = Limits { scale_max: 0.5, ..LIMITS };
        assert_eq!(choose(&supply, &DEMAND, &short, &limits).unwrap().time_scale, 0.5);
    }

    #[test]
    fn a_machine_that_did_not_keep_up_runs_slower_but_not_longer_than_allowed() {
        let supply = Supply { cores: 64.0, available_cores: 64.0, others_cores: 0.0 };
        let chosen = |scale_kept_up| {
            let choice = choose(&supply, &DEMAND, &SIZES, &Limits { scale_kept_up, ..LIMITS })?;
            Ok((choice.size, choice.time_scale))
        };
        assert_eq!(chosen(7.2), Ok::<_, Fault>((0, 7.2)));
        assert_eq!(chosen(3.0), Ok((1, 3.0)));
        assert!(matches!(chosen(1.5), Err(Fault { cause: Cause::TooSlow { .. }, .. })));
    }
}
