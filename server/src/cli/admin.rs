//! What commands for administrators have in common: which sidecar, as who, and how to print.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use evenkeel_proto::v1::admin_client::AdminClient;
use tonic::{Request, metadata::MetadataValue, transport::Channel};

use super::{client::Server, table::Output};

/// Where to ask and how to print.
#[derive(Args)]
pub(super) struct Ask {
    #[command(flatten)]
    server: Server,
    /// How to print
    #[arg(long, value_enum, default_value = "table")]
    pub(super) output: Output,
}

/// As who.
#[derive(Args)]
pub(super) struct As {
    /// An administrator's token. Others on this machine can see it in the list of processes: prefer the variable or a
    /// file
    #[arg(long, env = "EVENKEEL_ADMIN_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// A file with the token; it comes before the variable and --token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl Ask {
    pub(super) async fn client(&self) -> anyhow::Result<AdminClient<Channel>> {
        Ok(AdminClient::new(self.server.connect().await?))
    }
}

impl As {
    /// A changing call, with the token.
    pub(super) fn request<T>(&self, message: T) -> anyhow::Result<Request<T>> {
        let token = match (&self.token_file, &self.token) {
            (Some(path), _) => std::fs::read_to_string(path)
                .with_context(|| format!("--token-file: cannot read {}", path.display()))?,
            (None, Some(token)) => token.clone(),
            (None, None) => anyhow::bail!(
                "this changes something: show an administrator's token with EVENKEEL_ADMIN_TOKEN, --token-file or --token"
            ),
        };
        let mut request = Request::new(message);
        let value: MetadataValue<_> = format!("Bearer {}", token.trim())
            .parse()
            .map_err(|_| anyhow::anyhow!("the token must be printable ASCII characters"))?;
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}
