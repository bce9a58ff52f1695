//! Activity: shows operators the spare capacity, who uses the capacity, and why a request was refused.
//!
//! A [`Recorder`] takes events without waiting. About once a second, [`report`] writes to the store what this sidecar
//! saw, in place of its previous report. If such a call fails, the next report makes up for it. [`History`] joins the
//! reports of all sidecars, so that any sidecar can return figures for the whole cluster.

mod burn_rate;
mod cached;
mod charges;
mod eviction;
mod fullest_keys;
pub mod gateways;
mod history;
mod pages;
mod recorder;
mod refusal_queue;
pub mod report;

pub use burn_rate::BurnRate;
pub use history::{History, Steps};
pub use recorder::{Charged, Metered, Recorder};
