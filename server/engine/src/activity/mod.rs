//! Activity: shows operators whether there is room, who uses it, and why a request was refused.
//!
//! A [`Recorder`] takes events and never waits. About once a second, [`report`] writes what this sidecar saw to the
//! store, in place of its previous report. [`History`] joins the reports of all sidecars, so that any sidecar returns
//! figures for the whole cluster. The next report makes up for a lost call.

mod burn_rate;
mod cached;
mod charges;
mod eviction;
mod fullest_keys;
mod history;
mod pages;
mod recorder;
mod refusal_queue;
pub mod report;

pub use burn_rate::BurnRate;
pub use history::{History, Steps};
pub use recorder::{Charged, Metered, Recorder};
