//! The command line.

use clap::{Parser, Subcommand};

mod activity;
mod admit;
mod amount;
mod check;
mod connect;
mod convert;
mod drain;
mod exit;
mod explain;
mod gateways;
mod history;
mod limits;
mod list;
mod manual;
mod output;
mod pools;
mod quota;
mod schema;
mod serve;
mod sidecars;
mod table;
mod tls;
mod tls_error;
mod top;
mod usage;

pub(crate) use exit::Exit;
pub(crate) use output::OutputClosed;

/// Global least-request routing for AI gateways, with one table of the requests in flight of all gateways.
#[derive(Parser)]
#[command(version, propagate_version = true, after_help = exit::HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the sidecar
    Serve(serve::Serve),
    /// Check a configuration file and report every error
    CheckConfig(check::CheckConfig),
    /// Print the configuration as JSON Schema, for editors and other tools
    ConfigSchema(schema::ConfigSchema),
    /// Convert the limits of a Higress plugin's configuration to Evenkeel's and print them
    ConvertHigress(convert::ConvertHigress),
    /// Convert the limits of a Limitador file to Evenkeel's and print them
    ConvertLimitador(convert::ConvertLimitador),
    /// Watch pools live in the terminal: load, endpoints, rates; drain endpoints
    Top(Box<top::Top>),
    /// Show pools with each endpoint's requests in flight
    Pools(pools::Pools),
    /// Show the live holders of a pool: one for each gateway worker
    Holders(pools::Holders),
    /// Show the leases of a pool: requests in flight, by holder and endpoint
    Leases(pools::Leases),
    /// Take a lease on an endpoint as a gateway does, and settle it
    Admit(admit::Admit),
    /// Drain an endpoint: its requests finish, and new requests go to other endpoints
    Drain(drain::Drain),
    /// End the drain of an endpoint
    Undrain(drain::Undrain),
    /// Show the drained endpoints
    Drains(drain::Drains),
    /// Show the sidecars that were alive within the last ten minutes
    Sidecars(sidecars::Sidecars),
    /// Show the gateways, and when no limits applied to their requests
    Gateways(gateways::Gateways),
    /// Show how many requests were admitted and refused over time, and why
    Activity(activity::Activity),
    /// Show the last refusals, or why one request was refused
    Refusals(history::Refusals),
    /// Show the last repairs of tables of requests in flight
    Repairs(history::Repairs),
    /// Show the change log: what administrators changed, newest first
    Changes(history::Changes),
    /// Show usage: requests, tokens and cost by day, consumer, model, route or session
    Usage(Box<usage::Usage>),
    /// Show and change the balances of consumers
    Quota(quota::Quota),
    /// Show limits, and override them for one consumer or another key
    Limits(limits::Limits),
    /// Show which limits and quotas apply to a request, and what would refuse it
    Explain(Box<explain::Explain>),
    /// Print a script that completes commands and options in a shell
    Completion(manual::Completion),
    /// Print a manual page, or write all manual pages into a directory
    Man(manual::Manual),
}

impl Cli {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Serve(serve) => serve.run(),
            Command::CheckConfig(check) => check.run(),
            Command::ConfigSchema(schema) => schema.run(),
            Command::ConvertHigress(convert) => convert.run(),
            Command::ConvertLimitador(convert) => convert.run(),
            Command::Top(top) => block_on(top.run()),
            Command::Pools(pools) => block_on(pools.run()),
            Command::Holders(holders) => block_on(holders.run()),
            Command::Leases(leases) => block_on(leases.run()),
            Command::Admit(admit) => block_on(admit.run()),
            Command::Drain(drain) => block_on(drain.run()),
            Command::Undrain(undrain) => block_on(undrain.run()),
            Command::Drains(drains) => block_on(drains.run()),
            Command::Sidecars(sidecars) => block_on(sidecars.run()),
            Command::Gateways(gateways) => block_on(gateways.run()),
            Command::Activity(activity) => block_on(activity.run()),
            Command::Refusals(refusals) => block_on(refusals.run()),
            Command::Repairs(repairs) => block_on(repairs.run()),
            Command::Changes(changes) => block_on(changes.run()),
            Command::Usage(usage) => block_on(usage.run()),
            Command::Quota(quota) => block_on(quota.run()),
            Command::Limits(limits) => block_on(limits.run()),
            Command::Explain(explain) => block_on(explain.run()),
            Command::Completion(completion) => completion.run(),
            Command::Man(manual) => manual.run(),
        }
    }
}

/// Runs a command's future to its end.
fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory as _};

    use super::*;

    /// Returns every command and subcommand with its full name.
    fn walk<'a>(command: &'a Command, name: &str, found: &mut Vec<(String, &'a Command)>) {
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let name = format!("{name} {}", sub.get_name()).trim().to_owned();
            found.push((name.clone(), sub));
            walk(sub, &name, found);
        }
    }

    #[test]
    fn every_command_and_argument_says_what_it_is() {
        let mut cli = Cli::command();
        cli.build();
        let mut found = Vec::new();
        walk(&cli, "", &mut found);
        for (name, command) in &found {
            assert!(
                command.get_about().is_some_and(|about| !about.to_string().is_empty()),
                "{name}: no about"
            );
            for argument in command.get_arguments() {
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(!help.is_empty(), "{name}: {} has no help", argument.get_id());
            }
        }
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        let expected = "serve, check-config, config-schema, convert-higress, convert-limitador, top, pools, holders, leases, admit, drain, undrain, drains, \
                        sidecars, gateways, activity, refusals, repairs, changes, usage, usage sessions, usage session, quota, \
                        quota get, quota set, quota add, quota subtract, quota delete, quota list, quota history, \
                        quota burn-rates, limits, limits list, limits override, limits reset, limits overrides, \
                        limits fullest, explain, completion, man";
        assert_eq!(
            names.join(", "),
            expected,
            "a command is gone or new: scripts depend on them, docs/cli.md lists them"
        );
        cli.debug_assert();
    }

    /// Every command that calls a sidecar has `--server`, and every command that prints a list has `--output`.
    #[test]
    fn commands_that_call_a_sidecar_share_their_options() {
        let mut cli = Cli::command();
        cli.build();
        let mut found = Vec::new();
        walk(&cli, "", &mut found);
        let groups = [
            "serve",
            "config-schema",
            "convert-higress",
            "convert-limitador",
            "quota",
            "limits",
            "completion",
            "man",
        ];
        for (name, command) in found.iter().filter(|(name, _)| !groups.contains(&name.as_str())) {
            let has = |id: &str| command.get_arguments().any(|argument| argument.get_long() == Some(id));
            assert!(has("server") || name == "check-config", "{name} has no --server");
            assert!(has("output") || name == "admit", "{name} has no --output");
        }
    }
}
