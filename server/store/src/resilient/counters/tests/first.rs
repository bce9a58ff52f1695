//! Of all settlements of a request, at all sidecars, exactly one is the first.

use std::sync::atomic::AtomicUsize;

use super::*;

/// How a call of the store ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Answered,
    /// The store applies the call, and its reply is lost.
    ReplyLost,
    /// The sidecar knows that the store is lost.
    NotSent,
}

const CALLS: [Call; 3] = [Call::Answered, Call::ReplyLost, Call::NotSent];

/// What the store knows of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reservation {
    Stored,
    /// The gateway asked both sidecars for the admission.
    MadeTwice,
    /// The store restarted empty.
    Lost,
    /// A sidecar admitted the request without the store.
    Outage,
    /// The request is under no limit.
    None,
}

#[derive(Default)]
struct Results {
    first: AtomicUsize,
    repeated: AtomicUsize,
}

impl Results {
    fn add(self: &Arc<Self>) -> WhenSettled {
        let results = Arc::clone(self);
        Box::new(move |first| {
            let of = if first { &results.first } else { &results.repeated };
            of.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn seen(&self) -> (usize, usize) {
        (self.first.load(Ordering::Relaxed), self.repeated.load(Ordering::Relaxed))
    }
}

struct Shared {
    unreliable: Arc<UnreliableStore>,
    sidecars: [Arc<ResilientStore>; 2],
    results: Arc<Results>,
}

impl Shared {
    async fn settle(&self, sidecar: usize, settlement: Settlement, call: Call) {
        self.set(sidecar, call);
        self.sidecars[sidecar].settle_then(settlement, self.results.add()).await.unwrap();
        self.set(sidecar, Call::Answered);
    }

    async fn retry(&self, sidecar: usize, call: Call) {
        self.set(sidecar, call);
        self.sidecars[sidecar].settle_waiting().await;
        self.set(sidecar, Call::Answered);
    }

    fn set(&self, sidecar: usize, call: Call) {
        self.unreliable.loses_replies.store(call == Call::ReplyLost, Ordering::Relaxed);
        self.sidecars[sidecar].down.store(call == Call::NotSent, Ordering::Relaxed);
    }

    /// Makes the reservation of a request that sidecar 0 admits. Returns its settlement by a settler.
    async fn admit(&self, reservation: Reservation) -> impl Fn(Settler) -> Settlement {
        let verdict = if reservation == Reservation::None {
            Verdict::default()
        } else {
            self.set(0, if reservation == Reservation::Outage { Call::NotSent } else { Call::Answered });
            let verdict = Counters::reserve(&*self.sidecars[0], reserve()).await.unwrap();
            self.set(0, Call::Answered);
            assert!(verdict.admitted && !verdict.records.is_empty());
            verdict
        };
        if reservation == Reservation::MadeTwice {
            Counters::reserve(&*self.sidecars[1], reserve()).await.unwrap();
        }
        if reservation == Reservation::Lost {
            self.unreliable.counters.clear();
            // Records with this epoch no longer exist, as after a restart.
            self.unreliable.counters.set_clock(self.unreliable.counters.now_ms() + 1);
        }
        move |by| match reservation {
            Reservation::None => {
                Settlement::without_reservation(reserve().id.unwrap(), unix_ms() / DAY_MS, 30, by)
            }
            _ => Settlement { by, ..settlement(&verdict, 30) },
        }
    }
}

fn shared_by_two(metrics: &Arc<Metrics>) -> Shared {
    let unreliable = Arc::new(UnreliableStore::default());
    let sidecars = [0, 1].map(|_| sidecar(&unreliable, Arc::clone(metrics)));
    Shared { unreliable, sidecars, results: Arc::default() }
}

/// The gateway settles at the sidecar that admitted the request, and repeats that at another, and at both again. Each
/// sidecar repeats its own calls, in any order, and each call may fail in every way.
#[tokio::test]
async fn exactly_one_settlement_is_the_first() {
    let reservations = [
        Reservation::Stored,
        Reservation::MadeTwice,
        Reservation::Lost,
        Reservation::Outage,
        Reservation::None,
    ];
    let metrics = Metrics::new().unwrap();
    for reservation in reservations {
        for calls in 0..3_usize.pow(5) {
            let call = |n: u32| CALLS[calls / 3_usize.pow(n) % 3];
            for order in [[0, 1], [1, 0]] {
                let system = shared_by_two(&metrics);
                let settlement = system.admit(reservation).await;
                // Without a reservation, every sidecar that asks the store leaves a mark.
                let original = Settler::new(reservation == Reservation::None);
                // A sidecar that has admitted the request leaves no mark by itself.
                let other = Settler::new(reservation != Reservation::MadeTwice);
                let steps = [(0, original, call(0)), (1, other, call(1))];
                for n in order {
                    let (sidecar, by, call) = steps[n];
                    system.settle(sidecar, settlement(by), call).await;
                }
                system.retry(order[1], call(2)).await;
                system.settle(0, settlement(Settler::new(true)), call(3)).await;
                system.retry(order[0], call(4)).await;
                system.settle(1, settlement(Settler::new(true)), Call::Answered).await;
                for sidecar in [0, 1] {
                    system.retry(sidecar, Call::Answered).await;
                }
                let what = format!("{reservation:?}, {:?}, order {order:?}", [0, 1, 2, 3, 4].map(call));
                assert_eq!(system.results.seen(), (1, 3), "{what}");
                for store in &system.sidecars {
                    assert_eq!(store.settlements_waiting(), 0, "{what}");
                }
            }
        }
    }
}

/// The gateway's stream breaks and is resumed at the same sidecar while a settlement is in progress there.
#[tokio::test]
async fn of_two_settlements_that_are_in_progress_at_one_sidecar_one_is_the_first() {
    let metrics = Metrics::new().unwrap();
    for marks in [[false, true], [true, false], [true, true]] {
        let system = shared_by_two(&metrics);
        let settlement = system.admit(Reservation::Stored).await;
        system.set(0, Call::ReplyLost);
        let settle = async |leaves_mark| {
            let settlement = settlement(Settler::new(leaves_mark));
            system.sidecars[0].settle_then(settlement, system.results.add()).await.unwrap();
        };
        tokio::join!(settle(marks[0]), settle(marks[1]));
        assert_eq!(system.sidecars[0].settlements_waiting(), 2);
        for call in [Call::ReplyLost, Call::Answered] {
            system.retry(0, call).await;
        }
        assert_eq!(system.results.seen(), (1, 1), "{marks:?}");
        assert_eq!(system.sidecars[0].settlements_waiting(), 0);
    }
}

/// The request of a settlement that is given up has been served, so it must be in the ledger.
#[tokio::test]
async fn a_settlement_that_is_given_up_counts_as_the_first() {
    let metrics = Metrics::new().unwrap();
    let system = shared_by_two(&metrics);
    let settlement = system.admit(Reservation::Stored).await(Settler::new(false));
    system.unreliable.rejects.store(true, Ordering::Relaxed);
    system.settle(0, settlement.clone(), Call::Answered).await;
    for _ in 0..ATTEMPTS_MAX {
        assert_eq!(system.results.seen(), (0, 0));
        system.retry(0, Call::Answered).await;
    }
    assert_eq!(system.results.seen(), (1, 0), "rejected");

    let system = shared_by_two(&metrics);
    system.settle(0, settlement, Call::NotSent).await;
    system.set(0, Call::NotSent);
    let undelivered = system.sidecars[0].drain(Duration::ZERO).await;
    assert_eq!(undelivered, Undelivered { settlements: 1, tokens: 30 });
    assert_eq!(system.results.seen(), (1, 0), "at a shutdown");
}
