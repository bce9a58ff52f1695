//! The running hash of one part of a prompt, and its value after each block.

use xxhash_rust::xxh64::xxh64;

use super::{PrefixSettings, running::Running};

/// The hash and the size of the beginning of a section.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    hash: u64,
    bytes: u64,
}

#[derive(Debug)]
pub(super) struct Section {
    hash: Running,
    /// Number of bytes of prompt text.
    bytes: u64,
    /// The number of bytes at which the next block ends.
    block_end: u64,
    settings: PrefixSettings,
    marks: Vec<Mark>,
    has_content: bool,
}

impl Section {
    /// Starts a section. `first` separates sections of different families.
    pub(super) fn new(settings: PrefixSettings, first: u8) -> Section {
        let mut hash = Running::new();
        hash.feed(&[first]);
        let block_end = u64::from(settings.block_bytes);
        Section { hash, bytes: 0, block_end, settings, marks: Vec::new(), has_content: false }
    }

    /// Adds bytes that are no text of the prompt.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.has_content = true;
        self.hash.feed(bytes);
    }

    /// Adds a byte that is no text of the prompt.
    pub(super) fn feed_byte(&mut self, byte: u8) {
        self.has_content = true;
        self.hash.feed_byte(byte);
    }

    /// Adds text of the prompt.
    pub(super) fn feed_text(&mut self, mut text: &[u8]) {
        self.has_content = true;
        if self.block_end - self.bytes > text.len() as u64 {
            self.hash.feed(text);
            self.bytes += text.len() as u64;
            return;
        }
        while !text.is_empty() {
            let room = usize::try_from(self.block_end - self.bytes).unwrap_or(usize::MAX);
            let (now, rest) = text.split_at(text.len().min(room));
            self.hash.feed(now);
            self.count(now.len() as u64);
            text = rest;
        }
    }

    /// Counts bytes of the prompt that were added otherwise.
    pub(super) fn count(&mut self, bytes: u64) {
        self.bytes += bytes;
        if self.bytes >= self.block_end {
            self.mark();
            let block = u64::from(self.settings.block_bytes);
            self.block_end = if self.is_full() { u64::MAX } else { (self.bytes / block + 1) * block };
        }
    }

    /// Notes the hash of all text so far, if there is text after the last mark.
    pub(super) fn mark(&mut self) {
        let last = self.marks.last().map_or(0, |mark| mark.bytes);
        if !self.is_full() && self.bytes > last {
            self.marks.push(Mark { hash: self.hash.digest(), bytes: self.bytes });
        }
    }

    /// Returns whether the section has as many marks as Admit may carry.
    pub(super) fn is_full(&self) -> bool {
        self.marks.len() >= self.settings.hashes_max as usize
    }

    pub(super) fn has_content(&self) -> bool {
        self.has_content
    }

    /// Sets the size of the whole section, and scales the sizes of its marks.
    pub(super) fn set_bytes(&mut self, bytes: u64) {
        for mark in &mut self.marks {
            mark.bytes = mark.bytes * bytes / self.bytes.max(1);
        }
        self.bytes = bytes;
    }

    pub(super) fn finish<R>(self, root: R) -> Finished<R> {
        Finished { root, hash: self.hash.digest(), bytes: self.bytes, marks: self.marks }
    }
}

/// A section that has been read to its end.
#[derive(Debug)]
pub(super) struct Finished<R> {
    pub(super) root: R,
    hash: u64,
    bytes: u64,
    marks: Vec<Mark>,
}

/// Hashes of the beginnings of a prompt, the shortest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixes {
    pub hashes: Vec<u64>,
    /// The number of bytes of prompt text that each hash covers; increasing.
    pub bytes: Vec<u32>,
}

impl Prefixes {
    /// Joins sections in the order of the prompt: each hash depends on all sections before it.
    pub(super) fn join<R>(sections: &[Finished<R>], hashes_max: u32) -> Prefixes {
        let marks: usize = sections.iter().map(|section| section.marks.len()).sum();
        let len = marks.min(hashes_max as usize);
        let mut joined = Prefixes { hashes: Vec::with_capacity(len), bytes: Vec::with_capacity(len) };
        let (mut before, mut bytes_before) = (0, 0);
        for section in sections {
            let after = |hash: u64| xxh64(&hash.to_le_bytes(), before);
            for mark in &section.marks {
                let Ok(bytes) = u32::try_from(bytes_before + mark.bytes) else { return joined };
                if joined.hashes.len() < len && bytes > joined.bytes.last().copied().unwrap_or(0) {
                    joined.hashes.push(after(mark.hash));
                    joined.bytes.push(bytes);
                }
            }
            (before, bytes_before) = (after(section.hash), bytes_before + section.bytes);
        }
        joined
    }
}
