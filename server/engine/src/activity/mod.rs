//! What has happened, so that operators can ask: is there room, who uses it, why was this request refused?
//!
//! A [`Recorder`] takes events and never waits. About once a second, [`report`] writes what this sidecar saw to the
//! store, in place of its previous report. [`History`] joins the reports of all sidecars. So any sidecar returns
//! figures for the whole cluster, and a lost call costs nothing.

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
