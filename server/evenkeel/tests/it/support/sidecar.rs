//! A sidecar in this process, on free ports, with real clients.

use std::sync::Arc;

use evenkeel::app::{self, Addresses, Listeners};
use evenkeel_config::Config;
use evenkeel_proto::v1::{
    self as pb, admit_response::Answer, gateway_client::GatewayClient, inspect_client::InspectClient,
};
use tokio::{sync::oneshot, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

pub(crate) struct Sidecar {
    pub(crate) addresses: Addresses,
    pub(crate) gateway: GatewayClient<Channel>,
    pub(crate) inspect: InspectClient<Channel>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) task: JoinHandle<anyhow::Result<()>>,
}

impl Sidecar {
    /// `yaml` without its `listen`.
    pub(crate) async fn start(yaml: &str) -> Self {
        let listen = "listen: {grpc: '127.0.0.1:0', http: '127.0.0.1:0'}\n";
        Self::start_at(&format!("{listen}{yaml}")).await
    }

    pub(crate) async fn start_at(yaml: &str) -> Self {
        let config = Config::parse(yaml).unwrap();
        let listeners = Listeners::bind(&config).await.unwrap();
        let shutdown = CancellationToken::new();
        let (ready, is_ready) = oneshot::channel();
        let announce = move |addresses: &Addresses| {
            let _ = ready.send(addresses.clone());
            Ok(())
        };
        let task = tokio::spawn(app::run(config, listeners, announce, shutdown.clone()));
        let addresses = is_ready.await.expect("the sidecar starts");
        let grpc = format!("http://{}", addresses.grpc.as_ref().unwrap());
        let channel = Channel::from_shared(grpc).unwrap().connect().await.unwrap();
        let (gateway, inspect) = (GatewayClient::new(channel.clone()), InspectClient::new(channel));
        Self { addresses, gateway, inspect, shutdown, task }
    }

    pub(crate) async fn admit(&self, cluster: &str, holder: &str, lease: u64) -> Answer {
        let request = pb::AdmitRequest {
            pool: Some(pool(cluster)),
            holder: holder.to_owned(),
            lease,
            ..pb::AdmitRequest::default()
        };
        self.gateway.clone().admit(request).await.unwrap().into_inner().answer.unwrap()
    }

    /// Admits and expects an endpoint.
    pub(crate) async fn lease(&self, cluster: &str, holder: &str, lease: u64) -> Arc<str> {
        match self.admit(cluster, holder, lease).await {
            Answer::Admitted(admitted) => admitted.endpoint.into(),
            other => panic!("not admitted: {other:?}"),
        }
    }

    pub(crate) async fn settle(&self, cluster: &str, holder: &str, lease: u64) -> bool {
        let request = pb::SettleRequest {
            pool: Some(pool(cluster)),
            holder: holder.to_owned(),
            lease,
            ..pb::SettleRequest::default()
        };
        self.gateway.clone().settle(request).await.unwrap().into_inner().released
    }

    /// Says that `holder` has exactly `leases`, having issued numbers up to `issued_through`.
    pub(crate) async fn keep_alive(
        &self,
        cluster: &str,
        holder: &str,
        issued_through: u64,
        leases: &[(u64, Option<&str>)],
    ) -> pb::KeepAliveResponse {
        let held = pb::HeldPool {
            pool: Some(pool(cluster)),
            endpoints: leases.iter().map(|(_, endpoint)| endpoint.unwrap_or("-").to_owned()).collect(),
            leases: leases.iter().map(|(lease, _)| *lease).collect(),
            endpoint_of: leases
                .iter()
                .zip(1..)
                .map(|((_, endpoint), i)| if endpoint.is_some() { i } else { 0 })
                .collect(),
            tickets: Vec::new(),
        };
        let request = pb::KeepAliveRequest { holder: holder.to_owned(), issued_through, pools: vec![held] };
        self.gateway.clone().keep_alive(request).await.unwrap().into_inner()
    }

    pub(crate) async fn pool(&self, cluster: &str) -> pb::PoolState {
        let request = pb::GetPoolRequest { cluster: cluster.into(), ..pb::GetPoolRequest::default() };
        self.inspect.clone().get_pool(request).await.unwrap().into_inner()
    }

    /// GET of a path on the HTTP port: status and body.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        use http_body_util::{BodyExt as _, Empty};
        use hyper_util::{client::legacy::Client, rt::TokioExecutor};
        let client = Client::builder(TokioExecutor::new()).build_http::<Empty<axum::body::Bytes>>();
        let uri = format!("http://{}{path}", self.addresses.http).parse().unwrap();
        let response = client.get(uri).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }
}

pub(crate) fn pool(cluster: &str) -> pb::Pool {
    pb::Pool { route: String::new(), cluster: cluster.to_owned() }
}
