//! A sidecar in the process of the test, on free ports, with real clients.

use std::{sync::Arc, time::Duration};

use evenkeel::app::{self, Addresses, Listeners};
use evenkeel_config::Config;
use evenkeel_proto::{
    HolderClient, HolderSecret,
    v1::{self as pb, admit_response::Answer, inspect_client::InspectClient},
};
use tokio::{sync::oneshot, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::{
    IntoRequest,
    transport::{Channel, Endpoint},
};

use super::{http, requests};

pub(crate) struct Sidecar {
    pub(crate) addresses: Addresses,
    /// Sends the same secret for every holder, to every sidecar.
    pub(crate) gateway: HolderClient<Channel>,
    pub(crate) inspect: InspectClient<Channel>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<anyhow::Result<()>>,
}

async fn connect(addresses: &Addresses) -> Channel {
    let grpc = format!("http://{}", addresses.grpc.as_ref().unwrap());
    Endpoint::from_shared(grpc).unwrap().connect().await.unwrap()
}

/// A sidecar without clients.
pub(crate) struct Running {
    pub(crate) addresses: Addresses,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<anyhow::Result<()>>,
}

/// Starts a sidecar, and waits until it serves.
pub(crate) async fn run(config: Config) -> Running {
    let listeners = Listeners::bind(&config).await.unwrap();
    let shutdown = CancellationToken::new();
    let (ready, is_ready) = oneshot::channel();
    let announce = move |addresses: &Addresses| {
        let _ = ready.send(addresses.clone());
        Ok(())
    };
    let task = tokio::spawn(app::run(config, listeners, announce, shutdown.clone()));
    let addresses = is_ready.await.expect("the sidecar starts");
    Running { addresses, shutdown, task }
}

impl Sidecar {
    /// Starts a sidecar. The configuration must have no section `listen`.
    pub(crate) async fn start(yaml: &str) -> Self {
        let listen = "listen: {grpc: '127.0.0.1:0', http: '127.0.0.1:0'}\n";
        Self::start_at(&format!("{listen}{yaml}")).await
    }

    /// Starts a sidecar with a complete configuration.
    pub(crate) async fn start_at(yaml: &str) -> Self {
        let Running { addresses, shutdown, task } = run(Config::parse(yaml).unwrap()).await;
        let channel = connect(&addresses).await;
        let gateway = HolderClient::new(HolderSecret::new([5; 16]).on(channel.clone()));
        let inspect = InspectClient::new(channel);
        Self { addresses, gateway, inspect, shutdown, task }
    }

    /// Returns the address that gRPC clients connect to.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addresses.grpc.as_ref().unwrap())
    }

    /// Opens a connection of its own.
    pub(crate) async fn channel(&self) -> Channel {
        connect(&self.addresses).await
    }

    /// Sends an Admit, such as one of [`requests`].
    pub(crate) async fn send(&self, request: impl IntoRequest<pb::AdmitRequest>) -> Answer {
        self.gateway.clone().admit(request).await.unwrap().into_inner().answer.unwrap()
    }

    /// Sends an Admit that must be admitted.
    pub(crate) async fn admitted(&self, request: impl IntoRequest<pb::AdmitRequest>) -> pb::Admitted {
        match self.send(request).await {
            Answer::Admitted(admitted) => admitted,
            other => panic!("not admitted: {other:?}"),
        }
    }

    /// Sends an Admit that must be denied.
    pub(crate) async fn denied(&self, request: impl IntoRequest<pb::AdmitRequest>) -> pb::Denied {
        match self.send(request).await {
            Answer::Denied(denied) => denied,
            other => panic!("not denied: {other:?}"),
        }
    }

    /// Sends an Admit for an endpoint of a pool.
    pub(crate) async fn admit(&self, cluster: &str, holder: &str, lease: u64) -> Answer {
        self.send(pb::AdmitRequest { holder: holder.to_owned(), ..requests::admit(cluster, lease) }).await
    }

    /// Sends an Admit for an endpoint of a pool. It must be admitted. Returns the endpoint.
    pub(crate) async fn lease(&self, cluster: &str, holder: &str, lease: u64) -> Arc<str> {
        let request = pb::AdmitRequest { holder: holder.to_owned(), ..requests::admit(cluster, lease) };
        self.admitted(request).await.endpoint.into()
    }

    /// Sends a Settle, such as one of [`requests`]. Returns whether it released a lease.
    pub(crate) async fn end(&self, request: pb::SettleRequest) -> bool {
        self.gateway.clone().settle(request).await.unwrap().into_inner().released
    }

    /// Settles a lease. Returns whether the lease existed.
    pub(crate) async fn settle(&self, cluster: &str, holder: &str, lease: u64) -> bool {
        self.end(pb::SettleRequest { holder: holder.to_owned(), ..requests::settle(cluster, lease) }).await
    }

    /// Sends a KeepAlive: `holder` has exactly `leases`, and has issued numbers up to `issued_through`.
    pub(crate) async fn keep_alive(
        &self,
        cluster: &str,
        holder: &str,
        issued_through: u64,
        leases: &[(u64, Option<&str>)],
    ) -> pb::KeepAliveResponse {
        let request = requests::keep_alive(issued_through, vec![requests::held(cluster, leases)]);
        let request = pb::KeepAliveRequest { holder: holder.to_owned(), ..request };
        self.gateway.clone().keep_alive(request).await.unwrap().into_inner()
    }

    /// Repeats the KeepAlive of a holder with these leases, until the result is dropped.
    pub(crate) fn alive(&self, cluster: &str, holder: &str, leases: &[(u64, Option<&str>)]) -> Alive {
        let issued_through = leases.last().map_or(0, |(lease, _)| *lease);
        let request = requests::keep_alive(issued_through, vec![requests::held(cluster, leases)]);
        let request = pb::KeepAliveRequest { holder: holder.to_owned(), ..request };
        let mut gateway = self.gateway.clone();
        Alive(tokio::spawn(async move {
            loop {
                // A stopping sidecar does not respond.
                let _ = gateway.keep_alive(request.clone()).await;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }))
    }

    pub(crate) async fn pool(&self, cluster: &str) -> pb::PoolState {
        let request = pb::GetPoolRequest { cluster: cluster.into(), ..pb::GetPoolRequest::default() };
        self.inspect.clone().get_pool(request).await.unwrap().into_inner()
    }

    /// Requests a path of the HTTP port, and returns status and body.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        http::get(&self.addresses.http, path).await
    }

    /// Returns the value of one metric. `name` includes the labels, as `/metrics` prints them.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        http::metric(&self.addresses.http, name).await
    }
}

/// A holder that sends KeepAlives until this value is dropped.
pub(crate) struct Alive(JoinHandle<()>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.abort();
    }
}
