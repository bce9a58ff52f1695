use proptest::{collection::vec, prelude::*};
use serde_json::Value;

use super::*;

/// Records events and tokens as lines, with the parts of a text or token joined.
#[derive(Default)]
struct Recorder {
    lines: Vec<String>,
    text: Vec<u8>,
    raw: Vec<u8>,
}

impl Sink for Recorder {
    fn on_event(&mut self, path: &[Key], event: Event<'_>) {
        match event {
            Event::Part(part) => self.text.extend(part),
            Event::Text(head) => {
                let text = std::mem::take(&mut self.text);
                let (text, head) = (String::from_utf8_lossy(&text), String::from_utf8_lossy(head));
                self.lines.push(format!("{path:?} {text:?} {head:?}"));
            }
            other => {
                let raw = std::mem::take(&mut self.raw);
                if !raw.is_empty() {
                    self.lines.push(format!("raw {}", raw.escape_ascii()));
                }
                self.lines.push(format!("{path:?} {other:?}"));
            }
        }
    }

    fn on_token(&mut self, path: &[Key], token: Token<'_>) {
        match token {
            Token::Member => self.lines.push(format!("{path:?} member ")),
            Token::Name(part) => *self.lines.last_mut().unwrap() += &String::from_utf8_lossy(part),
            Token::Raw(part) => self.raw.extend(part),
        }
    }
}

fn scan(chunks: &[&[u8]]) -> (Vec<String>, Scanner) {
    let (mut recorder, mut scanner) = (Recorder::default(), Scanner::default());
    for chunk in chunks {
        scanner.feed(chunk, &mut recorder);
    }
    (recorder.lines, scanner)
}

#[test]
fn values_are_reported_with_their_path() {
    let json = br#" {"model":"m\u00e9\n", "x":{"usage":[1, -2,3.9,4e5,{"content":null}]},"done":true } "#;
    let (lines, scanner) = scan(&[json]);
    assert!(scanner.is_done());
    let expected = [
        "[] Open { array: false, at: 1 }",
        "[Model] \"mé\\n\" \"mé\\n\"",
        "[Other] Open { array: false, at: 27 }",
        "[Other, Usage] Open { array: true, at: 36 }",
        "[Other, Usage, Item] Number(Some(1))",
        "[Other, Usage, Item] Number(None)",
        "[Other, Usage, Item] Number(Some(3))",
        "[Other, Usage, Item] Number(Some(400000))",
        "[Other, Usage, Item] Open { array: false, at: 51 }",
        "[Other, Usage, Item, Content] Word { word: Null, member_at: 52, at: 62, end: 66 }",
        "[Other, Usage, Item] Close { at: 66 }",
        "[Other, Usage] Close { at: 67 }",
        "[Other] Close { at: 68 }",
        "[Done] Word { word: True, member_at: 70, at: 77, end: 81 }",
        "[] Close { at: 82 }",
    ];
    assert_eq!(lines, expected);
}

