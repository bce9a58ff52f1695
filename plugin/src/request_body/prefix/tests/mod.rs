//! Tests of the hashes of prompts.

mod prompts;
mod properties;

use serde_json::{Value, json};

use super::*;
use crate::request_body::BodyReader;

const SETTINGS: PrefixSettings = PrefixSettings { block_bytes: 8, hashes_max: 64 };

fn read(body: &str, size: usize, settings: PrefixSettings) -> Prefixes {
    let mut reader = BodyReader::new(Some(settings));
    body.as_bytes().chunks(size.max(1)).for_each(|part| reader.feed(part));
    let summary = reader.summary();
    let Prefixes { hashes, bytes } = &summary.prefixes;
    assert_eq!(hashes.len(), bytes.len());
    assert!(hashes.len() <= settings.hashes_max as usize);
    assert!(bytes.is_sorted_by(|a, b| a < b), "{bytes:?}");
    assert!(u64::from(bytes.last().copied().unwrap_or(0)) <= summary.prompt_bytes, "{body}");
    summary.prefixes
}

/// Returns the prefixes of a body, read whole and byte by byte.
fn of(body: &str) -> Prefixes {
    let whole = read(body, body.len(), SETTINGS);
    assert_eq!(read(body, 1, SETTINGS), whole, "{body}");
    whole
}

fn of_json(body: &Value) -> Prefixes {
    of(&role_first(body))
}

/// Writes JSON with each role before its content, as most clients do. serde_json sorts the members.
fn role_first(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(role_first).collect::<Vec<_>>().join(",")),
        Value::Object(members) => {
            let write = |(name, value): (&String, &Value)| format!("{}:{}", json!(name), role_first(value));
            let (role, rest): (Vec<_>, Vec<_>) = members.iter().partition(|(name, _)| *name == "role");
            format!("{{{}}}", role.into_iter().chain(rest).map(write).collect::<Vec<_>>().join(","))
        }
        leaf => leaf.to_string(),
    }
}

/// Returns a text whose blocks all differ.
fn text(name: &str, bytes: usize) -> String {
    (0..).flat_map(|i| format!("{name}{i} ").into_bytes()).take(bytes).map(char::from).collect()
}

/// A conversation in OpenAI's shape, with a last message that fills blocks.
fn chat(messages: Value) -> Value {
    let Value::Array(mut messages) = messages else { unreachable!() };
    messages.push(json!({"role": "user", "content": text("end", 40)}));
    json!({"model": "m", "messages": messages})
}

/// Checks that two bodies have equal hashes, and some.
fn equal(a: &Value, b: &Value) {
    assert_eq!(of_json(a).hashes, of_json(b).hashes, "{a}\n{b}");
    assert!(!of_json(a).hashes.is_empty(), "{a}");
}

/// Checks that two bodies have no hash in common from the first difference on.
fn differ(a: &Value, b: &Value) {
    let (hashes, others) = (of_json(a).hashes, of_json(b).hashes);
    assert!(!hashes.is_empty() && !others.is_empty(), "{a}\n{b}");
    assert_ne!(hashes.last(), others.last(), "{a}\n{b}");
    let same = hashes.iter().zip(&others).take_while(|(a, b)| a == b).count();
    assert!(hashes[same..].iter().all(|hash| !others.contains(hash)), "{a}\n{b}");
}

#[test]
fn a_hash_is_taken_after_each_block() {
    let user = |content: &str| of_json(&json!({"messages": [{"role": "user", "content": content}]}));
    assert_eq!(user("1234567").bytes, [0_u32; 0]);
    assert_eq!(user("12345678").bytes, [8]);
    let long = user("1234567890123456789");
    assert_eq!(long.bytes, [8, 16], "none for the last part of a block");
    assert_eq!(user("1234567890123456").hashes, long.hashes);
    assert_eq!(user("12345678").hashes, long.hashes[..1]);
    assert_ne!(user("12345679").hashes, long.hashes[..1]);
    // The second block is the same, but not what precedes it.
    assert_ne!(user("1234567990123456").hashes[1], long.hashes[1]);
}

