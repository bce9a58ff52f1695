//! Interprets request paths as an upstream server may interpret them.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Returns the path percent-decoded, without query, empty segments, `.` and `..`. Each segment of the result has a
/// leading slash; the root path gives an empty result.
pub(crate) fn normalize(path: &str) -> String {
    let decoded = decode(without_query(path));
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

pub(crate) fn without_query(path: &str) -> &str {
    path.split(['?', '#']).next().unwrap_or_default()
}

/// Returns the model named by a Gemini path (`/v1beta/models/gemini-2.5-flash:generateContent`) or an Azure path
/// (`/openai/deployments/gpt-4o/chat/completions`). Returns `None` for a path with `.` or `..` segments, because a
/// server may resolve the path to another model.
pub(crate) fn model(path: &str) -> Option<String> {
    let decoded = decode(without_query(path));
    let segments: Vec<&str> = decoded.split('/').filter(|segment| !segment.is_empty()).collect();
    if segments.iter().any(|segment| matches!(*segment, "." | "..")) {
        return None;
    }
    let azure = segments.windows(4).find(|segments| {
        segments[0].eq_ignore_ascii_case("openai") && segments[1].eq_ignore_ascii_case("deployments")
    });
    if let Some(segments) = azure {
        return Some(segments[2].to_owned());
    }
    // Take the last segment before decoding the path, because a model name may contain encoded slashes.
    let (_, last) = without_query(path).trim_end_matches('/').rsplit_once("/models/")?;
    if last.contains('/') {
        return None;
    }
    let last = decode(last);
    let (model, method) = last.rsplit_once(':')?;
    let is_valid = !model.is_empty() && !method.is_empty() && method.bytes().all(|b| b.is_ascii_alphabetic());
    is_valid.then(|| model.to_owned())
}

fn decode(text: &str) -> Cow<'_, str> {
    percent_decode_str(text).decode_utf8_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gemini_and_azure_paths_name_the_model() {
        let cases = [
            ("/v1beta/models/gemini-2.5-flash:generateContent", Some("gemini-2.5-flash")),
            (
                "/v1/projects/p/locations/l/publishers/google/models/g:streamGenerateContent?alt=sse",
                Some("g"),
            ),
            ("/v1beta/models/gemini%2d2.5%3AgenerateContent", Some("gemini-2.5")),
            ("/v1beta/models/google%2Fgemini:generateContent/", Some("google/gemini")),
            ("/v1beta//models/llama3:8b:generateContent", Some("llama3:8b")),
            ("/v1/models/llama", None),
            ("/v1/models/a/b:c", None),
            ("/v1/models/:c", None),
            ("/v1/models/a:", None),
            ("/v1/chat?x=/models/a:b", None),
            ("/v1/models/a:b/../../chat/completions", None),
            ("/v1/models/..%2f..%2fchat:b", None),
            ("/openai/deployments/gpt-4o/chat/completions?api-version=1", Some("gpt-4o")),
            ("/x//OpenAI/deployments/gpt%2D4o/embeddings", Some("gpt-4o")),
            ("/openai/deployments/gpt-4o", None),
            ("/openai/deployments/a/../b/chat/completions", None),
            ("", None),
        ];
        for (path, expected) in cases {
            assert_eq!(model(path).as_deref(), expected, "{path}");
        }
    }

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