/// Every byte with a meaning is reported, whatever the depth.
#[test]
fn tokens_are_reported_on_request() {
    let deep = format!(
        r#"{}{{"b" : [1, "x\u00e9\"", true]}}{}"#,
        "[".repeat(DEPTH_MAX - 1),
        "]".repeat(DEPTH_MAX - 1)
    );
    let json = format!(r#"{{"a\u00e9":-1.50e2, "model": NaN, "x": {deep}}} "#);
    let read = |size: usize| {
        let (mut recorder, mut scanner) = (Recorder::default(), Scanner::default());
        scanner.report_tokens();
        for chunk in json.as_bytes().chunks(size) {
            scanner.feed(chunk, &mut recorder);
        }
        assert!(scanner.is_done());
        recorder.lines
    };
    let lines = read(json.len());
    let head = [
        "[] Open { array: false, at: 0 }",
        "[] member aé",
        "raw -1.50e2",
        "[Other] Number(None)",
        "[] member model",
        "raw NaN",
        "[Model] Word { word: Other, member_at: 20, at: 29, end: 32 }",
        "[] member x",
    ];
    assert_eq!(lines[..head.len()], head);
    assert!(lines.contains(&r#"raw \xffb\xff:[1,\xffx\xc3\xa9\"\xff,true]}"#.to_owned()), "{lines:#?}");
    assert_eq!(read(1), lines);
}

#[test]
fn surrogate_pairs_are_decoded() {
    let cases: [(&str, &[u8]); 9] = [
        (r"\ud83d\udc4b", "👋".as_bytes()),
        (r"a\uD83D\uDC4Bb", "a👋b".as_bytes()),
        (r"\udbff\udfff", "\u{10ffff}".as_bytes()),
        // Halves without the other half stay different.
        (r"\ud83d", b"\xed\xa0\xbd"),
        (r"\ud83ex", b"\xed\xa0\xbex"),
        (r"\ud83d\n", b"\xed\xa0\xbd\n"),
        (r"\ud83d\u00e9", b"\xed\xa0\xbd\xc3\xa9"),
        (r"\ud83d\ud83d\udc4b", b"\xed\xa0\xbd\xf0\x9f\x91\x8b"),
        (r"\udc4b\ud83d", b"\xed\xb1\x8b\xed\xa0\xbd"),
    ];
    for (text, expected) in cases {
        // What one text leaves does not reach the next.
        for json in [format!(r#"["{text}","{text}"]"#), format!(r#"{{"{text}":"{text}"}}"#)] {
            let read = |size: usize| {
                struct Texts(Vec<Vec<u8>>, Vec<u8>);
                impl Sink for Texts {
                    fn on_event(&mut self, _path: &[Key], event: Event<'_>) {
                        match event {
                            Event::Part(part) => self.1.extend(part),
                            Event::Text(_) => self.0.push(std::mem::take(&mut self.1)),
                            _ => {}
                        }
                    }
                }
                let (mut texts, mut scanner) = (Texts(Vec::new(), Vec::new()), Scanner::default());
                for chunk in json.as_bytes().chunks(size) {
                    scanner.feed(chunk, &mut texts);
                }
                assert!(scanner.is_done());
                texts.0
            };
            assert!(read(json.len()).iter().all(|text| text == expected), "{json}");
            assert_eq!(read(1), read(json.len()), "{json}");
        }
    }
}

#[test]
fn invalid_json_is_broken() {
    for text in [
        "}",
        "{]",
        "[}",
        "{1:2}",
        "{\"a\" 1}",
        "[1 2]",
        "\"\n\"",
        "\"\\x\"",
        "\"\\u00g0\"",
        "[1,}",
        "=",
        "{,",
    ] {
        assert!(scan(&[text.as_bytes()]).1.is_broken(), "{text}");
    }
}

#[test]
fn levels_beyond_the_depth_limit_are_skipped() {
    let deep = "[".repeat(DEPTH_MAX + 9) + r#""]\"", {"a": [] }"# + &"]".repeat(DEPTH_MAX + 9);
    let (lines, scanner) = scan(&[format!(r#"{{"x":{deep},"model":7}}"#).as_bytes()]);
    assert!(scanner.is_done());
    assert_eq!(lines[lines.len() - 2], "[Model] Number(Some(7))");
}

#[test]
fn bytes_after_the_value_are_not_consumed() {
    let (mut recorder, mut scanner) = (Recorder::default(), Scanner::default());
    assert_eq!(scanner.feed(b" {} {}", &mut recorder), 3);
    scanner.reset();
    assert_eq!(scanner.feed(b"12,", &mut recorder), 2);
    assert!(scanner.is_done());
}

#[test]
fn long_texts_and_names_are_truncated() {
    let (lines, _) =
        scan(&[format!(r#"{{"model":"{}","{}":1}}"#, "m".repeat(300), "usage".repeat(9)).as_bytes()]);
    assert!(lines[1].ends_with(&format!("{:?}", "m".repeat(TEXT_BYTES_MAX))));
    assert_eq!(lines[2], "[Other] Number(Some(1))");
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(Value::from("model")),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        let name = prop_oneof![any::<String>(), Just("usage".to_owned()), Just("model".to_owned())];
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec((name, inner), 0..6).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Returns the number of bytes in all texts, and the sum of all whole numbers.
fn sums(value: &Value) -> (usize, u64) {
    let add = |(a, b): (usize, u64), (c, d): (usize, u64)| (a + c, b.wrapping_add(d));
    match value {
        Value::String(text) => (text.len(), 0),
        Value::Number(number) => (0, number.as_u64().unwrap_or(0)),
        Value::Array(items) => items.iter().map(sums).fold((0, 0), add),
        Value::Object(members) => members.values().map(sums).fold((0, 0), add),
        _ => (0, 0),
    }
}

#[derive(Default)]
struct Sums(usize, u64);

impl Sink for Sums {
    fn on_event(&mut self, _path: &[Key], event: Event<'_>) {
        match event {
            Event::Part(part) => self.0 += part.len(),
            Event::Number(Some(number)) => self.1 = self.1.wrapping_add(number),
            _ => {}
        }
    }
}

proptest! {
    /// The scanner reads any JSON to its end and finds the texts and whole numbers that a parser finds.
    #[test]
    fn scanner_agrees_with_a_parser(value in any_json(), pretty in any::<bool>()) {
        // Only whole numbers: the scanner drops fractions and negative numbers.
        let whole = |text: String| serde_json::from_str::<Value>(&text).unwrap();
        let value = whole(value.to_string());
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap() + " ";
        let mut sums_seen = Sums::default();
        let mut scanner = Scanner::default();
        scanner.feed(text.as_bytes(), &mut sums_seen);
        prop_assert!(scanner.is_done());
        prop_assert_eq!(sums_seen.0, sums(&value).0);
        if !text.contains('.') && !text.contains('e') {
            prop_assert_eq!(sums_seen.1, sums(&value).1);
        }
    }

    /// The result does not depend on how the input is split.
    #[test]
    fn splits_do_not_matter(value in any_json(), garbage in vec(any::<u8>(), 0..4), at in any::<prop::sample::Index>()) {
        let mut bytes = value.to_string().into_bytes();
        let at = at.index(bytes.len() + 1);
        bytes.splice(at..at, garbage);
        let (whole, end) = scan(&[&bytes]);
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        let (split, other_end) = scan(&single);
        prop_assert_eq!(whole, split);
        prop_assert_eq!(end.state, other_end.state);
    }
}

#[test]
fn exponents_are_applied() {
    struct Last(Option<u64>);
    impl Sink for Last {
        fn on_event(&mut self, _path: &[Key], event: Event<'_>) {
            if let Event::Number(number) = event {
                self.0 = number;
            }
        }
    }
    let cases = [
        ("0", Some(0)),
        ("12.9", Some(12)),
        ("1e3", Some(1000)),
        ("1.5E+3", Some(1500)),
        ("1.2345e2", Some(123)),
        ("0.001e4", Some(10)),
        ("2500e-2", Some(25)),
        ("0e99999999999", Some(0)),
        ("1e99999999999", Some(u64::MAX)),
        ("0.1e30", Some(u64::MAX)),
        ("0.00000000000000000001e20", Some(1)),
        ("0.000000000000000000000000000000000000000000123e45", Some(123)),
        ("12345678901234567890123456789012345678901234567890e-45", Some(12345)),
        ("18446744073709551615.9", Some(u64::MAX)),
        ("18446744073709551614.9", Some(u64::MAX - 1)),
        ("1e-99999999999", Some(0)),
        ("0.33333333333333333333333333e1", Some(3)),
        ("-1e3", None),
        ("1x", None),
        ("1e3e3", None),
        ("1.2.3", None),
    ];
    for (text, expected) in cases {
        let mut last = Last(Some(7));
        Scanner::default().feed(format!("{text} ").as_bytes(), &mut last);
        assert_eq!(last.0, expected, "{text}");
    }
}
