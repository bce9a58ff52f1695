//! Schedules requests and assigns them to gateways.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use tokio::task::JoinHandle;

use super::Spread;

/// Calls `send(index, due)` at each due time, and waits until all the calls have finished. `due` contains ascending
/// times, relative to now. Each call runs in its own task, so a slow call does not delay the others.
pub async fn open_loop<F, T>(due: &[Duration], mut send: impl FnMut(usize, Instant) -> F) -> Vec<T>
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let start = tokio::time::Instant::now();
    let mut tasks: Vec<JoinHandle<T>> = Vec::with_capacity(due.len());
    for (index, after) in due.iter().enumerate() {
        let at = start + *after;
        if at > tokio::time::Instant::now() {
            tokio::time::sleep_until(at).await;
        }
        tasks.push(tokio::spawn(send(index, at.into_std())));
    }
    let mut results = Vec::with_capacity(tasks.len());
    for task in tasks {
        match task.await {
            Ok(result) => results.push(result),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    results
}

/// Returns the index of a gateway for each request.
pub(crate) fn spread(requests: usize, gateways: usize, spread: Spread, seed: u64) -> Vec<usize> {
    let mut rng = SmallRng::seed_from_u64(seed);
    (0..requests)
        .map(|i| match spread {
            Spread::RoundRobin => i % gateways,
            Spread::Random => rng.random_range(0..gateways),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn slow_responses_do_not_delay_later_requests() {
        let due: Vec<_> = (0..50).map(|i| Duration::from_millis(10 * i)).collect();
        let start = tokio::time::Instant::now();
        let sent = open_loop(&due, |_, _| async move {
            let sent = start.elapsed();
            tokio::time::sleep(Duration::from_secs(60)).await;
            sent
        })
        .await;
        for (sent, due) in sent.iter().zip(&due) {
            assert!(sent.abs_diff(*due) <= Duration::from_millis(1), "due {due:?}, sent {sent:?}");
        }
        // All 50 requests waited concurrently.
        assert!(start.elapsed() < Duration::from_secs(61));
    }

    #[test]
    fn the_same_seed_repeats_the_spread() {
        assert_eq!(spread(6, 3, Spread::RoundRobin, 1), [0, 1, 2, 0, 1, 2]);
        let random = spread(8000, 8, Spread::Random, 1);
        assert_eq!(random, spread(8000, 8, Spread::Random, 1));
        for gateway in 0..8 {
            let n = random.iter().filter(|g| **g == gateway).count();
            assert!((850..1150).contains(&n), "{n}");
        }
    }
}
