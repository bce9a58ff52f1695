//! Responses of each provider, and what the reader must find in them.

/// A provider's response and the usage that it reports.
pub(super) struct Sample {
    pub(super) name: &'static str,
    pub(super) body: &'static [u8],
    pub(super) model: &'static str,
    /// Tokens: input, cached input, output, reasoning.
    pub(super) tokens: Option<(u64, u64, u64, u64)>,
    /// The text that the reader must count.
    pub(super) text: &'static str,
}

macro_rules! sample {
    ($name:literal, $model:literal, $tokens:expr, $text:literal) => {
        Sample {
            name: $name,
            body: include_bytes!(concat!("../../../tests/fixtures/", $name)),
            model: $model,
            tokens: $tokens,
            text: $text,
        }
    };
}

pub(super) const SAMPLES: [Sample; 44] = [
    sample!(
        "openai-chat.json",
        "gpt-4o-2024-08-06",
        Some((1117, 1024, 46, 20)),
        "Grüße aus Köln! 👋\nThe \"answer\" is 42."
    ),
    sample!("openai-chat.sse", "gpt-4o-mini", Some((19, 4, 10, 0)), "Hello wörld!\n\"\\"),
    sample!("openai-chat-no-usage.sse", "gpt-4o-mini", None, "Hello"),
    sample!("openai-chat-tools.sse", "gpt-4o-mini", Some((81, 0, 25, 0)), "Let me see{\"city\":\"Paris\"}"),
    sample!(
        "openai-completions.json",
        "gpt-3.5-turbo-instruct",
        Some((5, 0, 7, 0)),
        "\n\nThis is indeed a test"
    ),
    sample!("openai-completions.sse", "gpt-3.5-turbo-instruct", Some((4, 0, 2, 0)), "This is"),
    sample!("openai-embeddings.json", "text-embedding-3-small", Some((8, 0, 0, 0)), ""),
    sample!(
        "openai-responses.json",
        "gpt-4.1-2025-04-14",
        Some((36, 16, 87, 12)),
        "Thinking about unicorns.{\"q\":\"unicorn\"}In a peaceful grove beneath a silver moon…"
    ),
    sample!("openai-responses.sse", "gpt-4.1-2025-04-14", Some((36, 16, 87, 12)), "Hi thére{\"a\":1}"),
    sample!(
        "anthropic.json",
        "claude-sonnet-4-5-20250929",
        Some((4143, 1800, 503, 0)),
        "Hmm.Hi! My name is Claude.^GSPC2020"
    ),
    sample!(
        "anthropic.sse",
        "claude-opus-4-20250514",
        Some((135, 100, 89, 0)),
        "Let me thinkHello!{\"location\": \"San Francisco\"}"
    ),
    sample!("gemini.json", "gemini-2.5-flash", Some((270, 200, 39, 31)), "Paris, ville lumière.Parisfr"),
    sample!("gemini.sse", "gemini-2.5-flash", Some((15, 0, 47, 41)), "**Thinking**1+1 = 2."),
    sample!("gemini-array.json", "gemini-2.5-flash", Some((15, 0, 47, 41)), "**Thinking**1+1 = 2."),
    sample!("dashscope.json", "", Some((22, 11, 17, 9)), "我是阿里云开发的模型。用户问我是谁"),
    sample!("dashscope.sse", "", Some((26, 0, 8, 3)), "想一想我是通义千问"),
    sample!("dashscope-incremental.sse", "", Some((26, 0, 8, 3)), "想一想我是通义千问"),
    sample!("dashscope-app.json", "qwen-max", Some((373, 0, 160, 0)), "Hello, I am an app."),
    sample!("ollama-chat.ndjson", "llama3.2", Some((26, 0, 282, 0)), "The größteHm"),
    sample!("ollama-generate.ndjson", "llama3.2", Some((26, 0, 2, 0)), "Sky"),
    sample!("ollama-chat.json", "llama3.2", Some((26, 0, 282, 0)), "HelloTokyo"),
    sample!("cohere.json", "", Some((71, 64, 418, 0)), "I look it up. Hm. LLMs are…{\"q\":1}"),
    sample!("cohere.sse", "", Some((215, 0, 5, 0)), "I look. {\"q\":1}Grüße"),
    sample!("cohere-v1.ndjson", "", Some((68, 0, 2, 0)), "Hello there"),
    sample!("bedrock-converse.json", "", Some((230, 200, 628, 0)), "Hm. Hello.Paris"),
    sample!("bedrock-converse.bin", "", Some((230, 200, 628, 0)), "Hm, Grüße.{\"a\":1}"),
    sample!("bedrock-invoke.bin", "claude-sonnet-4", Some((118, 100, 40, 0)), "Hello there"),
    sample!("bedrock-titan.json", "", Some((5, 0, 55, 0)), "\nA story."),
    sample!("bedrock-llama.json", "", Some((16, 0, 9, 0)), "\n\nHello!"),
    sample!("mistral.sse", "magistral-medium", Some((12, 0, 30, 0)), "Let me think. 42."),
    sample!("tgi.json", "", Some((4, 0, 20, 0)), " Deep learning."),
    sample!("tgi.sse", "", Some((4, 0, 2, 0)), "Deep learning"),
    sample!("llama-cpp.json", "gemma.gguf", Some((9, 6, 4, 0)), " Paris."),
    sample!("llama-cpp.sse", "gemma.gguf", Some((9, 0, 4, 0)), " Paris."),
    sample!("sglang.json", "", Some((7, 3, 5, 0)), " Paris, Köln."),
    sample!("sglang.sse", "", Some((7, 3, 5, 0)), " Paris, Köln."),
    sample!("sglang-batch.json", "", Some((18, 4, 14, 0)), "One.Two."),
    sample!("watsonx.json", "ibm/granite-13b-instruct-v2", Some((12, 0, 4, 0)), "4,000 km"),
    sample!("watsonx.sse", "ibm/granite", Some((12, 0, 4, 0)), "4,000 km"),
    sample!("triton-generate.json", "ensemble", None, "Machine learning is fun."),
    sample!("triton-generate.sse", "llm", None, "Machine learning"),
    sample!("kserve-infer.json", "llm", None, "Deep learning."),
    sample!("rerank.json", "", None, ""),
    sample!("score.json", "bge-reranker", Some((17, 0, 0, 0)), ""),
];
