//! A gateway worker with a stream, as the plugin is one: it numbers leases and settlements, resumes after a lost stream,
//! and knows which requests are in flight.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use evenkeel_proto::v1::{
    self as pb, FromWorker, Hello, ToWorker, admit_answer, admit_response::Answer,
    gateway_client::GatewayClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Endpoint};

use super::requests;

const LIMIT: Duration = Duration::from_secs(20);
/// Tokens of each settled request.
pub(crate) const TOKENS: u64 = 15;

/// A stream on a connection of its own.
pub(crate) struct Link {
    to: mpsc::Sender<FromWorker>,
    from: Streaming<ToWorker>,
    pub(crate) welcome: pb::Welcome,
    /// Whether pings get no pong.
    pub(crate) mute: bool,
}

impl Link {
    /// Opens a stream on a new connection, and waits for the welcome.
    pub(crate) async fn open(url: &str, first: FromWorker) -> Result<Self, Status> {
        let failed = |error: tonic::transport::Error| Status::unavailable(error.to_string());
        // The smallest window, so that flow control takes part in the tests.
        let endpoint = Endpoint::from_shared(url.to_owned()).unwrap().initial_stream_window_size(65_535);
        let channel = endpoint.connect().await.map_err(failed)?;
        let (to, messages) = mpsc::channel(4096);
        to.try_send(first).unwrap();
        let mut client = GatewayClient::new(channel);
        let mut from = client.connect(ReceiverStream::new(messages)).await?.into_inner();
        let welcome = from.message().await?.and_then(|message| message.welcome);
        let welcome = welcome.ok_or_else(|| Status::internal("the first message is no welcome"))?;
        Ok(Self { to, from, welcome, mute: false })
    }

    pub(crate) async fn send(&self, message: FromWorker) {
        // A stream that has ended reports it to the reader.
        let _ = self.to.send(message).await;
    }

    /// Returns the next message, or the status with which the stream has ended. Answers pings.
    pub(crate) async fn next(&mut self) -> Result<ToWorker, Status> {
        let next = tokio::time::timeout(LIMIT, self.from.message()).await;
        let next = next.map_err(|_| Status::deadline_exceeded("the test waited too long"))??;
        let message = next.ok_or_else(|| Status::ok("the stream has ended"))?;
        if message.ping > 0 && !self.mute {
            self.send(FromWorker { pong: message.ping, ..FromWorker::default() }).await;
        }
        Ok(message)
    }

    /// Reads until the stream ends, and returns its status.
    pub(crate) async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }
}

pub(crate) fn hello(holder: &str, secret: &[u8]) -> FromWorker {
    let hello = Hello { holder: holder.into(), secret: secret.to_vec(), ..Hello::default() };
    FromWorker { hello: Some(hello), ..FromWorker::default() }
}

/// A worker that sends requests to one cluster, each for the consumer of its name.
pub(crate) struct Worker {
    pub(crate) url: String,
    pub(crate) holder: String,
    pub(crate) secret: Vec<u8>,
    cluster: String,
    pub(crate) link: Option<Link>,
    pub(crate) last_lease: u64,
    last_settlement: u64,
    /// Requests in flight with their endpoints and tickets.
    pub(crate) live: BTreeMap<u64, (String, Vec<u8>)>,
    /// Admissions without an answer.
    pub(crate) pending: BTreeSet<u64>,
    /// Admissions that the worker has given up. It says so again on each stream.
    cancelled: Vec<u64>,
    /// Settlements that are not acknowledged.
    pub(crate) unacknowledged: VecDeque<(u64, pb::SettleRequest)>,
    /// Number of requests that ended after they had been sent upstream.
    pub(crate) ended: u64,
    pub(crate) denied: u64,
    /// The response to each list.
    pub(crate) repaired: Vec<pb::KeepAliveResponse>,
    /// Whether the sidecar has asked the worker to leave.
    pub(crate) leave: bool,
}

