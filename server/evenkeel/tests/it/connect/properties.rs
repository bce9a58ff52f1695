//! Any interleaving of admissions, settlements, cancellations, lists, cuts and resumes leaves the table equal to the
//! requests in flight, and each request is charged once.

use std::sync::OnceLock;

use proptest::prelude::*;

use super::{CONFIG, leases, tokens};
use crate::support::{
    sidecar::Sidecar,
    worker::{TOKENS, Worker},
};

/// One step. Its number selects one of the worker's requests.
#[derive(Clone, Copy, Debug)]
enum Step {
    Ask,
    /// Settles a request in flight, or one whose answer has not arrived.
    Settle(usize),
    SettleSeveral(usize),
    Cancel(usize),
    List,
    /// Reads what has arrived.
    Read,
    Quiet,
    /// Loses the stream and resumes at once.
    Cut,
    /// Loses the stream. The steps until the next resume happen without a stream.
    Lose,
    Resume,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => Just(Step::Ask),
        5 => any::<usize>().prop_map(Step::Settle),
        2 => any::<usize>().prop_map(Step::SettleSeveral),
        3 => any::<usize>().prop_map(Step::Cancel),
        3 => Just(Step::List),
        3 => Just(Step::Read),
        1 => Just(Step::Quiet),
        1 => Just(Step::Cut),
        1 => Just(Step::Lose),
        2 => Just(Step::Resume),
    ]
}

fn any_of(leases: impl ExactSizeIterator<Item = u64>, number: usize) -> Option<u64> {
    let mut leases = leases;
    let count = leases.len();
    leases.nth(number.checked_rem(count)?)
}

async fn take(w: &mut Worker, step: Step) {
    match step {
        Step::Ask => drop(w.ask().await),
        Step::Settle(number) => {
            let all: Vec<u64> = w.live.keys().chain(&w.pending).copied().collect();
            if let Some(lease) = any_of(all.into_iter(), number) {
                w.settle(&[lease]).await;
            }
        }
        Step::SettleSeveral(number) => {
            let all: Vec<u64> = w.live.keys().chain(&w.pending).copied().collect();
            let some: Vec<u64> = all.into_iter().filter(|lease| (number >> (lease % 60)) & 1 == 1).collect();
            if !some.is_empty() {
                w.settle(&some).await;
            }
        }
        Step::Cancel(number) => {
            if let Some(lease) = any_of(w.pending.clone().into_iter(), number) {
                w.cancel(lease).await;
            }
        }
        Step::List => w.list().await,
        Step::Read => {
            if w.link.is_some() {
                let wait = std::time::Duration::from_millis(1);
                let _ = tokio::time::timeout(wait, w.receive()).await;
            }
        }
        Step::Quiet => {
            if w.link.is_some() {
                w.quiet().await.unwrap();
            }
        }
        Step::Cut => w.connect().await.unwrap(),
        Step::Lose => w.cut(),
        Step::Resume => {
            if w.link.is_none() {
                w.connect().await.unwrap();
            }
        }
    }
}

async fn check(s: &Sidecar, name: &str, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut w = Worker::start(&s.url(), name, name).await;
    for step in steps {
        take(&mut w, *step).await;
    }
    let was_lost = w.link.is_none();
    if was_lost {
        w.connect().await.unwrap();
    }
    // The list finds the table as it must be: only the list of a resume repairs.
    let repaired = w.listed().await;
    if !was_lost {
        prop_assert_eq!((repaired.restored, repaired.dropped, repaired.moved), (0, 0, 0));
    }
    let live: Vec<_> = w.live.iter().map(|(lease, (endpoint, _))| (*lease, endpoint.clone())).collect();
    prop_assert_eq!(leases(s, name, name).await, live);
    prop_assert_eq!(s.pool(name).await.in_flight, w.live.len() as u64);
    let rest: Vec<u64> = w.live.keys().copied().collect();
    if !rest.is_empty() {
        w.settle(&rest).await;
        w.quiet().await.unwrap();
    }
    prop_assert_eq!(leases(s, name, name).await, vec![]);
    prop_assert_eq!(tokens(s, name).await, (w.ended * TOKENS, 0), "nothing stays reserved");
    Ok(())
}

#[test]
fn any_interleaving_leaves_the_table_equal_to_the_requests_in_flight() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sidecar: OnceLock<Sidecar> = OnceLock::new();
    let sidecar = sidecar.get_or_init(|| runtime.block_on(Sidecar::start(CONFIG)));
    let number = std::cell::Cell::new(0);
    let config = ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(steps in prop::collection::vec(step(), 1..60))| {
        number.set(number.get() + 1);
        let name = format!("w-{}", number.get());
        runtime.block_on(check(sidecar, &name, &steps))?;
    });
}
