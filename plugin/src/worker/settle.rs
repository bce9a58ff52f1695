//! Settles the lease of a request when the request ends.

use evenkeel_proto::v1::SettleRequest;
use prost::Message as _;

use super::{Phase, Stream, Worker};
use crate::{
    attributes,
    host::{Host, Method},
    metrics::Counter,
    outcome::Ending,
};

/// Deadline of a Settle call. If a Settle is lost, the next KeepAlive drops its lease.
const TIMEOUT_MS: u64 = 2000;

impl Worker {
    /// Handles the end of a stream. Further calls for the stream do nothing.
    pub fn on_end(&mut self, host: &dyn Host, context: u32) {
        let Some(stream) = self.streams.remove(&context) else { return };
        let ending = Ending {
            status: attributes::number_property(host, &["response", "code"]) as u32,
            flags: attributes::number_property(host, &["response", "flags"]),
            sent: stream.phase == Phase::Decided && attributes::upstream_address(host).is_some(),
        };
        if let Phase::AwaitingAdmit { token } = stream.phase {
            // The sidecar may have granted the lease, so the plugin settles it. If the Settle arrives before the Admit,
            // the next KeepAlive drops the lease, because its list does not contain the lease.
            self.pending_admits.remove(&token);
        }
        if let Some(lease) = stream.lease {
            self.settle(host, context, lease, ending, &stream);
        }
    }

    fn settle(&mut self, host: &dyn Host, context: u32, lease: u64, ending: Ending, stream: &Stream) {
        let now_ms = host.now_ms();
        let Some(held) = self.lease_table.remove(lease, now_ms) else { return };
        let usage = stream.usage(host);
        let request = SettleRequest {
            pool: Some(held.pool.to_proto()),
            holder: self.holder.clone(),
            lease,
            outcome: ending.outcome().into(),
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
        };
        let message = request.encode_to_vec();
        // The call must outlive the stream. Envoy attributes every call to the root context by itself. Another proxy
        // would cancel the call together with the stream.
        host.enter(self.root);
        let sent = self.send_settle(host, &message);
        host.enter(context);
        host.count(if sent { Counter::SettlesSent } else { Counter::SettlesFailed }, 1);
        self.keep_alive.record_settle(lease, message);
    }

    /// Repeats the Settles that were sent while a KeepAlive was pending. The sidecar may have applied such a Settle
    /// first, and then the KeepAlive that lists the lease. Settle is idempotent. The root context must be the effective
    /// context.
    pub(super) fn repeat_settles(&mut self, host: &dyn Host) {
        for message in self.keep_alive.take_settled() {
            let sent = self.send_settle(host, &message);
            host.count(if sent { Counter::SettlesRepeated } else { Counter::SettlesFailed }, 1);
        }
    }

    fn send_settle(&self, host: &dyn Host, message: &[u8]) -> bool {
        host.call(&self.config.sidecar_cluster, Method::Settle, message, TIMEOUT_MS).is_some()
    }
}
