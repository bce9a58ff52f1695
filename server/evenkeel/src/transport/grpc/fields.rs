//! Counts the fields of an encoded message before it is decoded. A repeated message takes two bytes on the wire and some
//! hundred in memory, so a bound on a message's bytes does not bound what decoding it takes.

/// Maximum number of fields in a message, over the levels that are counted: twice the pools of the longest list of leases.
pub(super) const FIELDS_MAX: usize = 8192;

/// Fields of each level, beginning with the message itself, whose own fields are counted as well.
pub(super) type Counted = &'static [&'static [u32]];

#[derive(Clone, Copy, Debug)]
enum State {
    Tag,
    /// A number that is not needed.
    Varint,
    Length {
        field: u32,
    },
    Skip(usize),
    /// The message is malformed: decoding it fails.
    Malformed,
}

/// Reads a message in pieces.
#[derive(Debug)]
pub(super) struct Fields {
    counted: Counted,
    count: usize,
    position: usize,
    /// Where the messages end that the position is in, outermost first.
    ends: Vec<usize>,
    state: State,
    value: u64,
    shift: u32,
}

impl Fields {
    pub(super) fn new(counted: Counted) -> Self {
        Self { counted, count: 0, position: 0, ends: Vec::new(), state: State::Tag, value: 0, shift: 0 }
    }

    /// Starts with the next message.
    pub(super) fn restart(&mut self) {
        self.ends.clear();
        (self.count, self.position, self.state) = (0, 0, State::Tag);
        (self.value, self.shift) = (0, 0);
    }

    /// Reads the next piece. Returns whether the message has at most [`FIELDS_MAX`] fields so far.
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> bool {
        while let Some((&first, rest)) = bytes.split_first() {
            match self.state {
                State::Malformed => return true,
                State::Skip(left) => {
                    let skipped = left.min(bytes.len());
                    bytes = &bytes[skipped..];
                    self.position += skipped;
                    self.state = if skipped == left { State::Tag } else { State::Skip(left - skipped) };
                    continue;
                }
                State::Varint if first < 0x80 => self.state = State::Tag,
                State::Varint => {}
                State::Tag | State::Length { .. } => self.varint(first),
            }
            self.position += 1;
            bytes = rest;
            if self.count > FIELDS_MAX {
                return false;
            }
        }
        true
    }

    /// Adds a byte to a tag or a length.
    fn varint(&mut self, byte: u8) {
        self.value |= u64::from(byte & 0x7f) << self.shift;
        self.shift += 7;
        if byte >= 0x80 {
            if self.shift > 63 {
                self.state = State::Malformed;
            }
            return;
        }
        let value = std::mem::take(&mut self.value);
        self.shift = 0;
        self.state = match self.state {
            State::Length { field } => self.length(field, value),
            _ => self.tag(value),
        };
    }

    fn tag(&mut self, tag: u64) -> State {
        self.count += 1;
        match tag & 7 {
            0 => State::Varint,
            1 => State::Skip(8),
            5 => State::Skip(4),
            2 => State::Length { field: (tag >> 3) as u32 },
            // Groups have no length.
            3 | 4 => State::Tag,
            _ => State::Malformed,
        }
    }

    fn length(&mut self, field: u32, length: u64) -> State {
        let Ok(length) = usize::try_from(length) else { return State::Malformed };
        let start = self.position + 1;
        while self.ends.last().is_some_and(|end| start > *end) {
            self.ends.pop();
        }
        if self.counted.get(self.ends.len()).is_some_and(|fields| fields.contains(&field)) {
            self.ends.push(start.saturating_add(length));
            return State::Tag;
        }
        if length == 0 { State::Tag } else { State::Skip(length) }
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_proto::v1::{
        AdmitRequest, Candidate, FromWorker, HeldPool, KeepAliveRequest, SettleRequest, Subject,
    };
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    const STREAM: Counted = &[&[6, 7], &[5]];

    /// Reads a message in pieces of a length.
    fn within(counted: Counted, bytes: &[u8], piece: usize) -> (bool, usize) {
        let mut fields = Fields::new(counted);
        let ok = bytes.chunks(piece).all(|piece| fields.read(piece));
        (ok, fields.count)
    }

    fn list(pools: usize) -> FromWorker {
        let leases =
            KeepAliveRequest { pools: vec![HeldPool::default(); pools], ..KeepAliveRequest::default() };
        FromWorker { leases: Some(leases), ..FromWorker::default() }
    }

    #[test]
    fn fields_are_counted_where_they_repeat() {
        let settlements = vec![SettleRequest::default(); 9000];
        let settlements = FromWorker { settlements, ..FromWorker::default() };
        let headers = (0..9000).map(|i| (i.to_string(), String::new())).collect();
        let subject = Some(Subject { headers, ..Subject::default() });
        let headers = FromWorker {
            admit: Some(AdmitRequest { subject, ..AdmitRequest::default() }),
            ..FromWorker::default()
        };
        for (message, fits) in
            [(list(9000), false), (settlements, false), (headers, false), (list(4096), true)]
        {
            let bytes = message.encode_to_vec();
            for piece in [1, 7, bytes.len()] {
                assert_eq!(within(STREAM, &bytes, piece).0, fits, "{} bytes", bytes.len());
            }
        }
    }

    #[test]
    fn a_nested_message_ends_where_its_length_says() {
        let candidates = vec![Candidate { address: "a:1".into(), weight: 1.0, cap: 2 }; 3];
        let headers = [("k".to_owned(), "v".to_owned())].into();
        let subject = Some(Subject { consumer: "c".into(), headers, ..Subject::default() });
        let admit =
            AdmitRequest { lease: 300, candidates, subject, model: "m".into(), ..AdmitRequest::default() };
        // lease, 3 candidates, subject with 2 fields, model.
        assert_eq!(within(&[&[5]], &admit.encode_to_vec(), 1), (true, 8));
        let message = FromWorker { admit: Some(admit), pong: 7, ..FromWorker::default() };
        assert_eq!(within(STREAM, &message.encode_to_vec(), 3), (true, 10));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_the_same_in_any_pieces(bytes in prop::collection::vec(any::<u8>(), 0..200), piece in 1..9_usize) {
            prop_assert_eq!(within(STREAM, &bytes, piece), within(STREAM, &bytes, 200));
        }
    }
}
