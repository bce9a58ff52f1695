//! Records the calls of all callers of one run.

use std::{
    cell::{Cell, RefCell},
    time::Instant,
};

use hdrhistogram::Histogram;

use crate::lab::LabError;

const LATENCY_US_MAX: u64 = 60_000_000;

/// Counts and latencies, shared by all callers on one thread.
#[derive(Debug)]
pub(super) struct Recorder {
    recording: Cell<bool>,
    stopped: Cell<bool>,
    calls: Cell<u64>,
    admits: Cell<u64>,
    errors: Cell<u64>,
    latency_us: RefCell<Histogram<u64>>,
}

/// The calls that a recorder has recorded.
#[derive(Debug)]
pub(super) struct Recording {
    pub(super) calls: u64,
    pub(super) admits: u64,
    pub(super) errors: u64,
    pub(super) latency_us: Histogram<u64>,
}

impl Recorder {
    pub(super) fn new() -> Result<Self, LabError> {
        let latency_us = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3)
            .map_err(|_| LabError::Invalid("the bounds of the histogram are invalid"))?;
        Ok(Self {
            recording: Cell::new(false),
            stopped: Cell::new(false),
            calls: Cell::new(0),
            admits: Cell::new(0),
            errors: Cell::new(0),
            latency_us: RefCell::new(latency_us),
        })
    }

    /// Starts or stops recording. Calls that are not recorded belong to the warm-up.
    pub(super) fn set_recording(&self, recording: bool) {
        self.recording.set(recording);
    }

    /// Makes the callers return.
    pub(super) fn stop(&self) {
        self.stopped.set(true);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.get()
    }

    /// Records one call that has just ended.
    pub(super) fn record(&self, start: Instant, is_admit: bool, is_ok: bool) {
        if !self.recording.get() {
            return;
        }
        self.calls.set(self.calls.get() + 1);
        self.admits.set(self.admits.get() + u64::from(is_admit));
        self.errors.set(self.errors.get() + u64::from(!is_ok));
        self.latency_us.borrow_mut().saturating_record(start.elapsed().as_micros().max(1) as u64);
    }

    pub(super) fn recording(&self) -> Recording {
        Recording {
            calls: self.calls.get(),
            admits: self.admits.get(),
            errors: self.errors.get(),
            latency_us: self.latency_us.borrow().clone(),
        }
    }
}
