//! What a request makes a model generate, by its method and path.

use super::RequestPath;

/// What a request asks of the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Call {
    /// An answer of a model. Every request that is not known to be another call.
    #[default]
    Generation,
    /// An answer that the server generates after its response.
    Background,
    /// A call without a model's answer, such as counting tokens or uploading a file.
    Helper,
    /// Reading, deleting or cancelling. The response may contain the usage of another request.
    Storage,
}

/// How a request arrives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a RequestPath<'a>,
    /// True if the request asks for a WebSocket.
    pub(crate) is_upgrade: bool,
    /// True if a header makes some servers apply a method that may generate.
    pub(crate) overrides_method: bool,
    /// True if a header asks for an answer that the client fetches later.
    pub(crate) is_asynchronous: bool,
    /// True if the request has a body of more than an empty object.
    pub(crate) has_body: bool,
}

/// Segments that name calls of models. A path with such a segment before its end is no helper call: a gateway may
/// rewrite `/v1/chat/completions/tokenize` to `/v1/chat/completions`.
const MODEL_CALLS: [&str; 9] = [
    "chat",
    "completions",
    "converse",
    "embeddings",
    "generate",
    "generate_stream",
    "invoke",
    "messages",
    "responses",
];

impl Call {
    /// Returns the call of a request.
    pub(crate) fn of(request: Request<'_>) -> Call {
        if request.is_upgrade {
            return Call::Generation;
        }
        if matches!(request.method, "GET" | "HEAD" | "OPTIONS" | "DELETE" | "TRACE") {
            return if request.overrides_method { Call::Generation } else { Call::Storage };
        }
        if request.is_asynchronous {
            return Call::Background;
        }
        let Some(segments) = request.path.segments().filter(|_| request.method == "POST") else {
            return Call::Generation;
        };
        let Some((call, len)) = of_end(&segments) else { return Call::Generation };
        let before = &segments[..segments.len() - len];
        let is_hidden =
            call != Call::Background && before.iter().any(|segment| MODEL_CALLS.contains(segment));
        // To cancel something takes no body, and a model needs one.
        let is_other = call == Call::Storage && request.has_body;
        if is_hidden || is_other { Call::Generation } else { call }
    }

    /// Returns whether the request may make a model generate.
    pub(crate) fn generates(self) -> bool {
        matches!(self, Call::Generation | Call::Background)
    }
}

/// Returns the call of a POST whose path ends with known segments, and their number.
fn of_end(segments: &[&str]) -> Option<(Call, usize)> {
    use Call::{Background, Helper, Storage};
    Some(match segments {
        // Counting tokens.
        [.., "messages", "count_tokens"]
        | [.., "responses", "input_tokens"]
        | [.., "models", "count-tokens:rawPredict"]
        | [.., "tokenizers", "estimate-token-count"]
        | [.., "utils", "token_counter"] => (Helper, 2),
        [.., "count-tokens"] if segments.contains(&"model") => (Helper, 1),
        [
            ..,
            "tokenize" | "detokenize" | "tokenizer" | "tokenization" | "tokenize-text" | "apply-template",
        ] => (Helper, 1),
        // Runs and batches. These come before the objects in whose collections they are.
        [.., "threads", "runs"] | [.., "threads", _, "runs"] => (Background, 2),
        [.., "runs", _, "submit_tool_outputs"] => (Background, 3),
        [.., "batches"] | [.., "batch", "jobs"] | [.., "batchPredictionJobs"] => (Background, 1),
        [.., "model-invocation-job" | "async-invoke" | "async-invocations"] => (Background, 1),
        [.., "messages", "batches", _, "cancel"] => (Storage, 4),
        [.., "responses" | "batches" | "runs" | "jobs" | "predictions" | "uploads", _, "cancel"] => {
            (Storage, 3)
        }
        // Stored objects.
        [
            ..,
            "files" | "uploads" | "threads" | "assistants" | "conversations" | "containers" | "vector_stores",
        ] => (Helper, 1),
        [.., "threads" | "assistants" | "conversations" | "vector_stores", _] => (Helper, 2),
        [.., "uploads", _, "parts" | "complete"]
        | [.., "threads", _, "messages"]
        | [.., "conversations", _, "items"]
        | [.., "vector_stores", _, "file_batches" | "search"] => (Helper, 3),
        [.., "threads", _, "messages", _] => (Helper, 4),
        [.., "realtime", "sessions" | "client_secrets" | "transcription_sessions"] => (Helper, 2),
        // Models on the server.
        [.., "api", "show" | "pull" | "push" | "create" | "copy"] => (Helper, 2),
        [.., "load_lora_adapter" | "unload_lora_adapter"] => (Helper, 1),
        [.., "repository", "index"] => (Helper, 2),
        [.., "repository", "models", _, "load" | "unload"] => (Helper, 4),
        [.., last] => return of_method(last),
        [] => return None,
    })
}

