//! Paths that a configuration and a request are compared by.

use percent_encoding::percent_decode_str;

/// Returns the path percent-decoded, without query, empty segments, `.` and `..`. Each segment of the result has a
/// leading slash; the root path gives an empty result.
#[must_use]
pub fn normalize(path: &str) -> String {
    let decoded = percent_decode_str(without_query(path)).decode_utf8_lossy();
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    segments.iter().flat_map(|segment| ["/", segment]).collect()
}

/// Returns the path without its query and fragment.
#[must_use]
#[inline]
pub fn without_query(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalized_as_servers_read_them() {
        let cases = [
            ("/quota", "/quota"),
            ("/v1/quota/", "/v1/quota"),
            ("//v1//quota//?x=/y", "/v1/quota"),
            ("/v1/%71uot%61", "/v1/quota"),
            ("/v1%2Fquota%2f", "/v1/quota"),
            ("/v1/./quota/.", "/v1/quota"),
            ("/v1/quota/x/%2e%2E", "/v1/quota"),
            ("/../..", ""),
            ("/a%", "/a%"),
            ("/a%zz%4", "/a%zz%4"),
            ("/%e9", "/\u{fffd}"),
        ];
        for (path, expected) in cases {
            assert_eq!(normalize(path), expected, "{path}");
        }
    }
}
