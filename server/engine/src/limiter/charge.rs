//! What a request is charged when it has ended.

use evenkeel_domain::limit::{Counts, Prices, price::Tokens};

use super::{estimates::Estimates, ticket::Ticket};

/// How a request ended, as far as its charge goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Completely, with a status below 400.
    Complete,
    /// Cut off, by the client, the upstream or a timeout.
    CutOff,
    /// With an error of the upstream or of the request.
    Failed,
    /// It never went upstream.
    NotSent,
}

/// What the gateway tells of an ended request.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// How it ended.
    pub ending: Ending,
    /// Tokens, as far as the response told.
    pub tokens: Option<Tokens>,
    /// Whether the tokens are what the response told at its end.
    pub is_final: bool,
    /// Bytes of generated text seen.
    pub output_bytes: u64,
    /// Whether any of the response's body was seen.
    pub began: bool,
    /// Its body was read to its end and understood: there is no more than what is told.
    pub body_read: bool,
}

/// The charge.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Charge {
    /// Tokens by kind.
    pub tokens: Tokens,
    /// They were reckoned.
    pub estimated: bool,
}

impl Charge {
    /// The charge of a request:
    ///
    /// - what its response told at its end;
    /// - nothing, where it was never sent, or failed or was cut off before anything of it was seen;
    /// - otherwise its prompt, and the output that was seen; where it is complete and its body could not be read,
    ///   what was expected.
    #[must_use]
    pub fn of(told: &Told, ticket: &Ticket, estimates: &Estimates, input: impl FnOnce() -> f64) -> Self {
        if told.ending == Ending::NotSent {
            return Self { tokens: Tokens::default(), estimated: false };
        }
        if let (Some(tokens), true) = (told.tokens, told.is_final) {
            return Self { tokens, estimated: false };
        }
        let seen = told.tokens.unwrap_or_default();
        if told.ending == Ending::Failed || (told.ending == Ending::CutOff && !told.began) {
            return Self { tokens: seen, estimated: false };
        }
        let mut tokens = seen;
        if tokens.input == 0 {
            tokens.input = input().ceil() as u64;
        }
        let reckoned = match told.output_bytes {
            0 if told.ending == Ending::Complete && !told.body_read => ticket.output_tokens,
            bytes => estimates.output_tokens_of(&ticket.model, bytes),
        };
        tokens.output = tokens.output.max(reckoned);
        Self { tokens, estimated: true }
    }

    /// So much of what a limit or quota counts.
    #[must_use]
    pub fn counted(&self, counts: Counts, prices: &Prices, model: &str) -> u64 {
        match counts {
            // Taken when it was admitted, and never settled.
            Counts::Requests => 1,
            Counts::Tokens => self.tokens.total(),
            Counts::InputTokens => self.tokens.input,
            Counts::OutputTokens => self.tokens.output,
            Counts::Cost => prices.cost(model, &self.tokens),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges() {
        let tokens = |input, output| Tokens { input, output, ..Tokens::default() };
        let ticket = Ticket { output_tokens: 300, ..Ticket::default() };
        let told = |ending, tokens, is_final, output_bytes, began| Told {
            ending,
            tokens,
            is_final,
            output_bytes,
            began,
            body_read: false,
        };
        let charge = |told| Charge::of(&told, &ticket, &Estimates::default(), || 9.5);
        let (complete, cut_off, failed) = (Ending::Complete, Ending::CutOff, Ending::Failed);
        let cases = [
            (told(complete, Some(tokens(5, 7)), true, 99, true), tokens(5, 7), false),
            // A stream that told its usage and was then cut off: what it told.
            (told(cut_off, Some(tokens(5, 7)), true, 99, true), tokens(5, 7), false),
            // Cut off in mid-stream: the prompt, and what was streamed.
            (told(cut_off, None, false, 41, true), tokens(10, 11), true),
            (told(cut_off, Some(tokens(8, 1)), false, 40, true), tokens(8, 10), true),
            (told(cut_off, None, false, 0, false), tokens(0, 0), false),
            (told(failed, None, false, 0, true), tokens(0, 0), false),
            // Complete, and its body could not be read.
            (told(complete, None, false, 0, true), tokens(10, 300), true),
            (told(complete, None, false, 80, true), tokens(10, 20), true),
        ];
        for (told, tokens, estimated) in cases {
            assert_eq!(charge(told), Charge { tokens, estimated }, "{told:?}");
        }
        // Complete, read, and nothing generated in it: a list of models, say.
        let listed = Told { body_read: true, ..told(complete, None, false, 0, true) };
        assert_eq!(charge(listed).tokens, tokens(10, 0));
        let nothing = Charge { tokens: tokens(0, 0), estimated: false };
        assert_eq!(charge(told(Ending::NotSent, None, false, 0, false)), nothing);
    }
}