#[test]
fn tools_and_system_end_with_a_hash() {
    let body = json!({"tools": [{"a": 1}], "messages": [
        {"role": "system", "content": "Be kind."}, {"role": "developer", "content": "Or"},
        {"role": "user", "content": "12345678"}, {"role": "system", "content": "12"}]});
    // Each leading message ends with a hash.
    assert_eq!(of_json(&body).bytes, [9, 17, 19, 27]);
    let body =
        json!({"system": [{"text": "ab"}, {"text": "cd"}], "messages": [{"role": "user", "content": "x"}]});
    assert_eq!(of_json(&body).bytes, [4]);
    for empty in [
        json!({}),
        json!({"tools": [], "system": "", "messages": []}),
        json!({"system": null, "tools": null}),
    ] {
        assert_eq!(of_json(&empty), Prefixes::default());
    }
}

#[test]
fn sizes_of_tools_include_their_whitespace() {
    let tools = json!([{"name": text("f", 60), "parameters": {"type": "object"}}]);
    let compact = json!({"tools": tools}).to_string();
    let pretty = serde_json::to_string_pretty(&json!({"tools": tools})).unwrap();
    assert_eq!(of(&compact).hashes, of(&pretty).hashes);
    let size = |body: &str| crate::request_body::summarize(body.as_bytes()).prompt_bytes as u32;
    for body in [compact, pretty] {
        assert_eq!(of(&body).bytes.last(), Some(&size(&body)));
    }
}

/// An image may be larger than all text.
#[test]
fn images_fill_no_blocks() {
    let body = |data: &str| {
        format!(
            r#"{{"messages":[{{"role":"user","content":[{{"type":"text","text":"12345678"}},
            {{"type":"image_url","image_url":{{"url":"{data}"}}}},{{"type":"text","text":"12345678"}}]}}]}}"#
        )
    };
    let (small, large) = (of(&body("A")), of(&body(&"A".repeat(5000))));
    assert_eq!((&*small.bytes, &*large.bytes), (&[8, 16][..], &[8, 16][..]));
    assert_eq!(small.hashes[0], large.hashes[0]);
    assert_ne!(small.hashes[1], large.hashes[1]);
}

