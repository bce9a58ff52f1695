//! Which members of a value hold token counts and generated text. All APIs are read by one set of rules, because servers
//! mix them.

use super::token_counts::TokenKind;
use crate::scan::Key;

/// How a count relates to the counts of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// A count of the response.
    Response,
    /// A count of one of the response's results, which add up.
    Result,
    /// A count that applies if the response reports no other.
    Fallback,
    /// A count of one of several calls that the provider made for the request.
    SubCall,
}

/// What a text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextKind {
    /// Not generated, such as a name.
    Other,
    /// In a member that belongs to no known API.
    Unknown,
    /// A part of the answer.
    Generated,
    /// The `delta` of an event, which may be text or audio.
    Delta,
    /// Reasoning, by its member name. Some servers send the same reasoning under several names.
    Reasoning,
    ReasoningContent,
    ReasoningDetails,
    /// A whole text that may repeat the parts of a stream; the same for reasoning.
    Repeated,
    RepeatedReasoning,
    RepeatedReasoningContent,
    RepeatedReasoningDetails,
    /// Generated data that is not text, such as an image.
    Opaque,
    /// A part of a text, or the whole text so far; the same for reasoning.
    Growing,
    GrowingReasoning,
}

impl TextKind {
    pub(super) const COUNT: usize = TextKind::GrowingReasoning as usize + 1;

    /// Returns whether a text of this kind shows that the value contains an answer, if only an empty one.
    pub(super) fn is_recognized(self) -> bool {
        !matches!(self, TextKind::Other | TextKind::Unknown | TextKind::Opaque)
    }
}

/// Returns which count a number is.
pub(super) fn count(path: &[Key]) -> Option<(Scope, TokenKind)> {
    use Key::*;
    let found = match path {
        // Ollama, llama.cpp, and models on Bedrock.
        [PromptEvalCount | PromptTokenCount] => (Scope::Response, TokenKind::Prompt),
        [EvalCount] => (Scope::Response, TokenKind::Output),
        // Text Generation Inference.
        [Details, InputTokenCount] => (Scope::Response, TokenKind::Prompt),
        // With `best_of`, the sequences are listed beside the best one.
        [Details, GeneratedTokens] | [Details, Other, Item, GeneratedTokens] => {
            (Scope::Result, TokenKind::Output)
        }
        // watsonx, and Titan on Bedrock.
        [Results, Item, InputTokenCount] => (Scope::Result, TokenKind::Prompt),
        [Results, Item, GeneratedTokens] => (Scope::Result, TokenKind::Output),
        // llama.cpp; the prompt excludes its cached part.
        [Timings, PromptN] => (Scope::Fallback, TokenKind::Input),
        [Timings, CacheN] => (Scope::Fallback, TokenKind::CacheRead),
        [Timings, PredictedN] => (Scope::Fallback, TokenKind::Output),
        [InvocationMetrics, name @ ..] => (Scope::Fallback, named(name)?),
        // Groq.
        [UsageBreakdown, Models, Item, Usage, name @ ..] => (Scope::SubCall, named(name)?),
        _ => return within_usage(path),
    };
    Some(found)
}

/// Returns which count a number inside `usage` is. `usage` may be up to two objects deep.
fn within_usage(path: &[Key]) -> Option<(Scope, TokenKind)> {
    use Key::*;
    let at = path.iter().position(|key| matches!(key, Usage | UsageMetadata | Meta | MetaInfo))?;
    let (before, name) = (&path[..at], &path[at + 1..]);
    let is_usage = match before {
        [] | [Choices, Item] => true,
        [one] | [one, Delta | Message | Response | Result | Data | Body] => *one != Item,
        [one, other] if other.is_other_in_response() => *one != Item,
        _ => false,
    };
    if !is_usage {
        return None;
    }
    Some(match name {
        // Anthropic's iterations; the models that a DashScope application used.
        [Iterations | Models | Compaction, Item, name @ ..] => (Scope::SubCall, named(name)?),
        [Compaction, name @ ..] => (Scope::SubCall, named(name)?),
        // Cohere.
        [Tokens, name @ ..] => (Scope::Response, named(name)?),
        [BilledUnits, name @ ..] => (Scope::Fallback, named(name)?),
        _ => (Scope::Response, named(name)?),
    })
}

fn named(name: &[Key]) -> Option<TokenKind> {
    use Key::*;
    Some(match name {
        [PromptTokensDetails | InputTokensDetails, CachedTokens] => TokenKind::Cached,
        [CompletionTokensDetails | OutputTokensDetails, ReasoningTokens] => TokenKind::Reasoning,
        [name] => match name {
            PromptTokens | PromptTokenCount | PromptEvalCount => TokenKind::Prompt,
            InputTokens | InputTokenCount => TokenKind::Input,
            CacheReadInputTokens => TokenKind::CacheRead,
            CacheCreationInputTokens => TokenKind::CacheWritten,
            CachedTokens | PromptCacheHitTokens | CachedContentTokenCount => TokenKind::Cached,
            ToolUsePromptTokenCount | ConnectorTokens => TokenKind::ToolPrompt,
            CompletionTokens | OutputTokens | CandidatesTokenCount | EvalCount | GeneratedTokens
            | OutputTokenCount => TokenKind::Output,
            ReasoningTokens => TokenKind::Reasoning,
            ThoughtsTokenCount => TokenKind::Thoughts,
            TotalTokens => TokenKind::Total,
            _ => return None,
        },
        _ => return None,
    })
}

