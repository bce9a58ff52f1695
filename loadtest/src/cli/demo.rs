//! The `demo` subcommand.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;
use evenkeel_loadtest::{
    compare::Plan,
    demo,
    pace::Pace,
    report::{DemoPart, write_demo},
};

use super::{
    above_zero,
    compare::{compare_into, remove_stale},
    exit_code,
};

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Directory for the report
    #[arg(long, default_value = "out/demo")]
    out: PathBuf,
    /// Trace file without prefixes (default: a copy of the Azure conversation trace if found, otherwise a synthetic
    /// trace)
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Trace file of conversations whose prompts share prefixes (default: a copy of Mooncake's conversation trace if
    /// found, otherwise a synthetic trace)
    #[arg(long, value_name = "FILE")]
    prefix_trace: Option<PathBuf>,
    /// Run only the comparison on one trace
    #[arg(long, value_name = "TRACE", value_parser = [demo::WITHOUT_PREFIXES, demo::WITH_PREFIXES])]
    only: Option<String>,
    /// Number of sidecars (default: 8 without prefixes, 2 with)
    #[arg(long)]
    sidecars: Option<usize>,
    /// Trace seconds per wall second (default: the highest number up to 12 at which about half of the CPU stays idle)
    #[arg(long, value_parser = above_zero)]
    time_scale: Option<f64>,
    /// Seed of every random choice
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    for file in ["report.json", "report.html"] {
        remove_stale(&args.out.join(file))?;
    }
    let loaded = |result| Result::context(result, "reading the trace");
    let mut parts = Vec::new();
    for (name, about, plan) in [
        (demo::WITHOUT_PREFIXES, "prompts that share nothing", demo::plan()),
        (demo::WITH_PREFIXES, "conversations, whose prompts share their beginnings", demo::prefix_plan()),
    ] {
        if args.only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        let (trace, synthetic) = if name == demo::WITH_PREFIXES {
            loaded(demo::load_prefix_trace(args.prefix_trace.as_deref()))?
        } else {
            loaded(demo::load_trace(args.trace.as_deref()))?
        };
        println!("\n{name}: {}", trace.source);
        if synthetic {
            println!(
                "No copy of the public trace found: this is a SYNTHETIC trace with the same statistics."
            );
        }
        let sidecars = args.sidecars.unwrap_or(plan.sidecars);
        let pace = args.time_scale.map_or(plan.pace, Pace::Fixed);
        let plan = Plan { sidecars, pace, seed: args.seed, synthetic, ..plan };
        let comparison = compare_into(plan, &trace, &args.out.join(name)).await?;
        parts.push(DemoPart { name, about, report: comparison.report, series: comparison.series });
    }
    finish(&args.out, &parts)
}

fn finish(out: &Path, parts: &[DemoPart]) -> anyhow::Result<ExitCode> {
    write_demo(out, parts).with_context(|| format!("writing into {}", out.display()))?;
    println!("\nreport: {}", out.join("report.html").display());
    Ok(exit_code(parts.iter().all(|part| part.report.verdict.valid)))
}
