//! The stream to the sidecar: opens it, resumes on another one after a failure, and tells a dead one.
//!
//! ```text
//! Closed ── tick, after the first request ──► Opening ── Welcome ──► Ready
//!    ▲                                           │                     │
//!    └──── the stream ends, or is silent ────────┴─────────────────────┘
//! ```
//!
//! A gateway accepts every send, whether the stream is connected, stalled, dead or closed. So only a stream that has
//! answered Hello counts as ready, the sidecar's messages show that it lives, and everything sent is kept until the
//! sidecar has answered it.
//!
//! A sidecar that shuts down asks the worker to leave. The worker then uses the stream until it has a *successor*, a
//! stream that is ready at another sidecar, or until the sidecar ends the stream.

use evenkeel_proto::v1::{Capability, Hello, ToWorker, Welcome};
use prost::Message as _;

use super::{
    Worker,
    connection::{State, Successor},
    message::Message,
};
use crate::{
    attributes,
    host::{Host, Level},
    metrics::Counter,
};

/// How long the plugin waits for Welcome.
const WELCOME_MS: u64 = 1000;

/// Shortest interval of pings that the plugin believes.
const PING_INTERVAL_MIN_MS: u64 = 100;

/// How long the plugin waits for the sidecar to end the stream after goodbye.
const GOODBYE_MS: u64 = 200;

/// A stream that has been ready for this long is no failed attempt.
const STABLE_MS: u64 = 1000;

/// gRPC statuses with which the sidecar ends a stream.
mod status {
    pub(super) const OK: u32 = 0;
    pub(super) const INVALID_ARGUMENT: u32 = 3;
    pub(super) const PERMISSION_DENIED: u32 = 7;
}

impl Worker {
    /// Opens a stream, or gives up a dead one, if it is time. The root context must be the effective context, because
    /// the gateway passes a stream's messages to the context that opened the stream.
    pub(super) fn maintain_stream(&mut self, host: &dyn Host, now_ms: u64) {
        match self.connection.state {
            State::Closed { .. } if self.connection.must_open(now_ms) => self.open_stream(host, now_ms),
            State::Opening { until_ms, .. } if now_ms >= until_ms => {
                self.give_up_stream(host, now_ms, "no Welcome");
            }
            State::Ready { .. } if self.connection.is_silent(now_ms) => {
                host.count(Counter::StreamsSilent, 1);
                self.give_up_stream(host, now_ms, "no message");
            }
            State::Ending { token, until_ms } if now_ms >= until_ms => {
                host.cancel_stream(token);
                self.end_instance(host);
            }
            _ => {}
        }
        match self.connection.successor {
            Some(Successor { token: None, due_ms }) if now_ms >= due_ms => match self.open(host) {
                Some(token) => {
                    let due_ms = now_ms + WELCOME_MS;
                    self.connection.successor = Some(Successor { token: Some(token), due_ms });
                }
                None => self.on_successor_failure(host, now_ms),
            },
            Some(Successor { token: Some(token), due_ms }) if now_ms >= due_ms => {
                host.cancel_stream(token);
                self.on_successor_failure(host, now_ms);
            }
            _ => {}
        }
    }

    fn on_successor_failure(&mut self, host: &dyn Host, now_ms: u64) {
        self.connection.failures = self.connection.failures.saturating_add(1);
        self.connection.cluster += 1;
        let due_ms = now_ms + self.connection.delay_ms(host);
        self.connection.successor = Some(Successor { token: None, due_ms });
    }

    fn open_stream(&mut self, host: &dyn Host, now_ms: u64) {
        match self.open(host) {
            Some(token) => {
                self.connection.state = State::Opening { token, until_ms: now_ms + WELCOME_MS };
            }
            None => self.on_stream_failure(host, now_ms, || "the gateway could not open a stream".into()),
        }
    }

    /// Opens a stream to the current cluster and says Hello on it.
    fn open(&mut self, host: &dyn Host) -> Option<u32> {
        host.count(Counter::StreamsOpened, 1);
        let clusters = &self.config.sidecar_clusters;
        let token = host.open_stream(&clusters[self.connection.cluster % clusters.len()])?;
        if self.connection.secret.is_empty() {
            let words = [host.random(), host.random()];
            self.connection.secret = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        }
        let hello = Hello {
            holder: self.holder.clone(),
            secret: self.connection.secret.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            capabilities: vec![Capability::FirstTokens.into()],
            gateway: attributes::gateway(host),
        };
        let mut message = Message::default();
        message.hello(&hello.encode_to_vec());
        host.send(token, message.as_bytes());
        Some(token)
    }

