//! Builds a `FromWorker` message from parts that are already encoded, so that the plugin encodes each part once, even if
//! it sends the part again on another stream.

use prost::encoding::{WireType, encode_key, encode_varint};

/// Field numbers of `FromWorker`.
mod tag {
    pub(super) const HELLO: u32 = 1;
    pub(super) const SETTLEMENTS: u32 = 2;
    pub(super) const FIRST_SETTLEMENT: u32 = 3;
    pub(super) const FIRST_TOKENS: u32 = 4;
    pub(super) const CANCELLED: u32 = 5;
    pub(super) const ADMIT: u32 = 6;
    pub(super) const LEASES: u32 = 7;
    pub(super) const PONG: u32 = 8;
    pub(super) const GOODBYE: u32 = 9;
}

/// An encoded `FromWorker` message.
#[derive(Debug, Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn hello(&mut self, hello: &[u8]) {
        self.bytes(tag::HELLO, hello);
    }

    pub(super) fn first_settlement(&mut self, number: u64) {
        self.number(tag::FIRST_SETTLEMENT, number);
    }

    pub(super) fn settlement(&mut self, settlement: &[u8]) {
        self.bytes(tag::SETTLEMENTS, settlement);
    }

    pub(super) fn first_token(&mut self, first_token: &[u8]) {
        self.bytes(tag::FIRST_TOKENS, first_token);
    }

    pub(super) fn cancelled(&mut self, lease: u64) {
        self.number(tag::CANCELLED, lease);
    }

    pub(super) fn admit(&mut self, admit: &[u8]) {
        self.bytes(tag::ADMIT, admit);
    }

    pub(super) fn leases(&mut self, leases: &[u8]) {
        self.bytes(tag::LEASES, leases);
    }

    pub(super) fn pong(&mut self, ping: u64) {
        self.number(tag::PONG, ping);
    }

    pub(super) fn goodbye(&mut self) {
        self.number(tag::GOODBYE, 1);
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn bytes(&mut self, tag: u32, bytes: &[u8]) {
        encode_key(tag, WireType::LengthDelimited, &mut self.0);
        encode_varint(bytes.len() as u64, &mut self.0);
        self.0.extend_from_slice(bytes);
    }

    fn number(&mut self, tag: u32, number: u64) {
        encode_key(tag, WireType::Varint, &mut self.0);
        encode_varint(number, &mut self.0);
    }
}
