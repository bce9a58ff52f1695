//! Chat requests and their replies.

use bytes::Bytes;
use evenkeel_loadtest::mock::{CONSUMER, FAIL, OUTPUT_TOKENS, PROMPT_TOKENS, TOKEN_BYTES};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;

/// Configures the usage that the sidecars expect of a [`ChatRequest::of`]: 1000 tokens.
pub(super) const SEEDS: &str = "models: [{model: \"*\", output_tokens: 600, bytes_per_token: 4}]\n";

/// A chat request and the response that its host generates.
#[derive(Clone, Debug)]
pub(super) struct ChatRequest {
    pub(super) consumer: String,
    /// The sidecars learn the expected usage per model.
    pub(super) model: String,
    /// Bytes of the prompt, from which the sidecar estimates its tokens.
    pub(super) prompt_bytes: usize,
    pub(super) prompt: u32,
    pub(super) output: u32,
    pub(super) token_bytes: u32,
    pub(super) stream: bool,
    pub(super) path: &'static str,
    pub(super) headers: Vec<(&'static str, String)>,
}

impl ChatRequest {
    /// Returns a streaming request with 400 prompt and 600 output tokens, as [`SEEDS`] expects. Each consumer has its
    /// own model.
    pub(super) fn of(consumer: &str) -> Self {
        Self {
            consumer: consumer.to_owned(),
            model: consumer.to_owned(),
            prompt_bytes: 1600,
            prompt: 400,
            output: 600,
            token_bytes: 4,
            stream: true,
            path: "",
            headers: Vec::new(),
        }
    }

    /// Sets the actual usage.
    pub(super) fn actual_tokens(mut self, prompt: u32, output: u32) -> Self {
        (self.prompt, self.output) = (prompt, output);
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub(super) fn failing(self, how: &str) -> Self {
        self.header(FAIL, how)
    }

    /// Sets the number of bytes of text per token.
    pub(super) fn token_bytes(mut self, bytes: u32) -> Self {
        self.token_bytes = bytes;
        self
    }

    /// Sets a path prefix that selects a route of the lab's gateways.
    pub(super) fn route(mut self, path: &'static str) -> Self {
        self.path = path;
        self
    }

    /// Requests the complete response instead of a stream.
    pub(super) fn not_streamed(mut self) -> Self {
        self.stream = false;
        self
    }

    pub(super) fn build(&self, url: &str) -> Request<Full<Bytes>> {
        let content = "x".repeat(self.prompt_bytes);
        let messages = serde_json::json!([{"role": "user", "content": content}]);
        let body = serde_json::json!({"model": self.model, "messages": messages, "stream": self.stream});
        let mut request = Request::post(format!("{url}{}/v1/chat/completions", self.path))
            .header("content-type", "application/json")
            .header(CONSUMER, &self.consumer)
            .header(PROMPT_TOKENS, self.prompt)
            .header(OUTPUT_TOKENS, self.output)
            .header(TOKEN_BYTES, self.token_bytes);
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        request.body(Full::from(body.to_string())).unwrap()
    }
}

/// A response, read to its end.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Reply {
    pub(super) async fn read(response: Response<Incoming>) -> Result<Self, hyper::Error> {
        let (parts, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Self { status: parts.status.as_u16(), headers: parts.headers, body })
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.headers)).to_str().unwrap()
    }

    /// Asserts that the response is complete and hides the usage that the client did not request.
    pub(super) fn assert_served(&self) {
        assert_eq!(self.status, 200, "{}", self.body);
        assert!(self.body.contains("[DONE]") && !self.body.contains("usage"), "{}", self.body);
    }

    /// Asserts that this limit refused the request, with the error type and headers to which clients react.
    pub(super) fn assert_refused_by(&self, limit: &str, kind: &str) {
        assert_eq!(self.status, 429, "{}", self.body);
        let body: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!((&body["error"]["type"], &body["error"]["code"]), (&kind.into(), &kind.into()), "{body}");
        assert!(body["error"]["message"].as_str().unwrap().contains(limit), "{body}");
        assert!(self.header("ratelimit-policy").contains(&format!("\"{limit}\";q=")), "{:?}", self.headers);
        assert!(self.header("ratelimit").contains(&format!("\"{limit}\";r=")), "{:?}", self.headers);
    }
}
