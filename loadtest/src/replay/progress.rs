//! A progress bar on standard error, if standard error is a terminal.

use std::{
    io::IsTerminal,
    sync::atomic::{AtomicU64, Ordering},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    errors: AtomicU64,
}

impl Progress {
    /// Creates a bar with `label`. The bar is hidden unless standard error is a terminal.
    pub fn new(label: impl Into<String>) -> Self {
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr_with_hz(5)
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target).with_prefix(label.into());
        if let Ok(style) = ProgressStyle::with_template("{prefix:>22} {bar:40} {pos}/{len} {elapsed} {msg}") {
            bar.set_style(style);
        }
        Self { bar, errors: AtomicU64::new(0) }
    }

    pub fn hidden() -> Self {
        Self { bar: ProgressBar::hidden(), errors: AtomicU64::new(0) }
    }

    pub(super) fn begin(&self, total: u64) {
        self.bar.set_length(total);
    }

    pub(super) fn record(&self, error: bool) {
        if error {
            let errors = self.errors.fetch_add(1, Ordering::Relaxed) + 1;
            self.bar.set_message(format!("{errors} errors"));
        }
        self.bar.inc(1);
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
