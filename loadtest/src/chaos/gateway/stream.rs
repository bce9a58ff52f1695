//! A gateway that calls its sidecar over one stream, as the plugin does: it resumes after a lost stream, repeats
//! settlements until they are acknowledged, and asks again for admissions without an answer.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    time::{Duration, Instant},
};

use evenkeel_proto::v1::{
    FromWorker, Hello, SettleRequest, ToWorker, admit_answer::Answer, gateway_client::GatewayClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Endpoint};

use super::{
    super::record::Served,
    Mode, Worker,
    traffic::{Plan, Traffic},
};

/// Maximum number of settlements and cancellations in a message.
const BATCH_MAX: usize = 256;
/// The plugin's bounds for connecting, and for the delay between attempts.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
const BACKOFF: std::ops::RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_secs(1);
/// Messages that wait for the connection. The traffic is far below.
const UNSENT_MAX: usize = 4096;

struct Link {
    to: mpsc::Sender<FromWorker>,
    from: Streaming<ToWorker>,
    /// A stream that is silent for this long is dead.
    silence_max: Duration,
}

struct Stream {
    worker: Worker,
    traffic: Traffic,
    link: Option<Link>,
    secret: Vec<u8>,
    sidecar: usize,
    failures: u32,
    retry_at: Instant,
    heard_at: Instant,
    interval: Duration,
    list_at: Instant,
    ask_at: Instant,
    /// When the requests in flight end.
    ends: BinaryHeap<(Reverse<Instant>, u64)>,
    plans: HashMap<u64, Plan>,
    /// Cancelled leases with their consumers, until the sidecar has applied a list that follows them.
    cancelled: Vec<(u64, usize)>,
    /// How many of `cancelled` precede the last list.
    cancelled_before_list: usize,
}

pub(super) async fn run(worker: Worker) {
    let now = Instant::now();
    let mut stream = Stream {
        traffic: Traffic::new(worker.seed),
        link: None,
        secret: Vec::new(),
        sidecar: worker.home,
        failures: 0,
        retry_at: now,
        heard_at: now,
        interval: Duration::from_secs(1),
        list_at: now,
        ask_at: now,
        ends: BinaryHeap::new(),
        plans: HashMap::new(),
        cancelled: Vec::new(),
        cancelled_before_list: 0,
        worker,
    };
    let mut modes = stream.worker.mode.clone();
    loop {
        let now = Instant::now();
        let mode = *modes.borrow_and_update();
        stream.act(now, mode);
        if stream.link.is_none() && now >= stream.retry_at {
            stream.connect().await;
            continue;
        }
        if mode == Mode::Leave && stream.worker.state.lock().is_quiet() && stream.link.is_some() {
            return stream.say_goodbye().await;
        }
        let due = stream.due(mode);
        tokio::select! {
            changed = modes.changed() => if changed.is_err() { return },
            message = next(&mut stream.link) => stream.receive(message),
            () = tokio::time::sleep_until(due.into()) => {}
        }
    }
}

async fn next(link: &mut Option<Link>) -> Result<ToWorker, Status> {
    match link {
        Some(link) => {
            let message = link.from.message().await?;
            message.ok_or_else(|| Status::ok("the stream has ended"))
        }
        None => std::future::pending().await,
    }
}

impl Stream {
    /// Does what is due.
    fn act(&mut self, now: Instant, mode: Mode) {
        if self.link.as_ref().is_some_and(|link| now >= self.heard_at + link.silence_max) {
            self.lose(None);
        }
        self.give_up(now);
        if mode == Mode::Run && now >= self.ask_at {
            self.ask_at = now + self.traffic.pause();
            self.ask();
        }
        if mode != Mode::Quiet {
            while self.ends.peek().is_some_and(|(Reverse(at), _)| mode == Mode::Leave || *at <= now) {
                let Some((_, lease)) = self.ends.pop() else { break };
                let output = self.plans.remove(&lease).map_or(1, |plan| plan.output);
                let settlement = self.worker.state.lock().end(lease, output);
                if let Some((number, settlement)) = settlement {
                    self.send_settlements(number, vec![settlement]);
                }
            }
        }
        if self.link.is_some() && now >= self.list_at {
            self.send_list(now);
        }
    }

