//! Response bodies: server-sent events, one for each progress report of the engine.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame};

use super::{Failure, ServedEnd, host::Sequence};

/// A complete body or a stream of events.
pub(crate) type MockBody = Either<Full<Bytes>, EventStream>;

/// Ends the body with an error, so that the server closes the connection.
#[derive(Debug, thiserror::Error)]
#[error("connection cut as requested")]
pub(crate) struct Cut;

impl From<Infallible> for Cut {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// Value of `created` in every response, in Unix seconds.
pub(crate) const CREATED: u64 = 1_767_225_600;

/// Token counts of one response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) prompt: u32,
    pub(crate) output: u32,
}

impl Usage {
    /// Returns the usage as JSON. `cached` are the prompt tokens from the prefix cache, if the host has one.
    pub(crate) fn json(self, cached: Option<u32>) -> String {
        let details = cached.map_or_else(String::new, |cached| {
            format!(r#","prompt_tokens_details":{{"cached_tokens":{cached}}}"#)
        });
        format!(
            r#"{{"prompt_tokens":{},"completion_tokens":{},"total_tokens":{}{details}}}"#,
            self.prompt,
            self.output,
            u64::from(self.prompt) + u64::from(self.output)
        )
    }
}

/// Content of one response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ResponseSpec {
    pub(crate) usage: Usage,
    /// Bytes of text per token.
    pub(crate) token_bytes: usize,
    /// Whether a stream ends with a usage chunk.
    pub(crate) include_usage: bool,
    pub(crate) failure: Option<Failure>,
}

impl ResponseSpec {
    pub(crate) fn text(self, tokens: u32) -> String {
        let token: String = " tok".chars().cycle().take(self.token_bytes).collect();
        token.repeat(tokens as usize)
    }
}

/// Server-sent events of one response.
#[derive(Debug)]
pub(crate) struct EventStream {
    sequence: Sequence,
    spec: ResponseSpec,
    sent: u32,
    ended: bool,
}

impl EventStream {
    pub(crate) fn new(sequence: Sequence, spec: ResponseSpec) -> Self {
        Self { sequence, spec, sent: 0, ended: false }
    }

    /// Returns the number of tokens to send before the requested failure.
    fn token_limit(&self) -> u32 {
        match self.spec.failure {
            Some(Failure::Cut(tokens) | Failure::Stall(tokens)) => tokens,
            _ => u32::MAX,
        }
    }

    fn event(&mut self, produced: u32, done: bool, cached: Option<u32>) -> Bytes {
        let id = self.sequence.id;
        let content = self.spec.text(produced - self.sent);
        let role = if self.sent == 0 { r#""role":"assistant","# } else { "" };
        self.sent = produced;
        let finish = if done { r#""stop""# } else { "null" };
        let usage = if self.spec.include_usage { r#","usage":null"# } else { "" };
        let mut text = format!(
            "data: {{\"id\":\"mock-{id}\",\"object\":\"chat.completion.chunk\",\"created\":{CREATED},\"model\":\"mock\",\
             \"choices\":[{{\"index\":0,\"delta\":{{{role}\"content\":\"{content}\"}},\"finish_reason\":{finish}}}]{usage}}}\n\n"
        );
        if done && self.spec.include_usage {
            text.push_str(&format!(
                "data: {{\"id\":\"mock-{id}\",\"object\":\"chat.completion.chunk\",\"created\":{CREATED},\"model\":\"mock\",\
                 \"choices\":[],\"usage\":{}}}\n\n",
                self.spec.usage.json(cached)
            ));
        }
        if done {
            text.push_str("data: [DONE]\n\n");
        }
        self.sequence.record(produced, done.then_some(ServedEnd::Complete));
        Bytes::from(text)
    }
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if self.sent >= self.token_limit() {
            if let Some(Failure::Stall(_)) = self.spec.failure {
                return Poll::Pending;
            }
            self.ended = true;
            return Poll::Ready(Some(Err(Cut)));
        }
        let Some(progress) = ready!(self.sequence.progress.poll_recv(cx)) else {
            // The engine stopped before it finished this sequence, because the fleet is shutting down.
            self.ended = true;
            return Poll::Ready(Some(Err(Cut)));
        };
        if self.sent == 0 {
            self.sequence.record_first_token(progress.at);
        }
        let produced = progress.produced.min(self.token_limit());
        let done = progress.done && produced == progress.produced && self.sent < self.token_limit();
        self.ended = done;
        let event = self.event(produced, done, progress.cached);
        Poll::Ready(Some(Ok(Frame::data(event))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}
