//! Tests of bodies that are longer than the plugin waits for, or slower: Admit carries what is known, and Settle the
//! rest.

use evenkeel_proto::v1::{Generation, RequestBody};

use super::*;
use crate::metrics::Counter;

/// A request whose body arrives in parts.
struct Upload {
    rig: Rig,
    /// Whether the gateway holds the body.
    is_held: bool,
}

impl Upload {
    fn start(config: &str, headers: &[(&str, &str)]) -> Upload {
        let rig = Rig::new(config);
        rig.host.open(5);
        rig.host.with_stream(5, |s| {
            s.request_headers.extend(headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
        });
        let mut upload = Upload { rig, is_held: true };
        let flow = upload.rig.worker.on_request_headers(&upload.rig.host, 5, false);
        assert_eq!(flow, Flow::Pause);
        upload
    }

    /// Delivers the next part of the body.
    fn part(&mut self, part: &[u8], end_of_stream: bool) -> Flow {
        self.rig.host.call(5);
        let bytes = self.rig.host.with_stream(5, |s| {
            if !self.is_held {
                s.body.clear();
            }
            s.body.extend_from_slice(part);
            s.body.len()
        });
        self.rig.worker.on_request_body(&self.rig.host, 5, bytes, end_of_stream)
    }

    fn admit(&mut self) {
        self.rig.admit(5, "a:1");
        assert_eq!(self.rig.resumed(5), 1);
        self.is_held = false;
        self.rig.host.with_stream(5, |s| s.body.clear());
    }

    /// Returns model, prompt size, output bound and number of answers in Admit.
    fn admitted(&self) -> Option<(String, u64, u64, u64)> {
        let admit = self.rig.host.admits().pop()?;
        Some((admit.model, admit.prompt_bytes, admit.max_output_tokens, admit.choices))
    }

    fn settled(mut self) -> SettleRequest {
        self.rig.respond(5, "a:1", 200);
        self.rig.end(5);
        self.rig.last_settlement()
    }
}

/// An image as a data URL makes a body long, but is not prompt text.
#[test]
fn a_large_body_is_read_to_its_end() {
    let image = "A".repeat(100_000);
    let parts = [
        br#"{"model":"gpt-4o","messages":[{"content":[{"text":"hi"},{"image_url":{"url":"data:"#.as_slice(),
        image.as_bytes(),
        br#""}}]}],"n":3,"max_tokens":50}"#,
    ];
    let length = parts.iter().map(|part| part.len()).sum::<usize>().to_string();
    let mut upload = Upload::start(r#"{"read_body":true}"#, &[("content-length", &length)]);
    for (i, part) in parts.iter().enumerate() {
        assert_eq!(upload.part(part, i == 2), Flow::Pause);
    }
    assert_eq!(upload.admitted(), Some(("gpt-4o".into(), 2, 50, 3)));
    upload.admit();
    assert_eq!(upload.settled().request_body, None, "Admit carried all");
}

/// A body of unknown length is awaited up to a half of `body_bytes_max`, because the gateway must hold what arrives until
/// Admit is answered.
#[test]
fn a_body_beyond_the_bound_is_admitted_with_what_is_known() {
    let body = br#"{"model":"m1","messages":[{"content":"0123456789abcdefghij"}],"n":2,"max_tokens":7}"#;
    for length in [None, Some(body.len().to_string())] {
        let headers: Vec<(&str, &str)> = length.iter().map(|l| ("content-length", l.as_str())).collect();
        let mut upload = Upload::start(r#"{"read_body":true,"body_bytes_max":80}"#, &headers);
        assert_eq!(upload.part(&body[..40], false), Flow::Pause);
        assert_eq!(upload.admitted(), None, "half of the bound");
        assert_eq!(upload.part(&body[40..41], false), Flow::Pause);
        // The unread bytes may be prompt.
        let rest = length.as_ref().map_or(0, |_| body.len() as u64 - 41);
        assert_eq!(upload.admitted(), Some(("m1".into(), 3 + rest, 0, 1)));
        assert_eq!(upload.rig.host.count_of(Counter::BodyTooLarge), 1);
        // More arrives before the answer, and the rest after it.
        assert_eq!(upload.part(&body[41..50], false), Flow::Pause);
        upload.admit();
        for part in body[50..].chunks(9) {
            assert_eq!(upload.part(part, false), Flow::Continue);
        }
        assert_eq!(upload.part(b"", true), Flow::Continue);
        let expected = RequestBody {
            model: "m1".into(),
            prompt_bytes: 20,
            max_output_tokens: 7,
            choices: 2,
            generation: Generation::Unspecified.into(),
        };
        assert_eq!(upload.settled().request_body, Some(expected), "{length:?}");
    }
}

/// The settlement carries the model that was not known at admission.
#[test]
fn a_model_at_the_end_is_settled() {
    let mut upload = Upload::start(r#"{"read_body":true,"body_bytes_max":40}"#, &[]);
    upload.part(br#"{"messages":[{"content":"0123456789"}],"#, false);
    assert_eq!(upload.admitted(), Some(("(unknown)".into(), 10, 0, 1)));
    upload.admit();
    assert_eq!(upload.part(br#""background":true,"model":"gpt-4o"}"#, true), Flow::Continue);
    let body = upload.settled().request_body.unwrap();
    assert_eq!((&*body.model, body.prompt_bytes, body.generation()), ("gpt-4o", 10, Generation::Background));
}

/// A client that aborts has sent a part of its prompt.
#[test]
fn a_body_without_its_end_is_settled_as_far_as_it_was_read() {
    let mut upload =
        Upload::start(r#"{"read_body":true,"body_bytes_max":20}"#, &[("content-length", "1000")]);
    upload.part(br#"{"model":"m1","prompt":"abc"#, false);
    assert_eq!(upload.admitted(), Some(("m1".into(), 3 + 973, 0, 1)));
    upload.admit();
    upload.part(b"defg", false);
    let body = upload.settled().request_body.unwrap();
    assert_eq!((&*body.model, body.prompt_bytes), ("m1", 7));
}

/// Servers use the last of several models. A client must not be admitted under another one.
#[test]
fn a_body_that_changes_after_admission_is_refused_before_its_end() {
    let starts = br#"{"model":"cheap","x":"0123456789","#;
    let ends: [&[u8]; 5] = [
        br#""model":"gpt-4o"}"#,
        br#""model":null}"#,
        br#""y":1}{"model":"gpt-4o"}"#,
        br#""y":1"#,
        b"\"y\":\"\x01\",\"model\":\"gpt-4o\"}",
    ];
    for end in ends {
        for is_answered in [true, false] {
            let mut upload = Upload::start(r#"{"read_body":true,"body_bytes_max":40}"#, &[]);
            upload.part(starts, false);
            assert_eq!(upload.admitted().unwrap().0, "cheap");
            if is_answered {
                upload.admit();
            }
            assert_eq!(upload.part(end, true), Flow::Pause, "{}", end.escape_ascii());
            let response = upload.rig.host.with_stream(5, |s| s.response.clone()).unwrap();
            assert_eq!((response.status, upload.rig.host.count_of(Counter::BodyChanged)), (400, 1));
            assert_eq!(upload.part(b"", true), Flow::Pause);
            upload.rig.end(5);
            assert!(upload.rig.worker.lease_table().is_empty());
        }
    }
    // A body that repeats its model is not ambiguous, nor is one whose model was not known.
    let unnamed = br#"{"x":"01234567890123456789","#;
    for (first, rest) in [(&starts[..], &br#""model":"cheap"}"#[..]), (&unnamed[..], br#""model":"gpt-4o"}"#)]
    {
        let mut upload = Upload::start(r#"{"read_body":true,"body_bytes_max":40}"#, &[]);
        upload.part(first, false);
        upload.admit();
        assert_eq!(upload.part(rest, true), Flow::Continue);
    }
}

#[test]
fn trailers_end_a_body_that_changed() {
    let mut upload = Upload::start(r#"{"read_body":true,"body_bytes_max":20}"#, &[]);
    upload.part(br#"{"model":"cheap","x":"#, false);
    upload.admit();
    assert_eq!(upload.part(br#"1,"model":"gpt-4o"}"#, false), Flow::Continue);
    assert_eq!(upload.rig.worker.on_request_trailers(&upload.rig.host, 5), Flow::Pause);
    assert_eq!(upload.rig.host.with_stream(5, |s| s.response.clone()).unwrap().status, 400);
}

/// The path names the model that the server uses, whatever the body says.
#[test]
fn a_model_in_the_path_does_not_change() {
    let path = (":path", "/openai/deployments/gpt-4o/chat/completions");
    let mut upload = Upload::start(r#"{"read_body":true,"body_bytes_max":20}"#, &[path]);
    upload.part(br#"{"model":"cheap","x":"#, false);
    assert_eq!(upload.admitted().unwrap().0, "gpt-4o");
    upload.admit();
    assert_eq!(upload.part(br#"1,"model":"other"}"#, true), Flow::Continue);
    assert_eq!(upload.settled().request_body.unwrap().model, "gpt-4o");
}

#[test]
fn a_large_body_is_refused_if_configured() {
    const CONFIG: &str = r#"{"read_body":true,"body_bytes_max":20,"on_unread_body":"refuse"}"#;
    let mut rig = Rig::new(CONFIG);
    rig.host.open(5);
    rig.host.with_stream(5, |s| s.request_headers.insert("content-length".into(), "21".into()));
    assert_eq!(rig.worker.on_request_headers(&rig.host, 5, false), Flow::Pause, "without waiting");
    assert_eq!(rig.host.with_stream(5, |s| s.response.clone()).unwrap().status, 413);
    let mut upload = Upload::start(CONFIG, &[]);
    assert_eq!(upload.part(br#"{"model":"m1","x":0"#, false), Flow::Pause);
    assert_eq!(upload.rig.host.with_stream(5, |s| s.response.clone()), None);
    assert_eq!(upload.part(b"12", false), Flow::Pause);
    assert_eq!(upload.rig.host.with_stream(5, |s| s.response.clone()).unwrap().status, 413);
    assert_eq!(upload.admitted(), None);
}
