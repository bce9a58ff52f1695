//! Mutates inputs at random, with some knowledge of JSON and event streams.

/// Fragments that the readers interpret.
const WORDS: [&str; 53] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\\u00e9",
    "\\ud83d\\ude00",
    "\n",
    "\r\n",
    "\r",
    "\n\n",
    "data: ",
    "data:",
    "data: [DONE]\n\n",
    "event: x\n",
    ":",
    "null",
    "true",
    "-1",
    "1e9",
    "18446744073709551616",
    "0.5",
    "\"usage\":",
    "\"usage\":null,",
    "\"choices\":[],",
    "\"content\":\"",
    "\"model\":\"",
    "\"type\":\"message_stop\",",
    "\"done\":true,",
    "\"type\":\"response.done\",",
    "\"finish_reason\":\"stop\",",
    "\"error\":{",
    "event: error\n",
    "\"iterations\":[",
    "\"meta_info\":{",
    "\"generated_text\":\"",
    "\"bytes\":\"eyJ0",
    "\"total_tokens\":9,",
    "\u{1e}",
    "\"stream\":true,",
    "\"stream_options\":{",
    "\u{feff}",
    "é",
    "\\ud83d",
    "\"role\":\"system\",",
    "\"messages\":[",
    "\"tools\":[{",
    "\"input\":{",
    "\"cache_control\":{",
    "\"id\":\"",
];

/// Longest input, in bytes.
const BYTES_MAX: usize = 20_000;

/// A random number generator (SplitMix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `bound`, or 0 if `bound` is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % (bound.max(1) as u64)) as usize
    }

    /// Returns a range within `len` bytes; short ranges are more likely.
    fn range(&mut self, len: usize) -> std::ops::Range<usize> {
        let start = self.below(len + 1);
        let bound = if self.below(4) == 0 { len } else { 40 };
        start..(start + self.below(bound)).min(len)
    }

    /// Splits bytes into random chunks.
    pub(crate) fn split<'a>(&mut self, bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let size = [1, 2, 7, 100, 5000][self.below(5)];
        let (mut chunks, mut rest) = (Vec::new(), bytes);
        while !rest.is_empty() {
            let (chunk, after) = rest.split_at(self.below(2 * size).min(rest.len()));
            chunks.push(chunk);
            rest = after;
        }
        chunks
    }
}

/// Returns a sample with random mutations.
pub(crate) fn mutate(samples: &[(String, Vec<u8>)], random: &mut Random) -> Vec<u8> {
    let mut bytes = samples[random.below(samples.len())].1.clone();
    for _ in 0..random.below(8) {
        let range = random.range(bytes.len());
        match random.below(9) {
            0 if !bytes.is_empty() => {
                let at = random.below(bytes.len());
                bytes[at] ^= 1 << random.below(8);
            }
            1 => bytes.truncate(range.start),
            2 => drop(bytes.drain(range)),
            3 => {
                let copy = bytes[range.clone()].to_vec();
                bytes.splice(range.end..range.end, copy);
            }
            4 => {
                let copy = bytes[range].to_vec();
                let at = random.below(bytes.len() + 1);
                bytes.splice(at..at, copy);
            }
            5 => {
                let other = &samples[random.below(samples.len())].1;
                let chunk = other[random.range(other.len())].to_vec();
                bytes.splice(range, chunk);
            }
            6 => {
                let other = &samples[random.below(samples.len())].1;
                let from = random.below(other.len());
                bytes.truncate(range.start);
                bytes.extend_from_slice(&other[from..]);
            }
            7 => {
                let byte = random.below(256) as u8;
                bytes.splice(range.start..range.start, vec![byte; random.below(30)]);
            }
            _ => {
                let word = WORDS[random.below(WORDS.len())].bytes();
                bytes.splice(range.start..range.start, word);
            }
        }
        bytes.truncate(BYTES_MAX);
    }
    bytes
}
