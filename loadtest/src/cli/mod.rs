//! The command line.

mod bench;
mod chaos;
mod compare;
mod demo;
mod engine;
mod live;
mod pace_args;
mod replay;
mod simulate;
mod slo;
mod slo_args;
mod synth;

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use engine::{EngineArgs, EngineSet};
use evenkeel_loadtest::{
    demo as demo_traces,
    mock::{Fleet, FleetConfig},
    workload::{Workload, trace::TraceError},
};
use pace_args::PaceArgs;
use slo_args::SloArgs;

const AFTER_HELP: &str = "\
Traces are CSV files with the columns TIMESTAMP,ContextTokens,GeneratedTokens, like the public Azure LLM inference traces, or \
JSON lines like Mooncake's public traces. Without --trace and without a copy of the Azure trace, the commands use a synthetic trace with the same statistics and report this.

EVENKEEL_ENVOY, EVENKEEL_BIN, EVENKEEL_PLUGIN_WASM and EVENKEEL_REDIS_SERVER set the paths of the programs under test; without \
them, the commands look in .tools/, the build's target directories and PATH. A run uses free ports and ends every process it started.

`demo`, `compare`, `slo` and `replay` exit with status 3 if the result is not valid on this machine.

  evenkeel-loadtest demo                        the complete comparison, with an HTML report
  evenkeel-loadtest live                        a complete system to explore, until Ctrl-C
  evenkeel-loadtest simulate --load 0.9         the predicted result, without starting other processes
  evenkeel-loadtest slo --simulate-only         the load that each policy carries, without starting other processes
  evenkeel-loadtest replay --gateway URL …      load on your own gateways";

/// Replays traces of LLM requests through real gateways and compares balancing policies
#[derive(Debug, Parser)]
#[command(name = "evenkeel-loadtest", version, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Compare the policies with preset parameters on two traces, without and with prefixes (takes 8 to 15 minutes, or up
    /// to 25 beside other work)
    Demo(demo::DemoArgs),
    /// Compare policies with your own parameters
    Compare(compare::CompareArgs),
    /// Run a complete system under traffic until Ctrl-C, to explore its page, metrics and terminal view
    Live(live::LiveArgs),
    /// Measure one sidecar, or what it adds to a gateway's requests
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Break sidecars, gateways and Redis under traffic, and check that counts and charges stay exact
    Chaos(chaos::ChaosArgs),
    /// Simulate a comparison in virtual time, to predict its result
    Simulate(simulate::SimulateArgs),
    /// Search the load at which 95 % of the requests have their first token in time, for each policy, by simulation, and
    /// check it by real runs just below and just above (a real run takes 1 to 3 minutes)
    Slo(slo::SloLoadArgs),
    /// Send a trace to gateways that are already running
    Replay(replay::ReplayArgs),
    /// Run mock model servers: OpenAI chat completions, vLLM's metrics, /stats
    Mock(MockArgs),
    /// Write a synthetic trace with the statistics of the Azure or of Mooncake's conversation trace
    Synth(synth::SynthArgs),
    /// Run the bare gRPC server that the benchmarks compare with
    #[command(hide = true)]
    Echo(bench::EchoArgs),
}

/// Exit status of a comparison or replay that is not valid on this machine.
const NOT_VALID: u8 = 3;

/// Returns the exit status of a run that is valid or not.
fn exit_code(valid: bool) -> ExitCode {
    if valid { ExitCode::SUCCESS } else { ExitCode::from(NOT_VALID) }
}

pub(crate) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Demo(args) => return demo::run(args).await,
        Command::Compare(args) => return compare::run_comparison(args).await,
        Command::Replay(args) => return replay::run(args).await,
        Command::Slo(args) => return slo::run(args).await,
        Command::Chaos(args) => return chaos::run(args).await,
        Command::Live(args) => live::run(args).await,
        Command::Bench(command) => bench::run(command).await,
        Command::Echo(args) => bench::run_echo(args).await,
        Command::Simulate(args) => simulate::run(&args),
        Command::Mock(args) => mock(&args).await,
        Command::Synth(args) => synth::run(&args),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Returns a function that prints progress messages, each with the number of seconds since this call.
