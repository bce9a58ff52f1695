//! Free TCP ports for processes that need a known port, and the same port after a restart.
//!
//! The ports are below Linux's ephemeral range, so no outgoing connection can take a port while its process restarts.
//! This process reserves a block of ports by listening on the block's first port, so tests in other processes use other
//! blocks.

use std::net::{Ipv4Addr, TcpListener};

use parking_lot::Mutex;

use super::LabError;

const FIRST: u16 = 20_000;
const BLOCKS: u16 = 60;
const PORTS_PER_BLOCK: u16 = 200;

#[derive(Default)]
struct Reserved {
    next: u16,
    end: u16,
    /// One listener per reserved block, on the block's first port. Exhausted blocks stay reserved.
    guards: Vec<TcpListener>,
}

static RESERVED: Mutex<Reserved> = Mutex::new(Reserved { next: 0, end: 0, guards: Vec::new() });

/// Returns a port that no process listens on and that this process has not returned before.
pub fn free_port() -> Result<u16, LabError> {
    let mut reserved = RESERVED.lock();
    for _ in 0..2 * PORTS_PER_BLOCK {
        if reserved.next == reserved.end {
            reserved.next_block()?;
        }
        let port = reserved.next;
        reserved.next += 1;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(LabError::Invalid("no free TCP port"))
}

impl Reserved {
    fn next_block(&mut self) -> Result<(), LabError> {
        let offset = (std::process::id() % u32::from(BLOCKS)) as u16;
        let (first, guard) = (0..BLOCKS)
            .map(|i| FIRST + (offset + i) % BLOCKS * PORTS_PER_BLOCK)
            .find_map(|first| Some((first, TcpListener::bind((Ipv4Addr::LOCALHOST, first)).ok()?)))
            .ok_or(LabError::Invalid("every block of TCP ports is taken"))?;
        self.guards.push(guard);
        (self.next, self.end) = (first + 1, first + PORTS_PER_BLOCK);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_distinct_and_in_range() {
        let ports: Vec<u16> = (0..450).map(|_| free_port().unwrap()).collect();
        let distinct: std::collections::HashSet<_> = ports.iter().collect();
        assert_eq!(distinct.len(), ports.len());
        assert!(ports.iter().all(|p| (FIRST..FIRST + BLOCKS * PORTS_PER_BLOCK).contains(p)));
    }
}
