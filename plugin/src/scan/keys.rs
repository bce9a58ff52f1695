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
    Annotations = "annotations",
    Args = "args",
    Answers = "n"
        | "best_of"
        | "candidateCount"
        | "candidate_count"
        | "num_generations"
        | "num_results"
        | "numResults"
        | "num_return_sequences"
        | "sampleCount",
    Arguments = "arguments",
    B64Json = "b64_json" | "bytesBase64Encoded",
    Background = "background",
    BaseResp = "base_resp",
    Batch = "batch",
    BilledUnits = "billed_units",
    Body = "body",
    Bytes = "bytes",
    CacheCreationInputTokens = "cache_creation_input_tokens"
        | "cacheWriteInputTokens"
        | "cacheWriteInputTokenCount",
    CacheN = "cache_n",
    CacheReadInputTokens = "cache_read_input_tokens" | "cacheReadInputTokens" | "cacheReadInputTokenCount",
    CacheControl = "cache_control" | "cachePoint" | "cache_point",
    CacheSalt = "cache_salt",
    CachedContent = "cachedContent" | "cached_content",
    CachedContentTokenCount = "cachedContentTokenCount"
        | "cached_content_token_count"
        | "total_cached_tokens",
    CachedTokens = "cached_tokens",
    CallId = "call_id" | "tool_call_id" | "toolUseId" | "tool_use_id",
    Candidates = "candidates",
    CandidatesTokenCount = "candidatesTokenCount"
        | "candidates_token_count"
        | "responseTokenCount"
        | "total_output_tokens",
    Categories = "categories",
    ChatHistory = "chat_history",
    ChatTemplate = "chat_template" | "template",
    ChatTemplateOptions = "chat_template_kwargs" | "chat_template_args",
    Choices = "choices",
    Citations = "citations" | "citation",
    Code = "code",
    CodeExecutionResult = "codeExecutionResult",
    Compaction = "compaction" | "compactions",
    Completion = "completion",
    CompletionTokens = "completion_tokens" | "completionTokens",
    CompletionTokensDetails = "completion_tokens_details",
    ConnectorTokens = "connector_tokens",
    Content = "content",
    ContentBlockDelta = "contentBlockDelta" | "content_block",
    ContentFilterResults = "content_filter_results",
    Contents = "contents",
    Context = "context",
    Conversation = "conversation",
    Count = "count",
    Data = "data",
    Deleted = "deleted",
    Delta = "delta",
    Details = "details",
    Documents = "documents",
    Done = "done",
    Effort = "effort",
    Embedding = "embedding" | "embeddings",
    EncryptedContent = "encrypted_content" | "redactedContent",
    Error = "error",
    ErrorCode = "error_code",
    Errors = "errors",
    EvalCount = "eval_count" | "tokens_predicted" | "generation_token_count" | "totalOutputTextTokenCount",
    ExecutableCode = "executableCode",
    ExecutedTools = "executed_tools",
    FinishReason = "finish_reason"
        | "finishReason"
        | "stop_reason"
        | "stopReason"
        | "completionReason"
        | "done_reason",
    Flagged = "flagged",
    Function = "function" | "function_call" | "functionCall",
    FunctionResponse = "functionResponse" | "function_response",
    Functions = "functions",
    GeneratedText = "generated_text" | "translation_text" | "summary_text",
    GeneratedTokens = "generated_tokens" | "generated_token_count" | "tokenCount",
    Generation = "generation",
    GenerationConfig = "generationConfig" | "generation_config",
    Generations = "generations" | "completions",
    Id = "id",
    ImageUrl = "image_url",
    Images = "images",
    IncludeUsage = "include_usage",
    InferenceConfig = "inferenceConfig"
        | "inference_config"
        | "textGenerationConfig"
        | "sampling_params"
        | "inferenceParameters",
    Input = "input",
    InputConfig = "inputConfig" | "input_config",
    InputTokenCount = "inputTokenCount" | "input_token_count" | "input_length",
    InputTokens = "input_tokens" | "inputTokens",
    InputTokensDetails = "input_tokens_details" | "input_token_details",
    Instructions = "instructions",
    InvocationMetrics = "amazon-bedrock-invocationMetrics",
    IsFinished = "is_finished",
    Iterations = "iterations",
    Language = "language",
    Logprobs = "logprobs",
    Message = "message",
    Messages = "messages" | "instances",
    Meta = "meta",
    MetaInfo = "meta_info",
    MimeType = "mimeType" | "mime_type" | "media_type",
    Model = "model",
    ModelId = "model_id",
    ModelName = "model_name",
    ModelTurn = "modelTurn",
    ModelVersion = "modelVersion" | "model_version",
    Models = "models",
    Name = "name",
    NativeFinishReason = "native_finish_reason",
    Object = "object",
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
    OutputText = "outputText" | "output_text",
    OutputTokenCount = "outputTokenCount",
    OutputTokens = "output_tokens" | "outputTokens",
    OutputTokensDetails = "output_tokens_details" | "output_token_details",
    OutputTranscription = "outputTranscription",
    Outputs = "outputs",
    Parameters = "parameters",
    Params = "params",
    PartialJson = "partial_json",
    Parts = "parts",
    Preamble = "preamble",
    PredictedN = "predicted_n",
    Predictions = "predictions",
    PreviousResponseId = "previous_response_id",
    Prompt = "prompt" | "inputs" | "inputText" | "text_input",
    PromptCacheHitTokens = "prompt_cache_hit_tokens",
    PromptEvalCount = "prompt_eval_count" | "tokens_evaluated" | "inputTextTokenCount",
    PromptN = "prompt_n",
    PromptTokenCount = "promptTokenCount" | "prompt_token_count" | "total_input_tokens",
    PromptTokens = "prompt_tokens" | "promptTokens",
    PromptTokensDetails = "prompt_tokens_details",
    ProviderSpecificFields = "provider_specific_fields",
    Query = "query",
    Reasoning = "reasoning",
    ReasoningContent = "reasoning_content",
    ReasoningDetails = "reasoning_details" | "thinking_blocks",
    ReasoningEffort = "reasoning_effort",
    ReasoningTokens = "reasoning_tokens" | "reasoningTokens" | "thinking_tokens",
    Refusal = "refusal",
    RelevanceScore = "relevance_score",
    Request = "request",
    Requests = "requests",
    Response = "response",
    Result = "result",
    Results = "results",
    Role = "role",
    Score = "score" | "scores",
    ServerContent = "serverContent",
    SetupComplete = "setupComplete",
    Signature = "signature" | "thoughtSignature" | "thought_signature",
    Source = "source",
    Status = "status",
    StatusCode = "status_code",
    Stop = "stop",
    StopSequence = "stop_sequence",
    Stream = "stream",
    StreamOptions = "stream_options",
    Summary = "summary",
    System = "system",
    SystemInstruction = "systemInstruction" | "system_instruction",
    Text = "text",
    TextOutput = "text_output",
    Texts = "texts",
    Thinking = "thinking",
    ThoughtsTokenCount = "thoughtsTokenCount" | "thoughts_token_count" | "total_thought_tokens",
    Timings = "timings",
    Title = "title",
    Token = "token",
    TokenIds = "token_ids",
    Tokens = "tokens",
    ToolCallDelta = "tool_call_delta",
    ToolCalls = "tool_calls",
    ToolConfig = "toolConfig" | "tool_config",
    ToolUsePromptTokenCount = "toolUsePromptTokenCount"
        | "tool_use_prompt_token_count"
        | "total_tool_use_tokens",
    Tools = "tools",
    TotalTokens = "total_tokens" | "totalTokens" | "totalTokenCount" | "total_token_count",
    TurnComplete = "turnComplete",
    Type = "type" | "event_type",
    Url = "url",
    Usage = "usage",
    UsageBreakdown = "usage_breakdown",
    UsageMetadata = "usageMetadata" | "usage_metadata",
    XGroq = "x_groq",
}

