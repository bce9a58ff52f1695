//! Response bodies: a stream of server-sent events, one per piece the engine hands out.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame};

use super::{Failure, ServedEnd, host::Ticket};

/// Either the whole body, or a stream.
pub(crate) type MockBody = Either<Full<Bytes>, Events>;

/// The connection is to be cut here, on purpose.
#[derive(Debug, thiserror::Error)]
#[error("cut on purpose")]
pub(crate) struct Cut;

impl From<Infallible> for Cut {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// When every answer says it was made, in seconds since the Unix epoch.
pub(crate) const CREATED: u64 = 1_767_225_600;

/// What the token counts of one answer are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    pub(crate) prompt: u32,
    pub(crate) output: u32,
}

impl Usage {
    pub(crate) fn json(self) -> String {
        format!(
            r#"{{"prompt_tokens":{},"completion_tokens":{},"total_tokens":{}}}"#,
            self.prompt,
            self.output,
            u64::from(self.prompt) + u64::from(self.output)
        )
    }
}

/// What an answer looks like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) usage: Usage,
    /// Bytes of text of each token.
    pub(crate) token_bytes: usize,
    /// A stream tells its usage.
    pub(crate) tells_usage: bool,
    pub(crate) failure: Option<Failure>,
}

impl Shape {
    /// The text of so many tokens.
    pub(crate) fn text(self, tokens: u32) -> String {
        let token: String = " tok".chars().cycle().take(self.token_bytes).collect();
        token.repeat(tokens as usize)
    }
}

/// Server-sent events of one answer.
#[derive(Debug)]
pub(crate) struct Events {
    ticket: Ticket,
    shape: Shape,
    told: u32,
    ended: bool,
}

impl Events {
    pub(crate) fn new(ticket: Ticket, shape: Shape) -> Self {
        Self { ticket, shape, told: 0, ended: false }
    }

    /// Tokens that may still go out before the failure that was asked for.
    fn most(&self) -> u32 {
        match self.shape.failure {
            Some(Failure::Cut(tokens) | Failure::Stall(tokens)) => tokens,
            _ => u32::MAX,
        }
    }

    fn event(&mut self, produced: u32, done: bool) -> Bytes {
        let id = self.ticket.id;
        let content = self.shape.text(produced - self.told);
        let role = if self.told == 0 { r#""role":"assistant","# } else { "" };
        self.told = produced;
        let finish = if done { r#""stop""# } else { "null" };
        let usage = if self.shape.tells_usage { r#","usage":null"# } else { "" };
        let mut text = format!(
            "data: {{\"id\":\"mock-{id}\",\"object\":\"chat.completion.chunk\",\"created\":{CREATED},\"model\":\"mock\",\
             \"choices\":[{{\"index\":0,\"delta\":{{{role}\"content\":\"{content}\"}},\"finish_reason\":{finish}}}]{usage}}}\n\n"
        );
        if done && self.shape.tells_usage {
            text.push_str(&format!(
                "data: {{\"id\":\"mock-{id}\",\"object\":\"chat.completion.chunk\",\"created\":{CREATED},\"model\":\"mock\",\
                 \"choices\":[],\"usage\":{}}}\n\n",
                self.shape.usage.json()
            ));
        }
        if done {
            text.push_str("data: [DONE]\n\n");
        }
        self.ticket.tell(produced, done.then_some(ServedEnd::Complete));
        Bytes::from(text)
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if self.told >= self.most() {
            if let Some(Failure::Stall(_)) = self.shape.failure {
                return Poll::Pending;
            }
            self.ended = true;
            return Poll::Ready(Some(Err(Cut)));
        }
        let Some(piece) = ready!(self.ticket.pieces.poll_recv(cx)) else {
            // The engine went away without finishing this sequence: the fleet is being closed.
            self.ended = true;
            return Poll::Ready(Some(Err(Cut)));
        };
        let produced = piece.produced.min(self.most());
        let done = piece.done && produced == piece.produced && self.told < self.most();
        self.ended = done;
        let event = self.event(produced, done);
        Poll::Ready(Some(Ok(Frame::data(event))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}
