//! Response bodies: a stream of server-sent events, one per piece the engine hands out.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame};

use super::host::Ticket;

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

/// Server-sent events of one answer.
#[derive(Debug)]
pub(crate) struct Events {
    ticket: Ticket,
    usage: Usage,
    told: u32,
    /// Cut after the first event.
    cut: bool,
    ended: bool,
}

impl Events {
    pub(crate) fn new(ticket: Ticket, usage: Usage, cut: bool) -> Self {
        Self { ticket, usage, told: 0, cut, ended: false }
    }

    fn event(&mut self, produced: u32, done: bool) -> Bytes {
        let id = self.ticket.id;
        let content = " tok".repeat((produced - self.told) as usize);
        let role = if self.told == 0 { r#""role":"assistant","# } else { "" };
        self.told = produced;
        let finish = if done { r#""stop""# } else { "null" };
        let mut text = format!(
            "data: {{\"id\":\"mock-{id}\",\"object\":\"chat.completion.chunk\",\"created\":{CREATED},\"model\":\"mock\",\
             \"choices\":[{{\"index\":0,\"delta\":{{{role}\"content\":\"{content}\"}},\"finish_reason\":{finish}}}]}}\n\n"
        );
        if done {
            text.push_str(&format!(
                "data: {{\"id\":\"mock-{id}\",\"object\":\"chat.completion.chunk\",\"created\":{CREATED},\"model\":\"mock\",\
                 \"choices\":[],\"usage\":{}}}\n\ndata: [DONE]\n\n",
                self.usage.json()
            ));
        }
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
        if self.cut && self.told > 0 {
            self.ended = true;
            return Poll::Ready(Some(Err(Cut)));
        }
        let Some(piece) = ready!(self.ticket.pieces.poll_recv(cx)) else {
            // The engine went away without finishing this sequence: the fleet is being closed.
            self.ended = true;
            return Poll::Ready(Some(Err(Cut)));
        };
        self.ended = piece.done;
        let event = self.event(piece.produced, piece.done);
        Poll::Ready(Some(Ok(Frame::data(event))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}
