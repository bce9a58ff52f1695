//! Properties of the hashes of any prompt.

use proptest::{collection::vec, prelude::*};

use super::*;

/// Returns the same JSON with blanks between tokens, and with the escapes that `choice` selects.
fn rewritten(text: &str, choice: &[u8]) -> String {
    let (mut out, mut in_text, mut escaped) = (String::new(), false, 0);
    for (at, char) in text.chars().enumerate() {
        let choice = choice[at % choice.len()];
        match char {
            _ if escaped > 0 => {
                out.push(char);
                // The digits of a code unit follow.
                escaped = if char == 'u' { 4 } else { escaped - 1 };
            }
            '\\' if in_text => (out.push(char), escaped = 1).0,
            '"' => (out.push(char), in_text = !in_text).0,
            char if in_text && choice & 1 == 1 => {
                let mut units = [0; 2];
                for unit in char.encode_utf16(&mut units) {
                    out += &format!("\\u{unit:04x}");
                }
            }
            '/' if in_text && choice & 2 == 2 => out += "\\/",
            char if in_text => out.push(char),
            '[' | ']' | '{' | '}' | ',' | ':' => {
                out += [" ", "", "\n\t", ""][usize::from(choice & 3)];
                out.push(char);
                out += ["", "\r\n ", "", " "][usize::from(choice & 3)];
            }
            char => out.push(char),
        }
    }
    out
}

fn any_message() -> impl Strategy<Value = String> {
    let content = prop_oneof![
        ".{0,40}".prop_map(Value::from),
        vec(".{0,20}", 0..4)
            .prop_map(|texts| texts.iter().map(|text| json!({"type": "text", "text": text})).collect()),
        ".{0,20}".prop_map(
            |url| json!([{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": url}])
        ),
        ".{0,20}".prop_map(
            |text| json!([{"type": "tool_use", "id": "i", "name": "f", "input": {"a": text, "b": [1, null]}}])
        ),
        Just(Value::Null),
    ];
    let role = prop_oneof![Just("system"), Just("user"), Just("assistant"), Just("tool")];
    (role, content, any::<bool>()).prop_map(|(role, content, late)| {
        if late {
            format!(r#"{{"content":{content},"role":"{role}"}}"#)
        } else {
            format!(r#"{{"role":"{role}","content":{content}}}"#)
        }
    })
}

fn any_tools() -> impl Strategy<Value = Value> {
    let leaf =
        prop_oneof![Just(Value::Null), any::<i32>().prop_map(Value::from), ".{0,9}".prop_map(Value::from)];
    leaf.prop_recursive(20, 60, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            vec((".{0,9}", inner), 0..3).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn chunks_whitespace_and_escapes_do_not_matter(
        tools in any_tools(), system in ".{0,30}", messages in vec(any_message(), 0..6),
        choices in vec(any::<u8>(), 1..20), size in 1_usize..40,
    ) {
        let (system, messages) = (Value::from(system), messages.join(","));
        let body = format!(r#"{{"messages":[{messages}],"tools":[{tools}],"system":{system}}}"#);
        let expected = of(&body);
        prop_assert_eq!(&read(&body, size, SETTINGS), &expected);
        let other = format!(r#"{{"system":{system},"tools":[{tools}],"messages":[{messages}]}}"#);
        prop_assert_eq!(&of(&other), &expected, "the order of members does not matter");
        prop_assert_eq!(of(&rewritten(&other, &choices)).hashes, expected.hashes);
    }

    /// A client sends a conversation again with each message that it adds.
    #[test]
    fn a_longer_conversation_starts_with_the_hashes_of_the_shorter(
        messages in vec(any_message(), 1..9), system in any::<bool>(), at in any::<prop::sample::Index>(),
    ) {
        let body = |messages: &[String]| {
            let system = if system { r#""system":"be kind","# } else { "" };
            of(&format!(r#"{{{system}"messages":[{}]}}"#, messages.join(",")))
        };
        let (short, long) = (body(&messages[..at.index(messages.len())]), body(&messages));
        prop_assert!(long.hashes.starts_with(&short.hashes) && long.bytes.starts_with(&short.bytes));
    }

    /// A changed text leaves the hashes before it, and changes all after it.
    #[test]
    fn a_change_shows_in_all_later_hashes(
        before in vec(any_message(), 0..4), a in "[a-z]{8,40}", b in "[A-Z]{8,40}",
    ) {
        let body = |text: &str| {
            let (before, end) = (before.iter().map(|m| format!("{m},")).collect::<String>(), super::text("end", 40));
            of(&format!(r#"{{"messages":[{before}{{"role":"user","content":"{text}"}},{{"role":"user","content":"{end}"}}]}}"#))
        };
        let (one, other) = (body(&a), body(&b));
        let same = one.hashes.iter().zip(&other.hashes).take_while(|(a, b)| a == b).count();
        prop_assert!(one.hashes[same..].iter().all(|hash| !other.hashes.contains(hash)));
        prop_assert!(same < one.hashes.len() && same < other.hashes.len());
    }
}
