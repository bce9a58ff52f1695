//! Tickets. A ticket contains the reservations of an admitted request, and its attributes for the ledger. The gateway
//! stores the ticket and sends it back with the settlement, so that any sidecar can settle the request.
//! [`ticket_keys`](super::ticket_keys) signs and verifies tickets.

use std::sync::Arc;

use evenkeel_domain::limit::{Bucket, Generation};
use evenkeel_store::counters::RecordRef;
use prost::Message as _;

use super::ticket_keys::MAC_BYTES;

/// Maximum length of a ticket that a gateway stores, in bytes.
pub const TICKET_BYTES_MAX: usize = 4096;

/// The wire format. A field number must not be reused.
mod wire {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Ticket {
        #[prost(string, tag = "1")]
        pub(super) consumer: String,
        #[prost(string, tag = "2")]
        pub(super) model: String,
        #[prost(string, tag = "3")]
        pub(super) session: String,
        #[prost(uint64, tag = "4")]
        pub(super) prompt_bytes: u64,
        #[prost(uint64, tag = "5")]
        pub(super) output_tokens: u64,
        #[prost(message, repeated, tag = "6")]
        pub(super) records: Vec<RecordRef>,
        #[prost(message, repeated, tag = "7")]
        pub(super) buckets: Vec<Bucket>,
        #[prost(uint64, tag = "8")]
        pub(super) choices: u64,
        #[prost(uint32, tag = "9")]
        pub(super) generation: u32,
        #[prost(uint64, tag = "10")]
        pub(super) issued_s: u64,
        #[prost(uint64, tag = "11")]
        pub(super) output_max: u64,
        #[prost(string, tag = "12")]
        pub(super) endpoint: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct RecordRef {
        #[prost(string, tag = "1")]
        pub(super) tag: String,
        #[prost(uint64, tag = "2")]
        pub(super) day: u64,
        #[prost(uint64, tag = "3")]
        pub(super) epoch: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Bucket {
        #[prost(string, tag = "1")]
        pub(super) tag: String,
        #[prost(string, tag = "2")]
        pub(super) rest: String,
        #[prost(message, repeated, tag = "3")]
        pub(super) debits: Vec<Debit>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Debit {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(uint64, tag = "2")]
        pub(super) window: u64,
        #[prost(uint64, tag = "3")]
        pub(super) reserved: u64,
        #[prost(uint64, tag = "4")]
        pub(super) rate: u64,
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ticket {
    pub consumer: String,
    pub model: String,
    pub session: String,
    pub prompt_bytes: u64,
    /// Number of answers that the request asks for. 0 counts as 1.
    pub choices: u64,
    pub generation: Generation,
    /// The expected output of all answers together.
    pub output_tokens: u64,
    /// Maximum number of output tokens that the request allows for all answers together. 0: no maximum.
    pub output_max: u64,
    /// References to the store's records of the reservation.
    pub records: Vec<RecordRef>,
    /// The amounts to settle.
    pub debits: Vec<Debit>,
    /// When a sidecar issued the ticket, by its clock, in seconds since the Unix epoch.
    pub issued_s: u64,
    /// The endpoint that the sidecar chose. Empty if the gateway chose one.
    pub endpoint: String,
}

/// The amount reserved in one counter.
#[derive(Clone, Debug, PartialEq)]
pub struct Debit {
    pub bucket: Arc<Bucket>,
    /// Name of the limit or quota.
    pub name: Arc<str>,
    /// The window, slot or day of the reservation.
    pub window: u64,
    pub reserved: u64,
    /// For a token bucket, the amount per period at the time of the reservation. Else 0.
    pub rate: u64,
}

impl Ticket {
    /// Encodes the ticket, without its signature. If the signed ticket were longer than [`TICKET_BYTES_MAX`], leaves out
    /// the session, which only the ledger needs, and then the endpoint, which no charge depends on.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let record = |record: RecordRef| wire::RecordRef {
            tag: record.tag.to_string(),
            day: record.day,
            epoch: record.epoch,
        };
        let mut buckets: Vec<wire::Bucket> = Vec::new();
        for debit in self.debits {
            let Bucket { tag, rest } = &*debit.bucket;
            let name = debit.name.to_string();
            let taken =
                wire::Debit { name, window: debit.window, reserved: debit.reserved, rate: debit.rate };
            match buckets.iter_mut().find(|bucket| bucket.tag == *tag && bucket.rest == *rest) {
                Some(bucket) => bucket.debits.push(taken),
                None => {
                    buckets.push(wire::Bucket { tag: tag.clone(), rest: rest.clone(), debits: vec![taken] });
                }
            }
        }
        let mut ticket = wire::Ticket {
            consumer: self.consumer,
            model: self.model,
            session: self.session,
            prompt_bytes: self.prompt_bytes,
            output_tokens: self.output_tokens,
            output_max: self.output_max,
            records: self.records.into_iter().map(record).collect(),
            buckets,
            choices: self.choices,
            generation: self.generation.number().into(),
            issued_s: self.issued_s,
            endpoint: self.endpoint,
        };
        let is_too_long = |ticket: &wire::Ticket| ticket.encoded_len() + MAC_BYTES > TICKET_BYTES_MAX;
        if is_too_long(&ticket) {
            ticket.session.clear();
        }
        if is_too_long(&ticket) {
            ticket.endpoint.clear();
        }
        let mut bytes = Vec::with_capacity(ticket.encoded_len() + MAC_BYTES);
        // Writes to a Vec cannot fail.
        let _ = ticket.encode(&mut bytes);
        bytes
    }

    /// Decodes a ticket without its signature. Returns `None` if the bytes are empty or not a ticket.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return None;
        }
        let ticket = wire::Ticket::decode(bytes).ok()?;
        let record = |record: wire::RecordRef| RecordRef {
            tag: record.tag.into(),
            day: record.day,
            epoch: record.epoch,
        };
        let debits = ticket.buckets.into_iter().flat_map(|bucket| {
            let of = Arc::new(Bucket { tag: bucket.tag, rest: bucket.rest });
            bucket.debits.into_iter().map(move |debit| Debit {
                bucket: Arc::clone(&of),
                name: debit.name.into(),
                window: debit.window,
                reserved: debit.reserved,
                rate: debit.rate,
            })
        });
        Some(Self {
            consumer: ticket.consumer,
            model: ticket.model,
            session: ticket.session,
            prompt_bytes: ticket.prompt_bytes,
            choices: ticket.choices,
            generation: Generation::from_number(ticket.generation as i32),
            output_tokens: ticket.output_tokens,
            output_max: ticket.output_max,
            records: ticket.records.into_iter().map(record).collect(),
            debits: debits.collect(),
            issued_s: ticket.issued_s,
            endpoint: ticket.endpoint,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(debits: usize) -> Ticket {
        let bucket = |rest: &str| Arc::new(Bucket { tag: "consumer=alice".into(), rest: rest.into() });
        let debit = |i| Debit {
            bucket: bucket(if i % 2 == 0 { "" } else { "model=m" }),
            name: format!("limit-{i}").into(),
            window: 1_800_000_000_000,
            reserved: 10_000,
            rate: 0,
        };
        let mut debits: Vec<Debit> = (0..debits).map(debit).collect();
        debits.sort_by(|a, b| a.bucket.cmp(&b.bucket));
        Ticket {
            consumer: "alice".into(),
            model: "m".into(),
            session: "s".into(),
            prompt_bytes: 7,
            choices: 3,
            generation: Generation::Background,
            output_tokens: 512,
            output_max: 4096,
            records: vec![RecordRef { tag: "limits".into(), day: 20_000, epoch: 1_800_000_000_000 }],
            debits,
            issued_s: 1_800_000_000,
            endpoint: "10.0.0.1:8000".into(),
        }
    }

    #[test]
    fn a_ticket_survives_encoding() {
        for debits in [0, 1, 4, 16] {
            let bytes = ticket(debits).encode();
            assert!(bytes.len() < 700, "{}", bytes.len());
            assert_eq!(Ticket::decode(&bytes), Some(ticket(debits)));
            for end in 0..bytes.len() {
                let _ = Ticket::decode(&bytes[..end]);
            }
        }
        assert_eq!(Ticket::decode(b""), None);
        assert_eq!(Ticket::decode(&[0xff; 40]), None);
    }

    #[test]
    fn a_long_ticket_lacks_the_session_and_then_the_endpoint() {
        let kept = |debits| {
            let long = Ticket { session: "s".repeat(128), endpoint: "e".repeat(256), ..ticket(debits) };
            let kept = Ticket::decode(&long.encode()).unwrap();
            assert_eq!(kept.debits.len(), debits);
            (!kept.session.is_empty(), !kept.endpoint.is_empty())
        };
        let kept: Vec<_> = (0..200).map(kept).collect();
        let mut without_repeats = kept.clone();
        without_repeats.dedup();
        assert_eq!(without_repeats, [(true, true), (false, true), (false, false)]);
    }
}
