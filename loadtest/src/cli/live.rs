//! The `live` subcommand.

use clap::Args;
use evenkeel_loadtest::live::{self, ADMIN_TOKEN, LivePlan};

#[derive(Debug, Args)]
pub(crate) struct LiveArgs {
    /// Number of gateways, each with a sidecar
    #[arg(long, default_value_t = 3)]
    gateways: usize,
    /// Number of model servers
    #[arg(long, default_value_t = 8)]
    hosts: usize,
    /// Number of consumers; the first ones send the most requests
    #[arg(long, default_value_t = 40)]
    consumers: usize,
    /// Mean requests per second
    #[arg(long, default_value_t = 16.0)]
    rate: f64,
    /// Seed of the traffic
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) async fn run(args: LiveArgs) -> anyhow::Result<()> {
    let LiveArgs { gateways, hosts, consumers, rate, seed } = args;
    anyhow::ensure!(gateways > 0 && consumers > 0, "--gateways, --consumers: must be at least 1, got 0");
    anyhow::ensure!(
        rate > 0.0 && rate <= 10_000.0,
        "--rate: must be greater than 0 and at most 10000, got {rate}"
    );
    let plan = LivePlan { gateways, hosts, consumers, rate_rps: rate, seed };
    let lab = live::start(&plan).await?;
    println!("A complete system under traffic, until Ctrl-C. Each page shows the whole system:\n");
    for sidecar in lab.sidecars() {
        let ready = sidecar.ready();
        let address = |address: &Option<String>| address.clone().unwrap_or_default();
        println!(
            "  page http://{}/   metrics http://{0}/metrics   gRPC {}",
            address(&ready.http),
            address(&ready.grpc)
        );
    }
    println!("\n  administrator's token: {ADMIN_TOKEN}\n  gateways:");
    let gateways = live::gateways(&lab);
    gateways.iter().for_each(|url| println!("    {url}"));
    live::traffic(&plan, gateways).await;
    Ok(())
}
