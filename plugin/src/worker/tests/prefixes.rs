//! Tests of the hashes of prompts in Admit.

use super::*;

const READ: &str = r#"{"read_body":true,"body_bytes_max":400,"count_helper_calls":true}"#;
const BODY: &[u8] = br#"{"model":"m","messages":[{"role":"user","content":"12345678901234567890"}]}"#;

fn asking(block_bytes: u32, hashes_max: u32) -> Settings {
    Settings { prefix_block_bytes: block_bytes, prefix_hashes_max: hashes_max, ..Settings::default() }
}

/// Sends a POST whose body arrives in these chunks. Returns the bytes that each hash in Admit covers.
fn post(rig: &mut Rig, context: u32, path: &str, chunks: &[&[u8]]) -> Vec<u32> {
    rig.host.open(context);
    rig.host.with_stream(context, |s| s.request_headers.insert(":path".into(), path.into()));
    rig.worker.on_request_headers(&rig.host, context, false);
    for (i, chunk) in chunks.iter().enumerate() {
        let held = rig.host.with_stream(context, |s| {
            s.body.extend_from_slice(chunk);
            s.body.len()
        });
        rig.worker.on_request_body(&rig.host, context, held, i + 1 == chunks.len());
    }
    let admit = rig.last_admit();
    assert_eq!(admit.prefix_hashes.len(), admit.prefix_bytes.len());
    admit.prefix_bytes
}

#[test]
fn prompts_are_hashed_only_while_the_sidecar_asks() {
    let mut rig = Rig::new(READ);
    let sent = |rig: &mut Rig, context| post(rig, context, "/v1/chat/completions", &[BODY]);
    assert_eq!(sent(&mut rig, 5), [0; 0], "not before the sidecar has asked");
    for (context, settings, expected) in [
        (6, asking(8, 64), &[8, 16][..]),
        (7, asking(5, 3), &[5, 10, 15]),
        (8, asking(0, 64), &[]),
        (9, asking(8, 0), &[]),
        (10, asking(10, 64), &[10, 20]),
        (11, Settings::default(), &[]),
    ] {
        rig.change_settings(settings.clone());
        assert_eq!(sent(&mut rig, context), expected, "{settings:?}");
    }
    rig.change_settings(asking(8, u32::MAX));
    assert!(rig.worker.wanted.prefixes.is_some_and(|prefixes| prefixes.hashes_max == 1024));
}

#[test]
fn the_welcome_may_ask_for_hashes() {
    let mut rig = Rig::unconnected(READ);
    rig.worker.connection.wanted = true;
    rig.tick();
    let (secret, settings) = (b"the sidecar's".to_vec(), Some(asking(8, 64)));
    let welcome = Some(Welcome { secret, settings, ..Welcome::default() });
    rig.say(&ToWorker { welcome, ..ToWorker::default() });
    assert_eq!(post(&mut rig, 5, "/v1/messages", &[BODY]), [8, 16]);
}

#[test]
fn no_hashes_are_sent_for_what_is_no_single_whole_prompt() {
    let mut rig = Rig::new(READ);
    rig.change_settings(asking(8, 64));
    let long = [BODY, &[b' '; 400]].concat();
    type Case<'a> = (&'a str, &'a [&'a [u8]], &'a [u32]);
    let cases: [Case<'_>; 9] = [
        ("/v1/chat/completions", &[&BODY[..50], &BODY[50..]], &[8, 16]),
        ("/v1/responses", &[BODY], &[8, 16]),
        // Calls of no model, and calls whose answers come later.
        ("/v1/messages/count_tokens", &[BODY], &[]),
        ("/tokenize", &[BODY], &[]),
        ("/v1/messages/batches", &[BODY], &[]),
        (
            "/v1/messages/batches",
            &[br#"{"requests":[{"params":{"messages":[{"content":"12345678"}]}}]}"#],
            &[],
        ),
        // Bodies that are not read to their end.
        ("/v1/chat/completions", &[&BODY[..70]], &[]),
        ("/v1/chat/completions", &[BODY, b"{"], &[]),
        ("/v1/chat/completions", &[&long, BODY], &[]),
    ];
    for (context, (path, chunks, expected)) in (5..).zip(cases) {
        assert_eq!(post(&mut rig, context, path, chunks), expected, "{path} {chunks:?}");
    }
}

/// What a body read after Admit contains is settled, but its hashes come too late.
#[test]
fn a_late_body_is_not_hashed() {
    let mut rig = Rig::new(READ);
    rig.change_settings(asking(8, 64));
    let long = [&BODY[..60], &[b'1'; 200], &BODY[60..]].concat();
    rig.host.open(5);
    rig.worker.on_request_headers(&rig.host, 5, false);
    for (at, is_end) in [(250, false), (long.len(), true)] {
        rig.host.with_stream(5, |s| s.body = long[..at].to_vec());
        rig.worker.on_request_body(&rig.host, 5, at, is_end);
        assert_eq!(rig.last_admit().prefix_bytes, [0; 0]);
    }
    let reader = rig.worker.streams[&5].request_reader.as_ref().unwrap();
    assert_eq!((reader.summary().prompt_bytes, reader.summary().prefixes.hashes.len()), (220, 0));
}
