//! The bytes of Envoy's rate limit service, written by hand from the field numbers in Envoy's own files. The messages of
//! this workspace are written anew (`proto/envoy`), so a wrong number there would go unnoticed between our own client and
//! server.

use evenkeel_proto::rate_limit_service::{
    HeaderValue, RateLimitDescriptor, RateLimitRequest, RateLimitResponse, RateLimitUnit,
    rate_limit_descriptor::{Entry, RateLimitOverride},
    rate_limit_response::{Code, DescriptorStatus, RateLimit, rate_limit::Unit},
};
use prost::Message as _;

#[test]
fn requests_have_envoys_field_numbers() {
    let bytes = [
        &b"\x0a\x01d"[..],                   // domain = 1
        b"\x12\x14",                         // descriptors = 2
        b"\x0a\x06\x0a\x01k\x12\x01v",       // its entries = 1, key = 1, value = 2
        b"\x12\x04\x08\x05\x10\x06",         // its limit = 2, requests_per_unit = 1, unit = 2: YEAR = 6
        b"\x1a\x02\x08\x07\x20\x01\x18\x02", // its hits_addend = 3 and is_negative_hits = 4; hits_addend = 3
    ];
    let entry = Entry { key: "k".into(), value: "v".into() };
    let limit = RateLimitOverride { requests_per_unit: 5, unit: RateLimitUnit::Year.into() };
    let descriptor = RateLimitDescriptor {
        entries: vec![entry],
        limit: Some(limit),
        hits_addend: Some(7),
        is_negative_hits: true,
    };
    let request = RateLimitRequest { domain: "d".into(), descriptors: vec![descriptor], hits_addend: 2 };
    assert_eq!(RateLimitRequest::decode(&*bytes.concat()).unwrap(), request);
}

#[test]
fn responses_have_envoys_field_numbers() {
    let bytes = [
        &b"\x08\x02"[..],                     // overall_code = 1: OVER_LIMIT = 2
        b"\x12\x11\x08\x02",                  // statuses = 2, its code = 1
        b"\x12\x07\x08\x05\x10\x07\x1a\x01n", // its current_limit = 2: requests_per_unit, unit: WEEK = 7, name = 3
        b"\x18\x03\x22\x02\x08\x09",          // its limit_remaining = 3, duration_until_reset = 4
        b"\x1a\x06\x0a\x01k\x12\x01v",        // response_headers_to_add = 3, key = 1, value = 2
        b"\x22\x06\x0a\x01k\x12\x01v",        // request_headers_to_add = 4
        b"\x32\x00",                          // dynamic_metadata = 6
    ];
    let limit = RateLimit { requests_per_unit: 5, unit: Unit::Week.into(), name: "n".into() };
    let status = DescriptorStatus {
        code: Code::OverLimit.into(),
        current_limit: Some(limit),
        limit_remaining: 3,
        duration_until_reset: Some(prost_types::Duration { seconds: 9, nanos: 0 }),
    };
    let header = HeaderValue { key: "k".into(), value: "v".into() };
    let response = RateLimitResponse {
        overall_code: Code::OverLimit.into(),
        statuses: vec![status],
        response_headers_to_add: vec![header.clone()],
        request_headers_to_add: vec![header],
        dynamic_metadata: Some(prost_types::Struct::default()),
    };
    assert_eq!(response.encode_to_vec(), bytes.concat());
}
