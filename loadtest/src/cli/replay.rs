//! The `replay` subcommand.

use std::{net::SocketAddr, time::Duration};

use clap::Args;
use evenkeel_loadtest::{
    percentiles::Percentiles,
    replay::{Progress, ReplayConfig, Spread, run as replay},
};

use super::TraceArgs;

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
    #[arg(long, default_value_t = 1.0)]
    time_scale: f64,
    /// Factor by which requests arrive faster than recorded
    #[arg(long, default_value_t = 1.0)]
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

pub(crate) async fn run(args: ReplayArgs) -> anyhow::Result<()> {
    let (trace, _) = args.trace.load()?;
    let workload = trace.slice(args.trace.start, args.trace.duration).faster(args.faster);
    let config = ReplayConfig {
        gateways: args.gateways,
        ideal_over: Some(args.ideal_over).filter(|hosts| !hosts.is_empty()),
        time_scale: args.time_scale,
        spread: args.spread,
        seed: args.seed,
        timeout: args.timeout,
    };
    let result = replay(&workload, &config, Progress::new("replay")).await;
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
    Ok(())
}
