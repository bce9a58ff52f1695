//! `evenkeel serve`.

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use evenkeel::app::{self, Addresses, Listeners};
use evenkeel_config::Config;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::check::load;

/// Run the sidecar.
#[derive(Args)]
pub(crate) struct Serve {
    /// Configuration file (YAML); without a file, the sidecar uses an embedded store and default settings
    #[arg(short, long, env = "EVENKEEL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Write the bound addresses to this file as JSON, once the sidecar is serving
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Log filter, such as debug or evenkeel=debug; takes precedence over log.level of the configuration
    #[arg(long, env = "EVENKEEL_LOG", value_name = "FILTER")]
    log_level: Option<String>,
}

impl Serve {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut config = match &self.config {
            Some(path) => load(path)?,
            None => Config::parse("")?,
        };
        if let Some(level) = self.log_level {
            config.log.level = level;
        }
        evenkeel_telemetry::init_logs(&config.log)?;
        for warning in &config.warnings {
            tracing::warn!(warning, "configuration");
        }
        // The redis crate panics on rediss:// if no cryptography provider is installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        runtime(config.worker_threads)?.block_on(async {
            let listeners = Listeners::bind(&config).await?;
            let shutdown = CancellationToken::new();
            stop_on_signal(shutdown.clone())?;
            app::run(config, listeners, |addresses| announce(addresses, self.ready_file.as_deref()), shutdown)
                .await
        })
    }
}

/// Builds the runtime. With one worker there is only one thread, and work never moves between threads. That about
/// halves the cost of a call.
fn runtime(worker_threads: usize) -> std::io::Result<tokio::runtime::Runtime> {
    if worker_threads == 1 {
        tokio::runtime::Builder::new_current_thread().enable_all().build()
    } else {
        tokio::runtime::Builder::new_multi_thread().worker_threads(worker_threads).enable_all().build()
    }
}

fn stop_on_signal(shutdown: CancellationToken) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        shutdown.cancel();
    });
    Ok(())
}

/// Prints the addresses for people, and writes them to the ready file for programs.
fn announce(addresses: &Addresses, ready_file: Option<&Path>) -> anyhow::Result<()> {
    if let Some(path) = ready_file {
        let partial = path.with_extension("partial");
        std::fs::write(&partial, serde_json::to_vec(addresses)?)
            .and_then(|()| std::fs::rename(&partial, path))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if std::io::stdout().is_terminal() || ready_file.is_none() {
        let Addresses { grpc, grpc_socket, http, grpc_tls, http_tls } = addresses;
        let scheme = |tls: &bool| if *tls { "https" } else { "http" };
        let (of_grpc, of_http) = (scheme(grpc_tls), scheme(http_tls));
        println!("\n  Evenkeel {} is serving\n", env!("CARGO_PKG_VERSION"));
        if let Some(grpc) = grpc {
            println!("  gRPC      {grpc}{}", if *grpc_tls { " (TLS)" } else { "" });
        }
        if let Some(socket) = grpc_socket {
            println!("  gRPC      unix:{}", socket.display());
        }
        println!("  page      {of_http}://{http}/");
        println!("  metrics   {of_http}://{http}/metrics");
        println!("  pools     {of_http}://{http}/api/v1/pools");
        if let Some(grpc) = grpc {
            println!("\n  Try:  evenkeel admit --server {of_grpc}://{grpc} --cluster llm --hold 30s");
            println!("        evenkeel pools --server {of_grpc}://{grpc}\n");
        }
    }
    Ok(())
}
