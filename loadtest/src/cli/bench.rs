//! The `bench` subcommands, and the server that they compare with.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use clap::{Args, Subcommand, builder::RangedU64ValueParser};
use evenkeel_loadtest::bench::{self, BenchConfig, BenchRun, filters::FilterConfig};

use super::progress_log;

fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=1_000_000)
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Decisions per second of one sidecar, compared with a bare gRPC server, a naive Redis script and a round trip
    Decisions(DecisionsArgs),
    /// Checks per second of one sidecar's rate limit service, compared with a bare gRPC server
    RateLimits(RateLimitsArgs),
    /// What TLS and mutual TLS add to a call of the sidecar
    TransportSecurity(TransportSecurityArgs),
    /// What the plugin and Envoy's own rate limit filter add to a request, compared with no filter
    Filters(FiltersArgs),
}

pub(crate) async fn run(command: BenchCommand) -> anyhow::Result<()> {
    match command {
        BenchCommand::Decisions(args) => run_decisions(args).await,
        BenchCommand::RateLimits(args) => run_rate_limits(args).await,
        BenchCommand::TransportSecurity(args) => run_transport_security(args).await,
        BenchCommand::Filters(args) => run_filters(args).await,
    }
}

#[derive(Debug, Args)]
pub(crate) struct DecisionsArgs {
    /// Directory for the report
    #[arg(long, default_value = "out/bench")]
    out: PathBuf,
    /// Number of endpoints in the pool
    #[arg(long, default_value_t = 64, value_parser = at_least_one())]
    endpoints: usize,
    /// Number of callers, each with one call in flight
    #[arg(long, default_value_t = 256, value_parser = at_least_one())]
    callers: usize,
    /// Number of HTTP/2 (or Redis) connections that the callers share
    #[arg(long, default_value_t = 4, value_parser = at_least_one())]
    connections: usize,
    /// Duration of one run, in seconds
    #[arg(long, default_value = "5", value_parser = super::seconds)]
    seconds: Duration,
    /// Number of runs of each kind; the kinds alternate, and the report has the median run
    #[arg(long, default_value_t = 3, value_parser = at_least_one())]
    rounds: usize,
    /// Number of single calls on the idle system
    #[arg(long, default_value_t = 2000, value_parser = at_least_one())]
    idle_calls: usize,
}

async fn run_decisions(args: DecisionsArgs) -> anyhow::Result<()> {
    let config = BenchConfig {
        endpoints: args.endpoints,
        callers: args.callers,
        connections: args.connections,
        run: args.seconds,
        rounds: args.rounds,
        idle_calls: args.idle_calls,
        dir: Some(args.out.join("logs")),
    };
    let echo_server = echo_server()?;
    let report = bench::decisions::run(&config, &echo_server, progress_log()).await?;
    write(&args.out.join("checks.json"), serde_json::to_string_pretty(&report.checks)?)?;
    let path = write_runs(&args.out, &report.runs)?;
    println!("\n{}\nreport: {}", report.table(), path.display());
    Ok(())
}

#[derive(Debug, Args)]
pub(crate) struct RateLimitsArgs {
    /// Directory for the report
    #[arg(long, default_value = "out/bench-rate-limits")]
    out: PathBuf,
    /// Duration of one run, in seconds
    #[arg(long, default_value = "5", value_parser = super::seconds)]
    seconds: Duration,
    /// Number of runs of each kind; the kinds alternate, and the report has the median run
    #[arg(long, default_value_t = 3, value_parser = at_least_one())]
    rounds: usize,
}

async fn run_rate_limits(args: RateLimitsArgs) -> anyhow::Result<()> {
    let config = config(args.seconds, args.rounds, &args.out);
    let echo_server = echo_server()?;
    report(&args.out, &bench::rate_limits::run(&config, &echo_server, progress_log()).await?)
}