    /// Returns when something is due next.
    fn due(&self, mode: Mode) -> Instant {
        let mut due = if self.link.is_some() { self.list_at } else { self.retry_at };
        if let Some(link) = &self.link {
            due = due.min(self.heard_at + link.silence_max);
        }
        if mode == Mode::Run {
            due = due.min(self.ask_at);
        }
        if mode != Mode::Quiet {
            due = self.ends.peek().map_or(due, |(Reverse(at), _)| due.min(*at));
        }
        let give_ups = self.worker.state.lock().pending.values().filter_map(|p| p.give_up_at).min();
        give_ups.map_or(due, |at| due.min(at))
    }

    fn ask(&mut self) {
        let plan = self.traffic.plan();
        let lease = self.worker.state.lock().ask(plan.consumer, plan.patience);
        self.plans.insert(lease, plan);
        self.send_admit(lease);
    }

    fn give_up(&mut self, now: Instant) {
        let due: Vec<u64> = {
            let state = self.worker.state.lock();
            let due = state.pending.iter().filter(|(_, p)| p.give_up_at.is_some_and(|at| at <= now));
            due.map(|(lease, _)| *lease).collect()
        };
        for lease in due {
            self.plans.remove(&lease);
            let Some(consumer) = self.worker.state.lock().give_up(lease) else { continue };
            if self.link.is_some() {
                self.cancelled.push((lease, consumer));
                self.send(FromWorker { cancelled: vec![lease], ..FromWorker::default() });
            } else {
                self.end_unsent(lease, consumer);
            }
        }
    }

    fn end_unsent(&mut self, lease: u64, consumer: usize) {
        let (number, settlement) = self.worker.state.lock().end_unsent(lease, consumer);
        self.send_settlements(number, vec![settlement]);
    }

    fn send(&self, message: FromWorker) {
        if let Some(link) = &self.link {
            // A stream that has ended, or whose sidecar reads nothing, is found silent.
            let _ = link.to.try_send(message);
        }
    }

    fn send_admit(&self, lease: u64) {
        let admit = self.worker.state.lock().admit_request(lease, "");
        self.send(FromWorker { admit, ..FromWorker::default() });
    }

    fn send_settlements(&self, first_settlement: u64, settlements: Vec<SettleRequest>) {
        if self.link.is_some() {
            let mut state = self.worker.state.lock();
            (first_settlement..).zip(&settlements).for_each(|(number, _)| state.sent(number, self.sidecar));
        }
        self.send(FromWorker { settlements, first_settlement, ..FromWorker::default() });
    }

    fn send_list(&mut self, now: Instant) {
        let leases = Some(self.worker.state.lock().list(""));
        self.send(FromWorker { leases, ..FromWorker::default() });
        self.cancelled_before_list = self.cancelled.len();
        self.list_at = now + self.interval;
    }

    /// Connects or resumes. On failure, the next attempt goes to the next sidecar.
    async fn connect(&mut self) {
        match tokio::time::timeout(CONNECT_WITHIN, self.open()).await {
            Ok(Ok(())) => {
                self.failures = 0;
                self.worker.state.lock().connected = Some(self.sidecar);
            }
            Ok(Err(status)) => self.lose(Some(&status)),
            Err(_) => self.lose(None),
        }
    }

    async fn open(&mut self) -> Result<(), Status> {
        let unavailable = |error: tonic::transport::Error| Status::unavailable(error.to_string());
        let url = self.worker.sidecars[self.sidecar].clone();
        let channel =
            Endpoint::from_shared(url).map_err(unavailable)?.connect().await.map_err(unavailable)?;
        let (to, messages) = mpsc::channel(UNSENT_MAX);
        let holder = self.worker.holder.clone();
        let hello = Hello { holder, secret: self.secret.clone(), ..Hello::default() };
        let _ = to.try_send(FromWorker { hello: Some(hello), ..FromWorker::default() });
        let mut from = GatewayClient::new(channel).connect(ReceiverStream::new(messages)).await?.into_inner();
        let welcome = from.message().await?.and_then(|message| message.welcome);
        let welcome = welcome.ok_or_else(|| Status::internal("the first message is no welcome"))?;
        let resumes = !std::mem::replace(&mut self.secret, welcome.secret).is_empty();
        let silence_max = 2 * Duration::from_millis(welcome.ping_interval_ms.into());
        if let Some(settings) = welcome.settings.filter(|settings| settings.interval_ms > 0) {
            self.interval = Duration::from_millis(settings.interval_ms.into());
        }
        self.heard_at = Instant::now();
        self.link = Some(Link { to, from, silence_max });
        self.resume(resumes);
        Ok(())
    }

