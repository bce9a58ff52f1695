//! A gateway worker's requests with defaults. A test changes the fields it is about:
//! `pb::AdmitRequest { model: "m".into(), ..admit("llm", 1) }`.

use evenkeel_proto::v1 as pb;

/// The worker that sends these requests.
pub(crate) const HOLDER: &str = "h";

/// Names a pool by its cluster alone.
pub(crate) fn pool(cluster: &str) -> pb::Pool {
    pb::Pool { route: String::new(), cluster: cluster.to_owned() }
}

/// Asks for an endpoint of a pool; no limit sees a consumer or a model.
pub(crate) fn admit(cluster: &str, lease: u64) -> pb::AdmitRequest {
    pb::AdmitRequest {
        pool: Some(pool(cluster)),
        holder: HOLDER.to_owned(),
        lease,
        ..pb::AdmitRequest::default()
    }
}

/// Asks for an endpoint of the pool `llm` for a consumer and a model, under the request id `req-LEASE`.
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

/// Ends a lease and says nothing of the response.
pub(crate) fn settle(cluster: &str, lease: u64) -> pb::SettleRequest {
    pb::SettleRequest {
        pool: Some(pool(cluster)),
        holder: HOLDER.to_owned(),
        lease,
        ..pb::SettleRequest::default()
    }
}

/// Ends a lease of the pool `llm` with a response of 200 that reported its usage.
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

/// Lists the leases a worker has in a pool, each on its endpoint if it knows one.
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
        tickets: Vec::new(),
    }
}

/// Says that [`HOLDER`] has exactly these leases, and has issued numbers up to `issued_through`.
pub(crate) fn keep_alive(issued_through: u64, pools: Vec<pb::HeldPool>) -> pb::KeepAliveRequest {
    pb::KeepAliveRequest { holder: HOLDER.to_owned(), issued_through, pools }
}