#[derive(Debug, Args)]
pub(crate) struct TransportSecurityArgs {
    /// Directory for the report
    #[arg(long, default_value = "out/bench-transport-security")]
    out: PathBuf,
    /// Duration of one run, in seconds
    #[arg(long, default_value = "3", value_parser = super::seconds)]
    seconds: Duration,
    /// Number of runs of each kind; the kinds alternate, and the report has the median run
    #[arg(long, default_value_t = 3, value_parser = at_least_one())]
    rounds: usize,
}

async fn run_transport_security(args: TransportSecurityArgs) -> anyhow::Result<()> {
    let config = config(args.seconds, args.rounds, &args.out);
    warn_of_debug_build();
    report(&args.out, &bench::transport_security::run(&config, progress_log()).await?)
}

#[derive(Debug, Args)]
pub(crate) struct FiltersArgs {
    /// Directory for the report
    #[arg(long, default_value = "out/bench-filters")]
    out: PathBuf,
    /// Duration of one run, in seconds
    #[arg(long, default_value = "1.5", value_parser = super::seconds)]
    seconds: Duration,
    /// Number of runs of each kind; the filters alternate, and the report has medians
    #[arg(long, default_value_t = 10, value_parser = at_least_one())]
    rounds: usize,
    /// Numbers of requests in flight
    #[arg(long, value_delimiter = ',', default_value = "1,16,64", value_parser = at_least_one())]
    in_flight: Vec<usize>,
    /// Numbers of the gateway's worker threads
    #[arg(long, value_delimiter = ',', default_value = "1,2", value_parser = at_least_one())]
    concurrency: Vec<usize>,
}

async fn run_filters(args: FiltersArgs) -> anyhow::Result<()> {
    let config = FilterConfig {
        run: args.seconds,
        rounds: args.rounds,
        in_flight: args.in_flight,
        concurrency: args.concurrency,
        dir: args.out.join("logs"),
    };
    warn_of_debug_build();
    let report = bench::filters::run(&config, progress_log()).await?;
    write(&args.out.join("checks.json"), serde_json::to_string_pretty(&report.checks)?)?;
    let path = args.out.join("report.json");
    write(&path, serde_json::to_string_pretty(&report.rows)?)?;
    println!("\n{}\nreport: {}", report.table(), path.display());
    Ok(())
}

fn warn_of_debug_build() {
    if cfg!(debug_assertions) {
        eprintln!("NOTE: this is a debug build; its results are not meaningful.");
    }
}

/// Returns the path of this program, which is also the echo server. Warns if this is a debug build.
fn echo_server() -> anyhow::Result<PathBuf> {
    warn_of_debug_build();
    std::env::current_exe().context("finding this program")
}

fn config(run: Duration, rounds: usize, out: &Path) -> BenchConfig {
    BenchConfig { run, rounds, dir: Some(out.join("logs")), ..BenchConfig::default() }
}

/// Writes the runs to `report.json`, and prints them as a table.
fn report(out: &Path, runs: &[BenchRun]) -> anyhow::Result<()> {
    let path = write_runs(out, runs)?;
    println!("\n{}\nreport: {}", bench::runs_table(runs), path.display());
    Ok(())
}

fn write_runs(out: &Path, runs: &[BenchRun]) -> anyhow::Result<PathBuf> {
    let path = out.join("report.json");
    write(&path, serde_json::to_string_pretty(runs)?)?;
    Ok(path)
}

fn write(path: &Path, json: String) -> anyhow::Result<()> {
    std::fs::write(path, json + "\n").with_context(|| format!("writing {}", path.display()))
}

#[derive(Debug, Args)]
pub(crate) struct EchoArgs {
    /// Unix socket to listen on
    #[arg(long)]
    socket: PathBuf,
    /// File to write when the server is ready
    #[arg(long)]
    ready_file: PathBuf,
}

pub(crate) async fn run_echo(args: EchoArgs) -> anyhow::Result<()> {
    // The runtime is single-threaded, like a sidecar's. It has a plain thread, because shutdown would wait for a
    // blocking task.
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
