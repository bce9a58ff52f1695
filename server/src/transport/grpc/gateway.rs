//! `evenkeel.v1.Gateway`: what gateways call.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use evenkeel_proto::v1::{
    self as pb, AdmitRequest, AdmitResponse, Admitted, Answered, Basis, Denied, Header, HeldPool,
    KeepAliveRequest, KeepAliveResponse, Pool, Reason, SettleRequest, SettleResponse, admit_response,
    gateway_server::Gateway,
};
use futures::StreamExt as _;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status};
use tracing::warn;

use super::{facts, spans};
use crate::{
    admission::{Admission, Decision, End},
    balancer::{
        Answer, Question,
        directory::{Candidate, PoolEntry},
    },
    domain::{DomainError, ENDPOINTS_MAX, HolderId, LeaseId, PoolId},
    limiter::{Pass, Refusal, own::OwnCall},
    store::{Held, counters::ReservationId},
    telemetry::traces::Current,
    transport::status::to_status,
};

/// Most pools in one KeepAlive.
const HELD_POOLS_MAX: usize = 4096;
/// Most leases in one KeepAlive, over all its pools: far above what one gateway worker can carry.
const HELD_LEASES_MAX: usize = 262_144;
/// Lists of one KeepAlive applied at the same time.
const CONCURRENCY: usize = 16;

pub(super) struct GatewayService {
    admission: Arc<Admission>,
    keep_alive_interval: Duration,
    /// Calls under way, which a drain waits for.
    calls: TaskTracker,
}

impl GatewayService {
    pub(super) fn new(admission: Arc<Admission>, keep_alive_interval: Duration, calls: TaskTracker) -> Self {
        Self { admission, keep_alive_interval, calls }
    }
}

#[tonic::async_trait]
impl Gateway for GatewayService {
    async fn admit(&self, request: Request<AdmitRequest>) -> Result<Response<AdmitResponse>, Status> {
        let _call = self.calls.token();
        let (metadata, _, mut request) = request.into_parts();
        if let Some(own) = request.own.take() {
            return Ok(Response::new(self.own(&own, &request).await));
        }
        let pool = given(request.pool.take())?;
        let holder = HolderId::new(&request.holder).map_err(|e| to_status(&e))?;
        let lease = LeaseId::new(request.lease).map_err(|e| to_status(&e))?;
        let offered = std::mem::take(&mut request.candidates).into_iter();
        let question = Question {
            route: pool.route.as_str().into(),
            cluster: pool.cluster.as_str().into(),
            holder,
            lease,
            offered: offered
                .map(|c| Candidate { address: c.address, weight: c.weight, cap: c.cap })
                .collect(),
        };
        let request_id = facts::request_id(std::mem::take(&mut request.request_id));
        let span = spans::admit(&self.admission.tracer, &request, &metadata, &question, &request_id);
        let ask = facts::ask(request, pool);
        let admit = || self.admission.admit(question, ask, &request_id);
        let decision = Current::of(span.as_ref()).within(admit).await;
        spans::admitted(span, &decision);
        let decision = decision.map_err(|e| to_status(&e))?;
        let mut answer = encode(decision);
        if let admit_response::Answer::Denied(denied) = &mut answer
            && !request_id.is_empty()
        {
            // By which the client, or who helps him, can ask why.
            denied.headers.push(header("x-request-id", request_id));
        }
        Ok(Response::new(AdmitResponse { answer: Some(answer) }))
    }

    async fn settle(&self, request: Request<SettleRequest>) -> Result<Response<SettleResponse>, Status> {
        let _call = self.calls.token();
        let (metadata, _, mut request) = request.into_parts();
        let pool = given(request.pool.take())?;
        let holder = HolderId::new(&request.holder).map_err(|e| to_status(&e))?;
        let lease = LeaseId::new(request.lease).map_err(|e| to_status(&e))?;
        let span = spans::settle(&self.admission.tracer, &request, &metadata, &holder);
        let end = End {
            route: pool.route,
            cluster: pool.cluster,
            holder,
            lease,
            ticket: std::mem::take(&mut request.ticket),
            model: std::mem::take(&mut request.model),
            outcome: facts::outcome(request.outcome()),
            told: facts::told(&request),
            status: u16::try_from(request.status).unwrap_or(0),
            first_token_ms: request.first_token_ms,
            total_ms: request.total_ms,
        };
        // A gateway that does not wait for the answer does not stop it half way.
        let admission = Arc::clone(&self.admission);
        let settle = move || async move { admission.settle(end).await };
        let settled = self.calls.spawn(Current::of(span.as_ref()).within(settle)).await;
        let released = settled.unwrap_or(Err(DomainError::Stopped));
        spans::settled(span, &released);
        let released = released.map_err(|e| to_status(&e))?;
        Ok(Response::new(SettleResponse { released }))
    }

