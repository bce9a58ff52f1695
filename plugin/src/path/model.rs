//! The model that a request path names. A server whose paths name models uses that model and ignores the body's.

use super::{RequestPath, decode};

/// Last segments of a Bedrock path `/model/ID/ACTION`.
const BEDROCK_ACTIONS: [&str; 6] = [
    "converse",
    "converse-stream",
    "count-tokens",
    "invoke",
    "invoke-with-bidirectional-stream",
    "invoke-with-response-stream",
];

/// Last segments of a path `/v2/models/ID/ACTION` of Triton and KServe.
const KSERVE_ACTIONS: [&str; 3] = ["generate", "generate_stream", "infer"];

/// Collections in whose paths `NAME:METHOD` names a model, as in Gemini's and Vertex's paths.
const METHOD_COLLECTIONS: [&str; 3] = ["models", "tunedModels", "endpoints"];

/// Query parameters that name the model of a realtime session.
const REALTIME_PARAMETERS: [&str; 2] = ["model", "deployment"];

/// Returns the model that a path with its query names; `None` if it names none. `is_upgrade`: the request asks for a
/// WebSocket.
pub(crate) fn model(path: &RequestPath<'_>, is_upgrade: bool) -> Option<String> {
    let segments = path.segments()?;
    if is_upgrade || segments.contains(&"realtime") {
        return of_query(path.text);
    }
    let named = of_method(&segments)
        .or_else(|| of_bedrock(&segments))
        .or_else(|| (0..segments.len()).find_map(|i| of_collection(&segments[..i], &segments[i..])));
    named.filter(|model| !model.is_empty())
}

/// Reads `…/models/NAME:METHOD`. A name may contain encoded slashes.
fn of_method(segments: &[&str]) -> Option<String> {
    let [.., collection, last] = segments else { return None };
    let (model, method) = last.rsplit_once(':')?;
    let is_method = !method.is_empty() && method.bytes().all(|b| b.is_ascii_alphabetic());
    (METHOD_COLLECTIONS.contains(collection) && is_method).then(|| model.to_owned())
}

/// Reads `/model/ID/ACTION`. The id of an inference profile contains a slash, which a proxy may have decoded.
fn of_bedrock(segments: &[&str]) -> Option<String> {
    let at = segments.iter().position(|segment| *segment == "model")?;
    let [id @ .., action] = &segments[at + 1..] else { return None };
    BEDROCK_ACTIONS.contains(action).then(|| id.join("/"))
}

/// Reads the model from the segments of a path from a collection on.
fn of_collection(before: &[&str], segments: &[&str]) -> Option<String> {
    let model = match segments {
        // Azure.
        [openai, deployments, model, _, ..]
            if openai.eq_ignore_ascii_case("openai") && deployments.eq_ignore_ascii_case("deployments") =>
        {
            *model
        }
        // Triton and KServe.
        ["models", model, action] | ["models", model, "versions", _, action]
            if KSERVE_ACTIONS.contains(action) =>
        {
            *model
        }
        // SageMaker and Databricks.
        ["endpoints" | "serving-endpoints", model, action]
            if action.starts_with("invocations") || *action == "async-invocations" =>
        {
            *model
        }
        // The first API of OpenAI, and servers that keep its paths.
        ["engines", model, "completions" | "embeddings"] | ["engines", model, "chat", "completions"] => {
            *model
        }
        // watsonx.
        ["ml", "v1", "deployments", model, "text", ..] => *model,
        ["wenxinworkshop", "chat", model] => *model,
        // TorchServe.
        ["predictions", model] | ["predictions", model, _] if before.is_empty() => *model,
        // DeepInfra.
        ["inference", owner, name] => return Some(format!("{owner}/{name}")),
        // Workers AI.
        ["ai", "run", model @ ..] => return Some(model.join("/")),
        // Replicate.
        ["models", owner, name, "predictions"] => return Some(format!("{owner}/{name}")),
        // Hugging Face. Azure serves `/models/chat/completions`, whose body names the model.
        ["models", owner, name, rest @ ..]
            if (before.is_empty() || before.last() == Some(&"hf-inference"))
                && !matches!(*owner, "chat" | "images")
                && matches!(rest.first(), None | Some(&("v1" | "pipeline"))) =>
        {
            return Some(format!("{owner}/{name}"));
        }
        ["pipeline", _, owner, name] if before.is_empty() => return Some(format!("{owner}/{name}")),
        _ => return None,
    };
    Some(model.to_owned())
}

