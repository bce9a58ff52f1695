//! The command line.

mod bench;
mod compare;
mod live;
mod replay;
mod simulate;
mod trace;

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use evenkeel_loadtest::{
    engine::EngineParams,
    mock::{Fleet, FleetConfig},
    workload::synth,
};

const AFTER_HELP: &str = "\
Traces are CSV files with the columns TIMESTAMP,ContextTokens,GeneratedTokens, as the public Azure LLM inference traces have.
Where none is given and none is found, a made-up trace of the same statistics is used, and said to be.

Programs under test are found by EVENKEEL_ENVOY, EVENKEEL_BIN, EVENKEEL_PLUGIN_WASM and EVENKEEL_REDIS_SERVER, else where the
build puts them. Every process started is ended with the run; no default port is used.

  evenkeel-loadtest demo                        the whole comparison, with a report to look at
  evenkeel-loadtest live                        a whole system to look at, until Ctrl-C
  evenkeel-loadtest simulate --load 0.9         what to expect, without any process
  evenkeel-loadtest replay --gateway URL …      load on gateways of your own";

/// Replays traces of LLM requests through real gateways and compares balancing policies.
#[derive(Debug, Parser)]
#[command(name = "evenkeel-loadtest", version, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Compare all policies on the trace, with parameters chosen for it (under 4 minutes)
    Demo(compare::DemoArgs),
    /// Compare policies with parameters of your own
    Compare(compare::CompareArgs),
    /// Run a whole system under traffic until Ctrl-C, to look at its page, metrics and terminal
    Live(live::LiveArgs),
    /// Measure one sidecar: decisions per second beside a bare gRPC server, a naive Redis script and a round trip
    Bench(bench::BenchArgs),
    /// Measure the rate limit service of one sidecar beside a bare gRPC server
    BenchRateLimits(bench::BenchRateLimitsArgs),
    /// Compute what a comparison should show, on virtual time
    Simulate(simulate::SimulateArgs),
    /// Send a trace to gateways that are already running
    Replay(replay::ReplayArgs),
    /// Run mock model servers: OpenAI chat completions, vLLM's metrics, /stats
    Mock(MockArgs),
    /// Write a made-up trace with the statistics of the Azure conversation trace
    Synth(trace::SynthArgs),
    /// The bare gRPC server that `bench` compares with
    #[command(hide = true)]
    Echo(bench::EchoArgs),
}

/// Runs one subcommand.
pub(crate) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Demo(args) => compare::demo(args).await,
        Command::Compare(args) => compare::compare(args).await,
        Command::Live(args) => live::run(args).await,
        Command::Bench(args) => bench::run(args).await,
        Command::BenchRateLimits(args) => bench::rate_limits(args).await,
        Command::Echo(args) => bench::echo(args).await,
        Command::Simulate(args) => simulate::run(&args),
        Command::Replay(args) => replay::run(args).await,
        Command::Mock(args) => mock(&args).await,
        Command::Synth(args) => trace::synth(&args),
    }
}

/// Speed and size of the mock model servers.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Model servers")]
pub(crate) struct EngineArgs {
    /// Sequences one host runs at once (vLLM's max_num_seqs)
    #[arg(long, default_value_t = 20)]
    slots: usize,
    /// Milliseconds of a step with an empty batch
    #[arg(long, default_value_t = 30.0)]
    base_ms: f64,
    /// Milliseconds each decoding sequence adds to a step
    #[arg(long, default_value_t = 0.5)]
    per_seq_ms: f64,
    /// Milliseconds each prompt token adds to the step it is read in
    #[arg(long, default_value_t = 0.05)]
    per_prefill_token_ms: f64,
    /// Prompt tokens read in one step at most
    #[arg(long, default_value_t = 2048)]
    prefill_budget: u32,
    /// Tokens the KV cache holds (only reported)
    #[arg(long, default_value_t = 100_000)]
    kv_tokens: u64,
}

impl EngineArgs {
    pub(crate) fn params(&self) -> EngineParams {
        EngineParams {
            slots: self.slots,
            base_ms: self.base_ms,
            per_seq_ms: self.per_seq_ms,
            per_prefill_token_ms: self.per_prefill_token_ms,
            prefill_budget: self.prefill_budget,
            kv_tokens: self.kv_tokens,
        }
    }
}

/// Arguments of `mock`.
#[derive(Debug, Args)]
pub(crate) struct MockArgs {
    /// Number of hosts
    #[arg(long, default_value_t = 1)]
    hosts: u16,
    /// Address of the first host; the others take the ports that follow. Port 0 gives each a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Virtual seconds per wall second
    #[arg(long, default_value_t = 1.0)]
    time_scale: f64,
    /// Tokens in one SSE event
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
                .context("the ports do not fit below 65536")
        })
        .collect::<Result<_, _>>()?;
    let fleet = Fleet::start(&FleetConfig {
        listen,
        engine: args.engine.params(),
        time_scale: args.time_scale,
        token_batch: args.token_batch,
    })
    .context("starting the mock hosts")?;
    for address in fleet.addresses() {
        println!("http://{address}");
    }
    // Until a signal drops this.
    std::future::pending().await
}

/// Which part of which trace, and how fast.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Trace")]
pub(crate) struct TraceArgs {
    /// Trace to use (default: the Azure conversation trace where there is a copy, else a made-up one)
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Seconds into the trace where the slice begins
    #[arg(long, default_value_t = 360.0)]
    start: f64,
    /// Seconds of the slice
    #[arg(long, default_value_t = 960.0)]
    duration: f64,
}

impl TraceArgs {
    pub(crate) fn load(&self) -> anyhow::Result<(evenkeel_loadtest::workload::Workload, bool)> {
        let (trace, synthetic) =
            evenkeel_loadtest::demo::load_trace(self.trace.as_deref()).context("reading the trace")?;
        if synthetic {
            eprintln!("NOTE: no copy of the Azure trace found; using a made-up one of the same statistics.");
        }
        Ok((trace, synthetic))
    }
}

const RATE_RPS: f64 = synth::RATE_RPS;
