//! The way of a request.

use super::*;
use crate::{config::ENDPOINT_HEADER, host::Level, metrics::Counter};

#[test]
fn admit_carries_what_the_gateway_knows() {
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
    let call = rig.host.last_call(Method::Admit);
    assert_eq!((call.cluster.as_str(), call.timeout_ms, call.context), ("side", 30, 5));
    let admit = call.admit();
    let pool = admit.pool.unwrap();
    assert_eq!((pool.route.as_str(), pool.cluster.as_str()), ("chat", "llm"));
    assert_eq!((admit.holder.as_str(), admit.lease, admit.prompt_bytes), ("holder", 1, 321));
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
        assert_eq!(rig.host.last_call(Method::Admit).admit().subject.unwrap().consumer, consumer);
    }
    let mut rig = Rig::new(r#"{"consumer":{"header":"X-Who"}}"#);
    rig.host.open(5);
    rig.host.with_stream(5, |s| s.request_headers.insert("x-who".into(), "bob".into()));
    rig.worker.on_request_headers(&rig.host, 5, true);
    assert_eq!(rig.host.last_call(Method::Admit).admit().subject.unwrap().consumer, "bob");
}

/// Higress's authentication plugins append the consumer; gateways give the first value of a header, the client's.
#[test]
fn a_consumer_a_client_smuggled_in_is_not_believed() {
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
                    assert_eq!(rig.host.last_call(Method::Admit).admit().subject.unwrap().consumer, consumer);
                }
                Err(status) => {
                    assert_eq!(rig.host.with_stream(5, |s| s.response.clone()).unwrap().status, status);
                    assert!(rig.host.calls_of(Method::Admit).is_empty());
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
fn the_first_session_named_is_told_cut() {
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
        assert_eq!(rig.host.last_call(Method::Admit).admit().session, session);
    }

    let mut rig = Rig::new("");
    rig.host.open(5);
    rig.host.with_stream(5, |s| s.request_headers.insert("x-thread-id".into(), "\u{e9}".repeat(100)));
    rig.worker.on_request_headers(&rig.host, 5, true);
    assert_eq!(rig.host.last_call(Method::Admit).admit().session, "\u{e9}".repeat(64));
}

#[test]
fn the_id_of_the_request_is_told_cut() {
    for (given, told) in [
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
        assert_eq!(rig.host.last_call(Method::Admit).admit().request_id, told);
    }
}

#[test]
fn descriptors_are_told_where_they_are_there() {
    let mut rig = Rig::new(
        r#"{"descriptors":{"tenant":{"header":"X-Tenant"},"org":{"metadata":["jwt","org"]},"none":{"header":"x-no"},
            "sni":{"property":["connection","sni"]},"region":{"value":"eu"}}}"#,
    );
    rig.host.open(5);
    rig.host.with_stream(5, |s| s.request_headers.insert("x-tenant".into(), "t".repeat(300)));
    rig.host.set_property(5, "metadata.filter_metadata.jwt.org", b"acme");
    rig.host.set_property(5, "connection.sni", b"llm.example");
    rig.worker.on_request_headers(&rig.host, 5, true);
    let descriptors = rig.host.last_call(Method::Admit).admit().subject.unwrap().descriptors;
    let mut descriptors: Vec<_> = descriptors.into_iter().collect();
    descriptors.sort();
    let expected = [("org", "acme"), ("region", "eu"), ("sni", "llm.example"), ("tenant", &"t".repeat(256))];
    assert_eq!(descriptors, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
}

#[test]
fn route_and_cluster_are_also_found_where_older_gateways_put_them() {
    let mut rig = Rig::new("");
    rig.host.open(5);
    rig.host.with_stream(5, |s| s.properties.retain(|name, _| !name.starts_with("xds.")));
    rig.host.set_property(5, "route_name", b"old-route");
    rig.host.set_property(5, "cluster_name", b"old-cluster");
    rig.worker.on_request_headers(&rig.host, 5, true);
    let pool = rig.host.last_call(Method::Admit).admit().pool.unwrap();
    assert_eq!((pool.route.as_str(), pool.cluster.as_str()), ("old-route", "old-cluster"));
}

