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
            $($variant,)*
        }

        impl Key {
            /// The key of a name.
            pub(super) fn of(name: &[u8]) -> Key {
                match name {
                    $($($name)|+ => Key::$variant,)*
                    _ => Key::Other,
                }
            }
        }
    };
}

/// Longest name that means something, in bytes.
pub(super) const KEY_BYTES_MAX: usize = 32;

keys! {
    Args = b"args",
    Arguments = b"arguments",
    CacheCreationInputTokens = b"cache_creation_input_tokens",
    CacheReadInputTokens = b"cache_read_input_tokens",
    CachedContentTokenCount = b"cachedContentTokenCount",
    CachedTokens = b"cached_tokens",
    Candidates = b"candidates",
    CandidatesTokenCount = b"candidatesTokenCount",
    Choices = b"choices",
    Code = b"code",
    CompletionTokens = b"completion_tokens",
    CompletionTokensDetails = b"completion_tokens_details",
    Content = b"content",
    Contents = b"contents",
    Delta = b"delta",
    Done = b"done",
    EvalCount = b"eval_count",
    ExecutableCode = b"executableCode",
    FinishReason = b"finish_reason" | b"finishReason",
    Function = b"function" | b"function_call" | b"functionCall",
    Functions = b"functions",
    GenerationConfig = b"generationConfig" | b"generation_config",
    IncludeUsage = b"include_usage",
    Input = b"input",
    InputTokens = b"input_tokens",
    InputTokensDetails = b"input_tokens_details",
    Instructions = b"instructions",
    MaxCompletionTokens = b"max_completion_tokens",
    MaxOutputTokens = b"max_output_tokens" | b"maxOutputTokens",
    MaxTokens = b"max_tokens",
    Message = b"message",
    Messages = b"messages",
    Model = b"model",
    ModelId = b"model_id",
    ModelVersion = b"modelVersion" | b"model_version",
    Models = b"models",
    NumPredict = b"num_predict",
    Options = b"options",
    Output = b"output",
    OutputTokens = b"output_tokens",
    OutputTokensDetails = b"output_tokens_details",
    Parameters = b"parameters",
    PartialJson = b"partial_json",
    Parts = b"parts",
    Prompt = b"prompt",
    PromptCacheHitTokens = b"prompt_cache_hit_tokens",
    PromptEvalCount = b"prompt_eval_count",
    PromptTokenCount = b"promptTokenCount",
    PromptTokens = b"prompt_tokens",
    PromptTokensDetails = b"prompt_tokens_details",
    Reasoning = b"reasoning",
    ReasoningContent = b"reasoning_content",
    ReasoningTokens = b"reasoning_tokens",
    Refusal = b"refusal",
    Response = b"response",
    Stream = b"stream",
    StreamOptions = b"stream_options",
    Summary = b"summary",
    System = b"system",
    SystemInstruction = b"systemInstruction" | b"system_instruction",
    Text = b"text",
    Texts = b"texts",
    Thinking = b"thinking",
    ThoughtsTokenCount = b"thoughtsTokenCount",
    ToolCalls = b"tool_calls",
    ToolUsePromptTokenCount = b"toolUsePromptTokenCount",
    Tools = b"tools",
    TotalTokenCount = b"totalTokenCount",
    TotalTokens = b"total_tokens",
    Type = b"type",
    Usage = b"usage",
    UsageMetadata = b"usageMetadata" | b"usage_metadata",
    XGroq = b"x_groq",
}

impl Key {
    /// Whether the beginning of a text under this name is kept for [`super::Event::Text`].
    pub(super) fn keeps(self) -> bool {
        use Key::{FinishReason, Model, ModelId, ModelVersion, Type};
        matches!(self, FinishReason | Model | ModelId | ModelVersion | Type)
    }
}
