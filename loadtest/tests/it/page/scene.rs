//! Traffic of simulated gateway workers, which call the sidecars directly. Nothing connects to the endpoints, so there
//! can be hundreds of endpoints and thousands of consumers.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use evenkeel_proto::{
    HolderClient, HolderSecret,
    v1::{self as pb, admit_response::Answer, gateway_client::GatewayClient},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};

/// A simulated worker of a gateway.
pub(super) struct Worker {
    client: HolderClient<Channel>,
    holder: String,
    leases: AtomicU64,
}

#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) cluster: String,
    pub(super) candidates: Vec<pb::Candidate>,
    pub(super) consumer: String,
    pub(super) model: String,
    pub(super) session: String,
    pub(super) tokens: pb::Tokens,
    pub(super) lasts: Duration,
}

/// A worker of a gateway that lets requests pass without limits. It has no requests of its own.
pub(super) struct PassingWorker {
    to: mpsc::Sender<pb::FromWorker>,
    applied: mpsc::Receiver<()>,
}

impl PassingWorker {
    pub(super) async fn connect(url: &str, gateway: &str, number: usize) -> Result<Self, Status> {
        let channel = Endpoint::from_shared(url.to_owned()).unwrap().connect().await.unwrap();
        let (to, messages) = mpsc::channel(8);
        let holder = format!("passing-{number}");
        let hello = pb::Hello { holder, gateway: gateway.to_owned(), ..pb::Hello::default() };
        to.try_send(pb::FromWorker { hello: Some(hello), ..pb::FromWorker::default() }).unwrap();
        let from = GatewayClient::new(channel).connect(ReceiverStream::new(messages)).await?.into_inner();
        let (list_applied, applied) = mpsc::channel(8);
        tokio::spawn(read(from, to.clone(), list_applied));
        Ok(Self { to, applied })
    }

    /// Sends a list, and waits until the sidecar has applied it.
    pub(super) async fn list(&mut self, unanswered: pb::Unanswered) -> Result<(), Status> {
        let ended = || Status::unavailable("the stream has ended");
        let list = pb::KeepAliveRequest { unanswered: Some(unanswered), ..pb::KeepAliveRequest::default() };
        let message = pb::FromWorker { leases: Some(list), ..pb::FromWorker::default() };
        self.to.send(message).await.map_err(|_| ended())?;
        self.applied.recv().await.ok_or_else(ended)
    }
}

/// Answers the sidecar's pings, and reports each list that it has applied.
async fn read(
    mut from: Streaming<pb::ToWorker>,
    to: mpsc::Sender<pb::FromWorker>,
    list_applied: mpsc::Sender<()>,
) {
    while let Ok(Some(message)) = from.message().await {
        if message.repaired.is_some() && list_applied.send(()).await.is_err() {
            return;
        }
        let pong = pb::FromWorker { pong: message.ping, ..pb::FromWorker::default() };
        if message.ping > 0 && to.send(pong).await.is_err() {
            return;
        }
    }
}

/// Returns endpoints in this network, each with this cap.
pub(super) fn endpoints(network: &str, count: usize, cap: u32) -> Vec<pb::Candidate> {
    let address = |i: usize| format!("{network}.{}.{}:8000", i / 250, 10 + i % 250);
    (0..count).map(|i| pb::Candidate { address: address(i), weight: 1.0, cap }).collect()
}

impl Worker {
    pub(super) async fn connect(url: &str, holder: &str) -> Self {
        let channel = Endpoint::from_shared(url.to_owned()).unwrap().connect().await.unwrap();
        Self {
            client: HolderClient::new(HolderSecret::new(rand::random()).on(channel)),
            holder: holder.to_owned(),
            leases: AtomicU64::new(0),
        }
    }

    /// Sends Admit, waits for the duration of the request and sends Settle. Returns whether the request was admitted.
    pub(super) async fn send(&self, request: Request) -> Result<bool, tonic::Status> {
        let Request { cluster, candidates, consumer, model, session, tokens, lasts } = request;
        let lease = 1 + self.leases.fetch_add(1, Ordering::Relaxed);
        let pool = Some(pb::Pool { route: String::new(), cluster });
        let admit = pb::AdmitRequest {
            pool: pool.clone(),
            holder: self.holder.clone(),
            lease,
            candidates,
            subject: Some(pb::Subject { consumer, ..pb::Subject::default() }),
            model: model.clone(),
            prompt_bytes: 4 * tokens.input,
            session,
            request_id: format!("{}-{lease}", self.holder),
            ..pb::AdmitRequest::default()
        };
        let mut client = self.client.clone();
        let Some(Answer::Admitted(admitted)) = client.admit(admit).await?.into_inner().answer else {
            return Ok(false);
        };
        tokio::time::sleep(lasts).await;
        let settle = pb::SettleRequest {
            pool,
            holder: self.holder.clone(),
            lease,
            outcome: pb::Outcome::Success.into(),
            status: 200,
            tokens: Some(tokens),
            first_token_ms: 180,
            total_ms: lasts.as_millis() as u64,
            model,
            ticket: admitted.ticket,
            tokens_final: true,
            body_read: true,
            ..pb::SettleRequest::default()
        };
        client.settle(settle).await?;
        Ok(true)
    }
}
