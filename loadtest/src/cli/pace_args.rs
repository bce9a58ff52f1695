//! How fast a comparison replays its trace.

use std::time::Duration;

use clap::Args;
use evenkeel_loadtest::{demo, pace::Pace};

use super::{above_zero, seconds};

#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct PaceArgs {
    /// Trace seconds per wall second (default: the highest number up to 12 at which about half of the CPU stays idle)
    #[arg(long, value_parser = above_zero)]
    time_scale: Option<f64>,
    /// Without --time-scale: wall seconds that the run of a policy may take; on a machine that needs longer, the
    /// comparison does not start
    #[arg(long, default_value = "600", value_parser = seconds, conflicts_with = "time_scale")]
    run_max: Duration,
}

impl PaceArgs {
    pub(crate) fn pace(self) -> Pace {
        match self.time_scale {
            Some(time_scale) => Pace::Fixed(time_scale),
            None => Pace::Measured { scale_max: demo::SCALE_MAX, run_max: self.run_max },
        }
    }
}
