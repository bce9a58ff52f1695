//! What the gateway offers the plugin. Implemented over proxy-wasm in the module, and by a mock in tests.

use crate::metrics::Counter;

/// Severity of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Life cycle.
    Info,
    /// Something failed and will recover by itself.
    Warn,
    /// A person has to act.
    Error,
}

/// Methods of `evenkeel.v1.Gateway`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The question before a request goes upstream.
    Admit,
    /// The report when it ended.
    Settle,
    /// The sign of life.
    KeepAlive,
}

impl Method {
    /// Name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Method::Admit => "Admit",
            Method::Settle => "Settle",
            Method::KeepAlive => "KeepAlive",
        }
    }
}

/// Full name of the gRPC service the methods belong to.
pub const SERVICE: &str = "evenkeel.v1.Gateway";

/// The gateway, seen from the *effective context*: the stream whose callback runs, unless changed by
/// [`Host::enter`].
pub trait Host {
    /// Milliseconds of a monotonic clock.
    fn now_ms(&self) -> u64;

    /// Writes a log line.
    fn log(&self, level: Level, message: &str);

    /// Makes a context the effective one. False: it no longer exists.
    fn enter(&self, context: u32) -> bool;

    /// A property of the effective context; none when absent or empty.
    fn property(&self, path: &[&str]) -> Option<Vec<u8>>;

    /// A request header; none when absent.
    fn request_header(&self, name: &str) -> Option<String>;

    /// Every value of a request header, where it was sent more than once; [`Host::request_header`] gives the first.
    fn request_header_values(&self, name: &str) -> Vec<String>;

    /// Sets a request header, replacing any of that name.
    fn set_request_header(&self, name: &str, value: &str);

    /// Removes every request header of that name.
    fn remove_request_header(&self, name: &str);

    /// A response header; none when absent.
    fn response_header(&self, name: &str) -> Option<String>;

    /// Sets a response header, replacing any of that name.
    fn set_response_header(&self, name: &str, value: &str);

    /// Removes every response header of that name.
    fn remove_response_header(&self, name: &str);

    /// What is buffered of the request body, up to `bytes_max`.
    fn request_body(&self, bytes_max: usize) -> Vec<u8>;

    /// Replaces the first `replaced` bytes of what is buffered of the request body.
    fn set_request_body(&self, replaced: usize, body: &[u8]);

    /// Bytes of the piece of the response body that is passing, from `at`, up to `bytes_max`.
    fn response_body(&self, at: usize, bytes_max: usize) -> Vec<u8>;

    /// Replaces the first `replaced` bytes of that piece.
    fn set_response_body(&self, replaced: usize, body: &[u8]);

    /// Calls the sidecar; the answer comes back under the returned token. None: the call could not be made.
    fn call(&self, cluster: &str, method: Method, message: &[u8], timeout_ms: u64) -> Option<u32>;

    /// Lets the paused request go on.
    fn resume_request(&self);

    /// Answers the client locally, instead of going upstream.
    fn respond(&self, status: u32, headers: &[(String, String)], body: &[u8]);

    /// Sets the period of the tick.
    fn set_tick_ms(&self, period_ms: u64);

    /// Adds to a counter.
    fn count(&self, counter: Counter, by: u64);

    /// Higress only: the hosts of the routed cluster, each with a JSON description.
    fn upstream_hosts(&self) -> Vec<(String, String)> {
        Vec::new()
    }

    /// Higress only: makes the routed cluster use this host. False: refused.
    fn override_host(&self, _address: &str) -> bool {
        false
    }

    /// Higress only: header writes of this request are not to match the route again.
    fn keep_route(&self) {}
}

/// Decodes proxy-wasm's serialised map: a count, then the lengths of each name and value, then the bytes,
/// each followed by a zero; all numbers 32 bits, least significant byte first. What is cut off is left out.
pub fn decode_pairs(map: &[u8]) -> Vec<(String, String)> {
    let word = |at: usize| -> Option<usize> {
        let bytes = map.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
    };
    let text = |at: usize, len: usize| -> Option<String> {
        Some(String::from_utf8_lossy(map.get(at..at.checked_add(len)?)?).into_owned())
    };
    let count = word(0).unwrap_or(0).min(map.len() / 8);
    let mut pairs = Vec::with_capacity(count);
    let mut at = 4 + 8 * count;
    for i in 0..count {
        let pair = word(4 + 8 * i).zip(word(8 + 8 * i)).and_then(|(name_len, value_len)| {
            let name = text(at, name_len)?;
            let value = text(at + name_len + 1, value_len)?;
            at += name_len + value_len + 2;
            Some((name, value))
        });
        match pair {
            Some(pair) => pairs.push(pair),
            None => break,
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::decode_pairs;

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
        let pairs = [("10.0.0.1:80", r#"{"health_status":"Healthy"}"#), ("b", "")];
        let owned = pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(decode_pairs(&encode(&pairs)), owned);
        assert_eq!(decode_pairs(&[]), []);
    }

    #[test]
    fn any_cut_is_survived() {
        let map = encode(&[("a", "bc"), ("d", "ef")]);
        for end in 0..map.len() {
            assert!(decode_pairs(&map[..end]).len() <= 2);
        }
        assert_eq!(decode_pairs(&[0xff; 40]), []);
    }
}
