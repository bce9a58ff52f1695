//! Connections to a sidecar, and the options that commands share.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::Args;
use evenkeel_proto::{
    HolderClient, HolderSecret,
    v1::{self as pb, admin_client::AdminClient, inspect_client::InspectClient},
};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

use super::{
    exit::{Exit, Fault},
    output::Output,
    tls::ClientTls,
    tls_error::cause,
};

/// Maximum size of a response, in bytes: enough for a page of 10,000 rows with long names.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The options that name the sidecar, and that say who calls it.
#[derive(Args, Clone, Default)]
pub(super) struct Server {
    /// The sidecar's gRPC address: http://host:port, https://host:port, or unix:/path
    #[arg(
        long = "server",
        env = "EVENKEEL_SERVER",
        default_value = "http://127.0.0.1:9190",
        value_name = "URL"
    )]
    pub(super) url: String,
    /// A token that has the role which the command needs. Other users of this machine can see it in the process list, so
    /// prefer the environment variable or --token-file
    #[arg(long, env = "EVENKEEL_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// A file that contains the token; takes precedence over --token and the environment variable
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    tls: ClientTls,
}

/// The options that name the sidecar and the output format.
#[derive(Args)]
pub(super) struct Ask {
    #[command(flatten)]
    pub(super) server: Server,
    /// Output format
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) output: Output,
}

/// The options that name one pool.
#[derive(Args)]
pub(super) struct PoolArgs {
    /// The gateway's cluster
    #[arg(long)]
    cluster: String,
    /// The gateway's route; omit it if all routes of the cluster share one table
    #[arg(long, default_value = "", hide_default_value = true)]
    route: String,
}

/// The options that restrict a list to one pool.
#[derive(Args, Clone)]
pub(super) struct OnlyPool {
    /// Only the pool of this cluster
    #[arg(long)]
    cluster: Option<String>,
    /// Only the pool of this route; omit it if all routes of the cluster share one table
    #[arg(long, default_value = "", hide_default_value = true, requires = "cluster")]
    route: String,
}

impl Server {
    /// Connects to the sidecar.
    ///
    /// # Errors
    /// [`Exit::NoAnswer`] if no sidecar listens at the address.
    pub(super) async fn connect(&self) -> anyhow::Result<SidecarChannel> {
        let credentials = self.credentials()?;
        let channel = self.endpoint()?.timeout(Duration::from_secs(10)).connect().await;
        let channel = channel.map_err(|error| {
            Fault::error(Exit::NoAnswer, format!("no sidecar answers at {}: {}", self.url, cause(&error)))
        })?;
        Ok(InterceptedService::new(channel, credentials))
    }

    /// Parses the address in `--server`, and reads the files of the options for TLS.
    ///
    /// # Errors
    /// [`Exit::Usage`] if `--server` is not a valid address of a sidecar, or a file cannot be used.
    pub(super) fn endpoint(&self) -> anyhow::Result<Endpoint> {
        let scheme = ["http://", "https://", "unix:"].iter().any(|scheme| self.url.starts_with(scheme));
        let endpoint =
            Some(self.url.clone()).filter(|_| scheme).and_then(|url| Endpoint::from_shared(url).ok());
        let endpoint = endpoint.ok_or_else(|| {
            let expected = "http://host:port, https://host:port or unix:/path";
            Fault::error(Exit::Usage, format!("--server: must be {expected}, got {:?}", self.url))
        })?;
        let endpoint = if self.url.starts_with("https://") {
            endpoint.tls_config(self.tls.config()?).context("--server: TLS cannot be used")?
        } else {
            endpoint
        };
        Ok(endpoint.connect_timeout(Duration::from_secs(3)))
    }

    /// Returns what goes with every call.
    ///
    /// # Errors
    /// If the token's file cannot be read, or the token is not valid in a header.
    pub(super) fn credentials(&self) -> anyhow::Result<Credentials> {
        let token = match &self.token_file {
            Some(path) => Some(
                std::fs::read_to_string(path)
                    .with_context(|| format!("--token-file: cannot read {}", path.display()))?,
            ),
            None => self.token.clone(),
        };
        let header = token.map(|token| format!("Bearer {}", token.trim()).parse::<MetadataValue<_>>());
        let header = header
            .transpose()
            .map_err(|_| Fault::error(Exit::Usage, "the token must consist of printable ASCII characters"))?;
        Ok(Credentials(header))
    }
}

/// Adds the caller's token to each call.
#[derive(Clone)]
pub(super) struct Credentials(Option<MetadataValue<Ascii>>);

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// A connection to a sidecar.
pub(super) type SidecarChannel = InterceptedService<Channel, Credentials>;

/// Returns a client of `evenkeel.v1.Inspect`.
pub(super) fn inspect(channel: SidecarChannel) -> InspectClient<SidecarChannel> {
    InspectClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// Returns a client of `evenkeel.v1.Admin`.
pub(super) fn admin(channel: SidecarChannel) -> AdminClient<SidecarChannel> {
    AdminClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// Returns a client of `evenkeel.v1.Gateway` for a new holder with this secret.
pub(super) fn gateway(channel: SidecarChannel, secret: [u8; 16]) -> HolderClient<SidecarChannel> {
    HolderClient::new(HolderSecret::new(secret).on(channel))
}

/// Returns the response, or `None` if the sidecar runs an older version that does not know the call.
pub(super) fn if_known<T>(answer: Result<T, Status>) -> Result<Option<T>, Status> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(status) if status.code() == Code::Unimplemented => Ok(None),
        Err(status) => Err(status),
    }
}

impl Ask {
    /// Connects to `Admin`.
    pub(super) async fn admin(&self) -> anyhow::Result<AdminClient<SidecarChannel>> {
        Ok(admin(self.server.connect().await?))
    }

    /// Connects to `Inspect`.
    pub(super) async fn inspect(&self) -> anyhow::Result<InspectClient<SidecarChannel>> {
        Ok(inspect(self.server.connect().await?))
    }
}

impl PoolArgs {
    pub(super) fn encode(&self) -> pb::Pool {
        pb::Pool { route: self.route.clone(), cluster: self.cluster.clone() }
    }
}

impl OnlyPool {
    pub(super) fn encode(&self) -> Option<pb::Pool> {
        let cluster = self.cluster.clone()?;
        Some(pb::Pool { route: self.route.clone(), cluster })
    }

    /// Returns route and cluster. Both are empty if the command concerns every pool.
    pub(super) fn names(&self) -> (String, String) {
        (self.route.clone(), self.cluster.clone().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_sidecars_are_taken() {
        let endpoint = |url: &str| Server { url: url.to_owned(), ..Server::default() }.endpoint();
        for url in [
            "http://127.0.0.1:9190",
            "http://[::1]:9190",
            "http://localhost",
            "https://sidecar.example:9190",
            "unix:/run/evenkeel.sock",
        ] {
            assert!(endpoint(url).is_ok(), "{url}");
        }
        for url in
            ["", "127.0.0.1:9190", "localhost:9190", "localhost", "/run/x.sock", "http://", "tcp://a:1"]
        {
            let error = endpoint(url).unwrap_err();
            let expected =
                format!("--server: must be http://host:port, https://host:port or unix:/path, got {url:?}");
            assert_eq!((Exit::of(&error), error.to_string()), (Exit::Usage, expected));
        }
    }
}
