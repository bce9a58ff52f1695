//! A gRPC server with constant responses. Its throughput is the upper bound for a sidecar over the same transport. It
//! implements `evenkeel.v1.Gateway` and Envoy's rate limit service, so that the same client can call this server and a
//! sidecar.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use evenkeel_proto::{
    rate_limit_service::{
        RateLimitRequest, RateLimitResponse,
        rate_limit_response::{Code, DescriptorStatus, RateLimit, rate_limit::Unit},
        rate_limit_service_server::{RateLimitService, RateLimitServiceServer},
    },
    v1::{
        AdmitRequest, AdmitResponse, Admitted, Basis, FromWorker, KeepAliveRequest, KeepAliveResponse,
        ReportFirstTokensRequest, ReportFirstTokensResponse, SettleRequest, SettleResponse, ToWorker,
        admit_response::Answer,
        gateway_server::{Gateway, GatewayServer},
    },
};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};

#[derive(Clone, Copy, Debug)]
struct Echo;

#[tonic::async_trait]
impl RateLimitService for Echo {
    async fn should_rate_limit(
        &self,
        _: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let limit = RateLimit { requests_per_unit: 1000, unit: Unit::Second.into(), ..RateLimit::default() };
        let status = DescriptorStatus {
            code: Code::Ok.into(),
            current_limit: Some(limit),
            limit_remaining: 999,
            duration_until_reset: Duration::from_secs(1).try_into().ok(),
        };
        Ok(Response::new(RateLimitResponse {
            overall_code: Code::Ok.into(),
            statuses: vec![status],
            ..RateLimitResponse::default()
        }))
    }
}

#[tonic::async_trait]
impl Gateway for Echo {
    type ConnectStream = tokio_stream::Empty<Result<ToWorker, Status>>;

    async fn connect(
        &self,
        _: Request<Streaming<FromWorker>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        Err(Status::unimplemented("the echo server answers unary calls only"))
    }

    async fn admit(&self, _: Request<AdmitRequest>) -> Result<Response<AdmitResponse>, Status> {
        let admitted = Admitted {
            endpoint: "127.0.0.1:10000".into(),
            basis: Basis::Shared.into(),
            ..Admitted::default()
        };
        Ok(Response::new(AdmitResponse { answer: Some(Answer::Admitted(admitted)) }))
    }

    async fn settle(&self, _: Request<SettleRequest>) -> Result<Response<SettleResponse>, Status> {
        Ok(Response::new(SettleResponse { released: true }))
    }

    async fn report_first_tokens(
        &self,
        _: Request<ReportFirstTokensRequest>,
    ) -> Result<Response<ReportFirstTokensResponse>, Status> {
        Ok(Response::new(ReportFirstTokensResponse {}))
    }

    async fn keep_alive(&self, _: Request<KeepAliveRequest>) -> Result<Response<KeepAliveResponse>, Status> {
        Ok(Response::new(KeepAliveResponse { interval_ms: 1000, ..KeepAliveResponse::default() }))
    }
}

/// Serves on a free port of 127.0.0.1 and on `socket` until the future is dropped. Writes `ready_file` when the server
/// is ready.
pub async fn serve(socket: PathBuf, ready_file: &Path) -> io::Result<()> {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let address = listener.local_addr()?;
    let unix = UnixListener::bind(&socket)?;
    let ready = serde_json::json!({"grpc": address.to_string(), "grpc_socket": socket}).to_string();
    // Renaming makes the complete file appear atomically.
    let unfinished = ready_file.with_extension("tmp");
    std::fs::write(&unfinished, ready)?;
    std::fs::rename(&unfinished, ready_file)?;

    let tcp = Server::builder()
        .add_service(GatewayServer::new(Echo))
        .add_service(RateLimitServiceServer::new(Echo))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
    let unix = Server::builder()
        .add_service(GatewayServer::new(Echo))
        .add_service(RateLimitServiceServer::new(Echo))
        .serve_with_incoming(UnixListenerStream::new(unix));
    tokio::try_join!(tcp, unix).map(|_| ()).map_err(io::Error::other)
}
