//! Response headers that show a client its limits.

use std::fmt::Write as _;

use evenkeel_domain::settings::RateLimitHeaders;

use super::response::DescriptorStatus;

/// Returns the headers for the exceeded limit or, if none is exceeded, for the limit with the least remaining. The
/// headers of the IETF draft list every limit, however.
pub(super) fn headers(which: RateLimitHeaders, statuses: &[DescriptorStatus]) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    if which == RateLimitHeaders::default() {
        return all;
    }
    let limited = || statuses.iter().filter_map(|status| Some((status, status.limit.as_ref()?)));
    let Some((tightest, limit)) = limited().min_by_key(|(status, _)| (!status.over, status.remaining)) else {
        return all;
    };
    let values =
        || [limit.requests.to_string(), tightest.remaining.to_string(), tightest.reset_s.to_string()];
    if which.plain {
        all.extend(["RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"].into_iter().zip(values()));
    }
    if which.x {
        all.extend(
            ["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"].into_iter().zip(values()),
        );
    }
    if which.ietf {
        let (mut policy, mut state) = (String::new(), String::new());
        for (status, limit) in limited() {
            let separator = if policy.is_empty() { "" } else { ", " };
            let name = quoted(&limit.name);
            let seconds = limit.unit.ms() / 1000;
            let _ = write!(policy, "{separator}{name};q={};w={seconds}", limit.requests);
            let _ = write!(state, "{separator}{name};r={};t={}", status.remaining, status.reset_s);
        }
        all.push(("RateLimit-Policy", policy));
        all.push(("RateLimit", state));
    }
    all
}

/// Returns a name as a string of structured fields (RFC 9651): printable ASCII, with quotes and backslashes escaped.
fn quoted(name: &str) -> String {
    let name = if name.is_empty() { "limit" } else { name };
    let mut text = String::with_capacity(name.len() + 2);
    text.push('"');
    for c in name.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            ' '..='~' => text.push(c),
            _ => text.push('_'),
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rls::{response::CurrentLimit, unit::Unit};

    fn status(name: &str, requests: u32, unit: Unit, remaining: u32) -> DescriptorStatus {
        let limit = Some(CurrentLimit { name: name.into(), requests, unit });
        DescriptorStatus { over: false, limit, remaining, reset_s: unit.ms() / 1000 }
    }

    fn lines(which: RateLimitHeaders, statuses: &[DescriptorStatus]) -> Vec<String> {
        headers(which, statuses).iter().map(|(name, value)| format!("{name}: {value}")).collect()
    }

    #[test]
    fn plain_headers_show_the_tightest_limit() {
        let all = RateLimitHeaders { plain: true, x: true, ietf: true };
        let statuses =
            [status("", 10, Unit::Hour, 9), status("two", 2, Unit::Minute, 1), DescriptorStatus::default()];
        let expected = [
            "RateLimit-Limit: 2",
            "RateLimit-Remaining: 1",
            "RateLimit-Reset: 60",
            "X-RateLimit-Limit: 2",
            "X-RateLimit-Remaining: 1",
            "X-RateLimit-Reset: 60",
            "RateLimit-Policy: \"limit\";q=10;w=3600, \"two\";q=2;w=60",
            "RateLimit: \"limit\";r=9;t=3600, \"two\";r=1;t=60",
        ];
        assert_eq!(lines(all, &statuses), expected);
        let over = DescriptorStatus { over: true, ..status("", 5, Unit::Day, 0) };
        let plain = RateLimitHeaders { plain: true, ..RateLimitHeaders::default() };
        let found = lines(plain, &[status("", 3, Unit::Day, 0), over]);
        assert_eq!(found[0], "RateLimit-Limit: 5", "the limit that is over");
    }

    #[test]
    fn without_a_limit_there_are_no_headers() {
        let all = RateLimitHeaders { plain: true, x: true, ietf: true };
        assert_eq!(
            lines(all, &[DescriptorStatus { remaining: u32::MAX, ..DescriptorStatus::default() }]),
            [""; 0]
        );
        assert_eq!(lines(RateLimitHeaders::default(), &[status("", 10, Unit::Hour, 9)]), [""; 0]);
    }

    #[test]
    fn names_are_strings_of_structured_fields() {
        assert_eq!(quoted("a\"b\\ü"), "\"a\\\"b\\\\_\"");
    }
}
