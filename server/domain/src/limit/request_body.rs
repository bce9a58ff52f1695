//! What a request asks of a model, as its gateway has read it from the request's body.

/// The model of a request that names none, or whose gateway could not read it.
pub const UNKNOWN_MODEL: &str = "(unknown)";

/// Returns whether a request's model is unknown. An empty name comes from a gateway that does not read models.
#[must_use]
pub fn is_unknown(model: &str) -> bool {
    model.is_empty() || model == UNKNOWN_MODEL
}

/// What a request makes a model generate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Generation {
    /// An answer, in the response.
    #[default]
    Immediate,
    /// An answer that the server generates after its response.
    Background,
    /// Nothing. The request is charged no tokens, whatever usage its response contains.
    Nothing,
}

impl Generation {
    const ALL: [Self; 3] = [Self::Immediate, Self::Background, Self::Nothing];

    /// Returns the value's number in the API and in tickets.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// Returns the value with this number. An unknown number is [`Self::Immediate`].
    #[must_use]
    pub fn from_number(number: i32) -> Self {
        usize::try_from(number).ok().and_then(|n| Self::ALL.get(n).copied()).unwrap_or_default()
    }
}

/// The size of what a request asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestBody {
    /// Size of the prompt in bytes. 0: unknown.
    pub prompt_bytes: u64,
    /// Maximum number of output tokens of each answer. 0: no maximum.
    pub max_output_tokens: u64,
    /// Number of answers. 0 counts as 1.
    pub choices: u64,
    pub generation: Generation,
}

impl RequestBody {
    /// Returns the number of answers, at least 1.
    #[must_use]
    pub fn answers(&self) -> u64 {
        self.choices.max(1)
    }
}
