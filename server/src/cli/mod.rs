//! The command line.

use clap::{Parser, Subcommand};

mod admin;
mod client;
mod convert;
mod explain;
mod limits;
mod quota;
mod serve;
mod table;
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
    /// Look at and change the balances of consumers
    Quota(quota::Quota),
    /// Look at limits, and override them for one consumer or other key
    Limits(limits::Limits),
    /// Tell which limits and quotas apply to a request, and what would refuse it
    Explain(Box<explain::Explain>),
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
            Command::Quota(quota) => client::block_on(quota.run()),
            Command::Limits(limits) => client::block_on(limits.run()),
            Command::Explain(explain) => client::block_on(explain.run()),
        }
    }
}
