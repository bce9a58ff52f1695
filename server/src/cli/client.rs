//! Commands that ask a running sidecar.

use std::{
    fmt,
    io::{self, Write as _},
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use evenkeel_proto::v1::{
    self as pb, admit_response::Answer, gateway_client::GatewayClient, inspect_client::InspectClient,
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

/// Which sidecar to ask.
#[derive(Args)]
pub(super) struct Server {
    /// The sidecar's gRPC address: http://host:port, or unix:/path
    #[arg(
        long = "server",
        env = "EVENKEEL_SERVER",
        default_value = "http://127.0.0.1:9190",
        value_name = "URL"
    )]
    url: String,
}

/// Which pool.
#[derive(Args)]
struct PoolArgs {
    /// The gateway's cluster
    #[arg(long)]
    cluster: String,
    /// The gateway's route; leave out where the cluster's routes share one table
    #[arg(long, default_value = "")]
    route: String,
}

/// Show pools.
#[derive(Args)]
pub(crate) struct Pools {
    #[command(flatten)]
    server: Server,
}

/// Show leases.
#[derive(Args)]
pub(crate) struct Leases {
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    pool: PoolArgs,
    /// Only this holder's
    #[arg(long, default_value = "")]
    holder: String,
}

/// Ask for an endpoint.
#[derive(Args)]
pub(crate) struct Admit {
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    pool: PoolArgs,
    /// Offer this endpoint (host:port); repeat for more. Without any, the sidecar's own are used
    #[arg(long = "candidate", value_name = "ADDRESS")]
    candidates: Vec<String>,
    /// Hold the lease this long before giving it back
    #[arg(long, default_value = "0s", value_parser = parse_duration, value_name = "TIME")]
    hold: Duration,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = number.parse().map_err(|_| "expected a time such as 500ms, 30s or 2m")?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        _ => Err("expected a time such as 500ms, 30s or 2m".to_owned()),
    }
}

/// Whoever reads the output has seen enough, as `head` has.
#[derive(Debug, thiserror::Error)]
#[error("the output is closed")]
pub(crate) struct OutputClosed;

/// Prints a line.
fn say(line: fmt::Arguments<'_>) -> Result<(), OutputClosed> {
    writeln!(io::stdout(), "{line}").map_err(|_| OutputClosed)
}

/// Prints text as it is.
pub(super) fn put(text: &str) -> Result<(), OutputClosed> {
    io::stdout().write_all(text.as_bytes()).map_err(|_| OutputClosed)
}

/// Runs a command's future.
pub(crate) fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

impl Server {
    pub(super) async fn connect(&self) -> anyhow::Result<Channel> {
        let endpoint = Endpoint::from_shared(self.url.clone()).with_context(|| {
            format!("--server: must be http://host:port or unix:/path, got {:?}", self.url)
        })?;
        let endpoint = endpoint.connect_timeout(Duration::from_secs(3)).timeout(Duration::from_secs(10));
        let channel = endpoint.connect().await;
        // Of the chain only the last says more than that there was no connection.
        channel.map_err(|e| anyhow::anyhow!("no sidecar answers at {}: {}", self.url, root_cause(&e)))
    }
}

fn root_cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    std::iter::successors(Some(error), |error| error.source()).last().unwrap_or(error)
}

/// A sidecar's error answer in the words of the API.
#[allow(clippy::needless_pass_by_value)] // for map_err
pub(super) fn answered(status: Status) -> anyhow::Error {
    anyhow::anyhow!("sidecar answered {}: {}", code_name(status.code()), status.message())
}

