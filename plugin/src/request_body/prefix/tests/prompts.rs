//! Which requests have the same prompt.

use super::*;

#[test]
fn the_same_prompt_in_other_shapes_has_equal_hashes() {
    let system = text("system", 21);
    let (question, answer, last) = (text("question", 30), text("answer", 30), text("last", 30));
    let part = |kind: &str, text: &str| json!([{"type": kind, "text": text}]);
    let chat = json!({"model": "m", "messages": [
        {"role": "system", "content": system}, {"role": "user", "content": question},
        {"role": "assistant", "content": answer}, {"role": "user", "content": last}]});
    let bodies = [
        // OpenAI chat, with parts, and with an answer as its library returns it.
        json!({"messages": [
            {"role": "developer", "content": part("text", &system)},
            {"role": "user", "content": part("text", &question)},
            {"role": "assistant", "content": answer, "refusal": null, "annotations": [], "audio": null,
                "function_call": null, "tool_calls": []},
            {"role": "user", "content": last}]}),
        // Anthropic messages, with cache hints.
        json!({"max_tokens": 9, "system": system, "messages": [
            {"role": "user", "content": question}, {"role": "assistant", "content": part("text", &answer)},
            {"role": "user", "content": [{"type": "text", "text": last, "cache_control": {"type": "ephemeral"}}]}]}),
        json!({"cache_control": {"type": "ephemeral"}, "messages": [
            {"role": "user", "content": question}, {"role": "assistant", "content": answer},
            {"role": "user", "content": last}],
            "system": [{"type": "text", "text": system, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]}),
        // OpenAI Responses.
        json!({"instructions": system, "input": [
            {"role": "user", "content": question},
            {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
                "content": [{"type": "output_text", "text": answer, "annotations": [], "logprobs": []}]},
            {"type": "message", "role": "user", "content": part("input_text", &last)}]}),
        json!({"input": [
            {"role": "developer", "content": system}, {"role": "user", "content": question},
            {"role": "assistant", "content": answer}, {"role": "user", "content": last}],
            "text": {"format": {"type": "json_object"}}}),
        // DashScope and Bedrock.
        json!({"input": {"messages": chat["messages"]}, "parameters": {"max_tokens": 9}}),
        json!({"system": [{"text": system}, {"cachePoint": {"type": "default"}}], "messages": [
            {"role": "user", "content": [{"text": question}]}, {"role": "assistant", "content": [{"text": answer}]},
            {"role": "user", "content": [{"text": last}, {"cachePoint": {"type": "default"}}]}]}),
        // Gemini.
        json!({"systemInstruction": {"parts": [{"text": system}]}, "contents": [
            {"role": "user", "parts": [{"text": question}]}, {"role": "model", "parts": [{"text": answer}]},
            {"role": "user", "parts": [{"text": last}]}]}),
    ];
    let expected = of_json(&chat);
    assert!(expected.bytes.starts_with(&[8, 16, 21, 29]), "{expected:?}");
    for body in bodies {
        assert_eq!(of_json(&body), expected, "{body}");
    }
}

#[test]
fn one_input_text_equals_one_user_message() {
    let question = text("question", 30);
    let list = format!(r#"{{"input":[{{"role":"user","content":"{question}"}}]}}"#);
    assert_eq!(of(&format!(r#"{{"input":"{question}"}}"#)), of(&list));
    assert_eq!(of(&list.replace("input", "messages")), of(&list));
}

#[test]
fn whatever_changes_the_prompt_changes_the_hashes() {
    let user = |content: Value| chat(json!([{"role": "user", "content": content}]));
    let parts =
        |parts: &[&str]| user(parts.iter().map(|text| json!({"type": "text", "text": text})).collect());
    let image = |url: &str| json!([{"type": "image_url", "image_url": {"url": url}}]);
    let data = |member: &str, data: &str| user(json!([{member: {"mimeType": "image/png", "data": data}}]));
    let source = |data: &str| user(json!([{"type": "image", "source": {"type": "base64", "data": data}}]));
    let call = |name: &str, arguments: Value| {
        chat(
            json!([{"role": "assistant", "tool_calls": [{"function": {"name": name, "arguments": arguments}}]}]),
        )
    };
    let tool_use = |input: Value| user(json!([{"type": "tool_use", "name": "f", "input": input}]));
    let message = |message: Value| chat(json!([message]));
    let deep = |leaf: &str| {
        let deep = format!("{}{leaf}{}", r#"{"a":["#.repeat(12), "]}".repeat(12));
        serde_json::from_str::<Value>(&deep).unwrap()
    };
    let pairs = [
        (parts(&["ab", "c"]), parts(&["a", "bc"])),
        (parts(&["ab"]), parts(&["a", "b"])),
        (
            user(json!("ab")),
            chat(json!([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}])),
        ),
        (user(json!("ab")), message(json!({"role": "assistant", "content": "ab"}))),
        (user(json!("ab")), message(json!({"role": "system", "content": "ab"}))),
        (message(json!({"role": "user", "name": "al", "content": "ab"})), user(json!("ab"))),
        (
            message(json!({"role": "user", "name": "al", "content": "ab"})),
            message(json!({"role": "user", "name": "bo", "content": "ab"})),
        ),
        (user(json!("👋")), user(json!("👍"))),
        (user(image("data:image/png;base64,AAAA")), user(image("data:image/png;base64,AAAB"))),
        (user(image("a")), user(json!([{"type": "image_url", "image_url": {"url": "a", "detail": "low"}}]))),
        (user(image("a")), user(json!([{"type": "video_url", "video_url": {"url": "a"}}]))),
        (data("inlineData", "AAAA"), data("inlineData", "AAAB")),
        (data("inlineData", "AAAA"), data("fileData", "AAAA")),
        (source("AAAA"), source("AAAB")),
        (
            user(json!([{"type": "input_image", "image_url": "a"}])),
            user(json!([{"type": "input_image", "image_url": "b"}])),
        ),
        (
            user(json!([{"type": "input_audio", "input_audio": {"data": "a"}}])),
            user(json!([{"type": "input_audio", "input_audio": {"data": "b"}}])),
        ),
        (
            user(json!([{"type": "file", "file": {"file_id": "a"}}])),
            user(json!([{"type": "file", "file": {"file_id": "b"}}])),
        ),
        (
            message(json!({"role": "user", "content": "a", "images": ["AA"]})),
            message(json!({"role": "user", "content": "a", "images": ["AB"]})),
        ),
        (call("f", json!("{}")), call("g", json!("{}"))),
        (call("f", json!("{\"a\":1}")), call("f", json!("{\"a\":2}"))),
        (call("f", json!({"a": 1})), call("f", json!({"a": 2}))),
        (call("f", json!({"a": 1})), call("f", json!({"b": 1}))),
        (call("f", json!({"a": 1})), call("f", json!({"a": "1"}))),
        (call("f", json!({"a": null})), call("f", json!({"a": ""}))),
        (call("f", json!({"a": []})), call("f", json!({"a": {}}))),
        (call("f", json!({"a": 0.5})), call("f", json!({"a": 0.25}))),
        (tool_use(json!({"a": "b", "c": "d"})), tool_use(json!({"a": "bc", "": "d"}))),
        (tool_use(json!({"a": {"b": 1, "c": 2}})), tool_use(json!({"a": {"b": 1}, "c": 2}))),
        (tool_use(deep("1")), tool_use(deep("2"))),
        (tool_use(deep("\"a\",\"b\"")), tool_use(deep("\"a\\\",\\\"b\""))),
        (
            user(json!([{"type": "tool_result", "content": "a"}])),
            user(json!([{"type": "tool_result", "content": "b"}])),
        ),
        (
            user(json!([{"type": "tool_result", "content": "a"}])),
            user(json!([{"type": "tool_result", "content": "a", "is_error": true}])),
        ),
        (
            user(json!([{"type": "thinking", "thinking": "a"}])),
            user(json!([{"type": "thinking", "thinking": "b"}])),
        ),
        (
            message(json!({"type": "item_reference", "id": "a"})),
            message(json!({"type": "item_reference", "id": "b"})),
        ),
    ];
    for (a, b) in pairs {
        differ(&a, &b);
    }
    let (plain, add) = (user(json!("ab")), |name: &str, value: Value| {
        let mut body = user(json!("ab"));
        body[name] = value;
        body
    });
    for (name, value, other) in [
        ("tools", json!([{"name": "f"}]), json!([{"name": "g"}])),
        ("tools", json!([{"a": 1}, {"b": 1}]), json!([{"a": 1, "b": 1}])),
        ("tools", json!([{"a": 0.5}]), json!([{"a": 0.25}])),
        ("tools", json!([{"a": true}]), json!([{"a": false}])),
        ("tools", json!([{"a": null}]), json!([{"a": ""}])),
        ("tools", deep("1"), deep("2")),
        ("tools", json!([{text("long name", 300) + "a": 1}]), json!([{text("long name", 300) + "b": 1}])),
        ("functions", json!([{"name": "f"}]), json!([{"name": "g"}])),
        ("parameters", json!({"tools": [{"name": "f"}]}), json!({"tools": [{"name": "g"}]})),
        ("toolConfig", json!({"tools": [{"name": "f"}]}), json!({"tools": [{"name": "g"}]})),
        ("system", json!("a"), json!("b")),
        ("system", json!([{"text": "ab"}, {"text": "c"}]), json!([{"text": "a"}, {"text": "bc"}])),
        ("documents", json!(["a"]), json!(["b"])),
        ("documents", json!([{"text": "a", "title": "t"}]), json!([{"text": "a", "title": "u"}])),
        ("cache_salt", json!("a"), json!("b")),
        ("chat_template", json!("a"), json!("b")),
        ("chat_template_kwargs", json!({"enable_thinking": false}), json!({"enable_thinking": true})),
        ("reasoning_effort", json!("low"), json!("high")),
        ("reasoning", json!({"effort": "low"}), json!({"effort": "high"})),
        ("previous_response_id", json!("a"), json!("b")),
        ("conversation", json!({"id": "a"}), json!({"id": "b"})),
        ("cachedContent", json!("a"), json!("b")),
        ("prompt", json!({"id": "a"}), json!({"id": "b"})),
    ] {
        differ(&add(name, value.clone()), &add(name, other));
        differ(&add(name, value), &plain);
    }
}

#[test]
fn what_does_not_reach_the_model_does_not_matter() {
    let user = |content: Value| chat(json!([{"role": "user", "content": content}]));
    let plain = user(json!("ab"));
    equal(&plain, &user(json!([{"type": "text", "text": "ab"}])));
    equal(
        &plain,
        &user(json!([{"type": "text", "text": "ab", "cache_control": {"type": "ephemeral", "x": [{}]}}])),
    );
    equal(&plain, &user(json!([{"text": "ab"}, {"cachePoint": {"type": "default"}}])));
    let call = |id: &str| {
        chat(json!([{"role": "assistant", "content": null, "tool_calls": [
                {"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": id, "content": "x"}]))
    };
    equal(&call("a"), &call("b"));
    for (name, value) in [
        ("model", json!("other")),
        ("tool_choice", json!("none")),
        ("response_format", json!({"type": "json_object"})),
        ("temperature", json!(0.5)),
        ("max_tokens", json!(9)),
        ("stream", json!(true)),
        ("user", json!("alice")),
        ("metadata", json!({"messages": [{"role": "user", "content": "x"}]})),
        ("text", json!({"format": {"type": "json_object"}})),
        ("reasoning", json!({"summary": "auto"})),
        ("tools", json!([])),
        ("tools", json!(null)),
        ("functions", json!(null)),
        ("system", json!("")),
        ("previous_response_id", json!(null)),
        ("cache_salt", json!(null)),
    ] {
        let mut body = plain.clone();
        body[name] = value;
        equal(&plain, &body);
    }
}
