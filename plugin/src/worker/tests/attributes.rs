//! Tests of the request attributes in Admit.

use super::*;
use crate::attributes::{VALUE_BYTES_MAX, WHOLE_BYTES_MAX};
use crate::metrics::Counter;

#[test]
fn admit_carries_the_request_attributes() {
    let mut rig = Rig::new(
        r#"{"pass_headers":["X-Tenant","x-none"],"candidates":[{"address":"a:1","weight":2,"cap":3}],
            "sidecar":{"cluster":"side"},"deadline_ms":30}"#,
    );
    rig.host.open(5);
    rig.host.with_stream(5, |s| {
        s.request_headers.insert("x-tenant".into(), "t1".into());
        s.request_headers.insert("x-mse-consumer".into(), "alice".into());
        s.request_headers.insert("content-type".into(), "application/json; charset=utf-8".into());
        s.request_headers.insert("content-length".into(), "321".into());
    });
    assert_eq!(rig.worker.on_request_headers(&rig.host, 5, false), Flow::Pause);
    assert_eq!(rig.host.opened.borrow().values().collect::<Vec<_>>(), ["side"]);
    let admit = rig.last_admit();
    let pool = admit.pool.unwrap();
    assert_eq!((pool.route.as_str(), pool.cluster.as_str()), ("chat", "llm"));
    assert_eq!((admit.holder.as_str(), admit.lease, admit.prompt_bytes), ("", 1, 321));
    let subject = admit.subject.unwrap();
    assert_eq!(subject.consumer, "alice");
    assert_eq!(subject.source_ip, "192.0.2.7");
    assert_eq!(subject.path, "/v1/chat/completions?a=b");
    assert_eq!(subject.headers.into_iter().collect::<Vec<_>>(), [("x-tenant".into(), "t1".into())]);
    let candidate = &admit.candidates[0];
    assert_eq!((candidate.address.as_str(), candidate.weight, candidate.cap), ("a:1", 2.0, 3));
}

