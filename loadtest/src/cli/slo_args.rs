//! The options of the service level.

use clap::Args;
use evenkeel_loadtest::slo::Slo;

#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Service level")]
pub(crate) struct SloArgs {
    /// Seconds within which the first token of an empty prompt must arrive
    #[arg(long, default_value_t = Slo::default().base_s, value_parser = super::above_zero)]
    slo_base: f64,
    /// Prompt tokens for which this time grows by one second
    #[arg(long, default_value_t = Slo::default().tokens_per_s, value_parser = super::above_zero)]
    slo_tokens_per_second: f64,
}

impl SloArgs {
    pub(crate) fn slo(self) -> Slo {
        Slo { base_s: self.slo_base, tokens_per_s: self.slo_tokens_per_second }
    }
}
