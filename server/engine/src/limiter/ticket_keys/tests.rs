use std::time::Instant;

use evenkeel_domain::{HolderId, LeaseId};
use parking_lot::Mutex;

use super::*;

fn id(holder: &str, lease: u64) -> ReservationId {
    ReservationId { holder: HolderId::new(holder).unwrap(), lease: LeaseId::new(lease).unwrap() }
}

fn ticket() -> Ticket {
    Ticket { consumer: "alice".into(), model: "m".into(), prompt_bytes: 7, ..Ticket::default() }
}

fn secret(digit: &str) -> Secret {
    Secret::new(digit.repeat(32))
}

fn of_file(digits: &[&str]) -> TicketKeys {
    TicketKeys::of_file(&digits.iter().map(|digit| secret(digit)).collect::<Vec<_>>())
}

/// The keys in a store, as the script merges them.
#[derive(Default)]
struct SharedKeys {
    keys: Mutex<Vec<TicketKey>>,
    is_down: AtomicBool,
}

#[async_trait::async_trait]
impl TicketKeyStore for SharedKeys {
    async fn merge(&self, mine: &[TicketKey], in_use: bool) -> Result<Vec<TicketKey>, StoreError> {
        if self.is_down.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("test".to_owned()));
        }
        let mut keys = self.keys.lock();
        if in_use || keys.is_empty() {
            let new: Vec<TicketKey> = mine.iter().filter(|key| !keys.contains(key)).copied().collect();
            keys.extend(new);
        }
        Ok(keys.clone())
    }
}

async fn sidecar(store: &Arc<SharedKeys>) -> TicketKeys {
    let keys = TicketKeys::shared(Some(Arc::clone(store) as _));
    let _ = keys.refresh(false).await;
    keys
}

#[test]
fn a_ticket_is_for_one_holder_and_one_lease() {
    let keys = of_file(&["1"]);
    let bytes = keys.issue(ticket(), &id("h", 1));
    let opened = keys.open(&bytes, &id("h", 1)).unwrap();
    assert_eq!(Ticket { issued_s: 0, ..opened }, ticket());
    for other in [id("h", 2), id("g", 1), id("h1", 1), id("h", 1 << 40)] {
        assert_eq!(keys.open(&bytes, &other), Err(Rejected::NotVerified), "{other:?}");
    }
    assert_eq!(of_file(&["2"]).open(&bytes, &id("h", 1)), Err(Rejected::NotVerified));
}

#[test]
fn a_changed_ticket_does_not_verify() {
    let (keys, id) = (of_file(&["1"]), id("h", 1));
    let bytes = keys.issue(ticket(), &id);
    for at in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[at / 8] ^= 1 << (at % 8);
        assert_eq!(keys.open(&flipped, &id), Err(Rejected::NotVerified), "bit {at}");
    }
    for end in 0..bytes.len() {
        assert_eq!(keys.open(&bytes[..end], &id), Err(Rejected::NotVerified), "{end} bytes");
        assert_eq!(keys.open(&bytes[end + 1..], &id), Err(Rejected::NotVerified), "without {end} bytes");
    }
    for more in [&[0][..], &[0x98, 6, 1], &bytes] {
        assert_eq!(keys.open(&[&bytes, more].concat(), &id), Err(Rejected::NotVerified));
        assert_eq!(keys.open(&[more, &bytes].concat(), &id), Err(Rejected::NotVerified));
    }
    // What a forger sent before tickets were signed.
    assert_eq!(keys.open(&ticket().encode(), &id), Err(Rejected::NotVerified));
}

#[test]
fn a_ticket_is_valid_for_a_day() {
    let (keys, id) = (of_file(&["1"]), id("h", 1));
    let now_s = unix_ms() / 1000;
    let opened = |issued_s| {
        let mut bytes = Ticket { issued_s, ..ticket() }.encode();
        bytes.extend(keys.keys.load()[0].mac(&id, &bytes));
        keys.open(&bytes, &id).map(drop)
    };
    assert_eq!(opened(now_s), Ok(()));
    assert_eq!(opened(now_s - TICKET_AGE_MAX_S + 60), Ok(()));
    assert_eq!(opened(now_s - TICKET_AGE_MAX_S - 1), Err(Rejected::TooOld));
    // Another sidecar's clock may be ahead.
    assert_eq!(opened(now_s + 300), Ok(()));
}

