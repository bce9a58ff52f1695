//! Fits the maximum number of connections into the process's limit of open files.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Files that are not connections of clients: up to 16 connections to Redis (on a cluster, to each node), listeners,
/// configuration, DNS, Kubernetes, the trace collector, and connections that wait for the place of another one.
const RESERVE: u64 = 256;
/// Smallest reserve, if the limit of open files is small.
const RESERVE_MIN: u64 = 64;
/// Maximum number of connections for gRPC over the Unix socket: the workers of the gateways on one host.
const GRPC_SOCKET: usize = 1024;
/// Maximum number of connections for HTTP: probes, Prometheus, and people with the page.
const HTTP: usize = 256;
/// Fewest connections of one listener.
const PLACES_MIN: usize = 16;

/// The maximum number of connections of each listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    pub grpc: usize,
    pub grpc_socket: usize,
    pub http: usize,
}

/// Returns how many connections each listener may have. Raises the process's soft limit of open files as far as needed and
/// permitted. If the limit is still too small, each listener gets its share.
pub fn places(grpc: usize) -> Places {
    let wanted = Places { grpc, grpc_socket: GRPC_SOCKET, http: HTTP };
    let needed = wanted.total() + RESERVE;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let mut files = current.unwrap_or(u64::MAX);
    if files < needed {
        let raised = needed.min(maximum.unwrap_or(u64::MAX));
        if setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum }).is_ok() {
            files = raised;
        }
    }
    let places = wanted.within(files);
    if places != wanted {
        warn!(
            open_files = files,
            needed,
            grpc = places.grpc,
            grpc_socket = places.grpc_socket,
            http = places.http,
            "the limit of open files is too small: the sidecar accepts fewer connections"
        );
    }
    places
}

impl Places {
    fn total(self) -> u64 {
        (self.grpc + self.grpc_socket + self.http) as u64
    }

    /// Reduces all numbers in proportion, so that they and the reserve fit into a number of open files.
    fn within(self, files: u64) -> Self {
        let reserve = RESERVE.min(files / 2).max(RESERVE_MIN);
        let rest = files.saturating_sub(reserve);
        if self.total() <= rest {
            return self;
        }
        let share = |places: usize| ((places as u64 * rest / self.total()) as usize).max(PLACES_MIN);
        Self { grpc: share(self.grpc), grpc_socket: share(self.grpc_socket), http: share(self.http) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_and_the_reserve_fit_into_the_limit_of_open_files() {
        let wanted = Places { grpc: 2048, grpc_socket: 1024, http: 256 };
        assert_eq!(wanted.within(1 << 20), wanted);
        assert_eq!(wanted.within(wanted.total() + RESERVE), wanted);
        for files in [256, 512, 1024, 2000, 3583] {
            let places = wanted.within(files);
            let reserve = files - places.total();
            // A small listener has its smallest number, at the expense of the reserve.
            assert!(reserve + PLACES_MIN as u64 >= RESERVE.min(files / 2), "{files}: {places:?}");
            assert!(places.http >= PLACES_MIN && places.grpc > places.http, "{files}: {places:?}");
        }
    }
}
