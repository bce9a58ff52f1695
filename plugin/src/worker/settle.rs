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
            self.settle(host, context, lease, ending, stream);
        }
    }

    fn settle(&mut self, host: &dyn Host, context: u32, lease: u64, ending: Ending, stream: Stream) {
        let now_ms = host.now_ms();
        let Some(held) = self.book.remove(lease, now_ms) else { return };
        let request = SettleRequest {
            pool: Some(held.pool.message()),
            holder: self.holder.clone(),
            lease,
            outcome: ending.outcome().into(),
            status: ending.status,
            tokens: stream.usage.tokens,
            first_token_ms: stream.first_token_ms.unwrap_or(0),
            total_ms: now_ms.saturating_sub(stream.asked_ms),
            model: stream.usage.model,
            ticket: stream.ticket,
        };
        // A gateway cancels the calls of a stream when the stream is gone: this one belongs to the root.
        host.enter(self.root);
        let cluster = &self.config.sidecar_cluster;
        let sent = host.call(cluster, Method::Settle, &request.encode_to_vec(), TIMEOUT_MS).is_some();
        host.enter(context);
        host.count(if sent { Counter::SettlesSent } else { Counter::SettlesFailed }, 1);
    }
}