#[test]
fn the_consumer_may_come_from_a_verified_token() {
    let config = r#"{"consumer":{"metadata":["envoy.filters.http.jwt_authn","payload","sub"]}}"#;
    let property = "metadata.filter_metadata.envoy.filters.http.jwt_authn.payload.sub";
    for (value, consumer) in [(&b"alice"[..], "alice"), (b"", ""), (&3.0_f64.to_le_bytes(), "")] {
        let mut rig = Rig::new(config);
        rig.host.open(5);
        rig.host.set_property(5, property, value);
        rig.host.with_stream(5, |s| s.request_headers.insert("x-mse-consumer".into(), "mallory".into()));
        rig.worker.on_request_headers(&rig.host, 5, true);
        assert_eq!(rig.last_admit().subject.unwrap().consumer, consumer);
    }
    let mut rig = Rig::new(r#"{"consumer":{"header":"X-Who"}}"#);
    rig.host.open(5);
    rig.host.with_stream(5, |s| s.request_headers.insert("x-who".into(), "bob".into()));
    rig.worker.on_request_headers(&rig.host, 5, true);
    assert_eq!(rig.last_admit().subject.unwrap().consumer, "bob");
}

/// Higress's authentication plugins append the consumer to the header that the client sent, and gateways return the
/// first value of a header. A request with several different consumers is therefore refused.
#[test]
fn an_ambiguous_consumer_is_refused() {
    let cases: [(&[&str], Result<&str, u32>); 6] = [
        (&["admin", "alice"], Err(401)),
        (&["alice", "alice", "admin"], Err(401)),
        (&["alice", "alice"], Ok("alice")),
        (&["", "alice"], Ok("alice")),
        (&["", ""], Ok("")),
        (&[], Ok("")),
    ];
    for config in ["", r#"{"admin_paths":["/completions"]}"#] {
        let mut rig = Rig::new(config);
        for (values, expected) in cases {
            rig.host.open(5);
            rig.host.with_stream(5, |s| {
                let values = values.iter().map(|value| ("x-mse-consumer".to_owned(), (*value).to_owned()));
                s.repeated_headers = values.collect();
                if !s.repeated_headers.is_empty() {
                    s.request_headers.extend([s.repeated_headers.remove(0)]);
                }
            });
            assert_eq!(rig.worker.on_request_headers(&rig.host, 5, true), Flow::Pause);
            match expected {
                Ok(consumer) => {
                    assert_eq!(rig.last_admit().subject.unwrap().consumer, consumer);
                }
                Err(status) => {
                    assert_eq!(rig.host.with_stream(5, |s| s.response.clone()).unwrap().status, status);
                    assert!(rig.host.admits().is_empty());
                    assert_eq!(rig.worker.on_request_trailers(&rig.host, 5), Flow::Pause, "never forwarded");
                }
            }
            rig.end(5);
            rig.host.gone.borrow_mut().clear();
        }
        assert_eq!(rig.host.count_of(Counter::ConsumerAmbiguous), 2);
        assert_eq!(rig.host.logs.borrow().len(), 1);
    }
}

#[test]
fn the_first_session_header_is_sent() {
    let cases: [(&str, &Headers, &str); 4] = [
        ("", &[("x-session-id", "s"), ("x-thread-id", "t")], "s"),
        ("", &[("x-session-id", ""), ("x-thread-id", "t"), ("x-agent-session", "a")], "a"),
        (r#"{"session_headers":["X-Chat"]}"#, &[("x-session-id", "s"), ("x-chat", "c")], "c"),
        (r#"{"session_headers":[]}"#, &[("x-session-id", "s")], ""),
    ];
    for (config, headers, session) in cases {
        let mut rig = Rig::new(config);
        rig.host.open(5);
        rig.host.with_stream(5, |s| {
            s.request_headers.extend(headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
        });
        rig.worker.on_request_headers(&rig.host, 5, true);
        assert_eq!(rig.last_admit().session, session);
    }
}

/// The sidecar replaces the end of a long name by a digest. A truncated name could be that of another client.
#[test]
fn long_values_are_sent_whole() {
    let admit = |value: &str| {
        let mut rig = Rig::new(r#"{"pass_headers":["x-a"],"descriptors":{"d":{"header":"x-a"}}}"#);
        rig.host.open(5);
        rig.host.with_stream(5, |s| {
            for name in ["x-a", "x-mse-consumer", "x-session-id"] {
                s.request_headers.insert(name.into(), value.to_owned());
            }
            s.request_headers.insert(":path".into(), "/?x=1".into());
        });
        rig.worker.on_request_headers(&rig.host, 5, true);
        rig.last_admit()
    };
    let values = |admit: AdmitRequest| {
        let subject = admit.subject.unwrap();
        [subject.consumer, admit.session, subject.headers["x-a"].clone(), subject.descriptors["d"].clone()]
    };
    let long = "v".repeat(VALUE_BYTES_MAX);
    assert!(values(admit(&long)).iter().all(|value| *value == long));
    let beyond = |end: &str| values(admit(&(long.clone() + end)));
    for (one, other) in beyond("1").iter().zip(beyond("2")) {
        assert!(*one != other && one.len() == VALUE_BYTES_MAX);
    }
}

#[test]
fn the_request_id_is_sent_truncated() {
    for (given, expected) in [
        (None, String::new()),
        (Some("5f0c-1a".into()), "5f0c-1a".into()),
        (Some("i".repeat(300)), "i".repeat(128)),
    ] {
        let mut rig = Rig::new("");
        rig.host.open(5);
        if let Some(id) = given {
            rig.host.with_stream(5, |s| s.request_headers.insert("x-request-id".into(), id));
        }
        rig.worker.on_request_headers(&rig.host, 5, true);
        assert_eq!(rig.last_admit().request_id, expected);
    }
}

#[test]
fn descriptors_that_are_present_are_sent() {
    let mut rig = Rig::new(
        r#"{"descriptors":{"tenant":{"header":"X-Tenant"},"org":{"metadata":["jwt","org"]},"none":{"header":"x-no"},
            "sni":{"property":["connection","sni"]},"region":{"value":"eu"}}}"#,
    );
    rig.host.open(5);
    rig.host.with_stream(5, |s| s.request_headers.insert("x-tenant".into(), "t".repeat(300)));
    rig.host.set_property(5, "metadata.filter_metadata.jwt.org", b"acme");
    rig.host.set_property(5, "connection.sni", b"llm.example");
    rig.worker.on_request_headers(&rig.host, 5, true);
    let descriptors = rig.last_admit().subject.unwrap().descriptors;
    let mut descriptors: Vec<_> = descriptors.into_iter().collect();
    descriptors.sort();
    let expected = [("org", "acme"), ("region", "eu"), ("sni", "llm.example"), ("tenant", &"t".repeat(300))];
    assert_eq!(descriptors, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
}

#[test]
fn older_gateways_have_route_and_cluster_at_the_top_level() {
    let mut rig = Rig::new("");
    rig.host.open(5);
    rig.host.with_stream(5, |s| s.properties.retain(|name, _| !name.starts_with("xds.")));
    rig.host.set_property(5, "route_name", b"old-route");
    rig.host.set_property(5, "cluster_name", b"old-cluster");
    rig.worker.on_request_headers(&rig.host, 5, true);
    let pool = rig.last_admit().pool.unwrap();
    assert_eq!((pool.route.as_str(), pool.cluster.as_str()), ("old-route", "old-cluster"));
}

#[test]
fn a_configured_pool_takes_precedence() {
    let mut rig = Rig::new(r#"{"pool":{"route":"","cluster":"shared"}}"#);
    rig.arrive(5);
    let pool = rig.last_admit().pool.unwrap();
    assert_eq!((pool.route.as_str(), pool.cluster.as_str()), ("", "shared"));
}

#[test]
fn in_mode_name_the_matched_route_is_not_part_of_the_pool() {
    let mut rig = Rig::new(r#"{"apply":{"mode":"name","header":"x-p"},"pool":{"cluster":"c"}}"#);
    rig.arrive(5);
    assert_eq!(rig.last_admit().pool.unwrap().route, "");
}

/// The sidecar rejects an Admit with a name that contains control characters or is too long. Whatever a client sends,
/// the plugin sends no such name.
#[test]
fn no_client_input_makes_admit_invalid() {
    let name = |text: &str, max: usize| text.len() <= max && !text.contains(char::is_control);
    let control = "x\u{1}\u{7f}\u{85}\n".to_owned();
    let wrong = String::from_utf8_lossy(&[0xff; 30_000]).into_owned();
    for (value, body) in [
        (&control, br#"{"model":"x\u0001\u0085\n"}"#.to_vec()),
        (&wrong, [&br#"{"model":""#[..], &[0xff; 255], br#"x"}"#].concat()),
        (&wrong, [&br#"{"model":""#[..], &[0xff; 200], br#""}"#].concat()),
    ] {
        let mut rig = Rig::new(
            r#"{"read_body":true,"pass_headers":["x-a"],"descriptors":{"d":{"header":"x-a"},
                "p":{"property":["p"]}}}"#,
        );
        rig.host.open(5);
        for property in ["p", "xds.route_name", "xds.cluster_name"] {
            rig.host.set_property(5, property, value.as_bytes());
        }
        rig.host.with_stream(5, |s| {
            for name in ["x-a", "x-mse-consumer", "x-session-id", "x-request-id"] {
                s.request_headers.insert(name.into(), value.clone());
            }
            let path = value.chars().take(4000).collect();
            s.request_headers.insert(":path".into(), path);
            s.request_headers.insert("content-type".into(), "application/json".into());
            s.body = body.clone();
        });
        rig.worker.on_request_headers(&rig.host, 5, false);
        rig.worker.on_request_body(&rig.host, 5, body.len(), true);
        let admit = rig.last_admit();
        let (pool, subject) = (admit.pool.unwrap(), admit.subject.unwrap());
        assert!(!admit.model.is_empty() && name(&admit.model, 256), "{:?}", admit.model);
        assert!(
            name(&admit.session, VALUE_BYTES_MAX)
                && name(&admit.request_id, 128)
                && name(&subject.consumer, VALUE_BYTES_MAX)
                && name(&subject.path, WHOLE_BYTES_MAX)
        );
        assert!(name(&pool.route, 256) && name(&pool.cluster, 256));
        assert!(subject.headers.values().all(|value| name(value, VALUE_BYTES_MAX)));
        assert!(subject.descriptors.values().all(|value| name(value, VALUE_BYTES_MAX)));
    }
}

#[test]
fn admit_and_settle_carry_the_trace() {
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut rig = Rig::new("");
    rig.host.open(5);
    for (name, value) in [("traceparent", traceparent), ("tracestate", "a=1")] {
        rig.host.with_stream(5, |s| s.request_headers.insert(name.into(), value.into()));
    }
    rig.worker.on_request_headers(&rig.host, 5, true);
    let admit = rig.last_admit();
    assert_eq!((&*admit.traceparent, &*admit.tracestate), (traceparent, "a=1"));
    rig.admit(5, "a:1");
    rig.respond(5, "a:1", 200);
    rig.end(5);
    assert_eq!(rig.last_settlement().traceparent, traceparent);
}

/// A trace context that is too long is left out, because a truncated trace context would identify another trace.
#[test]
fn an_oversized_trace_context_is_left_out() {
    for (more, expected) in [(0, true), (1, false)] {
        let mut rig = Rig::new("");
        rig.host.open(5);
        for (name, len) in [("traceparent", 64), ("tracestate", 512)] {
            rig.host.with_stream(5, |s| s.request_headers.insert(name.into(), "a".repeat(len + more)));
        }
        rig.worker.on_request_headers(&rig.host, 5, true);
        let admit = rig.last_admit();
        for value in [admit.traceparent, admit.tracestate] {
            assert_eq!(!value.is_empty(), expected);
        }
    }
}
