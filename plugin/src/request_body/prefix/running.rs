//! A running hash of many short pieces.

use xxhash_rust::xxh64::Xxh64;

/// XXH64 takes this many bytes at once.
const STRIPE_BYTES: usize = 32;

/// Bytes that are collected before they are hashed.
const COLLECTED_BYTES_MAX: usize = 2 * STRIPE_BYTES;

/// A running hash. Most tokens have a few bytes, so it collects them, and hashes whole stripes only.
pub(super) struct Running {
    hash: Xxh64,
    collected: [u8; COLLECTED_BYTES_MAX],
    /// Number of collected bytes; less than the maximum.
    len: usize,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Running {
    pub(super) fn new() -> Running {
        Running { hash: Xxh64::new(0), collected: [0; COLLECTED_BYTES_MAX], len: 0 }
    }

    pub(super) fn reset(&mut self) {
        self.len = 0;
        self.hash.reset(0);
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        if bytes.len() < COLLECTED_BYTES_MAX - self.len {
            self.collect(bytes);
        } else {
            self.feed_stripes(bytes);
        }
    }

    // Functions that are called at many places are not repeated there, because the module must be small.
    #[inline(never)]
    fn feed_stripes(&mut self, bytes: &[u8]) {
        let free = COLLECTED_BYTES_MAX - self.len;
        let (first, rest) = bytes.split_at(free);
        copy(&mut self.collected[self.len..], first);
        self.flush();
        let (stripes, rest) = rest.split_at(rest.len() / STRIPE_BYTES * STRIPE_BYTES);
        if !stripes.is_empty() {
            self.hash.update(stripes);
        }
        self.collect(rest);
    }

    pub(super) fn feed_byte(&mut self, byte: u8) {
        self.collected[self.len] = byte;
        self.len += 1;
        if self.len == COLLECTED_BYTES_MAX {
            self.flush();
        }
    }

    #[inline(never)]
    fn collect(&mut self, bytes: &[u8]) {
        copy(&mut self.collected[self.len..self.len + bytes.len()], bytes);
        self.len += bytes.len();
    }

    /// Hashes the collected bytes, which are the maximum.
    #[inline(never)]
    fn flush(&mut self) {
        self.hash.update(&self.collected);
        self.len = 0;
    }

    #[inline(never)]
    pub(super) fn digest(&self) -> u64 {
        let mut hash = self.hash.clone();
        hash.update(&self.collected[..self.len]);
        hash.digest()
    }
}

/// Copies up to 64 bytes. A Wasm VM calls a function to copy a number of bytes that the compiler does not know, which
/// takes longer than hashing them.
fn copy(to: &mut [u8], from: &[u8]) {
    match from.len() {
        0 => {}
        len @ 1..=3 => {
            to[0] = from[0];
            to[len / 2] = from[len / 2];
            to[len - 1] = from[len - 1];
        }
        4..=7 => copy_ends::<4>(to, from),
        8..=15 => copy_ends::<8>(to, from),
        16..=31 => copy_ends::<16>(to, from),
        _ => copy_ends::<STRIPE_BYTES>(to, from),
    }
}

/// Copies the first and the last `N` bytes, which may overlap.
fn copy_ends<const N: usize>(to: &mut [u8], from: &[u8]) {
    if let (Some(to), Some(from)) = (to.first_chunk_mut::<N>(), from.first_chunk()) {
        *to = *from;
    }
    if let (Some(to), Some(from)) = (to.last_chunk_mut::<N>(), from.last_chunk()) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh64::xxh64;

    use super::*;

    #[test]
    fn pieces_of_any_size_give_the_hash_of_the_whole() {
        let bytes: Vec<u8> = (0..1000_u32).map(|i| ((i * i) >> 3) as u8).collect();
        let mut running = Running::new();
        for first in 0..200 {
            for second in [0, 1, 2, 3, 5, 9, 31, 32, 33, 63, 64, 65, 96, 300] {
                running.reset();
                running.feed(&bytes[..first]);
                running.feed(&bytes[first..first + second]);
                assert_eq!(running.digest(), xxh64(&bytes[..first + second], 0), "{first} {second}");
                running.feed_byte(bytes[first + second]);
                running.feed(&bytes[first + second + 1..]);
                assert_eq!(running.digest(), xxh64(&bytes, 0), "{first} {second}");
            }
        }
    }
}