    async fn keep_alive(
        &self,
        request: Request<KeepAliveRequest>,
    ) -> Result<Response<KeepAliveResponse>, Status> {
        let _call = self.calls.token();
        let KeepAliveRequest { holder, issued_through, mut pools } = request.into_inner();
        let holder = HolderId::new(&holder).map_err(|e| to_status(&e))?;
        self.admission.recorder.heard_of(&holder);
        let tickets = take_tickets(&holder, &mut pools).map_err(|e| to_status(&e))?;
        // The whole list is checked before anything is changed.
        let (lists, refused_pools) = self.read_lists(pools, issued_through).map_err(|e| to_status(&e))?;
        let wanted_headers = self.admission.limiter.wanted_headers();
        let mut response =
            KeepAliveResponse { refused_pools, wanted_headers, ..KeepAliveResponse::default() };
        let (balancer, holder) = (&self.admission.balancer, &holder);
        let hold = async {
            if let Err(error) = self.admission.limiter.renew(tickets).await {
                warn!(%error, "running requests not kept counted: the next KeepAlive does");
            }
        };
        let mut answers = futures::stream::iter(lists)
            .map(|(entry, held)| async move {
                let answer = balancer.keep_alive(&entry, holder, held).await;
                (entry, answer)
            })
            .buffer_unordered(CONCURRENCY);
        let apply = async {
            while let Some((entry, answer)) = answers.next().await {
                match answer {
                    Ok((repairs, applied)) => {
                        response.restored += repairs.restored as u32;
                        response.dropped += repairs.dropped as u32;
                        response.moved += repairs.moved as u32;
                        response.unapplied_pools += u32::from(!applied);
                    }
                    // One pool's failure must not hide what became of the others.
                    Err(error) => {
                        warn!(error = &error as &dyn std::error::Error, pool = %entry.pool.id, "KeepAlive not applied");
                        response.unapplied_pools += 1;
                    }
                }
            }
        };
        tokio::join!(hold, apply);
        // What the shared table lacks it is to get soon.
        let again = if response.unapplied_pools == 0 { 1 } else { 4 };
        response.interval_ms = (self.keep_alive_interval / again).as_millis() as u32;
        Ok(Response::new(response))
    }
}

impl GatewayService {
    async fn own(&self, own: &pb::OwnRequest, request: &AdmitRequest) -> AdmitResponse {
        let subject = request.subject.clone().unwrap_or_default();
        let request_id = format!("{}:{}", request.holder, request.lease);
        let call = OwnCall {
            method: &own.method,
            path: &subject.path,
            body: &own.body,
            consumer: &subject.consumer,
            request_id: &request_id,
        };
        let answer = self.admission.own(call).await;
        let headers = answer.headers.into_iter().map(|(name, value)| header(name, value)).collect();
        let answered = Answered { status: answer.status.into(), headers, body: answer.body };
        AdmitResponse { answer: Some(admit_response::Answer::Answered(answered)) }
    }
}

/// What each pool is to hold, and the pools this sidecar does not serve.
type Lists = (Vec<(Arc<PoolEntry>, Held)>, Vec<Pool>);

impl GatewayService {
    /// The lists of one KeepAlive by pool, and the pools passed over because this sidecar does not serve them:
    /// they must not cost the holder its leases in the others.
    fn read_lists(&self, pools: Vec<HeldPool>, issued_through: u64) -> Result<Lists, DomainError> {
        if pools.len() > HELD_POOLS_MAX {
            return Err(DomainError::invalid("pools", "at most 4096", &pools.len().to_string()));
        }
        let leases: usize = pools.iter().map(|held| held.leases.len()).sum();
        if leases > HELD_LEASES_MAX {
            return Err(DomainError::invalid(
                "pools.leases",
                "at most 262144 in one call",
                &leases.to_string(),
            ));
        }
        let mut lists: HashMap<PoolId, (Arc<PoolEntry>, Held)> = HashMap::with_capacity(pools.len());
        let mut refused = Vec::new();
        for mut held in pools {
            let pool = held.pool.take().ok_or_else(|| DomainError::invalid("pools.pool", "given", "none"))?;
            PoolId::new(&pool.route, &pool.cluster)?;
            let held = decode_held(held, issued_through)?;
            let Ok(entry) = self.admission.balancer.directory.resolve(&pool.route, &pool.cluster) else {
                refused.push(pool);
                continue;
            };
            // Routes that share a table also share a list: what one names, another must not drop.
            match lists.entry(entry.pool.id.clone()) {
                Entry::Occupied(mut known) => known.get_mut().1.leases.extend(held.leases),
                Entry::Vacant(place) => {
                    place.insert((entry, held));
                }
            }
        }
        Ok((lists.into_values().collect(), refused))
    }
}

