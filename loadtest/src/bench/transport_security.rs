//! Measures what TLS and mutual TLS add to a call of the sidecar: for Admit and Settle as separate calls, for the same on
//! streams, and for the rate limit service. Each kind has a sidecar of its own.

use std::{fs, sync::Arc};

use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::{
    BenchConfig, BenchRun,
    callers::rate_limit_service::WITHIN_LIMIT,
    job::{self, Job},
    rate_limits,
    system::{Server, System},
    target::{GrpcServer, Target},
};
use crate::lab::{LabError, write_certificates};

/// Name in the client certificate.
const GATEWAY: &str = "spiffe://bench/gateway";
/// Number of endpoints in the pool. The choice of an endpoint is not what this benchmark measures.
const ENDPOINTS: usize = 8;

/// How the callers reach a sidecar.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Security {
    Plain,
    Tls,
    MutualTls,
}

/// Files of an authority, a sidecar and a gateway.
struct Certificates {
    dir: tempfile::TempDir,
    authority: Certificate,
    gateway: Identity,
}

impl Certificates {
    fn new() -> Result<Self, LabError> {
        let dir = tempfile::tempdir().map_err(LabError::io("creating a temporary directory"))?;
        write_certificates(dir.path(), &[("sidecar", "127.0.0.1"), ("gateway", GATEWAY)])?;
        let read = |name: &str| fs::read(dir.path().join(name)).map_err(LabError::io("reading certificates"));
        let authority = Certificate::from_pem(read("ca.crt")?);
        let gateway = Identity::from_pem(read("gateway.crt")?, read("gateway.key")?);
        Ok(Self { dir, authority, gateway })
    }

    /// Returns the section `tls` of a sidecar.
    fn yaml(&self, security: Security) -> String {
        let at = |name: &str| self.dir.path().join(name).display().to_string();
        let files = format!(
            "cert_file: '{}', key_file: '{}', listeners: [grpc]",
            at("sidecar.crt"),
            at("sidecar.key")
        );
        match security {
            Security::Plain => String::new(),
            Security::Tls => format!("tls: {{{files}}}\n"),
            Security::MutualTls => format!(
                "tls: {{{files}, client_ca_file: '{}', client_certificates: required}}\n\
                 gateway: {{certificates: ['{GATEWAY}']}}\n",
                at("ca.crt")
            ),
        }
    }

    fn client(&self, security: Security) -> Arc<ClientTlsConfig> {
        let tls = ClientTlsConfig::new().ca_certificate(self.authority.clone());
        Arc::new(if security == Security::MutualTls { tls.identity(self.gateway.clone()) } else { tls })
    }
}

/// Runs the benchmark and returns one run per kind of call and of security. `log` receives progress messages.
pub async fn run(config: &BenchConfig, log: impl Fn(&str)) -> Result<Vec<BenchRun>, LabError> {
    log("starting the sidecars");
    let certificates = Certificates::new()?;
    let service = rate_limits::section(certificates.dir.path())?;
    let kinds = [
        (Security::Plain, ["admit_settle", "admit_settle_stream", "rate_limit"]),
        (Security::Tls, ["admit_settle_tls", "admit_settle_stream_tls", "rate_limit_tls"]),
        (Security::MutualTls, ["admit_settle_mtls", "admit_settle_stream_mtls", "rate_limit_mtls"]),
    ];
    let (mut jobs, mut systems) = (Vec::new(), Vec::new());
    for (security, names) in kinds {
        let yaml = format!("{service}{}", certificates.yaml(security));
        // Each system has a directory of its own.
        let config = BenchConfig { dir: config.dir.as_ref().map(|dir| dir.join(names[0])), ..config.clone() };
        let system = System::start(&config, ENDPOINTS, &yaml, "").await?;
        let Server { ready, pid } = system.sidecar.clone();
        let server = || match security {
            Security::Plain => GrpcServer::tcp(&ready),
            Security::Tls | Security::MutualTls => GrpcServer::tls(&ready, &certificates.client(security)),
        };
        let job = |name, target| Job { name, target, server_pid: pid, redis_pid: system.redis_pid };
        let gateway = server().map(|server| Target::Gateway { server, limited: false });
        let stream = server().map(|server| Target::Stream { server, by_work: false });
        let service = server().map(|server| Target::RateLimitService { server, key: WITHIN_LIMIT });
        let targets = names.into_iter().zip([gateway, stream, service]);
        jobs.extend(targets.filter_map(|(name, target)| Some(job(name, target?))));
        systems.push(system);
    }
    job::run_all(&jobs, config, log).await
}
