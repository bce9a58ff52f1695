//! Headers in the sidecar's answers.

use evenkeel_proto::v1::Header;

use crate::config::is_header_name;

/// Returns the valid headers as pairs of name and value, for a local response.
pub(super) fn valid_headers(headers: Vec<Header>) -> Vec<(String, String)> {
    headers.into_iter().filter(is_valid_header).map(|header| (header.name, header.value)).collect()
}

/// Returns whether the gateway can write a header unchanged.
pub(super) fn is_valid_header(header: &Header) -> bool {
    is_header_name(&header.name) && header.value.bytes().all(|b| b == b'\t' || (b >= b' ' && b != 0x7f))
}
