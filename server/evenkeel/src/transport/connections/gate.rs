//! The connections of one listener.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use evenkeel_telemetry::{BoundMetrics, ListenerMetrics};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{Closed, Connection, Places, Waits};

/// Time after which a connection closes whose client reads nothing of what was sent.
const STALL_MAX: Duration = Duration::from_secs(30);
/// Maximum time until the end of a TLS handshake. A slow network needs a second for its three round trips.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Interval at which each connection is compared with its bounds.
const CHECK: Duration = Duration::from_millis(500);
/// Fraction of the connections that make room at once, so that a flood of connections costs one search for many of them.
const REPLACED_PART: usize = 16;
/// Time that a new connection waits for the socket of a connection that makes room.
const ROOM_WITHIN: Duration = Duration::from_secs(1);

/// Waits of gRPC connections. HTTP/2 pings notice clients that are gone, so a connection may be idle. A unary call waits
/// for Redis at most twice, each time at most a minute (`store.connect_timeout`).
const GRPC: Waits = Waits {
    handshake: HANDSHAKE_MAX,
    first_request: Duration::from_secs(30),
    idle: None,
    request: Some(Duration::from_secs(120)),
    replaces_own: false,
};
/// Waits of HTTP connections. Browsers and Prometheus keep connections for their next request. A response may take any
/// time, such as a watch or an export, as long as the client reads.
const HTTP: Waits = Waits {
    handshake: HANDSHAKE_MAX,
    first_request: Duration::from_secs(10),
    idle: Some(Duration::from_secs(75)),
    request: None,
    replaces_own: true,
};

/// The gates of all listeners.
pub struct Gates {
    pub grpc: Arc<Gate>,
    pub grpc_socket: Arc<Gate>,
    pub http: Arc<Gate>,
}

impl Gates {
    pub fn new(places: &Places, metrics: &BoundMetrics) -> Self {
        Self {
            grpc: Gate::new(places.grpc, GRPC, metrics.grpc.clone()),
            grpc_socket: Gate::new(places.grpc_socket, GRPC, metrics.grpc_socket.clone()),
            http: Gate::new(places.http, HTTP, metrics.http.clone()),
        }
    }

    /// Closes connections that exceed their bounds, until `shutdown`.
    pub async fn watch(self, shutdown: CancellationToken) {
        let mut checks = tokio::time::interval(CHECK);
        checks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = checks.tick() => {}
                () = shutdown.cancelled() => return,
            }
            for gate in [&self.grpc, &self.grpc_socket, &self.http] {
                gate.check();
            }
        }
    }
}

/// The connections of one listener, and the places that they take.
pub struct Gate {
    max: usize,
    waits: Waits,
    places: Arc<Semaphore>,
    open: Mutex<HashMap<u64, Arc<Connection>>>,
    next: AtomicU64,
    pub(super) metrics: ListenerMetrics,
}

/// A place of a connection, until it is dropped.
pub(super) struct Place {
    gate: Arc<Gate>,
    number: u64,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.open.lock().remove(&self.number);
        self.gate.metrics.open.dec();
    }
}

impl Gate {
    fn new(max: usize, waits: Waits, metrics: ListenerMetrics) -> Arc<Self> {
        Arc::new(Self {
            max,
            waits,
            places: Arc::new(Semaphore::new(max)),
            open: Mutex::default(),
            next: AtomicU64::new(0),
            metrics,
        })
    }