fn progress_log() -> impl Fn(&str) {
    let start = Instant::now();
    move |message: &str| eprintln!("[{:>4.0} s] {message}", start.elapsed().as_secs_f64())
}

/// Parses a time scale.
fn above_zero(text: &str) -> Result<f64, String> {
    let scale = text.parse().ok().filter(|scale: &f64| scale.is_finite() && *scale > 0.0);
    scale.ok_or_else(|| "expected a number above 0".to_owned())
}

/// Parses a number of seconds above 0.
fn seconds(text: &str) -> Result<Duration, String> {
    let above_zero = seconds_or_zero(text).ok().filter(|seconds| !seconds.is_zero());
    above_zero.ok_or_else(|| "expected a number above 0".to_owned())
}

/// Parses a number of seconds.
fn seconds_or_zero(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| "expected a number from 0".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct MockArgs {
    /// Number of hosts
    #[arg(long, default_value_t = 1)]
    hosts: u16,
    /// Address of the first host; further hosts use the following ports. With port 0, each host uses a free port
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Virtual seconds per wall second
    #[arg(long, default_value_t = 1.0, value_parser = above_zero)]
    time_scale: f64,
    /// Tokens per SSE event
    #[arg(long, default_value_t = 1)]
    token_batch: u32,
    #[command(flatten)]
    engine: EngineArgs,
}

async fn mock(args: &MockArgs) -> anyhow::Result<()> {
    let listen = (0..args.hosts)
        .map(|i| {
            let port = if args.listen.port() == 0 { Some(0) } else { args.listen.port().checked_add(i) };
            port.map(|port| SocketAddr::new(args.listen.ip(), port))
                .context("--listen, --hosts: a port exceeds 65535")
        })
        .collect::<Result<_, _>>()?;
    let fleet = Fleet::start(&FleetConfig {
        listen,
        engine: args.engine.params(EngineSet::Demo),
        time_scale: args.time_scale,
        token_batch: args.token_batch,
    })
    .context("starting the mock hosts")?;
    for address in fleet.addresses() {
        println!("http://{address}");
    }
    // Runs until a signal drops this future.
    std::future::pending().await
}

/// The trace, and the slice of the trace to use.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Trace")]
pub(crate) struct TraceArgs {
    /// Trace file (default: a copy of the Azure conversation trace, for `slo` of Mooncake's, if found, otherwise a
    /// synthetic trace)
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Start of the slice, in seconds
    #[arg(long, default_value = "360", value_parser = seconds_or_zero)]
    start: Duration,
    /// Duration of the slice, in seconds
    #[arg(long, default_value = "960", value_parser = seconds)]
    duration: Duration,
    /// Number of models that the trace's conversations are for. Requests for different models share no prefixes
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=TENANTS_MAX))]
    models: u32,
    /// Number of consumers that the trace's conversations come from; 0: requests name no consumer
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=TENANTS_MAX))]
    consumers: u32,
}

/// Bounds the names that a run brings into limits, metrics and reports.
const TENANTS_MAX: i64 = 100_000;
/// Seed of the assignment of models and consumers, so that every command uses the same one.
const TENANTS_SEED: u64 = 1;

impl TraceArgs {
    /// Loads the trace. Without `--trace`, it is one without prefixes.
    pub(crate) fn load(&self) -> anyhow::Result<(Workload, bool)> {
        self.with_tenants(demo_traces::load_trace(self.trace.as_deref()))
    }

    /// Loads the trace. Without `--trace`, it is one of conversations.
    pub(crate) fn load_conversations(&self) -> anyhow::Result<(Workload, bool)> {
        self.with_tenants(demo_traces::load_prefix_trace(self.trace.as_deref()))
    }

    fn with_tenants(&self, loaded: Result<(Workload, bool), TraceError>) -> anyhow::Result<(Workload, bool)> {
        let (trace, synthetic) = loaded.context("reading the trace")?;
        if synthetic {
            eprintln!(
                "NOTE: no copy of the public trace found; using a synthetic trace with the same statistics."
            );
        }
        Ok((trace.with_tenants(self.models, self.consumers, TENANTS_SEED), synthetic))
    }
}