#[test]
fn a_configured_pool_wins() {
    let mut rig = Rig::new(r#"{"pool":{"route":"","cluster":"shared"}}"#);
    rig.arrive(5);
    let pool = rig.host.last_call(Method::Admit).admit().pool.unwrap();
    assert_eq!((pool.route.as_str(), pool.cluster.as_str()), ("", "shared"));
}

#[test]
fn a_route_the_client_may_have_asked_for_names_no_pool() {
    let mut rig = Rig::new(r#"{"apply":{"mode":"name","header":"x-p"},"pool":{"cluster":"c"}}"#);
    rig.arrive(5);
    assert_eq!(rig.host.last_call(Method::Admit).admit().pool.unwrap().route, "");
}

#[test]
fn a_deadline_is_told_from_an_unreachable_sidecar_by_the_time_it_took() {
    for (waited_ms, counter) in [(49, Counter::AdmitsFailed), (50, Counter::AdmitsTimeout)] {
        let mut rig = Rig::new("");
        rig.arrive(5);
        rig.host.advance(waited_ms);
        rig.answer(5, 14, None);
        assert_eq!(rig.host.count_of(counter), 1);
    }
}

#[test]
fn a_request_without_a_cluster_goes_on_unasked() {
    let mut rig = Rig::new("");
    rig.host.open(5);
    rig.host.with_stream(5, |s| s.properties.clear());
    assert_eq!(rig.worker.on_request_headers(&rig.host, 5, true), Flow::Continue);
    rig.end(5);
    assert!(rig.host.calls.borrow().is_empty());
}

#[test]
fn the_endpoint_is_applied_in_each_mode() {
    let name = r#"{"apply":{"mode":"name","header":"x-provider"},"pool":{"cluster":"c"}}"#;
    let cases = [
        ("", ENDPOINT_HEADER),
        (r#"{"apply":{"header":"x-other"}}"#, "x-other"),
        (r#"{"apply":{"mode":"original_dst"}}"#, "x-envoy-original-dst-host"),
        (name, "x-provider"),
    ];
    for (config, header) in cases {
        let mut rig = Rig::new(config);
        assert_eq!(rig.arrive(5), Flow::Pause);
        rig.admit(5, "10.0.0.1:80");
        assert_eq!(rig.header(5, header).as_deref(), Some("10.0.0.1:80"), "{config}");
        assert_eq!(rig.resumed(5), 1);
        assert_eq!(rig.host.count_of(Counter::AdmitsShared), 1);
    }
}

#[test]
fn a_client_cannot_choose_the_endpoint() {
    let cases = [
        ("", ENDPOINT_HEADER),
        (r#"{"apply":{"mode":"original_dst"}}"#, "x-envoy-original-dst-host"),
        (r#"{"apply":{"mode":"name","header":"x-provider"},"pool":{"cluster":"c"}}"#, "x-provider"),
    ];
    for (config, header) in cases {
        let mut rig = Rig::new(config);
        rig.host.open(5);
        rig.host.with_stream(5, |s| s.request_headers.insert(header.into(), "10.6.6.6:80".into()));
        rig.host.refuse_calls.set(true);
        assert_eq!(rig.worker.on_request_headers(&rig.host, 5, true), Flow::Continue);
        assert_eq!(rig.header(5, header), None, "{config}");
    }
}

#[test]
fn headers_of_the_answer_are_added_and_unsound_ones_left_out() {
    let mut rig = Rig::new(r#"{"report_header":"x-placed"}"#);
    rig.arrive(5);
    let answer = Answer::Admitted(Admitted {
        endpoint: "a:1".into(),
        basis: Basis::Local.into(),
        request_headers: vec![header("x-up", "1"), header(":path", "/"), header("x-bad", "a\r\nb: c")],
        response_headers: vec![header("x-left", "7"), header("bad name", "1")],
        ..Admitted::default()
    });
    rig.answer(5, 0, Some(answer));
    assert_eq!(rig.header(5, "x-up").as_deref(), Some("1"));
    assert_eq!(rig.header(5, "x-bad"), None);
    assert_eq!(rig.header(5, ":path").as_deref(), Some("/v1/chat/completions?a=b"));
    rig.respond(5, "a:1", 200);
    let headers = rig.host.with_stream(5, |s| s.response_headers.clone());
    let expected = [("x-left", "7"), ("x-placed", "local a:1")].map(|(n, v)| (n.to_owned(), v.to_owned()));
    assert_eq!(headers.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn a_denied_request_is_answered_as_told_and_holds_nothing() {
    let mut rig = Rig::new("");
    rig.arrive(5);
    rig.answer(5, 0, Some(denied()));
    let response = rig.host.with_stream(5, |s| s.response.clone()).unwrap();
    assert_eq!((response.status, response.body.as_slice()), (429, b"{}".as_slice()));
    assert_eq!(response.headers[0], ("retry-after".into(), "2".into()));
    assert_eq!(rig.resumed(5), 0);
    assert!(rig.worker.lease_table().is_empty());
    rig.end(5);
    assert!(rig.host.calls_of(Method::Settle).is_empty());
    assert_eq!(rig.host.count_of(Counter::AdmitsDenied), 1);
}

#[test]
fn a_denial_without_a_sound_status_is_a_503() {
    for status in [0, 100, 999] {
        let mut rig = Rig::new("");
        rig.arrive(5);
        rig.answer(5, 0, Some(Answer::Denied(Denied { status, ..Denied::default() })));
        assert_eq!(rig.host.with_stream(5, |s| s.response.clone()).unwrap().status, 503);
    }
}

#[test]
fn without_an_answer_a_request_goes_on_with_its_endpoint_unknown() {
    for (status, counter) in
        [(4, Counter::AdmitsTimeout), (14, Counter::AdmitsFailed), (0, Counter::AdmitsFailed)]
    {
        let mut rig = Rig::new("");
        assert_eq!(rig.arrive(5), Flow::Pause);
        rig.answer(5, status, None);
        assert_eq!((rig.resumed(5), rig.header(5, ENDPOINT_HEADER)), (1, None));
        assert_eq!((rig.host.count_of(counter), rig.host.count_of(Counter::FailOpen)), (1, 1));
        let list = rig.list();
        assert_eq!((&list.pools[0].leases[..], &list.pools[0].endpoint_of[..]), (&[1][..], &[0][..]));
    }
}

/// A client that found a way to make Admit an error was let past every limit.
#[test]
fn a_question_refused_as_invalid_is_no_outage() {
    for on_error in ["open", "closed"] {
        let mut rig = Rig::new(&format!(r#"{{"on_error":"{on_error}"}}"#));
        for context in [5, 6] {
            rig.arrive(context);
            rig.answer(context, 3, None);
            let response = rig.host.with_stream(context, |s| s.response.clone()).unwrap();
            assert_eq!((response.status, rig.resumed(context)), (400, 0));
            assert!(serde_json::from_slice::<serde_json::Value>(&response.body).is_ok());
            assert_eq!(
                rig.worker.on_request_body(&rig.host, context, 9, true),
                Flow::Pause,
                "never forwarded"
            );
            rig.end(context);
        }
        assert!(rig.worker.lease_table().is_empty() && rig.host.calls_of(Method::Settle).is_empty());
        let counted = [Counter::AdmitsInvalid, Counter::AdmitsFailed, Counter::FailOpen, Counter::FailClosed];
        assert_eq!(counted.map(|counter| rig.host.count_of(counter)), [2, 0, 0, 0]);
        assert_eq!(rig.host.logs.borrow().len(), 1, "{:?}", rig.host.logs.borrow());
    }
}

/// The sidecar refuses names with control characters and names that are too long: no client may choose one.
#[test]
fn nothing_a_client_chooses_makes_admit_an_error() {
    let name = |text: &str, max: usize| text.len() <= max && !text.contains(char::is_control);
    let control = "x\u{1}\u{7f}\u{85}\n".to_owned();
    let wrong = String::from_utf8_lossy(&[0xff; 3000]).into_owned();
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
            for name in [":path", "x-a", "x-mse-consumer", "x-session-id", "x-request-id"] {
                s.request_headers.insert(name.into(), value.clone());
            }
            s.request_headers.insert("content-type".into(), "application/json".into());
            s.body = body.clone();
        });
        rig.worker.on_request_headers(&rig.host, 5, false);
        rig.worker.on_request_body(&rig.host, 5, body.len(), true);
        let admit = rig.host.last_call(Method::Admit).admit();
        let (pool, subject) = (admit.pool.unwrap(), admit.subject.unwrap());
        assert!(!admit.model.is_empty() && name(&admit.model, 256), "{:?}", admit.model);
        assert!(
            name(&admit.session, 128)
                && name(&admit.request_id, 128)
                && name(&subject.consumer, 256)
                && name(&subject.path, 2048)
        );
        assert!(name(&pool.route, 256) && name(&pool.cluster, 256));
        assert!(subject.headers.values().all(|value| name(value, 2048)));
        assert!(subject.descriptors.values().all(|value| name(value, 256)));
    }
}

#[test]
fn a_call_that_cannot_be_made_lets_the_request_go_on_at_once() {
    let mut rig = Rig::new("");
    rig.host.refuse_calls.set(true);
    assert_eq!(rig.arrive(5), Flow::Continue);
    assert_eq!(rig.resumed(5), 0);
    assert_eq!(rig.worker.lease_table().len(), 1);
    assert_eq!(rig.host.count_of(Counter::FailOpen), 1);
}

#[test]
fn closed_means_503_with_retry_after_and_json() {
    for refuse in [true, false] {
        let mut rig = Rig::new(r#"{"on_error":"closed"}"#);
        rig.host.refuse_calls.set(refuse);
        assert_eq!(rig.arrive(5), Flow::Pause);
        if !refuse {
            rig.answer(5, 4, None);
        }
        let response = rig.host.with_stream(5, |s| s.response.clone()).unwrap();
        assert_eq!(response.status, 503);
        assert!(response.headers.contains(&("retry-after".into(), "1".into())));
        assert!(serde_json::from_slice::<serde_json::Value>(&response.body).is_ok());
        assert_eq!(rig.resumed(5), 0);
        assert_eq!(rig.host.count_of(Counter::FailClosed), 1);
        rig.host.refuse_calls.set(false);
        rig.end(5);
        // The sidecar may have granted the lease after all.
        assert_eq!(rig.outcome(), Outcome::NotSent);
    }
}

#[test]
fn an_open_answer_leaves_the_choice_to_the_gateway() {
    let mut rig = Rig::new(r#"{"report_header":"x-placed"}"#);
    rig.arrive(5);
    rig.answer(5, 0, Some(admitted("", Basis::Open)));
    assert_eq!((rig.resumed(5), rig.header(5, ENDPOINT_HEADER)), (1, None));
    assert_eq!(rig.host.count_of(Counter::AdmitsOpen), 1);
    assert_eq!(rig.host.count_of(Counter::FailOpen), 0);
    rig.respond(5, "b:1", 200);
    assert_eq!(rig.host.with_stream(5, |s| s.response_headers["x-placed"].clone()), "open");
    assert_eq!(rig.list().pools[0].endpoints, ["b:1"]);
}

#[test]
fn where_only_a_header_places_a_request_candidates_are_taken_in_turn() {
    let mut rig = Rig::new(
        r#"{"apply":{"mode":"name","header":"x-provider"},"pool":{"cluster":"c"},
            "candidates":[{"address":"p0"},{"address":"p1"}]}"#,
    );
    rig.host.refuse_calls.set(true);
    rig.arrive(5);
    rig.arrive(6);
    assert_eq!(rig.header(5, "x-provider").as_deref(), Some("p1"));
    assert_eq!(rig.header(6, "x-provider").as_deref(), Some("p0"));
}

#[test]
fn a_bad_configuration_fails_with_every_fault_in_the_log() {
    let host = Mock::new();
    let mut worker = Worker::new(ROOT, "holder".into());
    assert!(!worker.configure(&host, br#"{"deadline_ms":0,"typo":1}"#));
    let logs = host.logs.borrow();
    assert_eq!(logs.len(), 2);
    assert!(
        logs.iter()
            .all(|(level, line)| *level == Level::Error
                && line.starts_with("evenkeel: configuration rejected: "))
    );
    assert_eq!(host.tick_ms.get(), 0);
}

#[test]
fn the_holder_is_logged_when_it_is_configured() {
    let host = Mock::new();
    let mut worker = Worker::new(ROOT, "holder".into());
    assert!(worker.configure(&host, b""));
    worker.on_tick(&host);
    assert_eq!(*host.logs.borrow(), [(Level::Info, "evenkeel: holder holder, root 1".to_owned())]);
}

#[test]
fn the_sidecar_being_down_is_said_once_per_change() {
    let mut rig = Rig::new("");
    for context in 5..9 {
        rig.arrive(context);
        rig.answer(context, 14, None);
    }
    assert_eq!(rig.host.logs.borrow().len(), 1);
    assert!(
        rig.host.logs.borrow()[0]
            .1
            .contains("the sidecar does not answer (cluster \"evenkeel\": Admit: gRPC status 14)")
    );
    for context in 9..12 {
        rig.arrive(context);
        rig.admit(context, "a:1");
    }
    assert_eq!(rig.host.logs.borrow().len(), 1, "not more than one line in a while");
    rig.host.advance(5000);
    rig.tick();
    assert_eq!(rig.host.logs.borrow().len(), 2);
    assert!(rig.host.logs.borrow()[1].1.contains("answers again"));
}

#[cfg(feature = "higress")]
#[test]
fn higress_is_given_the_host_and_asked_for_the_healthy_ones() {
    let mut rig = Rig::new(r#"{"apply":{"mode":"higress"},"candidates":[{"address":"a:1","weight":3}]}"#);
    let about = |health: &str| format!(r#"{{"health_status":"{health}"}}"#);
    *rig.host.hosts.borrow_mut() = vec![
        ("a:1".into(), about("Healthy")),
        ("b:1".into(), about("Unhealthy")),
        ("c:1".into(), about("Healthy")),
    ];
    rig.arrive(5);
    let candidates = rig.host.last_call(Method::Admit).admit().candidates;
    let offered: Vec<_> = candidates.iter().map(|c| (c.address.as_str(), c.weight)).collect();
    assert_eq!(offered, [("a:1", 3.0), ("c:1", 0.0)]);
    rig.admit(5, "c:1");
    assert_eq!(*rig.host.overridden.borrow(), [(5, "c:1".to_owned())]);
}

#[test]
fn the_trace_is_told_when_it_begins_and_when_it_ends() {
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut rig = Rig::new("");
    rig.host.open(5);
    for (name, value) in [("traceparent", traceparent), ("tracestate", "a=1")] {
        rig.host.with_stream(5, |s| s.request_headers.insert(name.into(), value.into()));
    }
    rig.worker.on_request_headers(&rig.host, 5, true);
    let admit = rig.host.last_call(Method::Admit).admit();
    assert_eq!((&*admit.traceparent, &*admit.tracestate), (traceparent, "a=1"));
    rig.admit(5, "a:1");
    rig.respond(5, "a:1", 200);
    rig.end(5);
    assert_eq!(rig.host.last_call(Method::Settle).settle().traceparent, traceparent);
}

/// A trace cut short would be another one.
#[test]
fn of_a_trace_what_is_too_long_is_left_out_whole() {
    for (more, told) in [(0, true), (1, false)] {
        let mut rig = Rig::new("");
        rig.host.open(5);
        for (name, len) in [("traceparent", 64), ("tracestate", 512)] {
            rig.host.with_stream(5, |s| s.request_headers.insert(name.into(), "a".repeat(len + more)));
        }
        rig.worker.on_request_headers(&rig.host, 5, true);
        let admit = rig.host.last_call(Method::Admit).admit();
        for value in [admit.traceparent, admit.tracestate] {
            assert_eq!(!value.is_empty(), told);
        }
    }
}
