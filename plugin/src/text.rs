//! Converts text that clients sent to text that the sidecar accepts.

const REPLACEMENT: &str = "\u{fffd}";

/// Replaces control characters and truncates the result to `bytes_max` bytes. Truncation comes last, because a replaced
/// character takes three bytes.
pub(crate) fn sanitize(text: &str, bytes_max: usize) -> String {
    let mut sanitized = prefix(text, bytes_max).to_owned();
    if sanitized.contains(char::is_control) {
        sanitized = sanitized.replace(char::is_control, REPLACEMENT);
        sanitized.truncate(prefix(&sanitized, bytes_max).len());
    }
    sanitized
}

/// Number of hexadecimal digits of a digest.
const DIGEST_DIGITS: usize = 16;

/// Does the same as [`sanitize`], but of a longer text keeps the beginning and appends `#` and a digest of the whole, so
/// that different texts stay different. The digest (64 bits) does not withstand a client that searches for a second text;
/// the sidecar's digest of a text up to `bytes_max` does.
pub(crate) fn shorten(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return sanitize(text, bytes_max);
    }
    let digest = digest(0xcbf2_9ce4_8422_2325, text);
    format!("{}#{digest:0DIGEST_DIGITS$x}", sanitize(text, bytes_max - 1 - DIGEST_DIGITS))
}

/// Returns a digest of a text, which depends on `seed`. Zero bytes at the end of a text do not change it.
pub(crate) fn digest(seed: u64, text: &str) -> u64 {
    // Eight bytes at a time, because a client chooses the length of the text.
    text.as_bytes().chunks(8).fold(seed, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        let mixed = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 32)
    })
}

/// Does the same as [`sanitize`] for the first bytes of a text. If the bytes end within a character, drops that
/// incomplete character.
pub(crate) fn sanitize_bytes(bytes: &[u8], bytes_max: usize) -> String {
    let is_incomplete = |len: usize| {
        let tail = bytes.len().checked_sub(len).map(|at| str::from_utf8(&bytes[at..]));
        matches!(tail, Some(Err(error)) if error.valid_up_to() == 0 && error.error_len().is_none())
    };
    let dropped = (1..4).find(|len| is_incomplete(*len)).unwrap_or(0);
    sanitize(&String::from_utf8_lossy(&bytes[..bytes.len() - dropped]), bytes_max)
}

/// Returns the longest prefix of whole characters that has at most `bytes_max` bytes.
fn prefix(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_ends_between_characters() {
        assert_eq!(prefix("aé", 2), "a");
        assert_eq!(prefix("aé", 3), "aé");
        assert_eq!(prefix("a", 9), "a");
    }

    #[test]
    fn long_texts_stay_different() {
        let long = |end: &str| "é".repeat(200) + end;
        assert_eq!(shorten("alice\n", 256), "alice\u{fffd}");
        assert_eq!(shorten(&"a".repeat(256), 256), "a".repeat(256));
        let (one, other) = (shorten(&long("1"), 256), shorten(&long("2"), 256));
        assert!(one != other && one.len() <= 256 && one.starts_with(&"é".repeat(119)), "{one}");
    }

    #[test]
    fn sanitized_text_is_accepted_by_the_sidecar() {
        let long = "a".repeat(300);
        let invalid = String::from_utf8_lossy(&[0xff; 200]).into_owned();
        let cases = [
            ("gpt-4", "gpt-4"),
            ("x\u{1}", "x\u{fffd}"),
            ("\u{7f}\u{85}\n", "\u{fffd}\u{fffd}\u{fffd}"),
            (&long, &long[..256]),
            (&invalid, &invalid[..255]),
            (&"\0".repeat(200), &invalid[..255]),
        ];
        for (text, expected) in cases {
            assert_eq!(sanitize(text, 256), expected);
        }
        // Invalid bytes stay visible: a name that consists only of invalid bytes differs from an absent name.
        let cases: [(&[u8], &str); 6] = [
            (b"", ""),
            ("aé".as_bytes(), "aé"),
            (&"aé".as_bytes()[..2], "a"),
            (&"a👋".as_bytes()[..4], "a"),
            (b"\xff\xff", "\u{fffd}\u{fffd}"),
            (b"a\x80", "a\u{fffd}"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(sanitize_bytes(bytes, 256), expected);
        }
    }
}
