//! The `replay` subcommand.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use clap::Args;
use evenkeel_loadtest::{
    machine::{CpuSample, LatenessProbe, Machine},
    percentiles::Percentiles,
    replay::{IdealRule, Progress, Replay, ReplayConfig, Spread, run as replay},
    verdict::{Delays, Fault, RunMeasures, delay_max_ms, rejection},
};

use super::{TraceArgs, above_zero, exit_code};

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// Base URL of a gateway; may be repeated
    #[arg(long = "gateway", value_name = "URL", required = true)]
    gateways: Vec<String>,
    /// Hosts from which the load generator chooses, by one table of all requests in flight; it sends the host in a
    /// header
    #[arg(long, value_name = "IP:PORT", value_delimiter = ',')]
    ideal_over: Vec<SocketAddr>,
    /// Trace seconds per wall second
    #[arg(long, default_value_t = 1.0, value_parser = above_zero)]
    time_scale: f64,
    /// Factor by which requests arrive faster than recorded
    #[arg(long, default_value_t = 1.0, value_parser = above_zero)]
    faster: f64,
    /// How requests are distributed over the gateways
    #[arg(long, value_enum, default_value_t)]
    spread: Spread,
    /// Seed of every random choice
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Wall seconds after which a request counts as an error
    #[arg(long, default_value = "120", value_parser = super::seconds)]
    timeout: Duration,
    #[command(flatten)]
    trace: TraceArgs,
}

pub(crate) async fn run(args: ReplayArgs) -> anyhow::Result<ExitCode> {
    let (trace, _) = args.trace.load()?;
    let workload = trace.slice(args.trace.start, args.trace.duration).faster(args.faster);
    let config = ReplayConfig {
        gateways: args.gateways,
        ideal: Some((args.ideal_over, IdealRule::LeastRequest)).filter(|(hosts, _)| !hosts.is_empty()),
        time_scale: args.time_scale,
        spread: args.spread,
        seed: args.seed,
        timeout: args.timeout,
    };
    let machine = Machine::detect();
    let probe = LatenessProbe::start()?;
    let before = CpuSample::now(&machine, []);
    let result = replay(&workload, &config, Progress::new("replay")).await;
    let usage = CpuSample::now(&machine, []).since(&before, &machine);
    let scheduling = Percentiles::of(probe.stop());
    println!(
        "{} requests in {:.1} s of wall time, {} errors",
        result.samples.len(),
        result.wall.as_secs_f64(),
        result.errors()
    );
    println!("{:<28} {:>9} {:>9} {:>9} {:>9}", "", "p50", "p90", "p99", "p99.9");
    let line = |name: &str, p: Percentiles| {
        println!("{name:<28} {:>9.1} {:>9.1} {:>9.1} {:>9.1}", p.p50, p.p90, p.p99, p.p999);
    };
    let (first, last) = (Percentiles::of(result.ttft_trace_ms()), Percentiles::of(result.e2e_trace_ms()));
    line("first token, trace ms", first);
    line("last token, trace ms", last);
    line("first token, wall ms", first.divided_by(args.time_scale));
    line("last token, wall ms", last.divided_by(args.time_scale));
    line("generator lateness, wall ms", result.late_wall_ms());
    if let Some(error) = result.samples.iter().find_map(|s| s.error.as_ref()) {
        println!("first error: {error}");
    }
    println!("CPU of this machine: {:.0} % busy", usage.busy * 100.0);
    let measures = RunMeasures {
        cpu: usage,
        available_cores: machine.available_cores(),
        delays: Delays {
            scheduling_ms: scheduling.p99 * args.time_scale,
            generator_ms: result.late_wall_ms().p99 * args.time_scale,
            // This process cannot know when the hosts should have sent a token.
            hosts_ms: 0.0,
        },
        requests: result.samples.len(),
        ..RunMeasures::default()
    };
    Ok(exit_code(is_valid(&result, &measures)))
}

/// Prints why the machine of the load generator, and not the gateways, decided the result. The
/// gateways themselves may be the reason for errors, which are therefore a result.
fn is_valid(result: &Replay, measures: &RunMeasures) -> bool {
    let first = Percentiles::of(result.ttft_trace_ms());
    let faults = measures.faults(None, delay_max_ms(first.p99));
    let reasons: Vec<String> = faults.iter().map(Fault::to_string).collect();
    if !reasons.is_empty() {
        println!("{}", rejection(&reasons));
    }
    reasons.is_empty()
}