    /// Handles a message from the sidecar. The root context must be the effective context.
    pub fn on_stream_message(&mut self, host: &dyn Host, token: u32, message: &[u8]) {
        let is_successor = self.connection.successor.is_some_and(|next| next.token == Some(token));
        if self.connection.token() != Some(token) && !is_successor {
            return;
        }
        let now_ms = host.now_ms();
        if is_successor {
            // Its first message is Welcome. What the earlier sidecar has not answered is sent again.
            self.drop_stream(host);
            self.cut(host, now_ms, 0);
            self.connection.state = State::Opening { token, until_ms: now_ms + WELCOME_MS };
        }
        let Ok(message) = ToWorker::decode(message) else {
            return self.give_up_stream(host, now_ms, "unreadable message");
        };
        self.connection.heard_ms = now_ms;
        self.connection.missed = 0;
        if let Some(welcome) = message.welcome {
            self.on_welcome(host, now_ms, welcome);
        }
        self.outbox.acknowledge(host, message.settled_through);
        for answer in message.answers {
            self.admissions.answer(answer.lease, answer.answer);
        }
        if let Some(repaired) = message.repaired {
            self.on_list_applied(host, repaired);
        }
        if let Some(settings) = message.settings {
            self.apply_settings(host, settings);
        }
        if message.ping > 0 {
            let mut pong = Message::default();
            pong.pong(message.ping);
            if self.connection.is_ready() {
                self.outbox.append_to(host, &mut pong);
            }
            host.send(token, pong.as_bytes());
        }
        if message.leave && self.connection.is_ready() && self.connection.successor.is_none() {
            host.count(Counter::StreamsLeft, 1);
            self.connection.failures = 1;
            self.connection.cluster += 1;
            self.connection.successor = Some(Successor { token: None, due_ms: now_ms });
        }
        self.apply_answers(host);
        host.enter(self.root);
        self.hurry(host, now_ms);
    }

    fn on_welcome(&mut self, host: &dyn Host, now_ms: u64, welcome: Welcome) {
        let State::Opening { token, .. } = self.connection.state else { return };
        host.count(Counter::StreamsReady, 1);
        self.connection.state = State::Ready { token, since_ms: now_ms };
        if !welcome.secret.is_empty() {
            self.connection.secret = welcome.secret;
        }
        if welcome.ping_interval_ms > 0 {
            self.connection.ping_interval_ms = u64::from(welcome.ping_interval_ms).max(PING_INTERVAL_MIN_MS);
        }
        self.admissions.set_max(welcome.pending_admits_max as usize);
        self.outbox.set_max(host, welcome.pending_settlements_max as usize);
        self.connectivity.on_answer(host, &self.config);
        if let Some(settings) = welcome.settings {
            self.apply_settings(host, settings);
        }
        self.send_list(host, now_ms);
        self.send_unsent(host);
    }

    /// Handles the end of a stream. The root context must be the effective context.
    pub fn on_stream_close(&mut self, host: &dyn Host, token: u32, status: u32) {
        // The gateway keeps a stream that has ended until the plugin closes it too.
        host.close_stream(token);
        let now_ms = host.now_ms();
        if self.connection.token() != Some(token) {
            if self.connection.successor.is_some_and(|next| next.token == Some(token)) {
                self.on_successor_failure(host, now_ms);
                self.hurry(host, now_ms);
            }
            return;
        }
        match (self.connection.state, status) {
            (State::Ending { .. }, _) => return self.end_instance(host),
            (State::Ready { .. }, _) if self.connection.successor.is_some() => self.succeed(host, now_ms),
            (_, status::PERMISSION_DENIED) => {
                host.count(Counter::StreamsRefused, 1);
                host.log(Level::Error, &format!("evenkeel: the sidecar refuses the holder {}", self.holder));
                self.take_new_holder(host);
                self.on_stream_failure(host, now_ms, || "the sidecar refuses the holder".into());
            }
            _ => {
                if status == status::INVALID_ARGUMENT {
                    self.outbox.drop_sent(host);
                }
                host.count(Counter::StreamsClosed, u64::from(status != status::OK));
                self.on_stream_failure(host, now_ms, || format!("gRPC status {status}"));
            }
        }
        self.hurry(host, now_ms);
    }

    /// Cancels the stream and connects again.
    fn give_up_stream(&mut self, host: &dyn Host, now_ms: u64, reason: &str) {
        self.drop_stream(host);
        self.on_stream_failure(host, now_ms, || reason.to_owned());
        self.hurry(host, now_ms);
    }