/// NOT_FOUND for `NotFound`, as in the API's own documents.
fn code_name(code: Code) -> String {
    let mut name = String::new();
    for c in format!("{code:?}").chars() {
        if c.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

impl PoolArgs {
    fn encode(&self) -> pb::Pool {
        pb::Pool { route: self.route.clone(), cluster: self.cluster.clone() }
    }
}

impl Pools {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut client = InspectClient::new(self.server.connect().await?);
        let mut page_token = String::new();
        say(format_args!(
            "{:<28} {:<24} {:<28} {:>9} {:>6} {:>7}",
            "CLUSTER", "ROUTE", "ENDPOINT", "IN-FLIGHT", "CAP", "WEIGHT"
        ))?;
        loop {
            let request = pb::ListPoolsRequest { page_size: 0, page_token };
            let page = client.list_pools(request).await.map_err(answered)?.into_inner();
            for state in &page.pools {
                print_pool(state)?;
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(());
            }
        }
    }
}

fn print_pool(state: &pb::PoolState) -> Result<(), OutputClosed> {
    let pool = state.pool.clone().unwrap_or_default();
    let route = if pool.route.is_empty() { "(all)" } else { &pool.route };
    if state.endpoints.is_empty() {
        say(format_args!("{:<28} {route:<24} (no endpoints known)", pool.cluster))?;
    }
    for endpoint in &state.endpoints {
        let cap = if endpoint.cap == 0 { "-".to_owned() } else { endpoint.cap.to_string() };
        let gone = if endpoint.listed { "" } else { "  (left the pool)" };
        say(format_args!(
            "{:<28} {route:<24} {:<28} {:>9} {cap:>6} {:>7}{gone}",
            pool.cluster, endpoint.address, endpoint.in_flight, endpoint.weight
        ))?;
    }
    if !state.current {
        say(format_args!("{:<28} {route:<24} (store unavailable: last figures seen)", pool.cluster))?;
    }
    Ok(())
}

impl Leases {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut client = InspectClient::new(self.server.connect().await?);
        let mut page_token = String::new();
        say(format_args!("{:<24} {:>12} {:<28} {:>10}", "HOLDER", "LEASE", "ENDPOINT", "AGE"))?;
        loop {
            let request = pb::ListLeasesRequest {
                pool: Some(self.pool.encode()),
                holder: self.holder.clone(),
                page_size: 1000,
                page_token,
            };
            let page = client.list_leases(request).await.map_err(answered)?.into_inner();
            for lease in &page.leases {
                let age = format!("{:.1}s", lease.age_ms as f64 / 1000.0);
                say(format_args!(
                    "{:<24} {:>12} {:<28} {age:>10}",
                    lease.holder, lease.lease, lease.endpoint
                ))?;
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(());
            }
        }
    }
}

impl Admit {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut client = GatewayClient::new(self.server.connect().await?);
        let mut random = [0; 8];
        getrandom::fill(&mut random).context("no randomness")?;
        let holder = format!("cli-{:016x}", u64::from_be_bytes(random));
        let candidate = |address: &String| pb::Candidate { address: address.clone(), weight: 0.0, cap: 0 };
        let request = pb::AdmitRequest {
            pool: Some(self.pool.encode()),
            holder: holder.clone(),
            lease: 1,
            candidates: self.candidates.iter().map(candidate).collect(),
            ..pb::AdmitRequest::default()
        };
        let endpoint = match client.admit(request).await.map_err(answered)?.into_inner().answer {
            Some(Answer::Admitted(admitted)) => {
                let basis = admitted.basis().as_str_name();
                say(format_args!("admitted to {:?} ({basis}), holder {holder}, lease 1", admitted.endpoint))?;
                admitted.endpoint
            }
            Some(Answer::Denied(denied)) => {
                let (status, reason) = (denied.status, denied.reason().as_str_name());
                anyhow::bail!("denied: {status} {reason}, retry after {} ms", denied.retry_after_ms)
            }
            Some(Answer::Answered(_)) | None => {
                anyhow::bail!("the sidecar gave no answer that this version understands")
            }
        };
        self.hold(&mut client, &holder, endpoint).await?;
        let settle = pb::SettleRequest {
            pool: Some(self.pool.encode()),
            holder,
            lease: 1,
            outcome: pb::Outcome::Success.into(),
            ..pb::SettleRequest::default()
        };
        let released = client.settle(settle).await.map_err(answered)?.into_inner().released;
        say(format_args!("given back{}", if released { "" } else { ": it was no longer there" }))?;
        Ok(())
    }

    /// Keeps the lease alive as a gateway does.
    async fn hold(
        &self,
        client: &mut GatewayClient<Channel>,
        holder: &str,
        endpoint: String,
    ) -> anyhow::Result<()> {
        let until = tokio::time::Instant::now() + self.hold;
        while tokio::time::Instant::now() < until {
            let held = pb::HeldPool {
                pool: Some(self.pool.encode()),
                endpoints: vec![endpoint.clone()],
                leases: vec![1],
                endpoint_of: vec![1],
                ..pb::HeldPool::default()
            };
            let request =
                pb::KeepAliveRequest { holder: holder.to_owned(), issued_through: 1, pools: vec![held] };
            let answer = client.keep_alive(request).await.map_err(answered)?.into_inner();
            let next = Duration::from_millis(u64::from(answer.interval_ms.max(1)));
            tokio::time::sleep_until(until.min(tokio::time::Instant::now() + next)).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_names_of_the_api() {
        assert_eq!(code_name(Code::NotFound), "NOT_FOUND");
        assert_eq!(code_name(Code::Unavailable), "UNAVAILABLE");
        assert_eq!(answered(Status::not_found("x")).to_string(), "sidecar answered NOT_FOUND: x");
    }

    #[test]
    fn times_are_read() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert!(parse_duration("5").is_err());
        assert!(parse_duration("s").is_err());
    }
}
