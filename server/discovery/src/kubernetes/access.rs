//! The client of the Kubernetes API server, and its token.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use evenkeel_domain::settings::{KubernetesApi, KubernetesOptions};
use http::{HeaderValue, Request, header::AUTHORIZATION};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder},
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use parking_lot::Mutex;
use tower::util::MapRequestLayer;

/// Maximum wait for a connection to the API server.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Creates a client, which does not connect yet.
///
/// # Errors
/// Fails if a file is missing or invalid.
pub(super) async fn client(options: &KubernetesOptions) -> Result<Client, String> {
    let mut config = match &options.api {
        KubernetesApi::Server { url, token_file, ca_file } => {
            let mut config = Config::new(url.clone());
            config.auth_info.token_file = token_file.as_ref().map(|path| path.display().to_string());
            // kube loads the system's CA certificates only if they are needed. It reads a CA file again when the file
            // changes.
            let skips_system = ca_file.is_some() || url.scheme_str() == Some("http");
            config.root_cert = skips_system.then(Vec::new);
            config.root_cert_file.clone_from(ca_file);
            config
        }
        KubernetesApi::Kubeconfig(path) => from_kubeconfig(path).await.map_err(|error| error.to_string())?,
        KubernetesApi::Inferred => inferred().await?,
    };
    config.connect_timeout = Some(CONNECT_MAX);
    // Disable kube's own retries, because `Watch` waits between attempts.
    config.default_retry = false;
    let token = match config.auth_info.token_file.take() {
        Some(path) if config.auth_info.token.is_none() => Some(TokenFile::open(path.into())?),
        _ => None,
    };
    let builder = ClientBuilder::try_from(config).map_err(|error| error.to_string())?;
    Ok(match token {
        None => builder.build(),
        Some(token) => {
            let token = Arc::new(token);
            let authorize = move |mut request: Request<Body>| {
                request.headers_mut().insert(AUTHORIZATION, token.read());
                request
            };
            builder.with_layer(&MapRequestLayer::new(authorize)).build()
        }
    })
}

async fn from_kubeconfig(path: &Path) -> Result<Config, KubeconfigError> {
    Config::from_custom_kubeconfig(Kubeconfig::read_from(path)?, &KubeConfigOptions::default()).await
}

async fn inferred() -> Result<Config, String> {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if !is_set("KUBECONFIG") && is_set("KUBERNETES_SERVICE_HOST") {
        return Config::incluster().map_err(|error| error.to_string());
    }
    Config::from_kubeconfig(&KubeConfigOptions::default()).await.map_err(|error| error.to_string())
}

/// A file that contains a token. The client reads the file for each request, because Kubernetes renews tokens once an
/// hour and requests are few. kube's own reader rejects a token file that ends with a line feed.
struct TokenFile {
    path: PathBuf,
    /// The last valid token, used while the file is being replaced.
    last: Mutex<HeaderValue>,
}

impl TokenFile {
    fn open(path: PathBuf) -> Result<Self, String> {
        let last = Mutex::new(Self::header(&path)?);
        Ok(Self { path, last })
    }

    fn read(&self) -> HeaderValue {
        let now = Self::header(&self.path);
        let mut last = self.last.lock();
        if let Ok(now) = now {
            *last = now;
        }
        last.clone()
    }

    fn header(path: &Path) -> Result<HeaderValue, String> {
        let text =
            fs::read_to_string(path).map_err(|error| format!("token file {}: {error}", path.display()))?;
        let token = text.trim();
        if token.is_empty() {
            return Err(format!("token file {}: empty", path.display()));
        }
        let header = HeaderValue::try_from(format!("Bearer {token}"));
        let mut header = header.map_err(|_| format!("token file {}: not a token", path.display()))?;
        header.set_sensitive(true);
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_reloaded_and_outlives_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        assert!(TokenFile::open(path.clone()).is_err());
        fs::write(&path, " \n").unwrap();
        assert!(TokenFile::open(path.clone()).is_err());
        fs::write(&path, "one\n").unwrap();
        let file = TokenFile::open(path.clone()).unwrap();
        assert_eq!(file.read(), "Bearer one");
        fs::write(&path, "two").unwrap();
        assert_eq!(file.read(), "Bearer two");
        fs::remove_file(&path).unwrap();
        assert_eq!(file.read(), "Bearer two");
        assert!(file.read().is_sensitive());
    }
}