    /// Connects to the next cluster, after a delay if attempts have failed before.
    fn on_stream_failure(&mut self, host: &dyn Host, now_ms: u64, reason: impl FnOnce() -> String) {
        if matches!(self.connection.state, State::Ready { since_ms, .. } if now_ms >= since_ms + STABLE_MS) {
            self.connection.failures = 0;
        }
        self.connectivity.on_failure(host, &self.config, reason);
        if self.connection.successor.is_some() {
            return self.succeed(host, now_ms);
        }
        self.connection.failures = self.connection.failures.saturating_add(1);
        self.connection.cluster += 1;
        let delay_ms = self.connection.delay_ms(host);
        self.cut(host, now_ms, delay_ms);
    }

    /// Replaces a stream that has ended by its successor.
    fn succeed(&mut self, host: &dyn Host, now_ms: u64) {
        let Some(successor) = self.connection.successor else { return };
        self.cut(host, now_ms, 0);
        self.connection.state = match successor {
            Successor { token: Some(token), due_ms } => State::Opening { token, until_ms: due_ms },
            Successor { token: None, due_ms } => State::Closed { retry_at_ms: due_ms },
        };
    }

    fn drop_stream(&mut self, host: &dyn Host) {
        if let Some(token) = self.connection.token() {
            host.cancel_stream(token);
        }
    }

    fn cut(&mut self, host: &dyn Host, now_ms: u64, delay_ms: u64) {
        self.connection.state = State::Closed { retry_at_ms: now_ms + delay_ms };
        self.connection.successor = None;
        self.connection.heard_ms = now_ms;
        self.connection.missed = 0;
        self.admissions.on_cut();
        self.outbox.on_cut(host);
        self.list.on_cut();
    }

    /// Becomes a new holder with the same requests.
    fn take_new_holder(&mut self, host: &dyn Host) {
        self.holder = super::random_id(host);
        self.connection.secret.clear();
    }

    /// Sends what the current stream has not sent yet.
    pub(super) fn send_unsent(&mut self, host: &dyn Host) {
        let State::Ready { token, .. } = self.connection.state else { return };
        for lease in self.admissions.unsent() {
            self.send_admission(host, lease);
        }
        while self.outbox.has_unsent() {
            let mut message = Message::default();
            self.outbox.append_to(host, &mut message);
            host.send(token, message.as_bytes());
        }
    }

    /// Sends an admission if the stream is ready.
    pub(super) fn send_admission(&mut self, host: &dyn Host, lease: u64) {
        let State::Ready { token, .. } = self.connection.state else { return };
        let Some((request, again)) = self.admissions.send(lease) else { return };
        let mut message = Message::default();
        self.outbox.append_to(host, &mut message);
        message.admit(request);
        host.send(token, message.as_bytes());
        host.count(Counter::AdmitsResent, again.into());
    }

    /// Sends a list of all leases if the stream is ready.
    pub(super) fn send_list(&mut self, host: &dyn Host, now_ms: u64) {
        let State::Ready { token, .. } = self.connection.state else { return };
        let mut message = Message::default();
        while self.outbox.has_batch() {
            self.outbox.append_to(host, &mut message);
            host.send(token, std::mem::take(&mut message).as_bytes());
        }
        self.outbox.append_to(host, &mut message);
        self.append_list(&mut message, now_ms);
        host.send(token, message.as_bytes());
    }

    /// Leaves the current stream for the first cluster of a new configuration.
    pub(super) fn reconnect(&mut self, host: &dyn Host) {
        if let Some(Successor { token: Some(token), .. }) = self.connection.successor {
            host.cancel_stream(token);
        }
        self.drop_stream(host);
        self.cut(host, host.now_ms(), 0);
        self.connection.cluster = 0;
        self.connection.failures = 0;
    }

    /// Handles the end of the plugin instance. Returns false if the instance must live until it calls [`Host::done`].
    pub fn on_done(&mut self, host: &dyn Host) -> bool {
        let State::Ready { token, .. } = self.connection.state else { return true };
        if !self.lease_table.is_empty() {
            return true;
        }
        self.send_unsent(host);
        let mut message = Message::default();
        message.goodbye();
        host.send(token, message.as_bytes());
        let now_ms = host.now_ms();
        if let Some(Successor { token: Some(token), .. }) = self.connection.successor.take() {
            host.cancel_stream(token);
        }
        self.connection.state = State::Ending { token, until_ms: now_ms + GOODBYE_MS };
        self.hurry(host, now_ms);
        false
    }

    fn end_instance(&mut self, host: &dyn Host) {
        self.connection.state = State::Closed { retry_at_ms: u64::MAX };
        self.connection.wanted = false;
        host.done();
    }
}
