//! Connections to a sidecar, and the options that commands share.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use evenkeel_proto::{
    HolderClient, HolderSecret,
    v1::{self as pb, admin_client::AdminClient, inspect_client::InspectClient},
};
use tonic::{
    Code, Request, Status,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};

use super::{
    exit::{Exit, Fault},
    output::Output,
};

/// Maximum size of a response, in bytes: enough for a page of 10,000 rows with long names.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The option that names the sidecar.
#[derive(Args, Clone)]
pub(super) struct Server {
    /// The sidecar's gRPC address: http://host:port, or unix:/path
    #[arg(
        long = "server",
        env = "EVENKEEL_SERVER",
        default_value = "http://127.0.0.1:9190",
        value_name = "URL"
    )]
    pub(super) url: String,
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

/// The options that authenticate an administrator.
#[derive(Args, Clone)]
pub(super) struct As {
    /// An administrator's token. Other users of this machine can see it in the process list, so prefer the environment
    /// variable or --token-file
    #[arg(long, env = "EVENKEEL_ADMIN_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// A file that contains the token; takes precedence over --token and the environment variable
    #[arg(long, value_name = "FILE")]
    token_file: Option<std::path::PathBuf>,
}

impl Server {
    /// Connects to the sidecar.
    ///
    /// # Errors
    /// [`Exit::NoAnswer`] if no sidecar listens at the address.
    pub(super) async fn connect(&self) -> anyhow::Result<Channel> {
        let channel = self.endpoint()?.timeout(Duration::from_secs(10)).connect().await;
        // Only the last error in the chain names the cause; the others only say that the connection failed.
        channel.map_err(|e| {
            Fault::error(Exit::NoAnswer, format!("no sidecar answers at {}: {}", self.url, root_cause(&e)))
        })
    }

    /// Parses the address in `--server`.
    ///
    /// # Errors
    /// [`Exit::Usage`] if `--server` is not a valid address of a sidecar.
    pub(super) fn endpoint(&self) -> anyhow::Result<Endpoint> {
        let tls = if self.url.starts_with("https:") { " (sidecars do not speak TLS)" } else { "" };
        let wrong = || format!("--server: must be http://host:port or unix:/path, got {:?}{tls}", self.url);
        let scheme = ["http://", "unix:"].iter().any(|scheme| self.url.starts_with(scheme));
        let endpoint =
            Some(self.url.clone()).filter(|_| scheme).and_then(|url| Endpoint::from_shared(url).ok());
        let endpoint = endpoint.ok_or_else(|| Fault::error(Exit::Usage, wrong()))?;
        Ok(endpoint.connect_timeout(Duration::from_secs(3)))
    }
}

/// Returns the last error in a chain of causes.
pub(super) fn root_cause<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> &'a (dyn std::error::Error + 'static) {
    std::iter::successors(Some(error), |error| error.source()).last().unwrap_or(error)
}

/// Returns a client of `evenkeel.v1.Inspect`.
pub(super) fn inspect(channel: Channel) -> InspectClient<Channel> {
    InspectClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// Returns a client of `evenkeel.v1.Admin`.
pub(super) fn admin(channel: Channel) -> AdminClient<Channel> {
    AdminClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// Returns a client of `evenkeel.v1.Gateway` for a new holder with this secret.
pub(super) fn gateway(channel: Channel, secret: [u8; 16]) -> HolderClient<Channel> {
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
    pub(super) async fn admin(&self) -> anyhow::Result<AdminClient<Channel>> {
        Ok(admin(self.server.connect().await?))
    }

    /// Connects to `Inspect`.
    pub(super) async fn inspect(&self) -> anyhow::Result<InspectClient<Channel>> {
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

impl As {
    /// Adds the administrator's token to a request that changes something.
    ///
    /// # Errors
    /// [`Exit::Refused`] if the user gave no token.
    pub(super) fn request<T>(&self, message: T) -> anyhow::Result<Request<T>> {
        let token = match (&self.token_file, &self.token) {
            (Some(path), _) => std::fs::read_to_string(path)
                .with_context(|| format!("--token-file: cannot read {}", path.display()))?,
            (None, Some(token)) => token.clone(),
            (None, None) => {
                return Err(Fault::error(
                    Exit::Refused,
                    "this change needs an administrator's token: set EVENKEEL_ADMIN_TOKEN, --token-file or --token",
                ));
            }
        };
        let mut request = Request::new(message);
        let value: MetadataValue<_> = format!("Bearer {}", token.trim())
            .parse()
            .map_err(|_| Fault::error(Exit::Usage, "the token must consist of printable ASCII characters"))?;
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_sidecars_are_taken() {
        let endpoint = |url: &str| Server { url: url.to_owned() }.endpoint();
        for url in
            ["http://127.0.0.1:9190", "http://[::1]:9190", "http://localhost", "unix:/run/evenkeel.sock"]
        {
            assert!(endpoint(url).is_ok(), "{url}");
        }
        for url in
            ["", "127.0.0.1:9190", "localhost:9190", "localhost", "/run/x.sock", "http://", "tcp://a:1"]
        {
            let error = endpoint(url).unwrap_err();
            let expected = format!("--server: must be http://host:port or unix:/path, got {url:?}");
            assert_eq!((Exit::of(&error), error.to_string()), (Exit::Usage, expected));
        }
        let error = endpoint("https://a:9190").unwrap_err().to_string();
        assert!(error.ends_with("got \"https://a:9190\" (sidecars do not speak TLS)"), "{error}");
    }
}
