//! Requests of a gateway worker, with defaults. A test changes only the fields that it is about: `pb::AdmitRequest {
//! model: "m".into(), ..admit("llm", 1) }`.

use evenkeel_proto::v1 as pb;

/// The gateway worker that sends these requests.
pub(crate) const HOLDER: &str = "h";

/// Returns a pool that is named by its cluster alone.
pub(crate) fn pool(cluster: &str) -> pb::Pool {
    pb::Pool { route: String::new(), cluster: cluster.to_owned() }
}

/// Returns an Admit for an endpoint of a pool, without a consumer or a model for limits.
pub(crate) fn admit(cluster: &str, lease: u64) -> pb::AdmitRequest {
    pb::AdmitRequest {
        pool: Some(pool(cluster)),
        holder: HOLDER.to_owned(),
        lease,
        ..pb::AdmitRequest::default()
    }
}

/// Returns an Admit for an endpoint of the pool `llm`, for a consumer and a model. Its request id is `req-LEASE`.
pub(crate) fn admit_for(consumer: &str, model: &str, lease: u64) -> pb::AdmitRequest {
    pb::AdmitRequest {
        subject: Some(subject(consumer)),
        model: model.to_owned(),
        request_id: format!("req-{lease}"),
        ..admit("llm", lease)
    }
}

pub(crate) fn subject(consumer: &str) -> pb::Subject {
    pb::Subject { consumer: consumer.to_owned(), ..pb::Subject::default() }
}

pub(crate) fn candidate(address: &str, weight: f64, cap: u32) -> pb::Candidate {
    pb::Candidate { address: address.to_owned(), weight, cap }
}

/// Returns a Settle without information about the response.
pub(crate) fn settle(cluster: &str, lease: u64) -> pb::SettleRequest {
    pb::SettleRequest {
        pool: Some(pool(cluster)),
        holder: HOLDER.to_owned(),
        lease,
        ..pb::SettleRequest::default()
    }
}

/// Returns a Settle in the pool `llm`, for a response with status 200 that reported its usage.
pub(crate) fn settle_success(lease: u64, ticket: Vec<u8>, input: u64, output: u64) -> pb::SettleRequest {
    pb::SettleRequest {
        outcome: pb::Outcome::Success.into(),
        status: 200,
        tokens: Some(pb::Tokens { input, output, ..pb::Tokens::default() }),
        tokens_final: true,
        ticket,
        ..settle("llm", lease)
    }
}

/// Returns the list of a worker's leases in a pool, each with its endpoint if the worker knows it.
pub(crate) fn held(cluster: &str, leases: &[(u64, Option<&str>)]) -> pb::HeldPool {
    pb::HeldPool {
        pool: Some(pool(cluster)),
        endpoints: leases.iter().map(|(_, endpoint)| endpoint.unwrap_or("-").to_owned()).collect(),
        leases: leases.iter().map(|(lease, _)| *lease).collect(),
        endpoint_of: leases
            .iter()
            .zip(1..)
            .map(|((_, endpoint), i)| if endpoint.is_some() { i } else { 0 })
            .collect(),
        ..pb::HeldPool::default()
    }
}

/// Returns a KeepAlive: [`HOLDER`] has exactly these leases, and has issued numbers up to `issued_through`.
pub(crate) fn keep_alive(issued_through: u64, pools: Vec<pb::HeldPool>) -> pb::KeepAliveRequest {
    pb::KeepAliveRequest { holder: HOLDER.to_owned(), issued_through, pools, unanswered: None }
}
