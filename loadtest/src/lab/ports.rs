//! Free TCP ports for processes that must be told theirs and keep it over a restart.
//!
//! Ports come from below the range from which Linux takes the source ports of outgoing connections, so that no
//! connection can take one between two lives of a process. This process reserves a block of them by listening on its
//! first port; tests in other processes so find other blocks.

use std::net::{Ipv4Addr, TcpListener};

use parking_lot::Mutex;

use super::LabError;

const FIRST: u16 = 20_000;
const BLOCKS: u16 = 60;
const BLOCK: u16 = 200;

#[derive(Default)]
struct Reserved {
    next: u16,
    end: u16,
    /// Listening on its first port is what reserves a block; used-up blocks stay reserved.
    guards: Vec<TcpListener>,
}

static RESERVED: Mutex<Reserved> = Mutex::new(Reserved { next: 0, end: 0, guards: Vec::new() });

/// A port nobody listens on and nobody else in this process was given.
pub fn free_port() -> Result<u16, LabError> {
    let mut reserved = RESERVED.lock();
    for _ in 0..2 * BLOCK {
        if reserved.next == reserved.end {
            reserved.next_block()?;
        }
        let port = reserved.next;
        reserved.next += 1;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(LabError::Builder("no free TCP port"))
}

impl Reserved {
    fn next_block(&mut self) -> Result<(), LabError> {
        let offset = (std::process::id() % u32::from(BLOCKS)) as u16;
        let (first, guard) = (0..BLOCKS)
            .map(|i| FIRST + (offset + i) % BLOCKS * BLOCK)
            .find_map(|first| Some((first, TcpListener::bind((Ipv4Addr::LOCALHOST, first)).ok()?)))
            .ok_or(LabError::Builder("every block of TCP ports is taken"))?;
        self.guards.push(guard);
        (self.next, self.end) = (first + 1, first + BLOCK);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_never_given_twice() {
        let ports: Vec<u16> = (0..450).map(|_| free_port().unwrap()).collect();
        let distinct: std::collections::HashSet<_> = ports.iter().collect();
        assert_eq!(distinct.len(), ports.len());
        assert!(ports.iter().all(|p| (FIRST..FIRST + BLOCKS * BLOCK).contains(p)));
    }
}
