//! The `slo` subcommand.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Args;
use evenkeel_loadtest::{
    compare::Plan,
    demo,
    lab::Policy,
    slo_load::{self, SloLoadPlan},
};

use super::{
    PaceArgs, SloArgs, TraceArgs,
    engine::{EngineArgs, EngineSet},
    exit_code, progress_log,
};

#[derive(Debug, Args)]
pub(crate) struct SloLoadArgs {
    /// Directory for the report
    #[arg(long, default_value = "out/slo")]
    out: PathBuf,
    /// Policies whose load is searched (default: those of the demo with prefixes)
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = demo::prefix_plan().policies)]
    policies: Vec<Policy>,
    /// Policies whose load is checked by two real runs (default: all of --policies)
    #[arg(long, value_enum, value_delimiter = ',', conflicts_with = "simulate_only")]
    check: Option<Vec<Policy>>,
    /// Do not check any load by real runs
    #[arg(long)]
    simulate_only: bool,
    /// Fraction of the requests that must be in time
    #[arg(long, default_value_t = 0.95, value_parser = fraction)]
    target: f64,
    /// Distance of the two real runs from the load that the simulation found, as a fraction of it
    #[arg(long, default_value_t = 0.1, value_parser = fraction)]
    margin: f64,
    /// Number of simulations for each load, whose mean decides
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    seeds: u64,
    /// Number of model servers
    #[arg(long, default_value_t = 8)]
    hosts: usize,
    /// Number of gateways
    #[arg(long, default_value_t = 4)]
    gateways: usize,
    /// Number of sidecars; gateways share them if there are fewer sidecars than gateways
    #[arg(long, default_value_t = 2)]
    sidecars: usize,
    #[command(flatten)]
    pace: PaceArgs,
    /// Seed of every random choice
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    trace: TraceArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    slo: SloArgs,
}

pub(crate) async fn run(args: SloLoadArgs) -> anyhow::Result<ExitCode> {
    let (trace, synthetic) = args.trace.load_conversations()?;
    let checked = if args.simulate_only { Vec::new() } else { args.check.unwrap_or(args.policies.clone()) };
    if let Some(unknown) = checked.iter().find(|policy| !args.policies.contains(policy)) {
        anyhow::bail!("--check: must be one of --policies, got {unknown}");
    }
    let plan = Plan {
        policies: args.policies,
        hosts: args.hosts,
        gateways: args.gateways,
        sidecars: args.sidecars,
        engine: args.engine.params(EngineSet::LongContext),
        pace: args.pace.pace(),
        slo: args.slo.slo(),
        slice_start: args.trace.start,
        slice_duration: args.trace.duration,
        seed: args.seed,
        synthetic,
        lab_dir: Some(args.out.join("logs")),
        ..demo::prefix_plan()
    };
    let plan = SloLoadPlan { plan, target: args.target, seeds: args.seeds, margin: args.margin, checked };
    let report = slo_load::run(&plan, &trace, &progress_log()).await?;
    report.write(&args.out).with_context(|| format!("writing into {}", args.out.display()))?;
    println!("\n{}", report.text());
    println!("report: {}", args.out.join("report.json").display());
    Ok(exit_code(report.valid))
}

/// Parses a number above 0 and below 1.
fn fraction(text: &str) -> Result<f64, String> {
    let fraction = text.parse().ok().filter(|fraction: &f64| *fraction > 0.0 && *fraction < 1.0);
    fraction.ok_or_else(|| "expected a number above 0 and below 1".to_owned())
}