/// Number of slots of the hash table. A power of two, at least twice the number of names, so that probes are short.
const SLOTS: usize = 1024;

/// The index in [`NAMES`], plus 1, of the name in each slot; 0 for a free slot.
static TABLE: [u16; SLOTS] = table();

const fn table() -> [u16; SLOTS] {
    assert!(2 * NAMES.len() <= SLOTS);
    let mut table = [0; SLOTS];
    let mut i = 0;
    while i < NAMES.len() {
        let name = NAMES[i].0.as_bytes();
        assert!(name.len() <= KEY_BYTES_MAX);
        let mut slot = hash(name);
        while table[slot] != 0 {
            slot = (slot + 1) % SLOTS;
        }
        i += 1;
        table[slot] = i as u16;
    }
    table
}

const fn hash(name: &[u8]) -> usize {
    let len = name.len();
    if len == 0 {
        return 0;
    }
    let (first, middle, last) = (name[0] as usize, name[len / 2] as usize, name[len - 1] as usize);
    (len * 67 + first * 5 + middle * 29 + last * 13) % SLOTS
}

impl Key {
    pub(super) fn from_name(name: &[u8]) -> Key {
        let mut slot = hash(name);
        while let Some(i) = usize::from(TABLE[slot]).checked_sub(1) {
            if NAMES[i].0.as_bytes() == name {
                return NAMES[i].1;
            }
            slot = (slot + 1) % SLOTS;
        }
        if name.eq_ignore_ascii_case(b"model") { Key::ModelAnyCase } else { Key::Other }
    }

    /// Returns whether the name means nothing in a response.
    pub(crate) fn is_other_in_response(self) -> bool {
        use Key::{
            CacheControl, CacheSalt, CachedContent, ChatHistory, ChatTemplate, ChatTemplateOptions,
            Conversation, Effort, Images, Other, Preamble, PreviousResponseId, ReasoningEffort, ToolConfig,
        };
        matches!(
            self,
            Other
                | CacheControl
                | CacheSalt
                | CachedContent
                | ChatHistory
                | ChatTemplate
                | ChatTemplateOptions
                | Conversation
                | Effort
                | Images
                | Preamble
                | PreviousResponseId
                | ReasoningEffort
                | ToolConfig
        )
    }

    /// Returns whether [`super::Event::Text`] carries the beginning of a text with this member name.
    pub(super) fn keeps_text(self) -> bool {
        use Key::{
            Answers, Code, FinishReason, Model, ModelAnyCase, ModelId, ModelName, ModelVersion, Object,
            OutputBound, Role, Status, Type,
        };
        matches!(
            self,
            Answers
                | Code
                | FinishReason
                | Model
                | ModelAnyCase
                | ModelId
                | ModelName
                | ModelVersion
                | Object
                | OutputBound
                | Role
                | Status
                | Type
        )
    }
}
