//! What has happened, for those who ask "have we room, who is using it, why was this refused?".
//!
//! A [`Recorder`] is told of it in passing and never waits. About once a second [`report`] puts what this sidecar saw
//! into the store, in place of what it told before; [`History`] joins what all sidecars told. So every figure is one of
//! the whole cluster, whichever sidecar is asked, and a lost call costs nothing.

mod burns;
mod forecast;
mod half;
mod history;
mod nearest;
mod pages;
mod recorder;
pub mod report;

pub use forecast::QuotaBurn;
pub use history::{History, Steps};
pub use recorder::{Charged, Metered, Recorder};
