//! The end of a request: one place for every ending.

use super::{Phase, Stream, Worker};
use crate::{
    facts,
    host::{Host, Method},
    metrics::Counter,
    outcome::Ending,
};
use evenkeel_proto::v1::SettleRequest;
use prost::Message as _;

/// How long a Settle may take. A lost one is made up for by the next KeepAlive.
const TIMEOUT_MS: u64 = 2000;

impl Worker {
    /// The stream has ended, in whatever way. Further calls for it do nothing.
    pub fn on_end(&mut self, host: &dyn Host, context: u32) {
        let Some(stream) = self.streams.remove(&context) else { return };
        let ending = Ending {
            status: facts::number(host, &["response", "code"]) as u32,
            flags: facts::number(host, &["response", "flags"]),
            sent: stream.phase == Phase::Decided && facts::upstream_address(host).is_some(),
        };
        if let Phase::Asking { token } = stream.phase {
            // The answer can no longer be used, and the lease may have been granted: it is settled now.
            // Should Admit overtake Settle, the next KeepAlive does not list the lease and so ends it.
            self.asked.remove(&token);
        }
        if let Some(lease) = stream.lease {
            self.settle(host, context, lease, ending, &stream);
        }
    }

    fn settle(&mut self, host: &dyn Host, context: u32, lease: u64, ending: Ending, stream: &Stream) {
        let now_ms = host.now_ms();
        let Some(held) = self.book.remove(lease, now_ms) else { return };
        let usage = stream.usage(host);
        let request = SettleRequest {
            pool: Some(held.pool.message()),
            holder: self.holder.clone(),
            lease,
            outcome: ending.outcome().into(),
            status: ending.status,
            tokens: usage.tokens,
            first_token_ms: stream.first_token_ms.unwrap_or(0),
            total_ms: now_ms.saturating_sub(stream.asked_ms),
            model: usage.model,
            ticket: stream.ticket.to_vec(),
            tokens_final: usage.is_final,
            output_bytes: usage.output_bytes,
            body_read: usage.body_read,
            traceparent: stream.traceparent.clone(),
        };
        let message = request.encode_to_vec();
        // The call outlives the stream. Envoy gives every call to the root context by itself; one that does not
        // would cancel it with the stream.
        host.enter(self.root);
        let sent = self.send_settle(host, &message);
        host.enter(context);
        host.count(if sent { Counter::SettlesSent } else { Counter::SettlesFailed }, 1);
        self.keep_alive.note_settled(lease, message);
    }

    /// Sends once more what was settled while the KeepAlive that has now come back was under way: the table may
    /// have seen the Settle first, and then the list with its lease. A Settle too many changes nothing. The root
    /// context is the effective one.
    pub(super) fn settle_again(&mut self, host: &dyn Host) {
        for message in self.keep_alive.take_settled() {
            let sent = self.send_settle(host, &message);
            host.count(if sent { Counter::SettlesRepeated } else { Counter::SettlesFailed }, 1);
        }
    }

    fn send_settle(&self, host: &dyn Host, message: &[u8]) -> bool {
        host.call(&self.config.sidecar_cluster, Method::Settle, message, TIMEOUT_MS).is_some()
    }
}
