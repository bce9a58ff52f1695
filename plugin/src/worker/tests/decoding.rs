//! Fuzzes the messages from the sidecar.

use evenkeel_proto::v1::{DirectResponse, Pool};
use proptest::{collection::vec, prelude::*};

use super::{super::list::WANTED_MAX, *};

fn answer() -> impl Strategy<Value = AdmitAnswer> {
    let kind = prop_oneof![
        Just(Some(admitted("a:1", Basis::Shared))),
        Just(Some(denied())),
        Just(Some(Answer::DirectResponse(DirectResponse { status: 200, ..DirectResponse::default() }))),
        Just(None),
    ];
    (0..60_u64, kind, any::<bool>(), any::<u32>()).prop_map(|(lease, answer, is_error, code)| {
        let error = AdmitError { code, message: "m".into() };
        let response = admit_answer::Answer::Response(AdmitResponse { answer });
        let answer = if is_error { admit_answer::Answer::Error(error) } else { response };
        AdmitAnswer { lease, answer: Some(answer) }
    })
}

fn settings() -> impl Strategy<Value = Settings> {
    let wanted_headers = vec(".{0,9}", 0..99);
    (any::<[u32; 3]>(), wanted_headers, any::<bool>()).prop_map(
        |([interval_ms, prefix_block_bytes, prefix_hashes_max], wanted_headers, wants_source_ip)| Settings {
            interval_ms,
            wanted_headers,
            wants_source_ip,
            prefix_block_bytes,
            prefix_hashes_max,
        },
    )
}

fn message() -> impl Strategy<Value = ToWorker> {
    let welcome = (vec(any::<u8>(), 0..20), proptest::option::of(settings()), any::<[u32; 3]>()).prop_map(
        |(secret, settings, [pending_admits_max, pending_settlements_max, ping_interval_ms])| Welcome {
            secret,
            settings,
            pending_admits_max,
            pending_settlements_max,
            ping_interval_ms,
            sidecar: String::new(),
        },
    );
    let repaired = (any::<u32>(), any::<bool>()).prop_map(|(interval_ms, refused)| KeepAliveResponse {
        interval_ms,
        refused_pools: vec![Pool { route: "chat".into(), cluster: "llm".into() }; refused.into()],
        ..KeepAliveResponse::default()
    });
    (
        proptest::option::of(welcome),
        vec(answer(), 0..70),
        any::<u64>(),
        proptest::option::of(repaired),
        proptest::option::of(settings()),
        (any::<bool>(), any::<u64>()),
    )
        .prop_map(|(welcome, answers, settled_through, repaired, settings, (leave, ping))| ToWorker {
            welcome,
            answers,
            settled_through,
            repaired,
            settings,
            leave,
            ping,
        })
}

/// Messages with some bytes changed, and cut off at some byte.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (message(), changes, proptest::option::weighted(0.2, any::<prop::sample::Index>())).prop_map(
        |(message, changes, end)| {
            let mut bytes = message.encode_to_vec();
            for (at, byte) in changes.iter().filter(|_| !message.answers.is_empty()) {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            bytes.truncate(end.map_or(bytes.len(), |end| end.index(bytes.len() + 1)));
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the sidecar sends, every request is decided once, and what the plugin keeps is bounded.
    #[test]
    fn no_message_breaks_the_plugin(messages in vec(bytes(), 1..5)) {
        let mut rig = Rig::new("");
        for context in 5..45 {
            rig.arrive(context);
        }
        for message in &messages {
            let Some(token) = rig.host.token() else { break };
            rig.host.call(ROOT);
            rig.worker.on_stream_message(&rig.host, token, message);
            prop_assert!(rig.worker.wanted.headers.len() <= WANTED_MAX);
            let prefixes = rig.worker.wanted.prefixes;
            prop_assert!(prefixes.is_none_or(|p| p.block_bytes > 0 && (1..=1024).contains(&p.hashes_max)));
            prop_assert!((100..=60_000).contains(&rig.worker.list.interval_ms()));
        }
        for _ in 0..9 {
            rig.host.advance(10);
            rig.tick();
        }
        for context in 5..45 {
            let decided = rig.host.with_stream(context, |s| s.resumed + u32::from(s.response.is_some()));
            prop_assert_eq!(decided, 1);
            rig.end(context);
        }
        prop_assert!(rig.worker.lease_table().is_empty());
    }
}
