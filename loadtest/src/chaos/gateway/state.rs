//! What one model gateway knows, and the messages that follow from it.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use evenkeel_proto::v1::{
    AdmitRequest, AdmitResponse, Basis, FirstToken, HeldPool, KeepAliveRequest, Outcome, Pool, SettleRequest,
    Subject, Tokens, admit_response::Answer,
};

use super::super::{
    record::{Record, Served},
    truth::{Leases, Live, Settled},
};
use crate::lab::CLUSTER;

/// Size of each prompt; 4 bytes a token.
const PROMPT_BYTES: u64 = 400;
const INPUT_TOKENS: u64 = 100;
/// Maximum output of each request.
pub(in super::super) const OUTPUT_TOKENS_MAX: u64 = 100;
/// The model that all requests name. The sidecars' configuration has its estimates.
pub(in super::super) const MODEL: &str = "chaos";

/// A question without an answer.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) consumer: usize,
    /// When the gateway asked first.
    asked_at: Instant,
    /// When the gateway asked last.
    pub(super) repeated_at: Instant,
    /// When the gateway gives the question up, if ever.
    pub(super) give_up_at: Option<Instant>,
}

/// A request that has ended and whose settlement is not acknowledged.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub(super) request: SettleRequest,
    consumer: usize,
    at: Instant,
    /// The sidecars to which the settlement was sent: a bit for each index.
    sent_to: u32,
    /// `None` if the request was not sent upstream.
    used: Option<(u64, Live)>,
}

#[derive(Debug, Default)]
pub(in super::super) struct State {
    /// Index of the sidecar to which the gateway is connected.
    pub(in super::super) connected: Option<usize>,
    pub(in super::super) live: Leases,
    pub(super) pending: BTreeMap<u64, Pending>,
    /// Settlements with their numbers, oldest first.
    pub(super) ended: VecDeque<(u64, Ended)>,
    last_lease: u64,
    last_settlement: u64,
}

impl State {
    /// Returns whether every question has its answer and every settlement its acknowledgement.
    pub(in super::super) fn is_quiet(&self) -> bool {
        self.pending.is_empty() && self.ended.is_empty()
    }

    /// Describes what keeps the gateway from being quiet.
    pub(in super::super) fn open_business(&self) -> String {
        let leases: Vec<u64> = self.pending.keys().copied().take(5).collect();
        let settlements: Vec<u64> = self.ended.iter().map(|(_, e)| e.request.lease).take(5).collect();
        format!(
            "{} unanswered admissions (first leases {leases:?}), {} unacknowledged settlements (first leases \
             {settlements:?}), connected to sidecar {:?}",
            self.pending.len(),
            self.ended.len(),
            self.connected
        )
    }

    /// Numbers a new request.
    pub(super) fn ask(&mut self, consumer: usize, patience: Option<Duration>) -> u64 {
        self.last_lease += 1;
        let now = Instant::now();
        let give_up_at = patience.map(|patience| now + patience);
        self.pending
            .insert(self.last_lease, Pending { consumer, asked_at: now, repeated_at: now, give_up_at });
        self.last_lease
    }

    pub(super) fn admit_request(&self, lease: u64, holder: &str) -> Option<AdmitRequest> {
        let pending = self.pending.get(&lease)?;
        let subject = Subject { consumer: consumer_name(pending.consumer), ..Subject::default() };
        Some(AdmitRequest {
            pool: Some(pool()),
            holder: holder.into(),
            lease,
            subject: Some(subject),
            model: MODEL.into(),
            prompt_bytes: PROMPT_BYTES,
            max_output_tokens: OUTPUT_TOKENS_MAX,
            ..AdmitRequest::default()
        })
    }

    /// Applies an answer. Returns whether the request is in flight now.
    pub(super) fn answered(&mut self, lease: u64, response: AdmitResponse, record: &Record) -> bool {
        // An answer to a question that the gateway has given up crossed the cancellation.
        let Some(pending) = self.pending.remove(&lease) else { return false };
        let Some(Answer::Admitted(admitted)) = response.answer else {
            record.admission(pending.repeated_at, Served::Refused);
            return false;
        };
        let served = match admitted.basis() {
            Basis::Shared => Served::Shared,
            Basis::Local => Served::Local,
            Basis::Open | Basis::Unspecified => Served::Open,
        };
        record.admission(pending.repeated_at, served);
        let live = Live {
            consumer: pending.consumer,
            endpoint: admitted.endpoint,
            unread: admitted.unread_tokens,
            ticket: admitted.ticket,
            show_ticket: admitted.show_ticket,
            asked_at: pending.asked_at,
        };
        self.live.insert(lease, live);
        true
    }

    /// Notes that the answer to a request has begun. Returns the report, if the request still has unread tokens.
    pub(super) fn begin_answer(&mut self, lease: u64) -> Option<FirstToken> {
        let live = self.live.get_mut(&lease).filter(|live| live.unread > 0)?;
        live.unread = 0;
        Some(FirstToken { lease, after_ms: live.asked_at.elapsed().as_millis() as u64, pool: Some(pool()) })
    }

