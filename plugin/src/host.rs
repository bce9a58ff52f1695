//! The interface through which the plugin uses the gateway. In the Wasm module it is implemented over proxy-wasm, and
//! in tests by a mock.

use crate::metrics::Counter;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Info,
    /// A failure from which the plugin recovers automatically.
    Warn,
    /// A failure that a person must fix.
    Error,
}

/// Full name of the gRPC service.
pub const SERVICE: &str = "evenkeel.v1.Gateway";

/// Name of the method that connects a worker.
pub const METHOD: &str = "Connect";

/// Maximum number of bytes copied from a body in the gateway at once. The bound matters because the memory of a Wasm
/// module never shrinks.
pub const PART_BYTES_MAX: usize = 64 << 10;

/// The gateway. Methods act on the *effective context*: the stream or root context whose callback is running, unless
/// [`Host::enter`] has selected another context.
pub trait Host {
    /// Returns the time of a monotonic clock, in milliseconds.
    fn now_ms(&self) -> u64;

    fn log(&self, level: Level, message: &str);

    /// Makes `context` the effective context. Returns false if `context` no longer exists.
    fn enter(&self, context: u32) -> bool;

    /// Returns a property; `None` if it is absent or empty.
    fn property(&self, path: &[&str]) -> Option<Vec<u8>>;

    /// Returns the first value of a request header.
    fn request_header(&self, name: &str) -> Option<String>;

    /// Returns every value of a request header.
    fn request_header_values(&self, name: &str) -> Vec<String>;

    /// Sets a request header and removes its other values.
    fn set_request_header(&self, name: &str, value: &str);

    /// Removes every value of a request header.
    fn remove_request_header(&self, name: &str);

    /// Returns the first value of a response header.
    fn response_header(&self, name: &str) -> Option<String>;

    /// Sets a response header and removes its other values.
    fn set_response_header(&self, name: &str, value: &str);

    /// Removes every value of a response header.
    fn remove_response_header(&self, name: &str);

    /// Returns up to `bytes_max` bytes of the request body, starting at offset `at`: of the buffered body while the request
    /// is paused, of the current chunk otherwise. `at` is at most the number of bytes there.
    fn request_body(&self, at: usize, bytes_max: usize) -> Vec<u8>;

    /// Replaces the first `replaced` bytes of the buffered request body.
    fn set_request_body(&self, replaced: usize, body: &[u8]);

    /// Returns up to `bytes_max` bytes of the current response body chunk, starting at offset `at`.
    fn response_body(&self, at: usize, bytes_max: usize) -> Vec<u8>;

    /// Replaces the first `replaced` bytes of the current response body chunk.
    fn set_response_body(&self, replaced: usize, body: &[u8]);

    /// Opens a stream to the sidecar. The root context must be the effective context. Returns the stream's token, or
    /// `None` if the gateway could not open the stream. A token does not mean that the stream is connected.
    fn open_stream(&self, cluster: &str) -> Option<u32>;

    /// Sends a message on a stream. The gateway accepts every message, even if it cannot send it.
    fn send(&self, token: u32, message: &[u8]);

    /// Resets a stream. Its close is not reported.
    fn cancel_stream(&self, token: u32);

    /// Releases a stream that the sidecar has ended.
    fn close_stream(&self, token: u32);

    /// Lets the gateway delete the plugin instance, whose end the instance has delayed.
    fn done(&self);

    /// Returns random bits, for ids, secrets and jitter.
    fn random(&self) -> u64;

    /// Resumes a paused request.
    fn resume_request(&self);

    /// Sends the client a response from the gateway itself; the request does not go upstream.
    fn respond(&self, status: u32, headers: &[(String, String)], body: &[u8]);

    fn set_tick_ms(&self, period_ms: u64);

    fn count(&self, counter: Counter, by: u64);

    /// Returns the hosts of the routed cluster, each with a JSON description. Only Higress returns any hosts.
    fn upstream_hosts(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Makes the routed cluster use this host. Returns false if the gateway does not apply the host; only Higress can.
    fn override_host(&self, _address: &str) -> bool {
        false
    }

    /// Keeps the matched route when the plugin later changes request headers. Only Higress supports this.
    fn keep_route(&self) {}

    /// Lets the gateway buffer a longer request body than its listener allows. Only Higress supports this.
    fn raise_body_limit(&self) {}
}

/// A serialized proxy-wasm map. It consists of the number of pairs, the lengths of each name and value, and then each
/// name and value, each followed by a zero byte. Numbers are 32 bits, little-endian. Reading stops at the first
/// truncated pair.
#[derive(Debug, Default)]
pub struct Pairs(Vec<u8>);

impl Pairs {
    pub fn new(map: Vec<u8>) -> Self {
        Self(map)
    }

    /// Returns all names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let count = self.word(0).unwrap_or(0).min(self.0.len() / 8);
        let mut at = 4 + 8 * count;
        (0..count).map_while(move |i| {
            let (name_len, value_len) = (self.word(4 + 8 * i)?, self.word(8 + 8 * i)?);
            let name = self.0.get(at..at.checked_add(name_len)?)?;
            let value_at = at + name_len + 1;
            let value = self.0.get(value_at..value_at.checked_add(value_len)?)?;
            at = value_at + value_len + 1;
            Some((name, value))
        })
    }

    /// Returns the values of a name in any case.
    pub fn values<'p>(&'p self, name: &'p str) -> impl Iterator<Item = &'p [u8]> {
        self.iter()
            .filter(move |(found, _)| found.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    fn word(&self, at: usize) -> Option<usize> {
        let bytes = self.0.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::Pairs;

    fn encode(pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut map = (pairs.len() as u32).to_le_bytes().to_vec();
        for (name, value) in pairs {
            map.extend((name.len() as u32).to_le_bytes());
            map.extend((value.len() as u32).to_le_bytes());
        }
        for (name, value) in pairs {
            map.extend(name.bytes().chain([0]).chain(value.bytes()).chain([0]));
        }
        map
    }

    #[test]
    fn pairs_are_decoded() {
        let pairs = [("10.0.0.1:80", r#"{"health_status":"Healthy"}"#), ("b", ""), ("B", "2")];
        let map = Pairs::new(encode(&pairs));
        let found: Vec<_> = map.iter().collect();
        assert_eq!(found, pairs.map(|(name, value)| (name.as_bytes(), value.as_bytes())));
        assert_eq!(map.values("b").collect::<Vec<_>>(), [b"".as_slice(), b"2"]);
        assert_eq!(Pairs::default().iter().count(), 0);
    }

    #[test]
    fn truncated_maps_do_not_panic() {
        let map = encode(&[("a", "bc"), ("d", "ef")]);
        for end in 0..map.len() {
            assert!(Pairs::new(map[..end].to_vec()).iter().count() <= 2);
        }
        assert_eq!(Pairs::new(vec![0xff; 40]).iter().count(), 0);
    }
}
