//! The member names that the plugin looks for. Any other name is [`Key::Other`].

macro_rules! keys {
    ($($variant:ident = $($name:literal)|+,)*) => {
        /// Name of a member, or a position in an array.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Key {
            /// An item of an array.
            Item,
            Other,
            /// A name that differs from `model` only in case. Some servers, such as those written in Go, accept such
            /// names.
            ModelAnyCase,
            $($variant,)*
        }

        /// This is a table, because a `match` would make the module larger.
        const NAMES: &[(&str, Key)] = &[$($(($name, Key::$variant),)+)*];
    };
}

/// Length of the longest name, in bytes.
pub(super) const KEY_BYTES_MAX: usize = 32;

keys! {
    Args = "args",
    Answers = "n"
        | "best_of"
        | "candidateCount"
        | "candidate_count"
        | "num_generations"
        | "num_results"
        | "numResults"
        | "num_return_sequences",
    Arguments = "arguments",
    Background = "background",
    Batch = "batch",
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
    InferenceConfig = "inferenceConfig"
        | "inference_config"
        | "textGenerationConfig"
        | "sampling_params"
        | "inferenceParameters",
    IncludeUsage = "include_usage",
    Input = "input",
    InputConfig = "inputConfig" | "input_config",
    InputTokens = "input_tokens",
    InputTokensDetails = "input_tokens_details",
    Instructions = "instructions",
    Message = "message",
    Messages = "messages",
    Model = "model",
    ModelId = "model_id",
    ModelVersion = "modelVersion" | "model_version",
    Models = "models",
    Options = "options",
    Output = "output",
    OutputBound = "max_tokens"
        | "max_completion_tokens"
        | "max_output_tokens"
        | "maxOutputTokens"
        | "max_new_tokens"
        | "max_tokens_to_sample"
        | "max_gen_len"
        | "maxTokens"
        | "maxTokenCount"
        | "n_predict"
        | "num_predict",
    OutputTokens = "output_tokens",
    OutputTokensDetails = "output_tokens_details",
    Params = "params",
    Parameters = "parameters",
    PartialJson = "partial_json",
    Parts = "parts",
    Prompt = "prompt" | "inputs" | "inputText" | "text_input",
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
    Request = "request",
    Requests = "requests",
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
    pub(super) fn from_name(name: &[u8]) -> Key {
        let unknown = if name.eq_ignore_ascii_case(b"model") { Key::ModelAnyCase } else { Key::Other };
        NAMES.iter().find(|(known, _)| known.as_bytes() == name).map_or(unknown, |(_, key)| *key)
    }

    /// Returns whether [`super::Event::Text`] carries the beginning of a text with this member name.
    pub(super) fn keeps_text(self) -> bool {
        use Key::{Answers, FinishReason, Model, ModelAnyCase, ModelId, ModelVersion, OutputBound, Type};
        matches!(
            self,
            Answers | FinishReason | Model | ModelAnyCase | ModelId | ModelVersion | OutputBound | Type
        )
    }
}
