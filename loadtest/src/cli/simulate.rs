//! The `simulate` subcommand.

use clap::Args;
use evenkeel_loadtest::simulate::{SimulatedPolicy, SimulationResult, System, at_load, run as simulate};

use super::{EngineArgs, EngineSet, SloArgs, TraceArgs};

#[derive(Debug, Args)]
pub(crate) struct SimulateArgs {
    /// Number of model servers
    #[arg(long, default_value_t = 8)]
    hosts: usize,
    /// Number of gateways
    #[arg(long, default_value_t = 8)]
    gateways: usize,
    /// Offered load, to which the arrival rate is scaled; at 1 the hosts are saturated
    #[arg(long, default_value_t = 0.85)]
    load: f64,
    /// Number of runs per policy, each with its own seed
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    #[command(flatten)]
    trace: TraceArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    slo: SloArgs,
}

pub(crate) fn run(args: &SimulateArgs) -> anyhow::Result<()> {
    let (trace, _) = args.trace.load()?;
    let engine = args.engine.params(EngineSet::Demo);
    let slice = trace.slice(args.trace.start, args.trace.duration);
    let system = System { hosts: args.hosts, gateways: args.gateways, engine, slo: args.slo.slo() };
    let (workload, factor) = at_load(&slice, args.load, &system);
    let s = workload.summary();
    println!(
        "{}: {} requests with a mean of {:.0} prompt and {:.0} output tokens, {factor:.2} times as fast as recorded:\n\
         {:.1} requests/s over {:.0} s, load {:.2} on {} hosts of {:.2} requests/s each; {} gateways",
        workload.source,
        s.requests,
        s.prompt_mean,
        s.output_mean,
        s.rate_rps,
        s.duration_s,
        args.load,
        args.hosts,
        s.rate_rps / args.load / args.hosts as f64,
        args.gateways
    );
    println!(
        "\n{:<34} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9} {:>6} {:>6} {:>6}   p99 over {} seeds",
        "policy", "ttft p50", "p90", "p99", "p99.9", "mean", "e2e p99", "util", "hits", "slo", args.seeds
    );
    for policy in SimulatedPolicy::ALL {
        let runs: Vec<_> =
            (0..args.seeds.max(1)).map(|seed| simulate(&workload, &system, policy, seed)).collect();
        let mean = |f: fn(&SimulationResult) -> f64| runs.iter().map(f).sum::<f64>() / runs.len() as f64;
        let p99 = || runs.iter().map(|r| r.ttft_ms.p99);
        println!(
            "{:<34} {:>8.0} {:>8.0} {:>8.0} {:>8.0} {:>8.0} {:>9.0} {:>5.0}% {:>5.0}% {:>5.1}%   {:.0} to {:.0}",
            policy.name(),
            mean(|r| r.ttft_ms.p50),
            mean(|r| r.ttft_ms.p90),
            mean(|r| r.ttft_ms.p99),
            mean(|r| r.ttft_ms.p999),
            mean(|r| r.ttft_ms.mean),
            mean(|r| r.e2e_ms.p99),
            mean(|r| r.utilisation) * 100.0,
            mean(|r| r.hit_rate) * 100.0,
            mean(|r| r.slo_attainment) * 100.0,
            p99().fold(f64::INFINITY, f64::min),
            p99().fold(0.0, f64::max)
        );
    }
    Ok(())
}
