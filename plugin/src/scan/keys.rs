//! The member names that mean something to the plugin; every other is [`Key::Other`].

/// Declares the names.
macro_rules! keys {
    ($($variant:ident = $($name:literal)|+,)*) => {
        /// The name of a member, or an item's place in an array.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum Key {
            /// An item of an array.
            Item,
            /// A name without meaning here.
            Other,
            /// `model` in another case: some servers, such as those written in Go, take it as well.
            ModelAlike,
            $($variant,)*
        }

        /// A table, as it makes a smaller module than a match.
        const NAMES: &[(&str, Key)] = &[$($(($name, Key::$variant),)+)*];
    };
}

/// Longest name that means something, in bytes.
pub(super) const KEY_BYTES_MAX: usize = 32;

keys! {
    Args = "args",
    Arguments = "arguments",
    CacheCreationInputTokens = "cache_creation_input_tokens",
    CacheReadInputTokens = "cache_read_input_tokens",
    CachedContentTokenCount = "cachedContentTokenCount",
    CachedTokens = "cached_tokens",
    Candidates = "candidates",
    CandidatesTokenCount = "candidatesTokenCount",
    Choices = "choices",
    Code = "code",
    CompletionTokens = "completion_tokens",
    CompletionTokensDetails = "completion_tokens_details",
    Content = "content",
    Contents = "contents",
    Data = "data",
    Delta = "delta",
    Documents = "documents",
    Done = "done",
    EvalCount = "eval_count",
    ExecutableCode = "executableCode",
    FinishReason = "finish_reason" | "finishReason",
    Function = "function" | "function_call" | "functionCall",
    FunctionResponse = "functionResponse" | "function_response",
    Functions = "functions",
    GenerationConfig = "generationConfig" | "generation_config",
    IncludeUsage = "include_usage",
    Input = "input",
    InputTokens = "input_tokens",
    InputTokensDetails = "input_tokens_details",
    Instructions = "instructions",
    MaxCompletionTokens = "max_completion_tokens",
    MaxOutputTokens = "max_output_tokens" | "maxOutputTokens",
    MaxTokens = "max_tokens",
    Message = "message",
    Messages = "messages",
    Model = "model",
    ModelId = "model_id",
    ModelVersion = "modelVersion" | "model_version",
    Models = "models",
    NumPredict = "num_predict",
    Options = "options",
    Output = "output",
    OutputTokens = "output_tokens",
    OutputTokensDetails = "output_tokens_details",
    Parameters = "parameters",
    PartialJson = "partial_json",
    Parts = "parts",
    Prompt = "prompt",
    PromptCacheHitTokens = "prompt_cache_hit_tokens",
    PromptEvalCount = "prompt_eval_count",
    PromptTokenCount = "promptTokenCount",
    PromptTokens = "prompt_tokens",
    PromptTokensDetails = "prompt_tokens_details",
    Query = "query",
    Reasoning = "reasoning",
    ReasoningContent = "reasoning_content",
    ReasoningTokens = "reasoning_tokens",
    Refusal = "refusal",
    Response = "response",
    Source = "source",
    Stream = "stream",
    StreamOptions = "stream_options",
    Summary = "summary",
    System = "system",
    SystemInstruction = "systemInstruction" | "system_instruction",
    Text = "text",
    Texts = "texts",
    Thinking = "thinking",
    ThoughtsTokenCount = "thoughtsTokenCount",
    ToolCalls = "tool_calls",
    ToolUsePromptTokenCount = "toolUsePromptTokenCount",
    Tools = "tools",
    TotalTokens = "total_tokens",
    Type = "type",
    Usage = "usage",
    UsageMetadata = "usageMetadata" | "usage_metadata",
    XGroq = "x_groq",
}

impl Key {
    /// The key of a name.
    pub(super) fn of(name: &[u8]) -> Key {
        let alike = if name.eq_ignore_ascii_case(b"model") { Key::ModelAlike } else { Key::Other };
        NAMES.iter().find(|(known, _)| known.as_bytes() == name).map_or(alike, |(_, key)| *key)
    }

    /// Whether the beginning of a text under this name is kept for [`super::Event::Text`].
    pub(super) fn keeps(self) -> bool {
        use Key::{FinishReason, Model, ModelAlike, ModelId, ModelVersion, Type};
        matches!(self, FinishReason | Model | ModelAlike | ModelId | ModelVersion | Type)
    }
}