    /// Repeats settlements, lists the leases, and asks again, in this order.
    fn resume(&mut self, resumes: bool) {
        let ended: Vec<_> = self.worker.state.lock().ended.iter().cloned().collect();
        for part in ended.chunks(BATCH_MAX) {
            let settlements = part.iter().map(|(_, ended)| ended.request.clone()).collect();
            self.send_settlements(part[0].0, settlements);
        }
        let now = Instant::now();
        if resumes {
            self.send_list(now);
        }
        let pending: Vec<u64> = self.worker.state.lock().pending.keys().copied().collect();
        for lease in pending {
            if let Some(pending) = self.worker.state.lock().pending.get_mut(&lease) {
                pending.repeated_at = now;
                self.worker.record.repeated(pending.consumer);
            }
            self.send_admit(lease);
        }
    }

    /// Drops the stream, and decides where and when to connect again.
    fn lose(&mut self, status: Option<&Status>) {
        let forbidden =
            [Code::PermissionDenied, Code::InvalidArgument, Code::ResourceExhausted, Code::Internal];
        if let Some(status) = status.filter(|status| forbidden.contains(&status.code())) {
            let what = format!("the stream of {} ended with {status}", self.worker.holder);
            self.worker.record.problem(what);
        }
        if self.link.take().is_some() {
            let mut state = self.worker.state.lock();
            state.connected = None;
            for pending in state.pending.values() {
                self.worker.record.admission(pending.repeated_at, Served::Unanswered);
            }
        }
        for (lease, consumer) in std::mem::take(&mut self.cancelled) {
            self.end_unsent(lease, consumer);
        }
        self.cancelled_before_list = 0;
        self.failures += 1;
        self.sidecar = (self.sidecar + 1) % self.worker.sidecars.len();
        let doublings = self.failures.saturating_sub(2).min(10);
        let delay = (*BACKOFF.start() * 2_u32.pow(doublings)).min(*BACKOFF.end());
        let delay = if self.failures < 2 { Duration::ZERO } else { self.traffic.jitter(delay) };
        self.retry_at = Instant::now() + delay;
    }

    fn receive(&mut self, message: Result<ToWorker, Status>) {
        let message = match message {
            Ok(message) => message,
            Err(status) => return self.lose(Some(&status)),
        };
        self.heard_at = Instant::now();
        if message.ping > 0 {
            self.send(FromWorker { pong: message.ping, ..FromWorker::default() });
        }
        for answer in message.answers {
            let lease = answer.lease;
            match answer.answer {
                Some(Answer::Response(response)) => self.answered(lease, response),
                other => {
                    let holder = &self.worker.holder;
                    self.worker.record.problem(format!("admission {lease} of {holder}: {other:?}"));
                    self.worker.state.lock().give_up(lease);
                    self.plans.remove(&lease);
                }
            }
        }
        if message.settled_through > 0 {
            let mut state = self.worker.state.lock();
            while let Some(number) = state.ended.front().map(|(number, _)| *number)
                && number <= message.settled_through
            {
                state.acknowledged(number, self.sidecar, &self.worker.record);
            }
        }
        if let Some(repaired) = message.repaired {
            for (_, consumer) in self.cancelled.drain(..self.cancelled_before_list) {
                self.worker.record.abandoned(consumer);
            }
            self.cancelled_before_list = 0;
            let interval = Duration::from_millis(repaired.interval_ms.into());
            self.list_at = self.list_at.min(self.heard_at + interval);
        }
    }

    fn answered(&mut self, lease: u64, response: evenkeel_proto::v1::AdmitResponse) {
        let in_flight = self.worker.state.lock().answered(lease, response, &self.worker.record);
        match self.plans.get(&lease) {
            Some(plan) if in_flight => {
                self.ends.push((Reverse(Instant::now() + plan.runs), lease));
                // The answers to the other requests begin with their end.
                if lease.is_multiple_of(2) {
                    let first_tokens = self.worker.state.lock().begin_answer(lease).into_iter().collect();
                    self.send(FromWorker { first_tokens, ..FromWorker::default() });
                }
            }
            _ => {
                self.plans.remove(&lease);
            }
        }
    }

    /// Waits until the sidecar has ended the stream.
    async fn say_goodbye(&mut self) {
        self.send(FromWorker { goodbye: true, ..FromWorker::default() });
        while next(&mut self.link).await.is_ok() {}
        for (_, consumer) in std::mem::take(&mut self.cancelled) {
            self.worker.record.abandoned(consumer);
        }
        self.worker.state.lock().connected = None;
    }
}