impl Worker {
    pub(crate) fn new(url: &str, holder: &str, cluster: &str) -> Self {
        Self {
            url: url.to_owned(),
            holder: holder.to_owned(),
            secret: Vec::new(),
            cluster: cluster.to_owned(),
            link: None,
            last_lease: 0,
            last_settlement: 0,
            live: BTreeMap::new(),
            pending: BTreeSet::new(),
            cancelled: Vec::new(),
            unacknowledged: VecDeque::new(),
            ended: 0,
            denied: 0,
            repaired: Vec::new(),
            leave: false,
        }
    }

    /// Starts a worker and connects it.
    pub(crate) async fn start(url: &str, holder: &str, cluster: &str) -> Self {
        let mut worker = Self::new(url, holder, cluster);
        worker.connect().await.unwrap();
        worker
    }

    /// Connects or resumes: says who the worker is, repeats settlements, lists the leases, and asks again.
    pub(crate) async fn connect(&mut self) -> Result<(), Status> {
        self.link = None;
        self.leave = false;
        let mut first = hello(&self.holder, &self.secret);
        let resumes = !self.secret.is_empty();
        let settlements: Vec<_> = self.unacknowledged.iter().cloned().collect();
        let mut parts = settlements.chunks(256);
        let batch = |part: &[(u64, pb::SettleRequest)]| FromWorker {
            first_settlement: part[0].0,
            settlements: part.iter().map(|(_, request)| request.clone()).collect(),
            ..FromWorker::default()
        };
        if let Some(part) = parts.next() {
            let FromWorker { settlements, first_settlement, .. } = batch(part);
            (first.settlements, first.first_settlement) = (settlements, first_settlement);
        }
        let link = Link::open(&self.url, first).await?;
        self.secret.clone_from(&link.welcome.secret);
        self.link = Some(link);
        for part in parts {
            self.send(batch(part)).await;
        }
        if resumes {
            for cancelled in self.cancelled.chunks(256).map(<[u64]>::to_vec) {
                self.send(FromWorker { cancelled, ..FromWorker::default() }).await;
            }
            self.list().await;
        }
        for lease in self.pending.clone() {
            self.send_admit(lease).await;
        }
        Ok(())
    }

    /// Loses the stream, and does not resume.
    pub(crate) fn cut(&mut self) {
        self.link = None;
    }

    pub(crate) async fn send(&self, message: FromWorker) {
        if let Some(link) = &self.link {
            link.send(message).await;
        }
    }

    pub(crate) fn admit_request(&self, lease: u64) -> pb::AdmitRequest {
        pb::AdmitRequest {
            holder: String::new(),
            subject: Some(requests::subject(&self.holder)),
            candidates: vec![requests::candidate("a:1", 1.0, 0), requests::candidate("b:1", 1.0, 0)],
            ..requests::admit(&self.cluster, lease)
        }
    }

    async fn send_admit(&self, lease: u64) {
        let admit = Some(self.admit_request(lease));
        self.send(FromWorker { admit, ..FromWorker::default() }).await;
    }

    /// Asks for an admission, and does not wait for the answer.
    pub(crate) async fn ask(&mut self) -> u64 {
        self.last_lease += 1;
        self.pending.insert(self.last_lease);
        self.send_admit(self.last_lease).await;
        self.last_lease
    }

    /// Asks for an admission, and waits until the request is in flight.
    pub(crate) async fn admit(&mut self) -> u64 {
        let lease = self.ask().await;
        while self.pending.contains(&lease) {
            self.receive().await.unwrap();
        }
        assert!(self.live.contains_key(&lease), "not admitted: {lease}");
        lease
    }

    /// Gives up an admission.
    pub(crate) async fn cancel(&mut self, lease: u64) {
        assert!(self.pending.remove(&lease));
        self.cancelled.push(lease);
        self.send(FromWorker { cancelled: vec![lease], ..FromWorker::default() }).await;
    }

