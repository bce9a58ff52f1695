//! One stream of a worker.

use std::{collections::VecDeque, pin::pin, sync::Arc, time::Duration};

use evenkeel_domain::{DomainError, LeaseId};
use evenkeel_engine::{
    activity::gateways::Gateways,
    admission::keep_alive::HolderList,
    holders::{Registration, Rejected},
};
use evenkeel_proto::v1::{
    AdmitAnswer, AdmitResponse, FromWorker, KeepAliveResponse, Settings, admit_response::Answer,
};
use evenkeel_telemetry::Metrics;
use futures::{
    FutureExt as _, Stream, StreamExt as _,
    future::BoxFuture,
    stream::{Fuse, FuturesUnordered},
};
use prost::Message as _;
use tokio::time::{Instant, MissedTickBehavior};
use tonic::{Status, metadata::MetadataMap};
use tracing::{debug, info};

use super::{
    super::{answers, messages::exhausted},
    ADMITS_MAX, SETTLEMENTS_MAX, Sessions,
    acknowledged::Acknowledged,
    decode::{self, Admission, Parts},
    end::End,
    order::{Order, Step, Work},
    outbox::Outbox,
};
use crate::transport::memory::Charge;

/// Maximum number of admissions in progress, including those that the worker has cancelled. Beyond it, the answer is an
/// error.
const PENDING_MAX: usize = 4 * ADMITS_MAX;
/// Maximum number of settlements and cancellations in progress. A worker may drop settlements that this sidecar still
/// has, so this is more than the worker's bound.
const WORK_MAX: usize = 2 * SETTLEMENTS_MAX;
/// Maximum number of lists that wait.
const LISTS_MAX: usize = 8;
/// Maximum number of leases that a worker has without listing them, as in a list.
const GRANTED_MAX: usize = 262_144;
/// Maximum size of an admission, in bytes, as in a unary call.
const ADMIT_BYTES_MAX: usize = super::super::bounds::MESSAGE_BYTES_MAX;
/// Maximum time that an acknowledgement waits for another message.
const ACKNOWLEDGE_WITHIN: Duration = Duration::from_millis(10);
/// Number of messages that a stream reads before it looks at its other events.
const BURST: usize = 64;
/// Number of checks in an interval of pings.
const CHECKS: u32 = 2;

/// The end of an operation.
enum Done {
    Admitted(LeaseId, Result<AdmitResponse, DomainError>),
    Settled(u64),
    Released,
    Listed(Result<KeepAliveResponse, Rejected>),
    Goodbye,
}

pub(super) struct WorkerStream {
    sessions: Arc<Sessions>,
    registration: Arc<Registration>,
    outbox: Outbox,
    order: Order,
    acknowledged: Acknowledged,
    running: FuturesUnordered<BoxFuture<'static, Done>>,
    /// Answers that have not been put into the outbox.
    answers: Vec<AdmitAnswer>,
    /// Settings that the worker has.
    settings: Settings,
    /// Memory of the lists that have not ended, in their order.
    lists: VecDeque<Option<Arc<Charge>>>,
    /// When the outbox is flushed, if a settlement has been acknowledged since it was flushed.
    acknowledge_by: Option<Instant>,
    is_ending: bool,
    watch: Watch,
}

/// Notices a worker that sends nothing or reads nothing. It counts checks instead of time, because after a pause of this
/// process, what the worker has sent meanwhile is read first.
#[derive(Default)]
struct Watch {
    checks: u32,
    pings: u64,
    /// Number of checks since the last message.
    unheard: u32,
    /// Number of messages that had left when something waited for the first time.
    left: Option<u64>,
    /// Number of checks since a message has left.
    unread: u32,
}

impl Watch {
    /// Returns whether the worker is silent.
    fn check(&mut self, outbox: &Outbox) -> bool {
        self.checks += 1;
        self.unheard += 1;
        let left = outbox.stuck_after();
        self.unread = if left.is_some() && left == self.left { self.unread + 1 } else { 0 };
        self.left = left;
        if left.is_none() && self.checks.is_multiple_of(CHECKS) {
            self.pings += 1;
            outbox.ping(self.pings);
        }
        self.unheard.max(self.unread) > 2 * CHECKS
    }
}