/// The tickets shown, with whose they are.
fn take_tickets(
    holder: &HolderId,
    pools: &mut [HeldPool],
) -> Result<Vec<(ReservationId, Vec<u8>)>, DomainError> {
    let mut shown = Vec::new();
    for held in pools {
        let tickets = std::mem::take(&mut held.tickets);
        if !tickets.is_empty() && tickets.len() != held.leases.len() {
            let got = format!("{} and {}", held.leases.len(), tickets.len());
            return Err(DomainError::invalid("pools.tickets", "left out, or as long as pools.leases", &got));
        }
        for (lease, ticket) in held.leases.iter().zip(tickets).filter(|(_, ticket)| !ticket.is_empty()) {
            shown.push((ReservationId { holder: holder.clone(), lease: LeaseId::new(*lease)? }, ticket));
        }
    }
    Ok(shown)
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
    if endpoints.len() > ENDPOINTS_MAX {
        return Err(DomainError::invalid("pools.endpoints", "at most 1024", &endpoints.len().to_string()));
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

fn encode(decision: Decision) -> admit_response::Answer {
    let (answer, pass) = match decision {
        Decision::Placed { answer, pass } => (answer, Some(pass)),
        Decision::Denied { answer, .. } => (answer, None),
        Decision::Refused(refusal) => return refused(refusal),
        Decision::LimitsClosed(_) => return denied(503, Reason::StoreUnavailable, 1),
    };
    match answer {
        Answer::Admitted { endpoint, shared: true } => admitted(&endpoint, Basis::Shared, pass),
        Answer::Admitted { endpoint, shared: false } => admitted(&endpoint, Basis::Local, pass),
        Answer::Open => admitted("", Basis::Open, pass),
        Answer::PoolFull { retry_after_s } => denied(429, Reason::PoolFull, retry_after_s),
        Answer::NoEndpoints => denied(503, Reason::NoEndpoints, 1),
        Answer::AllDrained => denied_with(503, Reason::NoEndpoints, 1, ALL_DRAINED),
        Answer::StoreUnavailable => denied(503, Reason::StoreUnavailable, 1),
    }
}

fn header(name: impl Into<String>, value: impl Into<String>) -> Header {
    Header { name: name.into(), value: value.into() }
}

fn admitted(endpoint: &str, basis: Basis, pass: Option<Pass>) -> admit_response::Answer {
    let (headers, ticket, show_ticket) =
        pass.map(|pass| (pass.headers, pass.ticket, pass.show_ticket)).unwrap_or_default();
    admit_response::Answer::Admitted(Admitted {
        endpoint: endpoint.to_owned(),
        basis: basis.into(),
        request_headers: Vec::new(),
        response_headers: headers.into_iter().map(|(name, value)| header(name, value)).collect(),
        ticket,
        show_ticket,
    })
}

fn refused(refusal: Refusal) -> admit_response::Answer {
    admit_response::Answer::Denied(Denied {
        status: refusal.status.into(),
        reason: if refusal.quota { Reason::Quota } else { Reason::Limit }.into(),
        retry_after_ms: refusal.retry_after_ms,
        headers: refusal.headers.into_iter().map(|(name, value)| header(name, value)).collect(),
        body: refusal.body.into_bytes(),
    })
}

/// What is said where there are endpoints and none may be chosen.
const ALL_DRAINED: &str = "no model server is available at present: all endpoints of the pool are drained";

fn denied(status: u32, reason: Reason, retry_after_s: u64) -> admit_response::Answer {
    let message = match reason {
        Reason::PoolFull => "every model server is at its limit of concurrent requests",
        Reason::NoEndpoints => "no model server is available at present",
        _ => "capacity cannot be checked at present",
    };
    denied_with(status, reason, retry_after_s, message)
}

fn denied_with(status: u32, reason: Reason, retry_after_s: u64, message: &str) -> admit_response::Answer {
    // In the shape of OpenAI's errors, which the clients of model servers read.
    let kind = match reason {
        Reason::PoolFull => "pool_full",
        Reason::NoEndpoints => "no_endpoints",
        _ => "store_unavailable",
    };
    let body = serde_json::json!({"error": {"message": message, "type": kind, "code": kind}});
    admit_response::Answer::Denied(Denied {
        status,
        reason: reason.into(),
        retry_after_ms: retry_after_s * 1000,
        headers: vec![
            header("content-type", "application/json"),
            header("retry-after", retry_after_s.to_string()),
        ],
        body: body.to_string().into_bytes(),
    })
}
