//! The `compare` subcommand.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::Args;
use evenkeel_loadtest::{
    compare::{Comparison, Plan, run},
    lab::Policy,
    replay::{Replay, Spread},
    report::{Series, table},
    workload::Workload,
};

use super::{EngineArgs, EngineSet, PaceArgs, SloArgs, TraceArgs, exit_code, progress_log};

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Directory for the report
    #[arg(long, default_value = "out/compare")]
    out: PathBuf,
    /// Policies, in the order in which they run; without --time-scale, Evenkeel runs first
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Policy::BY_REQUESTS)]
    policies: Vec<Policy>,
    /// Number of model servers
    #[arg(long, default_value_t = 8)]
    hosts: usize,
    /// Number of gateways
    #[arg(long, default_value_t = 8)]
    gateways: usize,
    /// Number of sidecars; gateways share them if there are fewer sidecars than gateways
    #[arg(long, default_value_t = 8)]
    sidecars: usize,
    /// Worker threads per gateway
    #[arg(long, default_value_t = 1)]
    envoy_concurrency: usize,
    /// Offered load, to which the arrival rate is scaled; at 1 the hosts are saturated
    #[arg(long, default_value_t = 0.85)]
    load: f64,
    #[command(flatten)]
    pace: PaceArgs,
    /// Tokens per SSE event
    #[arg(long, default_value_t = 8)]
    token_batch: u32,
    /// How requests are distributed over the gateways
    #[arg(long, value_enum, default_value_t)]
    spread: Spread,
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

pub(crate) async fn run_comparison(args: CompareArgs) -> anyhow::Result<ExitCode> {
    let (trace, synthetic) = args.trace.load()?;
    let plan = Plan {
        policies: args.policies,
        hosts: args.hosts,
        gateways: args.gateways,
        sidecars: args.sidecars,
        envoy_concurrency: args.envoy_concurrency,
        engine: args.engine.params(EngineSet::Demo),
        pace: args.pace.pace(),
        may_shrink: false,
        token_batch: args.token_batch,
        load: args.load,
        slo: args.slo.slo(),
        slice_start: args.trace.start,
        slice_duration: args.trace.duration,
        spread: args.spread,
        seed: args.seed,
        synthetic,
        lab_dir: None,
    };
    let comparison = compare_into(plan, &trace, &args.out).await?;
    println!("\nreport: {}", args.out.join("report.html").display());
    Ok(exit_code(comparison.report.verdict.valid))
}

/// Runs a comparison, writes its report and its results into `out`, and prints the table.
pub(super) async fn compare_into(plan: Plan, trace: &Workload, out: &Path) -> anyhow::Result<Comparison> {
    let logs = out.join("logs");
    if logs.exists() {
        std::fs::remove_dir_all(&logs).with_context(|| format!("removing {}", logs.display()))?;
    }
    for policy in Policy::ALL {
        remove_stale(&samples_path(out, policy))?;
        remove_stale(&hosts_path(out, policy))?;
    }
    let plan = Plan { lab_dir: Some(logs), ..plan };
    let comparison = run(&plan, trace, progress_log()).await?;
    let Comparison { report, series, replays } = &comparison;
    report.write(out, series).with_context(|| format!("writing into {}", out.display()))?;
    for (policy, replay) in replays {
        let path = samples_path(out, *policy);
        write_samples(&path, replay).with_context(|| format!("writing {}", path.display()))?;
    }
    for (policy, series) in series {
        let path = hosts_path(out, *policy);
        write_hosts(&path, series).with_context(|| format!("writing {}", path.display()))?;
    }
    println!("\n{}", table(report));
    for (path, noise) in &report.noise.paths {
        println!(
            "idle {path:<9} first token delayed by {:.2} ms at p50 and {:.2} ms at p99 (wall); {:.0} and {:.0} ms in trace time",
            noise.overhead_wall_ms.p50,
            noise.overhead_wall_ms.p99,
            noise.overhead_ms.p50,
            noise.overhead_ms.p99
        );
    }
    Ok(comparison)
}

fn samples_path(out: &Path, policy: Policy) -> PathBuf {
    out.join(format!("{policy}.csv"))
}

fn hosts_path(out: &Path, policy: Policy) -> PathBuf {
    out.join(format!("{policy}-hosts.csv"))
}

/// Writes the load of each host over time as CSV.
fn write_hosts(path: &Path, series: &Series) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    writeln!(file, "at_s,host,in_flight,unread_tokens")?;
    for sample in &series.in_flight {
        for (host, (in_flight, unread)) in sample.hosts.iter().zip(&sample.unread).enumerate() {
            writeln!(file, "{:.3},{host},{in_flight},{unread}", sample.at_s)?;
        }
    }
    file.flush()
}

/// Removes a file of an earlier comparison, whose report this one replaces.
pub(super) fn remove_stale(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Writes the result of every request as CSV.
fn write_samples(path: &Path, replay: &Replay) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    writeln!(file, "due_s,late_wall_ms,ttft_ms,e2e_ms,status,host,error")?;
    let ms = |d: Duration| d.as_secs_f64() * 1e3 * replay.time_scale;
    for s in &replay.samples {
        writeln!(
            file,
            "{:.3},{:.3},{},{:.1},{},{},{}",
            s.due.as_secs_f64() * replay.time_scale,
            s.late.as_secs_f64() * 1e3,
            s.ttft.map_or(String::new(), |t| format!("{:.1}", ms(t))),
            ms(s.e2e),
            s.status.map_or(String::new(), |s| s.to_string()),
            s.host.as_deref().unwrap_or_default(),
            s.error.as_deref().unwrap_or_default().replace([',', '\n'], ";")
        )?;
    }
    file.flush()
}