impl WorkerStream {
    /// `gateway` is the name of the worker's gateway.
    pub(super) fn new(
        sessions: Arc<Sessions>,
        registration: Registration,
        gateway: &str,
        outbox: Outbox,
    ) -> Self {
        sessions.calls.admission.metrics.streams.open.inc();
        sessions.calls.admission.recorder.gateways.connected(registration.holder(), gateway);
        Self {
            settings: sessions.settings(),
            registration: Arc::new(registration),
            outbox,
            order: Order::default(),
            acknowledged: Acknowledged::default(),
            running: FuturesUnordered::new(),
            answers: Vec::new(),
            lists: VecDeque::new(),
            acknowledge_by: None,
            is_ending: false,
            watch: Watch::default(),
            sessions,
        }
    }

    /// Serves the stream until it ends, and finishes what is in progress.
    pub(super) async fn serve<S>(mut self, first: FromWorker, incoming: S)
    where
        S: Stream<Item = Result<FromWorker, Status>> + Send + Unpin,
    {
        let holder = self.registration.holder().clone();
        let end = match self.receive(first) {
            Ok(()) => self.until_end(incoming.fuse()).await,
            Err(end) => end,
        };
        let status = end.status();
        if let Err(status) = &status {
            info!(%holder, status = status.message(), "the stream of a gateway worker has ended");
        } else {
            debug!(%holder, "the stream of a gateway worker has ended");
        }
        end.counter(self.metrics()).inc();
        self.gateways().disconnected(&holder, end.is_loss());
        self.progress(0);
        self.flush_acknowledgement();
        self.outbox.end(status);
        self.finish().await;
    }

    async fn until_end<S>(&mut self, mut incoming: Fuse<S>) -> End
    where
        S: Stream<Item = Result<FromWorker, Status>> + Send + Unpin,
    {
        let (registration, shutdown) = (Arc::clone(&self.registration), self.sessions.shutdown.clone());
        let (gone, mut rules) = (self.outbox.gone(), self.sessions.rules.clone());
        let mut replaced = pin!(registration.replaced());
        let mut gone = pin!(gone.cancelled());
        let mut leaving = pin!(shutdown.leaving.cancelled().fuse());
        let mut stop = pin!(shutdown.stop.cancelled().fuse());
        let mut checks = tokio::time::interval(self.sessions.ping_interval() / CHECKS);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut acknowledge = pin!(tokio::time::sleep(Duration::ZERO));
        let mut is_stopping = false;
        loop {
            if is_stopping && self.order.is_idle() {
                return End::Shutdown;
            }
            if let Some(by) = self.acknowledge_by.filter(|by| *by > acknowledge.deadline()) {
                acknowledge.as_mut().reset(by);
            }
            let event = tokio::select! {
                biased;
                done = self.running.next(), if !self.running.is_empty() => done.map_or(Ok(()), |done| self.ended(done)),
                message = incoming.next(), if !self.is_ending && !is_stopping => self.message(message),
                () = &mut replaced => Err(End::Rejected(Rejected::Replaced)),
                () = &mut gone => Err(End::Lost),
                () = &mut leaving => { self.outbox.leave(); Ok(()) }
                () = &mut stop => { is_stopping = true; Ok(()) }
                Ok(()) = rules.changed() => { self.renew_settings(); Ok(()) }
                () = &mut acknowledge, if self.acknowledge_by.is_some() => { self.flush_acknowledgement(); Ok(()) }
                _ = checks.tick() => if self.watch.check(&self.outbox) { Err(End::Silent) } else { Ok(()) },
            };
            if let Err(end) = event {
                return end;
            }
            if let Err(end) = self.burst(&mut incoming, is_stopping) {
                return end;
            }
        }
    }

    /// Handles what is ready, without waiting.
    fn burst<S>(&mut self, incoming: &mut Fuse<S>, is_stopping: bool) -> Result<(), End>
    where
        S: Stream<Item = Result<FromWorker, Status>> + Send + Unpin,
    {
        for _ in 0..BURST {
            match self.running.next().now_or_never() {
                Some(Some(done)) => self.ended(done)?,
                _ => break,
            }
        }
        for _ in 0..BURST {
            if self.is_ending || is_stopping {
                break;
            }
            match incoming.next().now_or_never() {
                Some(message) => self.message(message)?,
                None => break,
            }
        }
        Ok(())
    }

