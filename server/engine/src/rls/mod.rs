//! Envoy's rate limit service: files of limits as users of envoyproxy/ratelimit have them, the descriptors that meet
//! them, and the answers. [`file`] reads files, [`tree`] finds limits, [`judge`] answers, [`load`] keeps up with the
//! files. What counts is [`evenkeel_store::counters`].

pub mod file;
mod headers;
pub mod judge;
pub mod load;
mod tally;
pub mod tree;
pub mod unit;

pub use file::Fault;
pub use judge::{Answer, Descriptor, Judge, Question, Status};
pub use load::{Faults, LoadMetrics, Loader, load};
pub use tally::{Tallies, VALUES_MAX};
pub use tree::{Entry, Rules};
pub use unit::Unit;
