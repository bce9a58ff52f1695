//! `evenkeel.v1.Gateway`: what gateways call.

use std::{sync::Arc, time::Duration};

use evenkeel_proto::v1::{
    AdmitRequest, AdmitResponse, Admitted, Basis, Denied, Header, HeldPool, KeepAliveRequest,
    KeepAliveResponse, Pool, Reason, SettleRequest, SettleResponse, admit_response, gateway_server::Gateway,
};
use tonic::{Request, Response, Status};

use crate::{
    balancer::{Answer, Balancer, Question, directory::Candidate},
    domain::{DomainError, HolderId, LeaseId},
    store::Held,
    transport::status::to_status,
};

/// Most pools in one KeepAlive.
const HELD_POOLS_MAX: usize = 4096;

pub(super) struct GatewayService {
    balancer: Arc<Balancer>,
    keep_alive_interval: Duration,
}

impl GatewayService {
    pub(super) fn new(balancer: Arc<Balancer>, keep_alive_interval: Duration) -> Self {
        Self { balancer, keep_alive_interval }
    }
}

#[tonic::async_trait]
impl Gateway for GatewayService {
    async fn admit(&self, request: Request<AdmitRequest>) -> Result<Response<AdmitResponse>, Status> {
        let AdmitRequest { pool, holder, lease, candidates, .. } = request.into_inner();
        let pool = given(pool)?;
        let offered = candidates.into_iter();
        let question = Question {
            route: &pool.route,
            cluster: &pool.cluster,
            holder: HolderId::new(&holder).map_err(|e| to_status(&e))?,
            lease: LeaseId::new(lease).map_err(|e| to_status(&e))?,
            offered: offered
                .map(|c| Candidate { address: c.address, weight: c.weight, cap: c.cap })
                .collect(),
        };
        let answer = self.balancer.admit(question).await.map_err(|e| to_status(&e))?;
        Ok(Response::new(AdmitResponse { answer: Some(encode(answer)) }))
    }

    async fn settle(&self, request: Request<SettleRequest>) -> Result<Response<SettleResponse>, Status> {
        let SettleRequest { pool, holder, lease, .. } = request.into_inner();
        let pool = given(pool)?;
        let holder = HolderId::new(&holder).map_err(|e| to_status(&e))?;
        let lease = LeaseId::new(lease).map_err(|e| to_status(&e))?;
        let settled = self.balancer.settle(&pool.route, &pool.cluster, &holder, lease).await;
        Ok(Response::new(SettleResponse { released: settled.map_err(|e| to_status(&e))? }))
    }

    async fn keep_alive(
        &self,
        request: Request<KeepAliveRequest>,
    ) -> Result<Response<KeepAliveResponse>, Status> {
        let KeepAliveRequest { holder, issued_through, pools } = request.into_inner();
        let holder = HolderId::new(&holder).map_err(|e| to_status(&e))?;
        if pools.len() > HELD_POOLS_MAX {
            let got = pools.len().to_string();
            return Err(to_status(&DomainError::invalid("pools", "at most 4096", &got)));
        }
        // Check the whole list before anything is changed.
        let mut lists: Vec<(Arc<_>, Held)> = Vec::with_capacity(pools.len());
        for mut held in pools {
            let pool = given(held.pool.take())?;
            let entry = self.balancer.directory.resolve(&pool.route, &pool.cluster);
            let entry = entry.map_err(|e| to_status(&e))?;
            let held = decode_held(held, issued_through).map_err(|e| to_status(&e))?;
            // Routes that share a table also share a list: what one names, another must not drop.
            match lists.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &entry)) {
                Some((_, known)) => known.leases.extend(held.leases),
                None => lists.push((entry, held)),
            }
        }
        let interval_ms = self.keep_alive_interval.as_millis() as u32;
        let mut response = KeepAliveResponse { interval_ms, ..KeepAliveResponse::default() };
        for (entry, held) in lists {
            let repairs = self.balancer.keep_alive(&entry, &holder, held).await;
            let repairs = repairs.map_err(|e| to_status(&e))?;
            response.restored += repairs.restored as u32;
            response.dropped += repairs.dropped as u32;
            response.moved += repairs.moved as u32;
        }
        Ok(Response::new(response))
    }
}

fn given(pool: Option<Pool>) -> Result<Pool, Status> {
    pool.ok_or_else(|| to_status(&DomainError::invalid("pool", "given", "none")))
}

fn decode_held(held: HeldPool, issued_through: u64) -> Result<Held, DomainError> {
    let HeldPool { endpoints, leases, endpoint_of, .. } = held;
    if leases.len() != endpoint_of.len() {
        let got = format!("{} and {}", leases.len(), endpoint_of.len());
        return Err(DomainError::invalid("pools.endpoint_of", "as long as pools.leases", &got));
    }
    let mut addresses: Vec<Arc<str>> = Vec::with_capacity(endpoints.len());
    for address in endpoints {
        crate::domain::check_name("pools.endpoints", &address)?;
        if address.is_empty() {
            return Err(DomainError::invalid("pools.endpoints", "1..256 bytes", "an empty one"));
        }
        addresses.push(address.into());
    }
    let mut list = Vec::with_capacity(leases.len());
    for (lease, index) in leases.into_iter().zip(endpoint_of) {
        let endpoint = match index {
            0 => None,
            i => Some(addresses.get(i as usize - 1).map(Arc::clone).ok_or_else(|| {
                DomainError::invalid("pools.endpoint_of", "an index into pools.endpoints", &i.to_string())
            })?),
        };
        list.push((LeaseId::new(lease)?, endpoint));
    }
    Ok(Held { issued_through, leases: list })
}

fn encode(answer: Answer) -> admit_response::Answer {
    let admitted = |endpoint: &str, basis: Basis| {
        admit_response::Answer::Admitted(Admitted {
            endpoint: endpoint.to_owned(),
            basis: basis.into(),
            ..Admitted::default()
        })
    };
    match answer {
        Answer::Admitted { endpoint, shared: true } => admitted(&endpoint, Basis::Shared),
        Answer::Admitted { endpoint, shared: false } => admitted(&endpoint, Basis::Local),
        Answer::Open => admitted("", Basis::Open),
        Answer::PoolFull { retry_after_s } => denied(429, Reason::PoolFull, retry_after_s),
        Answer::NoEndpoints => denied(503, Reason::NoEndpoints, 1),
        Answer::StoreUnavailable => denied(503, Reason::StoreUnavailable, 1),
    }
}

fn denied(status: u32, reason: Reason, retry_after_s: u64) -> admit_response::Answer {
    // In the shape of OpenAI's errors, which the clients of model servers read.
    let (kind, message) = match reason {
        Reason::PoolFull => ("pool_full", "every model server is at its limit of concurrent requests"),
        Reason::NoEndpoints => ("no_endpoints", "no model server is available at present"),
        _ => ("store_unavailable", "capacity cannot be checked at present"),
    };
    let body = serde_json::json!({"error": {"message": message, "type": kind, "code": kind}});
    let header = |name: &str, value: String| Header { name: name.to_owned(), value };
    admit_response::Answer::Denied(Denied {
        status,
        reason: reason.into(),
        retry_after_ms: retry_after_s * 1000,
        headers: vec![
            header("content-type", "application/json".to_owned()),
            header("retry-after", retry_after_s.to_string()),
        ],
        body: body.to_string().into_bytes(),
    })
}