    fn message(&mut self, message: Option<Result<FromWorker, Status>>) -> Result<(), End> {
        match message {
            Some(Ok(message)) if message.hello.is_some() => {
                Err(End::Invalid(decode::invalid("hello", "only in the first message", "one more")))
            }
            Some(Ok(message)) => self.receive(message),
            // tonic returns a message that it cannot decode as an error of the stream.
            Some(Err(status)) if status.code() == tonic::Code::Internal => Err(End::Invalid(
                Status::invalid_argument(format!("a message is malformed: {}", status.message())),
            )),
            Some(Err(status)) if is_refusal(status.code()) => Err(End::Refused(status)),
            Some(Err(_)) | None => Err(End::Lost),
        }
    }

    /// Applies the parts of a message, or puts them into their order.
    fn receive(&mut self, message: FromWorker) -> Result<(), End> {
        self.watch.unheard = 0;
        let bytes = message.encoded_len();
        let charge = self.charge(bytes);
        let Parts { settlements, first_tokens, cancelled, admission, leases, goodbye } =
            decode::parts(message, self.registration.holder()).map_err(End::Invalid)?;
        if charge.is_none() && (!settlements.is_empty() || leases.is_some()) {
            return Err(End::Refused(exhausted()));
        }
        for mut settlement in settlements {
            settlement.charge.clone_from(&charge);
            if !self.acknowledged.received(settlement.number) {
                let (expected, got) = ("more than in the message before", settlement.number.to_string());
                return Err(End::Invalid(decode::invalid("first_settlement", expected, &got)));
            }
            self.order.push(Work::Settle(settlement));
        }
        if !first_tokens.is_empty() {
            let (calls, holder) = (self.sessions.calls.clone(), self.registration.holder().clone());
            self.sessions.tracker.spawn(async move { calls.first_tokens(&holder, first_tokens).await });
        }
        self.metrics().streams.cancels.inc_by(cancelled.len() as u64);
        for lease in cancelled {
            self.order.push(Work::Cancel(lease));
        }
        if let Some(admission) = admission {
            self.admit(admission, bytes, charge.clone())?;
        }
        if let Some(list) = leases {
            self.lists.push_back(charge);
            self.order.push(Work::List(list));
        }
        if goodbye {
            self.is_ending = true;
            self.order.push(Work::Goodbye);
        }
        self.start();
        let (work, lists, granted) = (self.order.work(), self.order.lists(), self.order.granted());
        match (work > WORK_MAX + LISTS_MAX, lists > LISTS_MAX, granted > GRANTED_MAX) {
            (true, ..) => Err(End::Exceeded("settlements: too many that are not acknowledged")),
            (_, true, _) => Err(End::Exceeded("leases: too many lists at once")),
            (.., true) => Err(End::Exceeded("leases: the worker lists its leases too rarely")),
            _ => Ok(()),
        }
    }

    /// Charges a message, until all its parts have ended. Returns `None` if there is no memory.
    fn charge(&self, bytes: usize) -> Option<Arc<Charge>> {
        let charge = self.sessions.memory.charge();
        if charge.add(bytes, bytes) {
            return Some(Arc::new(charge));
        }
        self.metrics().bounds.refused.memory.inc();
        None
    }

    fn admit(
        &mut self,
        Admission { lease, pool, request }: Admission,
        bytes: usize,
        charge: Option<Arc<Charge>>,
    ) -> Result<(), End> {
        if self.order.awaited() + self.outbox.waiting_answers() >= ADMITS_MAX {
            return Err(End::Exceeded("admit: more admissions than pending_admits_max"));
        }
        let refused = if self.order.pending() >= PENDING_MAX {
            Some(("admissions", "too many are in progress"))
        } else if bytes > ADMIT_BYTES_MAX && request.encoded_len() > ADMIT_BYTES_MAX {
            Some(("the message of an admission", "must be at most 262144 bytes"))
        } else if charge.is_none() {
            Some(("the memory for requests in progress", "try again later"))
        } else {
            None
        };
        if let Some((what, hint)) = refused {
            let error = DomainError::Full { what: what.into(), hint };
            self.answers.push(answers::on_stream(lease, Err(error)));
            return Ok(());
        }
        if !self.order.admission(lease, pool) {
            let (expected, got) = ("a lease without an admission in progress", lease.to_string());
            return Err(End::Invalid(decode::invalid("admit.lease", expected, &got)));
        }
        self.metrics().streams.admits_pending.inc();
        let (calls, holder) = (self.sessions.calls.clone(), self.registration.holder().clone());
        self.running.push(Box::pin(async move {
            let _charge = charge;
            Done::Admitted(lease, calls.admit(holder, lease, request, &MetadataMap::new()).await)
        }));
        Ok(())
    }