#[test]
fn keys_rotate_without_a_lost_ticket() {
    let id = id("h", 1);
    let (one, other) = (of_file(&["1"]), of_file(&["1"]));
    let before = one.issue(ticket(), &id);
    // Every sidecar first learns the new key, then signs with it, then forgets the old one.
    one.replace(&[secret("1"), secret("2")]);
    assert!(other.open(&one.issue(ticket(), &id), &id).is_ok());
    other.replace(&[secret("1"), secret("2")]);
    one.replace(&[secret("2"), secret("1")]);
    let after = one.issue(ticket(), &id);
    for sidecar in [&one, &other] {
        assert!(sidecar.open(&before, &id).is_ok() && sidecar.open(&after, &id).is_ok());
    }
    other.replace(&[secret("2")]);
    assert!(other.open(&after, &id).is_ok());
    assert_eq!(other.open(&before, &id), Err(Rejected::NotVerified));
}

#[tokio::test]
async fn sidecars_share_a_key_and_restore_it() {
    let (store, id) = (Arc::new(SharedKeys::default()), id("h", 1));
    let (one, other) = (sidecar(&store).await, sidecar(&store).await);
    let bytes = one.issue(ticket(), &id);
    assert!(other.open(&bytes, &id).is_ok());
    // The store loses the key, and a sidecar starts before the others notice.
    store.keys.lock().clear();
    let third = sidecar(&store).await;
    assert_eq!(third.open(&bytes, &id), Err(Rejected::NotVerified));
    let of_third = third.issue(ticket(), &id);
    for keys in [&one, &other, &third] {
        keys.refresh(true).await.unwrap();
    }
    one.refresh(true).await.unwrap();
    for keys in [&one, &other, &third] {
        assert!(keys.open(&bytes, &id).is_ok() && keys.open(&of_third, &id).is_ok());
        assert!(sidecar(&store).await.open(&keys.issue(ticket(), &id), &id).is_ok());
    }
}

#[tokio::test]
async fn a_sidecar_that_starts_without_the_store_verifies_later() {
    let (store, id) = (Arc::new(SharedKeys::default()), id("h", 1));
    let before = sidecar(&store).await.issue(ticket(), &id);
    store.is_down.store(true, Ordering::Relaxed);
    let restarted = sidecar(&store).await;
    assert_eq!(restarted.open(&before, &id), Err(Rejected::KeyUnknown));
    let own = restarted.issue(ticket(), &id);
    assert!(restarted.open(&own, &id).is_ok());
    assert!(restarted.refresh(true).await.is_err());
    assert_eq!(restarted.open(&before, &id), Err(Rejected::KeyUnknown));
    store.is_down.store(false, Ordering::Relaxed);
    restarted.refresh(true).await.unwrap();
    assert!(restarted.open(&before, &id).is_ok());
    // Other sidecars learn the key of the outage.
    let other = sidecar(&store).await;
    assert!(other.open(&own, &id).is_ok());
    assert_eq!(other.open(b"forged", &id), Err(Rejected::NotVerified));
}

/// A sidecar that started while the store was lost signs with its own key, and shares it one interval after the store is
/// found again. Until then, the others keep settlements with its tickets.
#[tokio::test]
async fn keys_of_an_outage_are_awaited_after_it() {
    let (store, id) = (Arc::new(SharedKeys::default()), id("h", 1));
    let other = sidecar(&store).await;
    store.is_down.store(true, Ordering::Relaxed);
    other.store_lost();
    let restarted = sidecar(&store).await;
    let bytes = restarted.issue(ticket(), &id);
    store.is_down.store(false, Ordering::Relaxed);
    for _ in 0..2 {
        // A shutdown reads the keys many times in an interval.
        for _ in 0..9 {
            other.refresh(true).await.unwrap();
        }
        other.interval_passed();
        assert_eq!(other.open(&bytes, &id), Err(Rejected::KeyUnknown));
    }
    restarted.refresh(true).await.unwrap();
    other.refresh(true).await.unwrap();
    other.interval_passed();
    assert!(other.open(&bytes, &id).is_ok());
    assert_eq!(other.open(b"forged", &id), Err(Rejected::NotVerified));
}

/// Prints the time that signing and verifying take. Run it with `--release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn cost_per_ticket() {
    let (keys, id) = (of_file(&["1"]), id("6f1d2c3b4a5968778695a4b3c2d1e0ff", 123_456));
    let bytes = keys.issue(ticket(), &id);
    let ns = |what: &dyn Fn()| {
        let started = Instant::now();
        (0..100_000).for_each(|_| what());
        started.elapsed().as_nanos() / 100_000
    };
    let body = &bytes[..bytes.len() - MAC_BYTES];
    let mac = ns(&|| _ = std::hint::black_box(keys.keys.load()[0].mac(&id, body)));
    let issue = ns(&|| drop(std::hint::black_box(keys.issue(ticket(), &id))));
    let open = ns(&|| drop(std::hint::black_box(keys.open(&bytes, &id))));
    println!("{} bytes; MAC {mac} ns, issue {issue} ns, open {open} ns", bytes.len());
}
