//! Interprets request paths as an upstream server may interpret them.

pub(crate) mod call;
pub(crate) mod model;

use std::borrow::Cow;

pub(crate) use evenkeel_plugin_config::path::{normalize, without_query};
use percent_encoding::percent_decode_str;

/// A request's path with its query.
#[derive(Debug)]
pub(crate) struct RequestPath<'a> {
    text: &'a str,
    /// The segments, percent-decoded, without empty ones. `None` if a segment is `.` or `..`, or contains one after
    /// decoding: a server may resolve such a path to another one.
    segments: Option<Vec<Cow<'a, str>>>,
}

impl<'a> RequestPath<'a> {
    pub(crate) fn new(text: &'a str) -> RequestPath<'a> {
        let segments: Vec<Cow<'_, str>> =
            without_query(text).split('/').filter(|segment| !segment.is_empty()).map(decode).collect();
        let is_dot = |segment: &Cow<'_, str>| segment.split('/').any(|part| matches!(part, "." | ".."));
        RequestPath { text, segments: (!segments.iter().any(is_dot)).then_some(segments) }
    }

    fn segments(&self) -> Option<Vec<&str>> {
        Some(self.segments.as_ref()?.iter().map(AsRef::as_ref).collect())
    }
}

fn decode(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Paths come from clients.
        #[test]
        fn any_path_is_interpreted(path in "(/(v1|model|models|..|%2e|a:b|%2F|realtime|openai|deployments|tokenize|é|%ff|x)){0,6}[?#&=a-z%/]{0,6}") {
            let parsed = RequestPath::new(&path);
            let request = |is_upgrade| call::Request {
                method: "POST",
                path: &parsed,
                is_upgrade,
                overrides_method: false,
                is_asynchronous: false,
                has_body: false,
            };
            for is_upgrade in [false, true] {
                prop_assert!(model::model(&parsed, is_upgrade).is_none_or(|model| !model.is_empty()));
                prop_assert!(!is_upgrade || call::Call::of(request(is_upgrade)).generates());
            }
            if path.contains("..") {
                prop_assert!(call::Call::of(request(false)).generates());
            }
        }
    }
}
