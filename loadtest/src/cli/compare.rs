//! `demo` and `compare`.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Args;
use evenkeel_loadtest::{
    compare::{Comparison, Plan, run},
    demo as chosen,
    lab::Policy,
    replay::{Replay, Spread},
    report::table,
    workload::Workload,
};

use super::{EngineArgs, TraceArgs};

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Directory of the report
    #[arg(long, default_value = "out/demo")]
    out: PathBuf,
    /// Trace to use (default: the Azure conversation trace where there is a copy, else a made-up one)
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Number of sidecars; with fewer than gateways some share one
    #[arg(long, default_value_t = 8)]
    sidecars: usize,
    /// Seed of every random choice
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) async fn demo(args: DemoArgs) -> anyhow::Result<()> {
    let (trace, synthetic) = chosen::load_trace(args.trace.as_deref()).context("reading the trace")?;
    if synthetic {
        println!("No copy of the Azure trace found: this run uses a MADE-UP trace of the same statistics.");
    }
    let plan = Plan { sidecars: args.sidecars, seed: args.seed, synthetic, ..chosen::plan() };
    compare_into(plan, &trace, &args.out).await
}

/// Arguments of `compare`.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// Directory of the report
    #[arg(long, default_value = "out/compare")]
    out: PathBuf,
    /// Policies to run, in this order
    #[arg(long, value_delimiter = ',', default_values_t = Policy::ALL)]
    policies: Vec<Policy>,
    /// Model servers
    #[arg(long, default_value_t = 8)]
    hosts: usize,
    /// Envoys
    #[arg(long, default_value_t = 8)]
    gateways: usize,
    /// Sidecars; with fewer than gateways some share one
    #[arg(long, default_value_t = 8)]
    sidecars: usize,
    /// Worker threads of each Envoy
    #[arg(long, default_value_t = 1)]
    envoy_concurrency: usize,
    /// Load to reach by letting requests arrive faster or slower; 1 is what the hosts do with all slots taken
    #[arg(long, default_value_t = 0.85)]
    load: f64,
    /// Trace seconds per wall second
    #[arg(long, default_value_t = 12.0)]
    time_scale: f64,
    /// Tokens in one SSE event
    #[arg(long, default_value_t = 8)]
    token_batch: u32,
    /// How to spread requests over the gateways: random or round_robin
    #[arg(long, default_value = "random")]
    spread: Spread,
    /// Seed of every random choice
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    trace: TraceArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

pub(crate) async fn compare(args: CompareArgs) -> anyhow::Result<()> {
    let (trace, synthetic) = args.trace.load()?;
    let plan = Plan {
        policies: args.policies,
        hosts: args.hosts,
        gateways: args.gateways,
        sidecars: args.sidecars,
        envoy_concurrency: args.envoy_concurrency,
        engine: args.engine.params(),
        time_scale: args.time_scale,
        token_batch: args.token_batch,
        load: args.load,
        slice_start: Duration::from_secs_f64(args.trace.start),
        slice_duration: Duration::from_secs_f64(args.trace.duration),
        spread: args.spread,
        seed: args.seed,
        synthetic,
        lab_dir: None,
    };
    compare_into(plan, &trace, &args.out).await
}

async fn compare_into(plan: Plan, trace: &Workload, out: &Path) -> anyhow::Result<()> {
    let logs = out.join("logs");
    if logs.exists() {
        std::fs::remove_dir_all(&logs).with_context(|| format!("removing {}", logs.display()))?;
    }
    let plan = Plan { lab_dir: Some(logs), ..plan };
    let start = Instant::now();
    let say = |what: &str| eprintln!("[{:>4.0} s] {what}", start.elapsed().as_secs_f64());
    let Comparison { report, series, replays } = run(&plan, trace, say).await?;
    report.write(out, &series).with_context(|| format!("writing into {}", out.display()))?;
    for (policy, replay) in &replays {
        let path = out.join(format!("{policy}.csv"));
        write_samples(&path, replay).with_context(|| format!("writing {}", path.display()))?;
    }
    println!("\n{}", table(&report));
    for (path, noise) in &report.noise.paths {
        println!(
            "idle {path:<9} first token {:.2} ms late at p50, {:.2} at p99 (wall), {:.0} and {:.0} in trace time",
            noise.overhead_wall_ms.p50,
            noise.overhead_wall_ms.p99,
            noise.overhead_ms.p50,
            noise.overhead_ms.p99
        );
    }
    println!("\nreport: {}", out.join("report.html").display());
    Ok(())
}

/// Every request's fate, for those who want to plot it themselves.
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
