//! Reports how a request ended.

use std::rc::Rc;

use evenkeel_proto::v1::{Outcome, SettleRequest};
use prost::Message as _;

use super::{Phase, Stream, Worker};
use crate::{attributes, host::Host, lease_table::PoolKey, metrics::Counter, outcome::Ending, usage::Usage};

impl Worker {
    /// Handles the end of a stream. Further calls for the stream do nothing.
    pub fn on_end(&mut self, host: &dyn Host, context: u32) {
        self.abandon_admission(host, context);
        let Some(stream) = self.streams.remove(&context) else { return };
        let Some(lease) = stream.lease else { return };
        let is_sent = stream.is_via_upstream == Some(true);
        // Nothing can go wrong any more with a response that has passed completely.
        let passed = stream.status.filter(|_| stream.complete && is_sent);
        let ending = match passed {
            Some(status) => Ending { status, flags: 0, sent: true },
            None => Ending {
                status: attributes::number_property(host, &["response", "code"]) as u32,
                flags: attributes::number_property(host, &["response", "flags"]),
                sent: is_sent || attributes::upstream_address(host).is_some(),
            },
        };
        self.settle(host, lease, ending, &stream);
    }

    /// Stops waiting for the answer to a stream's Admit, because its request has ended or the gateway has responded
    /// itself.
    pub(super) fn abandon_admission(&mut self, host: &dyn Host, context: u32) {
        let Some(stream) = self.streams.get_mut(&context) else { return };
        let Phase::AwaitingAdmit { lease } = stream.phase else { return };
        stream.phase = Phase::Decided;
        let held = stream.lease.take().and_then(|lease| self.lease_table.remove(lease, host.now_ms()));
        // An admission that is no longer pending has an answer, which the plugin has not applied.
        let admission = self.admissions.remove(lease);
        if admission.as_ref().is_none_or(|admission| admission.asked) {
            let is_sent = admission.map_or(self.connection.is_ready(), |admission| admission.sent);
            self.cancel(host, lease, is_sent, held.map(|held| held.pool));
            self.hurry(host, host.now_ms());
        }
    }

    /// Gives up an admission that the sidecar may have granted. `is_sent`: on the current stream. `pool` is the pool of
    /// a request that does not go on.
    pub(super) fn cancel(&mut self, host: &dyn Host, lease: u64, is_sent: bool, pool: Option<Rc<PoolKey>>) {
        host.count(Counter::AdmitsCancelled, 1);
        let settlement = pool.map(|pool| {
            let outcome = Outcome::NotSent.into();
            let pool = Some(pool.to_proto());
            SettleRequest { pool, lease, outcome, ..SettleRequest::default() }.encode_to_vec()
        });
        match settlement {
            _ if is_sent => self.outbox.cancel(lease, settlement),
            Some(settlement) => self.outbox.settle(host, settlement),
            None => {}
        }
    }

    fn settle(&mut self, host: &dyn Host, lease: u64, ending: Ending, stream: &Stream) {
        let now_ms = host.now_ms();
        let Some(held) = self.lease_table.remove(lease, now_ms) else { return };
        let usage = stream.usage(host);
        let request_body = stream.late_body(&self.config, &usage);
        let request = SettleRequest {
            pool: Some(held.pool.to_proto()),
            holder: String::new(),
            lease,
            outcome: outcome(ending, &usage).into(),
            status: ending.status,
            tokens: usage.tokens,
            first_token_ms: stream.first_token_ms.unwrap_or(0),
            total_ms: now_ms.saturating_sub(stream.admit_sent_ms),
            model: usage.model,
            ticket: stream.ticket.to_vec(),
            tokens_final: usage.is_final,
            output_bytes: usage.output_bytes,
            body_read: usage.body_read,
            traceparent: stream.traceparent.clone(),
            total_tokens: usage.total_tokens,
            upgraded: stream.response_body.is_upgraded,
            form_unknown: usage.form_unknown || stream.response_body.is_unreadable,
            request_body,
            streamed: stream.response_body.is_streamed(),
        };
        self.outbox.settle(host, request.encode_to_vec());
        if self.outbox.has_batch() {
            self.send_unsent(host);
        }
        self.hurry(host, now_ms);
    }
}

/// Returns the outcome of a request. An error in the body of a response with a good status is an error: of the server if
/// nothing was generated before it, otherwise an interruption.
fn outcome(ending: Ending, usage: &Usage) -> Outcome {
    match ending.outcome() {
        Outcome::Success if usage.is_error && (usage.output_bytes > 0 || usage.form_unknown) => {
            Outcome::UpstreamReset
        }
        Outcome::Success if usage.is_error => Outcome::ServerError,
        outcome => outcome,
    }
}
