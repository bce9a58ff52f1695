//! `bench`, and the server it compares with.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::Args;
use evenkeel_loadtest::bench::{self, BenchConfig};

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Directory of the report
    #[arg(long, default_value = "out/bench")]
    out: PathBuf,
    /// Endpoints of the pool
    #[arg(long, default_value_t = 64)]
    endpoints: usize,
    /// Callers, each with one call under way at a time
    #[arg(long, default_value_t = 256)]
    callers: usize,
    /// HTTP/2 (or Redis) connections they share
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Seconds of one run
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Runs of each kind, in turn; the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Single calls on the idle system
    #[arg(long, default_value_t = 2000)]
    idle_calls: usize,
}

pub(crate) async fn run(args: BenchArgs) -> anyhow::Result<()> {
    let config = BenchConfig {
        endpoints: args.endpoints,
        callers: args.callers,
        connections: args.connections,
        run: Duration::from_secs_f64(args.seconds),
        rounds: args.rounds,
        idle_calls: args.idle_calls,
        dir: Some(args.out.join("logs")),
    };
    if cfg!(debug_assertions) {
        eprintln!("NOTE: this is a debug build; its figures mean little.");
    }
    let echo = std::env::current_exe().context("finding this program")?;
    let start = Instant::now();
    let say = |what: &str| eprintln!("[{:>4.0} s] {what}", start.elapsed().as_secs_f64());
    let report = bench::run(&config, &echo, say).await?;
    let write = |name: &str, json: serde_json::Result<String>| {
        let path = args.out.join(name);
        std::fs::write(&path, json? + "\n").with_context(|| format!("writing {}", path.display()))?;
        anyhow::Ok(path)
    };
    write("checks.json", serde_json::to_string_pretty(&report.checks))?;
    let path = write("report.json", serde_json::to_string_pretty(&report.runs))?;
    println!("\n{}\nreport: {}", report.table(), path.display());
    Ok(())
}

/// Arguments of `bench-rate-limits`.
#[derive(Debug, Args)]
pub(crate) struct BenchRateLimitsArgs {
    /// Directory of the report
    #[arg(long, default_value = "out/bench-rate-limits")]
    out: PathBuf,
    /// Seconds of one run
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Runs of each kind, in turn; the median counts
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

pub(crate) async fn rate_limits(args: BenchRateLimitsArgs) -> anyhow::Result<()> {
    let config = BenchConfig {
        run: Duration::from_secs_f64(args.seconds),
        rounds: args.rounds,
        dir: Some(args.out.join("logs")),
        ..BenchConfig::default()
    };
    if cfg!(debug_assertions) {
        eprintln!("NOTE: this is a debug build; its figures mean little.");
    }
    let echo = std::env::current_exe().context("finding this program")?;
    let start = Instant::now();
    let say = |what: &str| eprintln!("[{:>4.0} s] {what}", start.elapsed().as_secs_f64());
    let runs = bench::rate_limits::run(&config, &echo, say).await?;
    let path = args.out.join("report.json");
    std::fs::write(&path, serde_json::to_string_pretty(&runs)? + "\n")
        .with_context(|| format!("writing {}", path.display()))?;
    println!("\n{}\nreport: {}", bench::rate_limits::table(&runs), path.display());
    Ok(())
}

/// Arguments of `echo`.
#[derive(Debug, Args)]
pub(crate) struct EchoArgs {
    /// Unix socket to listen on
    #[arg(long)]
    socket: PathBuf,
    /// Written once it serves
    #[arg(long)]
    ready_file: PathBuf,
}

pub(crate) async fn echo(args: EchoArgs) -> anyhow::Result<()> {
    // The runtime of a sidecar: one thread. Not a blocking task, whose end a signal would wait for.
    let (done, serving) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let serve = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(bench::echo::serve(args.socket, &args.ready_file))
        };
        let _ = done.send(serve());
    });
    Ok(serving.await??)
}