/// Returns the call of a path that ends with `NAME:METHOD`.
fn of_method(last: &str) -> Option<(Call, usize)> {
    let (_, method) = last.rsplit_once(':')?;
    match method {
        "countTokens" | "computeTokens" => Some((Call::Helper, 1)),
        "cancel" => Some((Call::Storage, 1)),
        "batchGenerateContent" => Some((Call::Background, 1)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request<'a>(method: &'a str, path: &'a RequestPath<'a>) -> Request<'a> {
        Request {
            method,
            path,
            is_upgrade: false,
            overrides_method: false,
            is_asynchronous: false,
            has_body: false,
        }
    }

    fn call(method: &str, path: &str) -> Call {
        Call::of(request(method, &RequestPath::new(path)))
    }

    #[test]
    fn reading_methods_generate_nothing() {
        for method in ["GET", "HEAD", "OPTIONS", "DELETE"] {
            for path in ["/v1/responses/r", "/v1/chat/completions", "/v1/batches/b", "/v1/models", "/"] {
                assert_eq!(call(method, path), Call::Storage, "{method} {path}");
            }
        }
        for method in ["PUT", "PATCH", "POST", "BREW", ""] {
            assert_eq!(call(method, "/v1/chat/completions"), Call::Generation, "{method}");
        }
        let path = RequestPath::new("/v1/realtime?model=m");
        let get = Request { is_upgrade: true, ..request("GET", &path) };
        assert_eq!(Call::of(get), Call::Generation);
        let get = Request { is_upgrade: false, overrides_method: true, ..get };
        assert_eq!(Call::of(get), Call::Generation, "the server may apply POST");
    }

    #[test]
    fn helper_calls_are_recognized_by_the_end_of_their_path() {
        let cases = [
            ("/v1/messages/count_tokens", Call::Helper),
            ("/v1/messages/count_tokens?beta=true", Call::Helper),
            ("/anthropic/v1/messages/count_tokens/", Call::Helper),
            ("/v1beta/models/gemini:countTokens", Call::Helper),
            ("/v1/projects/p/publishers/anthropic/models/count-tokens:rawPredict", Call::Helper),
            ("/v1/responses/input_tokens", Call::Helper),
            ("/model/a%2Fb/count-tokens", Call::Helper),
            ("/tokenize", Call::Helper),
            ("/v1/tokenize", Call::Helper),
            ("/detokenize", Call::Helper),
            ("/ml/v1/text/tokenization?version=1", Call::Helper),
            ("/v1/responses/r/cancel", Call::Storage),
            ("/v1/messages/batches/b/cancel", Call::Storage),
            ("/v1/batches/b/cancel", Call::Storage),
            ("/v1beta/batches/b:cancel", Call::Storage),
            ("/v1/files", Call::Helper),
            ("/v1/uploads/u/parts", Call::Helper),
            ("/v1/threads", Call::Helper),
            ("/v1/threads/t/messages", Call::Helper),
            ("/v1/vector_stores/v/search", Call::Helper),
            ("/api/show", Call::Helper),
            ("/v1/threads/t/runs", Call::Background),
            ("/v1/threads/runs", Call::Background),
            ("/v1/threads/t/runs/r/submit_tool_outputs", Call::Background),
            ("/v1/threads/t/runs/r/cancel", Call::Storage),
            ("/v1/batches", Call::Background),
            ("/v1/messages/batches", Call::Background),
            ("/v1beta/models/g:batchGenerateContent", Call::Background),
        ];
        for (path, expected) in cases {
            assert_eq!(call("POST", path), expected, "{path}");
            let with_body = Call::of(Request { has_body: true, ..request("POST", &RequestPath::new(path)) });
            assert_eq!(
                with_body,
                if expected == Call::Storage { Call::Generation } else { expected },
                "{path}"
            );
        }
    }

    /// A client must not hide a generation behind the path of a helper call.
    #[test]
    fn other_paths_may_generate() {
        for path in [
            "/v1/chat/completions",
            "/v1/messages",
            "/v1/responses",
            "/v1/embeddings",
            "/v1/chat/completions/tokenize",
            "/v1/chat/completions/files",
            "/v1/chat/completions/v1/messages/count_tokens",
            "/v1/messages/count_tokens/../../chat/completions",
            "/v1/chat/completions/..%2f..%2ftokenize",
            "/v1/chat/completions?x=/tokenize",
            "/v1/chat/completions#/tokenize",
            "/tokenize;x",
            "/v1%2Ftokenize",
            "/count_tokens",
            "/v1beta/models/g:generateContent",
            "/v1/anything",
            "/",
            "",
        ] {
            assert_eq!(call("POST", path), Call::Generation, "{path}");
        }
    }
}
