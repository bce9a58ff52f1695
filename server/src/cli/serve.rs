//! `evenkeel serve` and `evenkeel check-config`.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use evenkeel::{
    app::{self, Addresses, Listeners},
    config::{Config, Faults},
    rls::{Source, Tallies},
    telemetry,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::OutputClosed;

/// Run the sidecar.
#[derive(Args)]
pub(crate) struct Serve {
    /// Configuration file (YAML); without one, an embedded store and defaults
    #[arg(short, long, env = "EVENKEEL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Once serving, write the bound addresses to this file as JSON
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Log filter, over the file's log.level (such as debug, or evenkeel=debug)
    #[arg(long, env = "EVENKEEL_LOG", value_name = "FILTER")]
    log_level: Option<String>,
}

/// Check a configuration file.
#[derive(Args)]
pub(crate) struct CheckConfig {
    /// The file
    #[arg(value_name = "FILE", required_unless_present = "rate_limit")]
    config: Option<PathBuf>,
    /// A file of limits as envoyproxy/ratelimit reads them, or a directory of such files
    #[arg(long, value_name = "PATH")]
    rate_limit: Option<PathBuf>,
}

impl CheckConfig {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        if let Some(path) = self.rate_limit {
            check_limits(&Source { path, merge_domains: false })?;
        }
        let Some(path) = self.config else { return Ok(()) };
        let config = load(&path)?;
        for warning in &config.warnings {
            eprintln!("warning: {warning}");
        }
        let names = config.looking_at_model();
        if !names.is_empty() {
            eprintln!(
                "warning: limits: {} look at the model, which is only known where the plugin has read_body: true",
                names.join(", ")
            );
        }
        if let Some(service) = &config.rate_limit_service {
            check_limits(&service.source)?;
        }
        let summary = config.summary();
        writeln!(io::stdout(), "{}: ok ({summary})", path.display()).map_err(|_| OutputClosed)?;
        Ok(())
    }
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
        telemetry::init_logs(&config.log)?;
        for warning in &config.warnings {
            tracing::warn!(warning, "configuration");
        }
        // redis over rediss:// panics where no provider is chosen.
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

fn check_limits(source: &Source) -> anyhow::Result<()> {
    let path = source.path.display();
    let rules = source.load(&Tallies::unregistered()).with_context(|| path.to_string())?;
    for field in rules.without_effect() {
        println!("{field}: has no effect");
    }
    let (domains, limits) = rules.size();
    println!("{path}: ok ({limits} limits of {domains} domains)");
    Ok(())
}

/// A configuration; where it is faulty, with the faults of the files it names.
fn load(path: &Path) -> anyhow::Result<Config> {
    let others = |faults: Faults| {
        let source = Config::rate_limit_files(path);
        let others = source.and_then(|source| source.load(&Tallies::unregistered()).err());
        match others {
            Some(others) => anyhow::anyhow!("{faults}\n{others}"),
            None => faults.into(),
        }
    };
    Config::load(path).map_err(others).with_context(|| path.display().to_string())
}

/// One worker is one thread: no work is handed between threads, which makes a call about half as dear.
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

/// Tells a person where everything listens, and a program through the ready file.
fn announce(addresses: &Addresses, ready_file: Option<&Path>) -> anyhow::Result<()> {
    if let Some(path) = ready_file {
        let partial = path.with_extension("partial");
        std::fs::write(&partial, serde_json::to_vec(addresses)?)
            .and_then(|()| std::fs::rename(&partial, path))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if std::io::stdout().is_terminal() || ready_file.is_none() {
        let Addresses { grpc, grpc_socket, http } = addresses;
        println!("\n  Evenkeel {} is serving\n", env!("CARGO_PKG_VERSION"));
        if let Some(grpc) = grpc {
            println!("  gRPC      {grpc}");
        }
        if let Some(socket) = grpc_socket {
            println!("  gRPC      unix:{}", socket.display());
        }
        println!("  page      http://{http}/");
        println!("  metrics   http://{http}/metrics");
        println!("  pools     http://{http}/api/v1/pools");
        if let Some(grpc) = grpc {
            println!("\n  Try:  evenkeel admit --server http://{grpc} --cluster llm --hold 30s");
            println!("        evenkeel pools --server http://{grpc}\n");
        }
    }
    Ok(())
}