/// Reads `?model=NAME` of a realtime session. Returns `None` if the query names several models, because it is unknown
/// which one a server uses.
fn of_query(path: &str) -> Option<String> {
    let query = path.split('#').next()?.split_once('?')?.1;
    let values = query.split('&').filter_map(|pair| pair.split_once('='));
    let mut values = values.filter(|(name, _)| REALTIME_PARAMETERS.contains(&&*decode(name)));
    let (_, value) = values.next()?;
    let is_ambiguous = values.any(|(_, other)| other != value);
    let model = decode(value).into_owned();
    (!is_ambiguous && !model.is_empty()).then_some(model)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(path: &str, is_upgrade: bool) -> Option<String> {
        super::model(&RequestPath::new(path), is_upgrade)
    }

    #[test]
    fn paths_of_many_servers_name_the_model() {
        let cases = [
            ("/v1beta/models/gemini-2.5-flash:generateContent", Some("gemini-2.5-flash")),
            (
                "/v1/projects/p/locations/l/publishers/google/models/g:streamGenerateContent?alt=sse",
                Some("g"),
            ),
            ("/v1/projects/p/locations/l/endpoints/123:rawPredict", Some("123")),
            ("/v1beta/tunedModels/t:generateContent", Some("t")),
            ("/v1beta/models/gemini%2d2.5%3AgenerateContent", Some("gemini-2.5")),
            ("/v1beta/models/google%2Fgemini:generateContent/", Some("google/gemini")),
            ("/v1beta//models/llama3:8b:generateContent", Some("llama3:8b")),
            ("/v1/models/llama", None),
            ("/v1/models/a/b:c", None),
            ("/v1/models/:c", None),
            ("/v1/models/a:", None),
            ("/v1/chat?x=/models/a:b", None),
            ("/v1/models/a:b/../../chat/completions", None),
            ("/v1/models/..%2f..%2fchat:b", None),
            ("/openai/deployments/gpt-4o/chat/completions?api-version=1", Some("gpt-4o")),
            ("/x//OpenAI/deployments/gpt%2D4o/embeddings", Some("gpt-4o")),
            ("/openai/deployments/gpt-4o", None),
            ("/openai/deployments/a/../b/chat/completions", None),
            (
                "/model/anthropic.claude-3-haiku-20240307-v1%3A0/converse",
                Some("anthropic.claude-3-haiku-20240307-v1:0"),
            ),
            ("/model/amazon.nova-pro-v1:0/converse-stream", Some("amazon.nova-pro-v1:0")),
            (
                "/bedrock/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A1%3Ainference-profile%2Fus.x/invoke",
                Some("arn:aws:bedrock:us-east-1:1:inference-profile/us.x"),
            ),
            (
                "/model/arn:aws:bedrock:us-east-1:1:inference-profile/us.x/invoke-with-response-stream",
                Some("arn:aws:bedrock:us-east-1:1:inference-profile/us.x"),
            ),
            ("/model/x/v1/chat/completions", None),
            ("/model/converse", None),
            ("/v2/models/llama/generate", Some("llama")),
            ("/v2/models/llama/versions/1/infer", Some("llama")),
            ("/v2/models/llama/generate_stream?x=1", Some("llama")),
            ("/v2/models/llama/ready", None),
            ("/endpoints/my-endpoint/invocations", Some("my-endpoint")),
            ("/endpoints/my-endpoint/invocations-response-stream", Some("my-endpoint")),
            ("/serving-endpoints/dbrx/invocations", Some("dbrx")),
            ("/v1/engines/davinci/completions", Some("davinci")),
            ("/v1/engines/davinci/v1/chat/completions", None),
            ("/ml/v1/deployments/d/text/generation", Some("d")),
            ("/rpc/2.0/ai_custom/v1/wenxinworkshop/chat/ernie", Some("ernie")),
            ("/client/v4/accounts/a/ai/run/@cf/meta/llama-3-8b", Some("@cf/meta/llama-3-8b")),
            ("/models/meta-llama/Llama-3", Some("meta-llama/Llama-3")),
            ("/hf-inference/models/o/n/pipeline/text-classification", Some("o/n")),
            ("/hf-inference/models/o/n/v1/chat/completions", Some("o/n")),
            ("/models/chat/completions?api-version=1", None),
            ("/v1/models/meta/llama/predictions", Some("meta/llama")),
            ("/predictions/resnet/2.0", Some("resnet")),
            ("/v1/predictions/p/cancel", None),
            ("/v1/inference/meta/llama", Some("meta/llama")),
            ("/v1/realtime?model=gpt-realtime", Some("gpt-realtime")),
            ("/openai/realtime?api-version=1&deployment=gpt%2D4o", Some("gpt-4o")),
            ("/v1/realtime?model=a&model=b", None),
            ("/v1/realtime?model=", None),
            ("/v1/chat/completions?model=a", None),
            ("", None),
        ];
        for (path, expected) in cases {
            assert_eq!(model(path, false).as_deref(), expected, "{path}");
        }
        assert_eq!(model("/ws?model=a#?model=b", true).as_deref(), Some("a"));
        assert_eq!(model("/v1/listen?x=1", true), None);
    }
}
