//! gRPC: `evenkeel.v1`, health and reflection, over TCP and a Unix socket.

use std::sync::Arc;

use evenkeel_api::Api;
use evenkeel_domain::settings::PromptBlocks;
use evenkeel_engine::{admission::Admission, holders::Holders, limiter::LimitRequest};
use evenkeel_proto::{
    FILE_DESCRIPTOR_SET,
    v1::{
        AdmitRequest, Pool, admin_server::AdminServer, gateway_server::GatewayServer,
        inspect_server::InspectServer,
    },
};
use tonic::{server::NamedService, service::Routes};
use tonic_health::{ServingStatus, server::HealthReporter};

use super::{access::RoleCheck, memory::MemoryBudget};

mod answers;
mod bounds;
mod calls;
mod deadline;
mod fields;
mod gateway;
mod keep_alive;
mod messages;
mod operators;
mod request;
mod rls;
mod session;
mod spans;

pub use rls::RateLimits;
pub use session::Shutdown;

/// Converts a gateway's request into the limiter's input.
pub fn limit_request(request: AdmitRequest, pool: Pool) -> LimitRequest {
    request::limit_request(request, pool)
}

/// tonic's own maximum size of a message. [`bounds`] has the bounds of each method, and looks at a message first.
const MESSAGE_BYTES_MAX: usize = bounds::LIST_BYTES_MAX;

/// The name under which envoyproxy/ratelimit reports its health. Clusters and probes that were written for it ask for
/// this name, and take an unknown name for an unhealthy server.
const RATELIMIT: &str = "ratelimit";
/// Services with a health status: the whole sidecar (the empty name), and the services that gateways call.
const HEALTH: [&str; 4] = [
    "",
    <GatewayServer<gateway::GatewayService> as NamedService>::NAME,
    <rls::RlsServer as NamedService>::NAME,
    RATELIMIT,
];

/// Reports that this sidecar is stopping.
pub async fn set_not_serving(health: &HealthReporter) {
    for service in HEALTH {
        health.set_service_status(service, ServingStatus::NotServing).await;
    }
}

/// Ends the health watches, which would otherwise delay the shutdown.
pub async fn end_health_watches(health: &mut HealthReporter) {
    for service in HEALTH {
        health.clear_service_status(service).await;
    }
}

/// What the services of gateways need.
pub struct Gateways {
    pub admission: Arc<Admission>,
    pub holders: Arc<Holders>,
    pub keep_alive_interval: std::time::Duration,
    /// Calls and streams in progress.
    pub calls: tokio_util::task::TaskTracker,
    /// How gateways divide prompts. `None` if no pool considers prefix caches.
    pub prompt_blocks: Option<PromptBlocks>,
    /// Changes when new limit rules apply.
    pub rules: tokio::sync::watch::Receiver<()>,
    /// Name of this sidecar, for the gateways' logs.
    pub sidecar: String,
    pub shutdown: Shutdown,
    /// Memory of requests in progress.
    pub memory: Arc<MemoryBudget>,
}

/// Returns all services, and the handle that turns their health off at shutdown.
///
/// # Errors
/// Fails if the embedded descriptors are damaged.
pub(crate) async fn routes(
    gateways: Gateways,
    api: Arc<Api>,
    rate_limits: Option<RateLimits>,
    roles: RoleCheck,
) -> anyhow::Result<(Routes, HealthReporter)> {
    let Gateways {
        admission,
        holders,
        keep_alive_interval,
        calls,
        prompt_blocks,
        rules,
        sidecar,
        shutdown,
        memory,
    } = gateways;
    let rate_limits = rate_limits.map(|limits| {
        let service = rls::RlsService::new(limits, admission.tracer.clone(), calls.clone());
        rls::RlsServer::new(service).max_decoding_message_size(MESSAGE_BYTES_MAX)
    });
    let stop = shutdown.stop.clone();
    let metrics = Arc::clone(&admission.metrics);
    let calls_of_gateways = calls::Calls::new(admission, keep_alive_interval);
    let sessions = session::Sessions {
        calls: calls_of_gateways,
        holders,
        tracker: calls,
        sidecar,
        prompt_blocks,
        rules,
        shutdown,
        memory: Arc::clone(&memory),
    };
    let gateway = gateway::GatewayService::new(Arc::new(sessions));
    let gateway = GatewayServer::new(gateway).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let operators = operators::Operators { api, stop };
    let inspect = InspectServer::new(operators.clone());
    let admin = AdminServer::new(operators);
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<GatewayServer<gateway::GatewayService>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let mut routes = Routes::builder();
    routes
        .add_service(gateway)
        .add_service(inspect)
        .add_service(admin)
        .add_service(health)
        .add_service(reflection);
    if let Some(service) = rate_limits {
        reporter.set_serving::<rls::RlsServer>().await;
        reporter.set_service_status(RATELIMIT, ServingStatus::Serving).await;
        routes.add_service(service);
    }
    // Headers are charged before the role is checked, and the role is checked before the body arrives.
    Ok((bounds::bound(roles.before_grpc(routes.routes()), memory, metrics), reporter))
}
