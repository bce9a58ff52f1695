//! Measures how late the operating system runs a thread that wants to run.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Rare enough to cost less than one per cent of a core.
const INTERVAL: Duration = Duration::from_millis(5);

/// A thread that sleeps for short intervals and records how much longer each took.
#[derive(Debug)]
pub struct LatenessProbe {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<f64>>>,
}

impl LatenessProbe {
    /// # Errors
    /// If the operating system cannot start a thread.
    pub fn start() -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::Builder::new().name("lateness-probe".into()).spawn(move || {
            let mut late_ms = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let start = Instant::now();
                thread::park_timeout(INTERVAL);
                late_ms.push(start.elapsed().saturating_sub(INTERVAL).as_secs_f64() * 1e3);
            }
            late_ms
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Stops the thread and returns the delays of all wake-ups in milliseconds.
    pub fn stop(mut self) -> Vec<f64> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
        self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

impl Drop for LatenessProbe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wake_up_has_a_delay() {
        let probe = LatenessProbe::start().unwrap();
        let start = Instant::now();
        // Runs until the probe has woken up at least once.
        while start.elapsed() < 3 * INTERVAL {
            thread::yield_now();
        }
        let late_ms = probe.stop();
        assert!(!late_ms.is_empty() && late_ms.iter().all(|late| *late >= 0.0), "{late_ms:?}");
    }
}
