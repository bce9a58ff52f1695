//! Clients of a sidecar's gRPC listener and of its Admin service.

use evenkeel_loadtest::lab::Lab;
use evenkeel_proto::v1::admin_client::AdminClient;
use tonic::{
    Request, Status,
    service::interceptor::InterceptedService,
    transport::{Channel, Endpoint},
};

pub(crate) const TOKEN: &str = "an-administrators-token";

pub(crate) type Admin = AdminClient<InterceptedService<Channel, Authorize>>;
type Authorize = fn(Request<()>) -> Result<Request<()>, Status>;

/// Returns the section of a sidecar's configuration that defines the administrator `tests` with [`TOKEN`].
pub(crate) fn config() -> String {
    format!("admin: {{tokens: [{{name: tests, token: {TOKEN}}}]}}")
}

/// Connects to a sidecar's gRPC listener.
pub(crate) async fn connect(lab: &Lab, sidecar: usize) -> Result<Channel, String> {
    let url = lab.sidecars()[sidecar].grpc_url().ok_or("no gRPC over TCP")?;
    let endpoint = Endpoint::from_shared(url).map_err(|e| e.to_string())?;
    endpoint.connect().await.map_err(|e| e.to_string())
}

/// Connects to a sidecar's Admin service, with the token.
pub(crate) async fn admin(lab: &Lab, sidecar: usize) -> Result<Admin, String> {
    Ok(AdminClient::with_interceptor(connect(lab, sidecar).await?, authorize as Authorize))
}

#[allow(clippy::unnecessary_wraps, clippy::result_large_err)]
fn authorize(mut request: Request<()>) -> Result<Request<()>, Status> {
    let value = format!("Bearer {TOKEN}").parse().map_err(|_| Status::internal("the token is invalid"))?;
    request.metadata_mut().insert("authorization", value);
    Ok(request)
}