    /// Takes a place for a connection. If all are taken, closes connections that need theirs less. Returns `None` if there
    /// are none.
    pub(super) async fn enter(self: &Arc<Self>, address: Option<IpAddr>) -> Option<(Arc<Connection>, Place)> {
        let places = || Arc::clone(&self.places);
        let permit = match places().try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(_) if self.make_room(address) == 0 => None,
            Err(_) => {
                let room = tokio::time::timeout(ROOM_WITHIN, places().acquire_owned()).await;
                room.ok().and_then(Result::ok)
            }
        };
        let Some(permit) = permit else {
            self.metrics.full.inc();
            return None;
        };
        let connection = Arc::new(Connection::new(address));
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.lock().insert(number, Arc::clone(&connection));
        self.metrics.open.inc();
        Some((connection, Place { gate: Arc::clone(self), number, _permit: permit }))
    }

    /// Closes connections for a new one, and returns the number of connections that are closing. First those without a
    /// request in progress, beginning with those that have never had one. If all have one, then those of the client that
    /// has the most connections, beginning with the oldest.
    pub(super) fn make_room(&self, newcomer: Option<IpAddr>) -> usize {
        let open = self.open.lock();
        let (closing, others): (Vec<_>, Vec<_>) =
            open.values().partition(|connection| connection.is_closed());
        if !closing.is_empty() {
            return closing.len();
        }
        let mut candidates: Vec<_> =
            others.into_iter().map(|connection| (connection.worth(), connection)).collect();
        candidates.sort_unstable_by_key(|(worth, _)| *worth);
        if candidates.first().is_some_and(|((is_busy, ..), _)| *is_busy) {
            let heaviest =
                self.heaviest(candidates.iter().map(|(_, connection)| connection.address), newcomer);
            candidates
                .retain(|(_, connection)| heaviest.is_some_and(|heaviest| connection.address == heaviest));
        } else {
            candidates.retain(|((is_busy, ..), _)| !is_busy);
        }
        candidates.truncate(self.max.div_ceil(REPLACED_PART));
        for (_, connection) in &candidates {
            self.close(connection, Closed::Replaced);
        }
        candidates.len()
    }

    /// Returns the address with the most connections, if it must make room for a connection of another client. Otherwise
    /// the clients that have come first keep their places.
    fn heaviest(
        &self,
        addresses: impl Iterator<Item = Option<IpAddr>>,
        newcomer: Option<IpAddr>,
    ) -> Option<Option<IpAddr>> {
        let mut counts: HashMap<Option<IpAddr>, usize> = HashMap::new();
        for address in addresses {
            *counts.entry(address).or_default() += 1;
        }
        let own = counts.get(&newcomer).copied().unwrap_or_default();
        let (heaviest, most) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        (most > own + 1 || self.waits.replaces_own).then_some(heaviest)
    }

    fn check(&self) {
        for connection in self.open.lock().values().filter(|connection| !connection.is_closed()) {
            if let Some(why) = connection.overdue(&self.waits, STALL_MAX) {
                self.close(connection, why);
            }
        }
    }

    fn close(&self, connection: &Connection, why: Closed) {
        let metrics = &self.metrics;
        match why {
            Closed::NoRequest => &metrics.no_request,
            Closed::Idle => &metrics.idle,
            Closed::Request => &metrics.request,
            Closed::Stalled => &metrics.stalled,
            Closed::Replaced => &metrics.replaced,
        }
        .inc();
        connection.close();
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_domain::settings::Roles;
    use evenkeel_telemetry::Metrics;

    use super::*;
    use crate::transport::connections::{InProgress, Peer};

    const FIRST: [u8; 4] = [192, 0, 2, 1];
    const SECOND: [u8; 4] = [192, 0, 2, 2];

    fn gate(max: usize, waits: Waits) -> Arc<Gate> {
        Gate::new(max, waits, Metrics::new().unwrap().bounds.grpc.clone())
    }

    async fn opened(gate: &Arc<Gate>, address: [u8; 4]) -> (Arc<Connection>, Place) {
        gate.enter(Some(address.into())).await.unwrap()
    }

    fn peer(connection: &Arc<Connection>) -> Peer {
        Peer { connection: Arc::clone(connection), roles: Roles::NONE, certificate: None }
    }

    fn busy(connection: &Arc<Connection>) -> InProgress {
        peer(connection).begin(true)
    }

    #[tokio::test]
    async fn those_without_a_request_make_room_first() {
        let gate = gate(4, GRPC);
        let mut all = Vec::new();
        for _ in 0..4 {
            all.push(opened(&gate, FIRST).await);
        }
        let _in_use = busy(&all[0].0);
        drop(busy(&all[1].0));
        let closed = |all: &[(Arc<Connection>, Place)]| -> Vec<bool> {
            all.iter().map(|(connection, _)| connection.is_closed()).collect()
        };
        // One makes room; while it closes, nobody else has to.
        assert_eq!((gate.make_room(None), gate.make_room(None)), (1, 1));
        assert_eq!(closed(&all), [false, false, true, false]);
        all.remove(2);
        gate.make_room(None);
        assert_eq!(closed(&all), [false, false, true]);
        all.remove(2);
        gate.make_room(None);
        assert_eq!(closed(&all), [false, true], "it has had a request");
        assert_eq!(gate.metrics.replaced.get(), 3);
    }

    #[tokio::test]
    async fn among_those_in_use_the_client_with_the_most_makes_room() {
        for (waits, own) in [(GRPC, 0), (HTTP, 1)] {
            let gate = gate(3, waits);
            let all = [opened(&gate, SECOND).await, opened(&gate, FIRST).await, opened(&gate, FIRST).await];
            let _in_use: Vec<_> = all.iter().map(|(connection, _)| busy(connection)).collect();
            assert_eq!(gate.make_room(Some(FIRST.into())), own, "of the same client");
            assert_eq!(gate.make_room(Some([192, 0, 2, 3].into())), 1);
            assert!(all[1].0.is_closed() && !all[0].0.is_closed() && !all[2].0.is_closed());
        }
    }

    #[tokio::test]
    async fn a_refused_connection_is_counted_and_a_closed_one_gives_its_place() {
        let gate = gate(1, GRPC);
        let (connection, place) = opened(&gate, FIRST).await;
        let in_use = busy(&connection);
        assert!(gate.enter(Some(FIRST.into())).await.is_none());
        assert_eq!(gate.metrics.full.get(), 1);
        drop((in_use, place));
        opened(&gate, FIRST).await;
    }

    #[tokio::test]
    async fn what_is_overdue_is_closed() {
        let never = Duration::from_secs(3600);
        let waits = Waits {
            handshake: never,
            first_request: never,
            idle: Some(never),
            request: Some(never),
            replaces_own: false,
        };
        let now = Duration::ZERO;
        for (waits, first, reason) in [
            (Waits { first_request: now, ..waits }, None, Closed::NoRequest),
            (Waits { idle: Some(now), ..waits }, Some(false), Closed::Idle),
            (Waits { request: Some(now), ..waits }, Some(true), Closed::Request),
        ] {
            let gate = gate(1, waits);
            let (connection, _place) = opened(&gate, FIRST).await;
            let request = first.map(|_| peer(&connection).begin(false));
            let _lasting = request.filter(|_| first == Some(true));
            assert_eq!(connection.overdue(&waits, never), Some(reason));
            gate.check();
            assert!(connection.is_closed());
        }
        let gate = gate(1, waits);
        let (connection, _place) = opened(&gate, FIRST).await;
        assert_eq!(connection.overdue(&waits, never), None);
        connection.stalls();
        while connection.overdue(&waits, now).is_none() {
            tokio::task::yield_now().await;
        }
        assert_eq!(connection.overdue(&waits, now), Some(Closed::Stalled));
        connection.flows();
        assert_eq!(connection.overdue(&waits, now), None);
        // A handshake has less time than the first request.
        let waits = Waits { handshake: now, ..waits };
        peer(&connection).begin_handshake();
        assert_eq!(connection.overdue(&waits, never), Some(Closed::NoRequest));
        peer(&connection).end_handshake();
        assert_eq!(connection.overdue(&waits, never), None);
    }
}
