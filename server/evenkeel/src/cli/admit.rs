//! `evenkeel admit`: takes one lease as a gateway does, and settles it.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use evenkeel_proto::{
    HolderClient,
    v1::{self as pb, admit_response::Answer},
};

use super::{
    connect::{PoolArgs, Server, SidecarChannel, gateway},
    exit::failed,
    output::put,
};

/// Request an endpoint.
#[derive(Args)]
pub(crate) struct Admit {
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    pool: PoolArgs,
    /// Send this endpoint (host:port) as a candidate; repeat for more. Without candidates, the sidecar uses the
    /// endpoints it knows
    #[arg(long = "candidate", value_name = "ADDRESS")]
    candidates: Vec<String>,
    /// How long to hold the lease before settling it
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

impl Admit {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let (mut id, mut secret) = ([0; 8], [0; 16]);
        for random in [&mut id[..], &mut secret] {
            getrandom::fill(random).context("cannot read random bytes from the system")?;
        }
        let mut client = gateway(self.server.connect().await?, secret);
        let holder = format!("cli-{:016x}", u64::from_be_bytes(id));
        let candidate = |address: &String| pb::Candidate { address: address.clone(), weight: 0.0, cap: 0 };
        let request = pb::AdmitRequest {
            pool: Some(self.pool.encode()),
            holder: holder.clone(),
            lease: 1,
            candidates: self.candidates.iter().map(candidate).collect(),
            ..pb::AdmitRequest::default()
        };
        let endpoint =
            match client.admit(request).await.map_err(failed("admit a request"))?.into_inner().answer {
                Some(Answer::Admitted(admitted)) => {
                    let basis = admitted.basis().as_str_name();
                    put(&format!(
                        "admitted to {:?} ({basis}), holder {holder}, lease 1\n",
                        admitted.endpoint
                    ))?;
                    admitted.endpoint
                }
                Some(Answer::Denied(denied)) => {
                    let (status, reason) = (denied.status, denied.reason().as_str_name());
                    anyhow::bail!("denied: {status} {reason}, retry after {} ms", denied.retry_after_ms)
                }
                Some(Answer::DirectResponse(_)) | None => {
                    anyhow::bail!("this version does not understand the sidecar's answer")
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
        let released = client.settle(settle).await.map_err(failed("settle the lease"))?.into_inner().released;
        put(&format!("settled{}\n", if released { "" } else { ": the lease had already ended" }))?;
        Ok(())
    }

    /// Sends KeepAlives as a gateway does, until the time of `--hold` has passed.
    async fn hold(
        &self,
        client: &mut HolderClient<SidecarChannel>,
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
            let request = pb::KeepAliveRequest {
                holder: holder.to_owned(),
                issued_through: 1,
                pools: vec![held],
                unanswered: None,
            };
            let answer = client.keep_alive(request).await.map_err(failed("keep the lease"))?.into_inner();
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
    fn times_are_read() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert!(parse_duration("5").is_err());
        assert!(parse_duration("s").is_err());
    }
}
