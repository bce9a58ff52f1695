//! `evenkeel convert-higress` and `evenkeel convert-limitador`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use evenkeel_config::{HigressPlugin, LimitadorOptions, convert_higress, convert_limitador};

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

/// Convert the limits of a Limitador file to Evenkeel's and print them.
#[derive(Args)]
pub(crate) struct ConvertLimitador {
    /// The namespace to convert; required if the file has several
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// The attribute from which the gateway fills an entry of descriptors, such as tier=header:x-tier; repeatable
    #[arg(long = "attribute", value_name = "ENTRY=ATTRIBUTE", value_parser = pair)]
    attributes: Vec<(String, String)>,
    /// A limit, by name or id, for which the gateway reports tokens as hits; repeatable
    #[arg(long, value_name = "NAME")]
    tokens: Vec<String>,
    /// A file with the limits, either by itself, in a Limitador resource, or in a ConfigMap
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (entry, attribute) = text.split_once('=').ok_or("must be ENTRY=ATTRIBUTE")?;
    Ok((entry.to_owned(), attribute.to_owned()))
}

impl ConvertHigress {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let (name, text) = read(&self.file)?;
        print(convert_higress(self.plugin, self.matching.as_deref(), &name, &text)?)
    }
}

impl ConvertLimitador {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let (name, text) = read(&self.file)?;
        let Self { namespace, attributes, tokens, .. } = self;
        print(convert_limitador(&LimitadorOptions { namespace, attributes, tokens }, &name, &text)?)
    }
}

/// Returns the name and the text of a file.
fn read(file: &Path) -> anyhow::Result<(String, String)> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {name}"))?;
    Ok((name, text))
}

fn print((yaml, warnings): (String, Vec<String>)) -> anyhow::Result<()> {
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    Ok(put(&yaml)?)
}