    /// Ends a request in flight that has generated `output` tokens. Returns the number of its settlement.
    pub(super) fn end(&mut self, lease: u64, output: u64) -> Option<(u64, SettleRequest)> {
        let live = self.live.remove(&lease)?;
        let request = SettleRequest {
            pool: Some(pool()),
            lease,
            outcome: Outcome::Success.into(),
            status: 200,
            tokens: Some(Tokens { input: INPUT_TOKENS, output, ..Tokens::default() }),
            tokens_final: true,
            body_read: true,
            total_ms: live.asked_at.elapsed().as_millis() as u64,
            model: MODEL.into(),
            ticket: live.ticket.clone(),
            ..SettleRequest::default()
        };
        let (consumer, used) = (live.consumer, Some((INPUT_TOKENS + output, live)));
        Some(self.add_settlement(Ended {
            request: request.clone(),
            consumer,
            at: Instant::now(),
            sent_to: 0,
            used,
        }))
    }

    /// Gives a question up. The request was not sent upstream.
    pub(super) fn give_up(&mut self, lease: u64) -> Option<usize> {
        self.pending.remove(&lease).map(|pending| pending.consumer)
    }

    /// Reports that a request was not sent upstream.
    pub(super) fn end_unsent(&mut self, lease: u64, consumer: usize) -> (u64, SettleRequest) {
        let outcome = Outcome::NotSent.into();
        let request = SettleRequest { pool: Some(pool()), lease, outcome, ..SettleRequest::default() };
        self.add_settlement(Ended { request, consumer, at: Instant::now(), sent_to: 0, used: None })
    }

    fn add_settlement(&mut self, ended: Ended) -> (u64, SettleRequest) {
        self.last_settlement += 1;
        let request = ended.request.clone();
        self.ended.push_back((self.last_settlement, ended));
        (self.last_settlement, request)
    }

    /// Notes that a settlement is sent to a sidecar.
    pub(super) fn sent(&mut self, number: u64, sidecar: usize) {
        if let Ok(at) = self.ended.binary_search_by_key(&number, |(number, _)| *number) {
            self.ended[at].1.sent_to |= 1 << sidecar;
        }
    }

    /// Removes a settlement that a sidecar has acknowledged, and enters it in the account.
    pub(super) fn acknowledged(&mut self, number: u64, sidecar: usize, record: &Record) {
        let Ok(at) = self.ended.binary_search_by_key(&number, |(number, _)| *number) else { return };
        let Some((_, ended)) = self.ended.remove(at) else { return };
        let Ended { consumer, at: ended_at, sent_to, used, .. } = ended;
        match used {
            Some((tokens, live)) => record.settled(Settled {
                consumer,
                tokens,
                asked_at: live.asked_at,
                ended_at,
                acknowledged_at: Instant::now(),
                sidecar,
                sent_to,
            }),
            None => record.abandoned(consumer),
        }
    }

    /// Returns the list of all leases.
    pub(super) fn list(&self, holder: &str) -> KeepAliveRequest {
        let mut held = HeldPool { pool: Some(pool()), ..HeldPool::default() };
        let live = self.live.iter().map(|(lease, live)| (*lease, Some(live)));
        for (lease, live) in live.chain(self.pending.keys().map(|lease| (*lease, None))) {
            held.leases.push(lease);
            let endpoint = live.map_or(0, |live| {
                let known = held.endpoints.iter().position(|endpoint| *endpoint == live.endpoint);
                known.unwrap_or_else(|| {
                    held.endpoints.push(live.endpoint.clone());
                    held.endpoints.len() - 1
                }) as u32
                    + 1
            });
            held.endpoint_of.push(endpoint);
            let ticket = live.filter(|live| live.show_ticket).map(|live| live.ticket.clone());
            held.tickets.push(ticket.unwrap_or_default());
            held.unread_tokens.push(live.map_or(0, |live| live.unread));
        }
        KeepAliveRequest {
            holder: holder.into(),
            issued_through: self.last_lease,
            pools: vec![held],
            unanswered: None,
        }
    }

    /// Enters in the accounts that nobody knows any more how these requests ended.
    pub(in super::super) fn abandon_all(&mut self, record: &Record) {
        let live = std::mem::take(&mut self.live).into_values().map(|live| live.consumer);
        let pending = std::mem::take(&mut self.pending).into_values().map(|pending| pending.consumer);
        let ended = std::mem::take(&mut self.ended).into_iter().map(|(_, ended)| ended.consumer);
        live.chain(pending).chain(ended).for_each(|consumer| record.abandoned(consumer));
        self.connected = None;
    }
}

pub(in super::super) fn consumer_name(index: usize) -> String {
    format!("consumer-{index}")
}

pub(super) fn pool() -> Pool {
    Pool { route: String::new(), cluster: CLUSTER.into() }
}
