//! Streams of gateway workers (`Gateway.Connect`). One task serves each stream: it applies what the worker sends in the
//! order that [`order`] decides, and puts what the worker must know into the [`outbox`].

use std::{future::Future, sync::Arc, time::Duration};

use evenkeel_domain::settings::PromptBlocks;
use evenkeel_engine::holders::{Holders, Registration, Rejected};
use evenkeel_proto::v1::{FromWorker, Settings, Welcome};
use futures::{Stream, StreamExt as _};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Status;
use tracing::info;

use super::calls::Calls;
use crate::transport::memory::MemoryBudget;

mod acknowledged;
mod decode;
mod end;
mod order;
mod outbox;
mod stream;

use decode::Introduction;
pub(super) use outbox::Outgoing;
use stream::WorkerStream;

/// Maximum number of admissions for which a worker waits.
const ADMITS_MAX: usize = 4096;
/// Maximum number of settlements that a worker keeps until they are acknowledged.
const SETTLEMENTS_MAX: usize = 8192;
/// Longest interval of pings.
const PING_INTERVAL_MAX: Duration = Duration::from_secs(2);

/// What all streams of this sidecar share.
pub(super) struct Sessions {
    pub(super) calls: Calls,
    pub(super) holders: Arc<Holders>,
    /// Calls and streams in progress; a shutdown waits for them.
    pub(super) tracker: TaskTracker,
    /// Name of this sidecar, for the gateways' logs.
    pub(super) sidecar: String,
    /// How gateways divide prompts. `None` if no pool considers prefix caches.
    pub(super) prompt_blocks: Option<PromptBlocks>,
    /// Changes when new limit rules apply.
    pub(super) rules: watch::Receiver<()>,
    pub(super) shutdown: Shutdown,
    /// Memory of requests in progress.
    pub(super) memory: Arc<MemoryBudget>,
}

/// The two steps of a shutdown.
#[derive(Clone, Default)]
pub struct Shutdown {
    /// The sidecar accepts no further streams, and asks workers to connect elsewhere.
    pub leaving: CancellationToken,
    /// Streams finish what they have received, and end.
    pub stop: CancellationToken,
}

impl Sessions {
    fn ping_interval(&self) -> Duration {
        self.calls.keep_alive_interval().min(PING_INTERVAL_MAX)
    }

    fn settings(&self) -> Settings {
        Settings {
            interval_ms: self.calls.keep_alive_interval().as_millis() as u32,
            wanted_headers: self.calls.admission.limiter.wanted_headers(),
            wants_source_ip: self.calls.admission.limiter.wants_source_ip(),
            prefix_block_bytes: self.prompt_blocks.map_or(0, |blocks| blocks.bytes),
            prefix_hashes_max: self.prompt_blocks.map_or(0, |blocks| blocks.hashes_max),
        }
    }

    fn welcome(&self, registration: &Registration) -> Welcome {
        Welcome {
            secret: registration.secret().as_bytes().to_vec(),
            settings: Some(self.settings()),
            pending_admits_max: ADMITS_MAX as u32,
            pending_settlements_max: SETTLEMENTS_MAX as u32,
            ping_interval_ms: self.ping_interval().as_millis() as u32,
            sidecar: self.sidecar.clone(),
        }
    }

    /// Accepts a stream: reads its first message, verifies the holder, and serves the stream in a task of its own.
    pub(super) async fn connect<S>(self: Arc<Self>, mut incoming: S) -> Result<Outgoing, Status>
    where
        S: Stream<Item = Result<FromWorker, Status>> + Send + Unpin + 'static,
    {
        let opened = &self.calls.admission.metrics.streams.opened;
        let mut first = match within(2 * self.ping_interval(), incoming.next()).await? {
            Some(first) => first?,
            None => return Err(Status::cancelled("the stream ended before its first message")),
        };
        let Introduction { holder, secret, version, gateway } =
            decode::introduction(first.hello.take()).inspect_err(|_| opened.invalid.inc())?;
        if self.shutdown.leaving.is_cancelled() {
            opened.shutdown.inc();
            return Err(Status::unavailable("the sidecar shuts down"));
        }
        let registration = self.holders.connect(holder, secret).await.map_err(|rejected| {
            opened.refused.inc();
            rejection(rejected)
        })?;
        if secret.is_some() { &opened.resumed } else { &opened.new }.inc();
        let plugin = Some(version).filter(|version| !version.is_empty());
        let named = Some(&gateway).filter(|gateway| !gateway.is_empty());
        info!(holder = %registration.holder(), gateway = named, plugin, "a gateway worker has connected");
        let (outbox, outgoing) = outbox::outbox();
        outbox.welcome(self.welcome(&registration));
        let tracker = self.tracker.clone();
        tracker.spawn(WorkerStream::new(self, registration, &gateway, outbox).serve(first, incoming));
        Ok(outgoing)
    }
}

async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Result<T, Status> {
    let late = |_| Status::deadline_exceeded("hello: the first message did not arrive in time");
    tokio::time::timeout(limit, future).await.map_err(late)
}

fn rejection(rejected: Rejected) -> Status {
    match rejected {
        Rejected::WrongSecret => Status::permission_denied(format!("hello.secret: {rejected}")),
        Rejected::Replaced => Status::aborted(rejected.to_string()),
    }
}
