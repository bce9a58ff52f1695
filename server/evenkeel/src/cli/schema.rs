//! `evenkeel config-schema`.

use clap::Args;

use super::output::put;

/// Print the configuration as JSON Schema (draft 2020-12).
#[derive(Args)]
pub(crate) struct ConfigSchema {}

impl ConfigSchema {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let schema = serde_json::to_string_pretty(&evenkeel_config::schema())?;
        Ok(put(&format!("{schema}\n"))?)
    }
}
