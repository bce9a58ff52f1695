//! `evenkeel check-config`, and the loading of configuration files for commands.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use clap::Args;
use evenkeel_config::{Config, Faults};
use evenkeel_domain::settings::LimitFiles;
use evenkeel_engine::rls::{self, RateLimitMetrics};
use serde::Serialize;
use serde_json::json;

use super::output::{Column, Item, Output, put, text};

/// Check a configuration file.
#[derive(Args)]
pub(crate) struct CheckConfig {
    /// The configuration file
    #[arg(value_name = "FILE", required_unless_present = "rate_limit")]
    config: Option<PathBuf>,
    /// A file of limits in the format of envoyproxy/ratelimit, or a directory of such files
    #[arg(long, value_name = "PATH")]
    rate_limit: Option<PathBuf>,
    /// Output format
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

/// The faults of a configuration file and of the limit files that it names.
#[derive(Debug)]
pub(super) struct InvalidConfig {
    path: PathBuf,
    faults: Faults,
    files: Option<rls::Faults>,
}

impl fmt::Display for InvalidConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.faults)?;
        self.files.as_ref().map_or(Ok(()), |files| write!(f, "\n{files}"))
    }
}

impl std::error::Error for InvalidConfig {}

/// Loads a configuration. If it is invalid, the error includes the faults of the limit files that it names.
pub(super) fn load(path: &Path) -> Result<Config, InvalidConfig> {
    Config::load(path).map_err(|faults| {
        let source = Config::rate_limit_files(path);
        let files = source.and_then(|source| rls::load(&source, &RateLimitMetrics::unregistered()).err());
        InvalidConfig { path: path.to_owned(), faults, files }
    })
}

/// The result of `check-config`.
#[derive(Default)]
struct Report {
    /// Valid files and their summaries.
    valid: Vec<(String, String)>,
    findings: Vec<Finding>,
}

#[derive(Serialize)]
struct Finding {
    file: String,
    level: &'static str,
    message: String,
}

impl CheckConfig {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut report = Report::default();
        let result = report.check(self.config.as_deref(), self.rate_limit);
        if self.output == Output::Table {
            report.print_text()?;
        } else {
            let files = report.valid.iter().map(|(file, summary)| json!({"file": file, "summary": summary}));
            let files = files.collect::<Vec<_>>();
            let whole = json!({"ok": result.is_ok(), "files": files, "findings": report.findings});
            self.output.list(&report.findings, &whole)?;
        }
        result
    }
}

impl Report {
    /// Checks the files and collects findings.
    ///
    /// # Errors
    /// Fails at the first invalid source, with all faults of that source.
    fn check(&mut self, config: Option<&Path>, rate_limit: Option<PathBuf>) -> anyhow::Result<()> {
        if let Some(path) = rate_limit {
            self.check_limits(&LimitFiles { path, merge_domains: false }, false)?;
        }
        let Some(path) = config else { return Ok(()) };
        let file = path.display().to_string();
        let config = load(path).inspect_err(|invalid| {
            let files = invalid.files.iter().flat_map(|files| files.0.iter().map(ToString::to_string));
            for fault in invalid.faults.0.iter().cloned().chain(files) {
                self.found(&file, "fault", fault);
            }
        })?;
        for warning in &config.warnings {
            self.found(&file, "warning", warning.clone());
        }
        let names = config.uses_of_model();
        if !names.is_empty() {
            let names = names.join(", ");
            let warning = format!(
                "limits: {names} use the model, which the gateway knows only if the plugin has read_body: true"
            );
            self.found(&file, "warning", warning);
        }
        if let Some(service) = &config.rate_limit_service {
            self.check_limits(&service.files, service.options.metadata)?;
        }
        self.valid.push((file, config.summary()));
        Ok(())
    }

    fn check_limits(&mut self, source: &LimitFiles, has_metadata: bool) -> anyhow::Result<()> {
        let file = source.path.display().to_string();
        let rules = rls::load(source, &RateLimitMetrics::unregistered()).map_err(|faults| {
            faults.0.iter().for_each(|fault| self.found(&file, "fault", fault.to_string()));
            anyhow::Error::from(faults).context(file.clone())
        })?;
        for warning in rules.warnings() {
            self.found(&file, "warning", warning.clone());
        }
        for path in rules.metadata().iter().filter(|_| !has_metadata) {
            let warning =
                format!("{path}: has an effect only if rate_limit_service.dynamic_metadata is true");
            self.found(&file, "warning", warning);
        }
        let (domains, limits) = rules.size();
        self.valid.push((file, format!("{limits} limits of {domains} domains")));
        Ok(())
    }

    fn found(&mut self, file: &str, level: &'static str, message: String) {
        self.findings.push(Finding { file: file.to_owned(), level, message });
    }

    /// Prints warnings and summaries as text. The command's error contains the faults.
    fn print_text(&self) -> anyhow::Result<()> {
        for finding in self.findings.iter().filter(|finding| finding.level == "warning") {
            eprintln!("warning: {}", finding.message);
        }
        for (file, summary) in &self.valid {
            put(&format!("{file}: ok ({summary})\n"))?;
        }
        Ok(())
    }
}

impl Item for Finding {
    const COLUMNS: &'static [Column<Self>] = &[
        text("level", "LEVEL", |f| f.level.to_owned()),
        text("file", "FILE", |f| f.file.clone()),
        text("message", "MESSAGE", |f| f.message.clone()),
    ];
}
