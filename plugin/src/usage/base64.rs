//! Decodes base64 that arrives in parts.

/// Bytes decoded at once. A multiple of 3.
const BLOCK_BYTES: usize = 96;

#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// Bits of the characters that do not make a whole byte yet, and their number.
    bits: u32,
    bits_len: u32,
}

impl Decoder {
    /// Decodes the next characters. Ignores padding and characters that are not base64.
    pub(super) fn feed(&mut self, text: &[u8], mut take: impl FnMut(&[u8])) {
        let mut block = [0; BLOCK_BYTES];
        let mut len = 0;
        for byte in text {
            let value = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' | b'-' => 62,
                b'/' | b'_' => 63,
                _ => continue,
            };
            self.bits = (self.bits << 6) | u32::from(value);
            self.bits_len += 6;
            if self.bits_len >= 8 {
                self.bits_len -= 8;
                block[len] = (self.bits >> self.bits_len) as u8;
                self.bits &= (1 << self.bits_len) - 1;
                len += 1;
                if len == BLOCK_BYTES {
                    take(&block);
                    len = 0;
                }
            }
        }
        if len > 0 {
            take(&block[..len]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Decoder;

    #[test]
    fn parts_decode_to_the_whole() {
        let bytes: Vec<u8> = (0..=255).collect();
        let text = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+P0BBQkNERUZHSElK\
                    S0xNTk9QUVJTVFVWV1hZWltcXV5fYGFiY2RlZmdoaWprbG1ub3BxcnN0dXZ3eHl6e3x9fn+AgYKDhIWGh4iJiouMjY6PkJGSk5SV\
                    lpeYmZqbnJ2en6ChoqOkpaanqKmqq6ytrq+wsbKztLW2t7i5uru8vb6/wMHCw8TFxsfIycrLzM3Oz9DR0tPU1dbX2Nna29zd3t/g\
                    4eLj5OXm5+jp6uvs7e7v8PHy8/T19vf4+fr7/P3+/w==";
        for size in [1, 5, text.len()] {
            let (mut decoder, mut decoded) = (Decoder::default(), Vec::<u8>::new());
            text.as_bytes().chunks(size).for_each(|part| decoder.feed(part, |bytes| decoded.extend(bytes)));
            assert_eq!(decoded, bytes);
        }
    }
}