/// Returns what a text is.
pub(super) fn text(path: &[Key]) -> TextKind {
    use Key::*;
    match path {
        // OpenAI chat completions and completions, and compatible servers. Perplexity sends `message` beside `delta`,
        // and others in the last chunk.
        [Choices, Item, Message, below @ ..] => match (below, generated(below)) {
            ([Reasoning, ..], TextKind::Generated) => TextKind::RepeatedReasoning,
            ([ReasoningContent, ..], TextKind::Generated) => TextKind::RepeatedReasoningContent,
            ([ReasoningDetails, ..], TextKind::Generated) => TextKind::RepeatedReasoningDetails,
            (_, TextKind::Generated) => TextKind::Repeated,
            (_, other) => other,
        },
        [Choices, Item, Delta, below @ ..] => match (below, generated(below)) {
            ([Reasoning, ..], TextKind::Generated) => TextKind::Reasoning,
            ([ReasoningContent, ..], TextKind::Generated) => TextKind::ReasoningContent,
            ([ReasoningDetails, ..], TextKind::Generated) => TextKind::ReasoningDetails,
            (_, kind) => kind,
        },
        [Choices, Item, below @ ..] => generated(below),
        // OpenAI responses: events and a whole response.
        [Delta] => TextKind::Delta,
        [Output, Item, below @ ..] => generated(below),
        [Response, Output, Item, below @ ..] => match generated(below) {
            TextKind::Generated => TextKind::Repeated,
            other => other,
        },
        // Anthropic, Bedrock, Cohere: events. The content of a block is that of a tool on the server.
        [ContentBlockDelta, Content, ..] => TextKind::Other,
        [Delta | ContentBlockDelta | ToolCallDelta, below @ ..] => generated(below),
        // Anthropic: a whole message. Deeper content is that of tools on the server.
        [Content, Item, Content, _, ..] => TextKind::Other,
        [Content, Item, below @ ..] => generated(below),
        // Gemini, also its Live API.
        [Candidates, Item, Content | Output] => TextKind::Generated,
        [Candidates, Item, Content, Parts, Item, below @ ..]
        | [ServerContent, ModelTurn, Parts, Item, below @ ..] => generated(below),
        [ServerContent, OutputTranscription, Text] => TextKind::Generated,
        // Ollama; Cohere.
        [Message, below @ ..] if !below.is_empty() => generated(below),
        [Thinking | Response | Content] | [ToolCalls, Item, ..] => generated(path),
        // DashScope; Bedrock.
        [Output, Text] => TextKind::Growing,
        [Output, Choices, Item, Message, ReasoningContent] => TextKind::GrowingReasoning,
        [Output, Choices, Item, Message, below @ ..] => match (below, generated(below)) {
            ([Content, ..], TextKind::Generated) => TextKind::Growing,
            (_, what) => what,
        },
        [Output, Message, Content, Item, below @ ..] => generated(below),
        // Text Generation Inference.
        [Token, Text] => TextKind::Generated,
        [GeneratedText] | [Response, Text] => TextKind::Repeated,
        // SGLang, Triton, vLLM, Cohere v1, transcriptions.
        [Text | TextOutput] | [Text | TextOutput, Item] => TextKind::Growing,
        // Models on Bedrock, watsonx, KServe, Vertex, Replicate and others.
        [Completion | Generation | OutputText | Result | Output] => TextKind::Generated,
        [Results, Item, GeneratedText | OutputText | Text] | [Outputs, Item, Text | Data, ..] => {
            TextKind::Generated
        }
        [Generations, Item, below @ ..] | [Predictions, below @ ..] => generated(below),
        // The same in an envelope.
        [Result | Data | Body | Response, below @ ..] if !matches!(below, [] | [Item, ..]) => text(below),
        [other, Choices | Candidates, ..] if other.is_other_in_response() => text(&path[1..]),
        [other, ..] if other.is_other_in_response() => TextKind::Unknown,
        _ => TextKind::Other,
    }
}

/// Returns what a text inside a generated message is. Every text is generated, except those with the names of known
/// metadata, because providers often add new kinds of content.
fn generated(below: &[Key]) -> TextKind {
    use Key::*;
    for (at, key) in below.iter().enumerate() {
        let is_last = at + 1 == below.len();
        match key {
            // Arguments of tools have any names.
            Input | Arguments | Args | Parameters | PartialJson => return TextKind::Generated,
            Data | B64Json | Url | EncryptedContent | Result if is_last => return TextKind::Opaque,
            ImageUrl => return TextKind::Opaque,
            Annotations
            | CallId
            | Citations
            | CodeExecutionResult
            | ContentFilterResults
            | Context
            | Error
            | ExecutedTools
            | FinishReason
            | FunctionResponse
            | Id
            | Language
            | Logprobs
            | MimeType
            | Model
            | Name
            | NativeFinishReason
            | Object
            | Output
            | Outputs
            | ProviderSpecificFields
            | Results
            | Role
            | Signature
            | Status
            | StopSequence
            | Title
            | Type
            | Usage => return TextKind::Other,
            _ => {}
        }
    }
    TextKind::Generated
}
