//! `evenkeel convert-higress`.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use evenkeel_config::{HigressPlugin, convert_higress};

use super::output::put;

/// Convert the limits of a Higress plugin's configuration to Evenkeel's and print them.
#[derive(Args)]
pub(crate) struct ConvertHigress {
    /// The plugin: ai-token-ratelimit or cluster-key-rate-limit
    #[arg(long, value_name = "PLUGIN")]
    plugin: HigressPlugin,
    /// Which of several matching rule items apply: first (Higress until June 2026) or all (Higress since then)
    #[arg(long, value_name = "WHICH")]
    matching: Option<String>,
    /// A file with the plugin's configuration, either by itself or inside a WasmPlugin resource
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl ConvertHigress {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let name = self.file.display().to_string();
        let text = std::fs::read_to_string(&self.file).with_context(|| format!("cannot read {name}"))?;
        let (yaml, warnings) = convert_higress(self.plugin, self.matching.as_deref(), &name, &text)?;
        for warning in warnings {
            eprintln!("warning: {warning}");
        }
        Ok(put(&yaml)?)
    }
}
