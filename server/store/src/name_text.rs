//! Names as text, in keys and in the names of records.

use std::fmt::Write as _;

use evenkeel_domain::PoolId;

/// Returns `route|cluster`. Percent-encodes characters that could end a hash tag or look like the separator.
pub(crate) fn encode_pool(pool: &PoolId) -> String {
    let mut out = String::with_capacity(pool.route().len() + pool.cluster().len() + 1);
    encode(pool.route(), &mut out);
    out.push('|');
    encode(pool.cluster(), &mut out);
    out
}

/// The inverse of [`encode_pool`]. Returns `None` for any other text.
pub(crate) fn decode_pool(text: &str) -> Option<PoolId> {
    let (route, cluster) = text.split_once('|')?;
    PoolId::new(&decode(route)?, &decode(cluster)?).ok()
}

/// Percent-encodes characters that could end a hash tag or look like the separator.
pub(crate) fn encode(name: &str, out: &mut String) {
    for c in name.chars() {
        if matches!(c, '%' | '|' | '{' | '}') || c.is_whitespace() {
            for byte in c.to_string().bytes() {
                let _ = write!(out, "%{byte:02X}");
            }
        } else {
            out.push(c);
        }
    }
}

fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let hex = [bytes.next()?, bytes.next()?];
            out.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pool_names_survive_encoding_and_stay_apart() {
        let names = [
            ("", "llm"),
            ("r", "outbound|80||svc.ns.svc.cluster.local"),
            ("r|outbound", "80"),
            ("a{b}", "c%7C"),
            ("ü x", "{}"),
        ];
        let mut seen = std::collections::HashSet::new();
        for (route, cluster) in names {
            let pool = PoolId::new(route, cluster).unwrap();
            let text = encode_pool(&pool);
            assert!(!text.contains(['{', '}', ' ']), "{text}");
            assert_eq!(decode_pool(&text), Some(pool));
            assert!(seen.insert(text));
        }
        assert_eq!(decode_pool("no-separator"), None);
        assert_eq!(decode_pool("a|%zz"), None);
    }
}