    /// Starts the work whose turn it is.
    fn start(&mut self) {
        while let Some(step) = self.order.next() {
            let (calls, holder) = (self.sessions.calls.clone(), self.registration.holder().clone());
            let registration = Arc::clone(&self.registration);
            let future: BoxFuture<'static, Done> = match step {
                Step::Settle(decode::Settlement { number, lease, pool, request, charge }) => {
                    let settle = calls.settle(holder, lease, pool, request, &MetadataMap::new());
                    // A settlement that failed is not repeated: its pool is unknown, or an embedded store failed.
                    Box::pin(settle.map(move |_| {
                        drop(charge);
                        Done::Settled(number)
                    }))
                }
                Step::Release { lease, pool } => Box::pin(async move {
                    calls.release(holder, lease, pool).await;
                    Done::Released
                }),
                Step::List(list) => Box::pin(async move {
                    // A list of an earlier stream must not replace the list of a later one.
                    match registration.renew().await {
                        Ok(()) => Done::Listed(Ok(calls.keep_alive(list).await)),
                        Err(rejected) => Done::Listed(Err(rejected)),
                    }
                }),
                Step::Goodbye(pools) => Box::pin(async move {
                    if registration.renew().await.is_ok() {
                        calls.keep_alive(HolderList::empty(registration.holder().clone(), pools)).await;
                    }
                    Done::Goodbye
                }),
            };
            self.running.push(future);
        }
    }

    /// Handles the end of an operation.
    fn ended(&mut self, done: Done) -> Result<(), End> {
        let mut acknowledged = 0;
        let mut end = Ok(());
        match done {
            Done::Admitted(lease, answer) => {
                self.metrics().streams.admits_pending.dec();
                if self.order.admission_ended(lease, is_granted(&answer)) {
                    self.answers.push(answers::on_stream(lease, answer));
                }
            }
            Done::Settled(number) => {
                self.order.work_ended();
                acknowledged = self.acknowledged.applied(number);
            }
            Done::Released => self.order.work_ended(),
            Done::Listed(listed) => {
                self.order.list_ended();
                self.lists.pop_front();
                match listed {
                    Ok(response) => self.outbox.repaired(response),
                    Err(rejected) => end = Err(End::Rejected(rejected)),
                }
            }
            Done::Goodbye => {
                self.order.list_ended();
                end = Err(End::Goodbye);
            }
        }
        self.start();
        self.progress(acknowledged);
        end
    }

    fn progress(&mut self, acknowledged: u64) {
        if acknowledged > 0 {
            self.metrics().streams.settlements_acknowledged.inc_by(acknowledged);
            self.outbox.acknowledge(self.acknowledged.through());
            self.acknowledge_by.get_or_insert_with(|| Instant::now() + ACKNOWLEDGE_WITHIN);
        }
        self.outbox.answers(&mut self.answers);
    }

    fn flush_acknowledgement(&mut self) {
        self.acknowledge_by = None;
        self.outbox.flush_acknowledgement();
    }

    fn renew_settings(&mut self) {
        let settings = self.sessions.settings();
        if settings != self.settings {
            self.settings.clone_from(&settings);
            self.outbox.settings(settings);
        }
    }

    /// Applies the settlements and cancellations that have been received. The worker sends those again that it does not
    /// know to be acknowledged, and settling is idempotent.
    async fn finish(mut self) {
        self.order.drop_lists();
        self.lists.truncate(1);
        self.start();
        while let Some(done) = self.running.next().await {
            // A stream that has ended cannot end again.
            let _ = self.ended(done);
        }
    }

    fn gateways(&self) -> &Gateways {
        &self.sessions.calls.admission.recorder.gateways
    }

    fn metrics(&self) -> &Metrics {
        &self.sessions.calls.admission.metrics
    }
}

impl Drop for WorkerStream {
    fn drop(&mut self) {
        let streams = &self.metrics().streams;
        streams.open.dec();
        streams.admits_pending.sub(self.order.pending() as i64);
    }
}

/// Returns whether the code is one of [`bounds`](super::super::bounds), which has stopped reading.
fn is_refusal(code: tonic::Code) -> bool {
    matches!(code, tonic::Code::ResourceExhausted | tonic::Code::DeadlineExceeded)
}

fn is_granted(answer: &Result<AdmitResponse, DomainError>) -> bool {
    matches!(answer, Ok(AdmitResponse { answer: Some(Answer::Admitted(_)) }))
}
