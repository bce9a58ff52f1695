//! The command line.

use clap::{Parser, Subcommand};

mod client;
mod convert;
mod serve;
mod usage;

pub(crate) use client::OutputClosed;

/// Global least-request routing for AI gateways: one table of requests in flight for all of them.
#[derive(Parser)]
#[command(version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the sidecar
    Serve(serve::Serve),
    /// Check a configuration file and tell everything that is wrong with it
    CheckConfig(serve::CheckConfig),
    /// Print the limits of a Higress plugin's configuration as Evenkeel's own
    ConvertHigress(convert::ConvertHigress),
    /// Show pools with each endpoint's requests in flight
    Pools(client::Pools),
    /// Show the leases of a pool: who has what in flight where
    Leases(client::Leases),
    /// Ask a sidecar for an endpoint as a gateway does, and give it back
    Admit(client::Admit),
    /// Show what was used: requests, tokens, cost; by day, consumer, model, route, session
    Usage(usage::Usage),
}

impl Cli {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Serve(serve) => serve.run(),
            Command::CheckConfig(check) => check.run(),
            Command::ConvertHigress(convert) => convert.run(),
            Command::Pools(pools) => client::block_on(pools.run()),
            Command::Leases(leases) => client::block_on(leases.run()),
            Command::Admit(admit) => client::block_on(admit.run()),
            Command::Usage(usage) => client::block_on(usage.run()),
        }
    }
}