    /// Returns the settlement of a request. A pending request has not been sent upstream.
    fn settlement(&mut self, lease: u64) -> (u64, pb::SettleRequest) {
        self.last_settlement += 1;
        let request = match self.live.remove(&lease) {
            Some((_, ticket)) => {
                self.ended += 1;
                requests::settle_success(lease, ticket, TOKENS - 5, 5)
            }
            None => {
                assert!(self.pending.remove(&lease));
                let outcome = pb::Outcome::NotSent.into();
                pb::SettleRequest { outcome, ..requests::settle(&self.cluster, lease) }
            }
        };
        let pool = Some(requests::pool(&self.cluster));
        let request = pb::SettleRequest { holder: String::new(), pool, ..request };
        self.unacknowledged.push_back((self.last_settlement, request.clone()));
        (self.last_settlement, request)
    }

    /// Ends requests, in one message, and does not wait for the acknowledgement.
    pub(crate) async fn settle(&mut self, leases: &[u64]) {
        let settlements: Vec<_> = leases.iter().map(|lease| self.settlement(*lease)).collect();
        let first_settlement = settlements[0].0;
        let settlements = settlements.into_iter().map(|(_, request)| request).collect();
        self.send(FromWorker { settlements, first_settlement, ..FromWorker::default() }).await;
    }

    pub(crate) fn leases(&self) -> pb::KeepAliveRequest {
        let live = self.live.iter().map(|(lease, (endpoint, _))| (*lease, Some(&**endpoint)));
        let mut leases: Vec<_> = live.chain(self.pending.iter().map(|lease| (*lease, None))).collect();
        leases.sort_unstable();
        let list = requests::keep_alive(self.last_lease, vec![requests::held(&self.cluster, &leases)]);
        pb::KeepAliveRequest { holder: String::new(), ..list }
    }

    /// Sends the list of leases, and does not wait for the response.
    pub(crate) async fn list(&mut self) {
        let leases = Some(self.leases());
        self.send(FromWorker { leases, ..FromWorker::default() }).await;
    }

    /// Sends the list, and returns the response to it.
    pub(crate) async fn listed(&mut self) -> pb::KeepAliveResponse {
        // A settlement is acknowledged after the earlier lists are applied, and after the response to them has left.
        let lease = self.ask().await;
        self.settle(&[lease]).await;
        self.quiet().await.unwrap();
        let before = self.repaired.len();
        self.list().await;
        while self.repaired.len() == before {
            self.receive().await.unwrap();
        }
        self.repaired.pop().unwrap()
    }

    /// Waits for a message and remembers what it says.
    pub(crate) async fn receive(&mut self) -> Result<ToWorker, Status> {
        let Some(link) = &mut self.link else { return Err(Status::new(Code::Unavailable, "no stream")) };
        let message = link.next().await?;
        for answer in &message.answers {
            if !self.pending.remove(&answer.lease) {
                continue; // given up; the cancellation crossed the answer
            }
            match answer.answer.clone() {
                Some(admit_answer::Answer::Response(response)) => match response.answer {
                    Some(Answer::Admitted(admitted)) => {
                        self.live.insert(answer.lease, (admitted.endpoint, admitted.ticket));
                    }
                    _ => self.denied += 1,
                },
                other => panic!("{other:?}"),
            }
        }
        if message.settled_through > 0 {
            let through = message.settled_through;
            self.unacknowledged.retain(|(number, _)| *number > through);
        }
        self.repaired.extend(message.repaired.clone());
        self.leave |= message.leave;
        Ok(message)
    }

    /// Waits until every admission has its answer and every settlement is acknowledged.
    pub(crate) async fn quiet(&mut self) -> Result<(), Status> {
        while !self.pending.is_empty() || !self.unacknowledged.is_empty() {
            self.receive().await?;
        }
        Ok(())
    }
}