#[test]
fn the_order_of_members_does_not_matter() {
    let members = [
        format!(r#""tools":[{{"name":"{}"}}]"#, text("tool", 30)),
        format!(r#""functions":[{{"name":"{}"}}]"#, text("function", 30)),
        format!(r#""system":"{}""#, text("system", 20)),
        format!(r#""instructions":"{}""#, text("instructions", 20)),
        format!(
            r#""messages":[{{"role":"system","content":"a"}},{{"role":"user","content":"{}"}}]"#,
            text("user", 30)
        ),
        format!(r#""input":"{}""#, text("input", 30)),
        format!(r#""prompt":["{}",[1,2,3]]"#, text("prompt", 30)),
        format!(r#""query":"{}""#, text("query", 30)),
        format!(r#""documents":["{}"]"#, text("documents", 30)),
        r#""cache_salt":"s""#.to_owned(),
        r#""reasoning_effort":"low""#.to_owned(),
        r#""previous_response_id":"r""#.to_owned(),
    ];
    let body = |order: &[usize]| {
        format!("{{{}}}", order.iter().map(|i| &*members[*i]).collect::<Vec<_>>().join(","))
    };
    let order: Vec<usize> = (0..members.len()).collect();
    let expected = of(&body(&order));
    assert!(expected.hashes.len() > 20);
    for turn in 0..members.len() {
        let mut turned = order.clone();
        turned.rotate_left(turn);
        assert_eq!(of(&body(&turned)), expected);
        turned.reverse();
        assert_eq!(of(&body(&turned)), expected);
    }
}

#[test]
fn bodies_without_one_certain_prompt_have_none() {
    let user = format!(r#"[{{"role":"user","content":"{}"}}]"#, text("user", 30));
    for body in [
        format!(r#"{{"messages":{user}"#),
        format!(r#"{{"messages":{user}}}x"#),
        format!(r#"[{{"messages":{user}}}]"#),
        // Which of the two counts depends on the server.
        format!(r#"{{"messages":{user},"messages":{user}}}"#),
        format!(r#"{{"messages":{user},"tools":[],"tools":[1]}}"#),
        format!(r#"{{"requests":[{{"custom_id":"1","params":{{"messages":{user}}}}}]}}"#),
        format!(r#"{{"requests":[{{"custom_id":"1","params":{{}}}}],"messages":{user}}}"#),
        format!(
            r#"{{"batch":{{"input_config":{{"requests":{{"requests":[{{"request":{{"contents":{user}}}}}]}}}}}}}}"#
        ),
    ] {
        assert_eq!(of(&body), Prefixes::default(), "{body}");
    }
    let settings = [PrefixSettings::new(0, 9), PrefixSettings::new(9, 0), None];
    for settings in settings {
        assert_eq!(settings, None);
        let mut reader = BodyReader::new(settings);
        reader.feed(format!(r#"{{"messages":{user}}}"#).as_bytes());
        assert_eq!(reader.summary().prefixes, Prefixes::default());
    }
    assert_eq!(PrefixSettings::new(9, u32::MAX).map(|settings| settings.hashes_max), Some(HASHES_MAX));
}

/// Libraries that sort members write the content before its role.
#[test]
fn a_role_after_its_content_counts_too() {
    let body = |role: &str| {
        let (content, end) = (text("content", 30), text("end", 30));
        of(&format!(
            r#"{{"messages":[{{"content":"{content}","role":"{role}"}},{{"content":"{end}","role":"user"}}]}}"#
        ))
    };
    let (system, user, assistant) = (body("system"), body("user"), body("assistant"));
    assert_eq!(system.bytes[..4], [8, 16, 24, 30], "the system prompt ends with a hash");
    assert_ne!(user.hashes.last(), assistant.hashes.last());
    assert_ne!(user.hashes.last(), system.hashes.last());
}

#[test]
fn token_numbers_are_prompt() {
    let body = |tokens: &str| of(&format!(r#"{{"prompt":{tokens}}}"#));
    assert_eq!(body("[1,2,3,4,5]").bytes, [8, 16]);
    assert_eq!(body("[1, 2,3,4]").hashes, body("[1,2,3,4,5]").hashes);
    assert_ne!(body("[1,2,3,4]").hashes, body("[1,23,4,0]").hashes);
    assert_ne!(body("[[1,2],[3,4]]").hashes[1], body("[[1],[2,3,4]]").hashes[1]);
    assert_ne!(body("[[1,2],[3,4]]").hashes[1], body("[1,2,3,4]").hashes[1]);
}

#[test]
fn the_number_of_hashes_is_bounded() {
    let settings = PrefixSettings { block_bytes: 8, hashes_max: 5 };
    let long = text("long", 900);
    let user = json!([{"role": "user", "content": long}]);
    let whole = read(&role_first(&json!({"messages": user})), 100, settings);
    assert_eq!(whole.bytes, [8, 16, 24, 32, 40]);
    let other = json!([{"role": "user", "content": long.clone() + "x"}, {"role": "user", "content": "y"}]);
    assert_eq!(read(&role_first(&json!({"messages": other})), 7, settings), whole);
    // Tools and system are hashed to their ends, whatever the number of hashes.
    let tools = |end: &str| {
        let body = json!({"tools": [{"name": long, "end": end}], "system": "a", "messages": user});
        let mut reader = BodyReader::new(Some(settings));
        reader.feed(body.to_string().as_bytes());
        reader.summary().prefixes
    };
    assert_eq!(tools("a").hashes.len(), 5);
    let settings = PrefixSettings { block_bytes: 500, hashes_max: 3 };
    let system = |end: &str| {
        let body =
            json!({"system": text("long", 2000) + end, "messages": [{"role": "user", "content": "b"}]});
        read(&body.to_string(), 50, settings)
    };
    assert_eq!(system("a"), system("b"), "the beginnings are equal");
    let body = format!(r#"{{"messages":[{}]}}"#, [r#"{"role":"system","content":"a"}"#; 9].join(","));
    assert_eq!(read(&body, 9, settings).bytes, [1, 2, 3]);
}
