//! `live`.

use clap::Args;
use evenkeel_loadtest::live::{self, ADMIN_TOKEN, LivePlan};

/// Arguments of `live`.
#[derive(Debug, Args)]
pub(crate) struct LiveArgs {
    /// Gateways, each with a sidecar
    #[arg(long, default_value_t = 3)]
    gateways: usize,
    /// Model servers
    #[arg(long, default_value_t = 8)]
    hosts: usize,
    /// Consumers; the first ones ask most
    #[arg(long, default_value_t = 40)]
    consumers: usize,
    /// Requests a second, on average
    #[arg(long, default_value_t = 16.0)]
    rate: f64,
    /// Seed of the traffic
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) async fn run(args: LiveArgs) -> anyhow::Result<()> {
    let LiveArgs { gateways, hosts, consumers, rate, seed } = args;
    anyhow::ensure!(gateways > 0 && consumers > 0, "--gateways, --consumers: must be at least 1, got 0");
    anyhow::ensure!(rate > 0.0 && rate <= 10_000.0, "--rate: must be above 0 and at most 10000, got {rate}");
    let plan = LivePlan { gateways, hosts, consumers, rate_rps: rate, seed };
    let lab = live::start(&plan).await?;
    println!("A whole system under traffic, until Ctrl-C. Any page shows all of it:\n");
    for sidecar in lab.sidecars() {
        let ready = sidecar.ready();
        let of = |address: &Option<String>| address.clone().unwrap_or_default();
        println!(
            "  page http://{}/   metrics http://{0}/metrics   gRPC {}",
            of(&ready.http),
            of(&ready.grpc)
        );
    }
    println!("\n  administrator's token: {ADMIN_TOKEN}\n  gateways:");
    let gateways = live::gateways(&lab);
    gateways.iter().for_each(|url| println!("    {url}"));
    live::traffic(&plan, gateways).await;
    Ok(())
}
