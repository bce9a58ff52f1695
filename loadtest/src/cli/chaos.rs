//! The `chaos` subcommand.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use evenkeel_loadtest::chaos::{self, ChaosPlan, Kind, Topology};

use super::progress_log;

#[derive(Debug, Args)]
pub(crate) struct ChaosArgs {
    /// Duration of the faults, such as 90s, 2m or 1h; checks at the end take some seconds more
    #[arg(long, default_value = "2m", value_parser = duration)]
    duration: Duration,
    /// Seed of the faults and the traffic (default: a random one)
    #[arg(long)]
    seed: Option<u64>,
    /// Topologies of Redis, which share the duration
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = Topology::ALL)]
    topologies: Vec<Topology>,
    /// Only these faults, such as sidecar_kill, to reduce a violation (default: all faults of the topology)
    #[arg(long, value_delimiter = ',', hide_possible_values = true)]
    faults: Vec<Kind>,
    /// Directory of the report and the logs
    #[arg(long, default_value = "out/chaos")]
    out: PathBuf,
}

/// Parses a number with a unit.
fn duration(text: &str) -> Result<Duration, String> {
    let expected = || "expected a number with the unit s, m or h, such as 90s".to_owned();
    let number = text.trim_end_matches(['s', 'm', 'h']);
    let seconds = match &text[number.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(expected()),
    };
    let number: u64 =
        number.parse().ok().filter(|number| (1..=10_000).contains(number)).ok_or_else(expected)?;
    Ok(Duration::from_secs(number * seconds))
}

pub(crate) async fn run(args: ChaosArgs) -> anyhow::Result<ExitCode> {
    let plan = ChaosPlan {
        duration: args.duration,
        seed: args.seed.unwrap_or_else(|| rand::random::<u32>().into()),
        topologies: args.topologies,
        faults: args.faults,
        out: args.out,
    };
    let report = chaos::run(&plan, &progress_log()).await?;
    println!("{}report: {}", report.summary(), plan.out.join("report.json").display());
    Ok(if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("30m"), Ok(Duration::from_secs(1800)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        for wrong in ["", "90", "s", "0s", "1.5m", "2d", "-1s", "1ms"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
