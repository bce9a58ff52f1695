//! The exit codes and error messages of commands.

use super::CONFIG;
use crate::support::{
    admin::{TOKEN, with_admin},
    command::{PROGRAM, evenkeel},
    redis::Redis,
    sidecar::Sidecar,
};

#[tokio::test]
async fn exit_codes_are_those_that_help_documents() {
    let sidecar = Sidecar::start(&with_admin(CONFIG)).await;
    let nobody = Sidecar::start(CONFIG).await;
    let (url, nobody, nowhere) = (sidecar.url(), nobody.url(), "http://127.0.0.1:1".to_owned());
    let http = format!("http://{}", sidecar.addresses.http);
    let bare = url.trim_start_matches("http://").to_owned();
    let tls = url.replace("http://", "https://");
    let cases: &[(&str, Option<&str>, &str, i32, &str)] = &[
        (&url, None, "pools", 0, ""),
        (&url, None, "check-config /nowhere.yaml", 1, "cannot be read"),
        (&url, None, "pools --sideways", 2, "unexpected argument"),
        (&url, None, "pools --output xml", 2, "possible values: table, json, csv"),
        (&url, None, "leases", 2, "--cluster"),
        (&url, None, "pools --route r", 2, "--cluster"),
        (&url, None, "pools --server nonsense://", 2, "--server: must be http://host:port"),
        (
            &bare,
            None,
            "pools",
            2,
            "--server: must be http://host:port, https://host:port or unix:/path, got \"127.0.0.1:",
        ),
        (&bare, None, "top --output json", 2, "--server: must be http://host:port"),
        (&tls, None, "pools", 5, "the sidecar speaks no TLS there; use http://"),
        (&http, None, "pools", 2, "answers only HTTP, as listen.http does (port 9191)"),
        (
            &http,
            Some(TOKEN),
            "quota set alice 1",
            2,
            "must be a sidecar's gRPC address (listen.grpc, port 9190)",
        ),
        (&http, None, "top --once", 2, "answers only HTTP"),
        (&url, Some(TOKEN), "quota set alice 1.5", 2, "must be a whole number up to 10^15, such as"),
        (&url, Some(TOKEN), "quota add alice lots", 2, "1.5M for 1.50"),
        (&url, Some(TOKEN), "quota subtract alice 1000000000000001", 2, "up to 10^15"),
        (&url, Some(TOKEN), "limits override rpm consumer=a --amount 0.5", 2, "must be a whole number"),
        (&url, None, "leases --cluster llm --holder a\u{1}b", 2, "holder: must be"),
        (&url, None, "activity --span soon", 2, "--span"),
        (&url, None, "top --interval 1ms", 2, "must be 200ms..1h"),
        (&url, None, "explain --request-id r --consumer c", 2, "cannot be used with"),
        (
            &url,
            None,
            "pools --cluster none",
            3,
            "cannot show the pool (`evenkeel pools` lists all): pool of route",
        ),
        (&url, None, "quota get alice --quota none", 3, "cannot show the quota"),
        (&url, Some(TOKEN), "limits reset rpm consumer=nobody", 3, "cannot remove the override"),
        (&url, None, "quota set alice 1", 4, "EVENKEEL_TOKEN"),
        (&url, None, "drain a:1", 4, "EVENKEEL_TOKEN"),
        (&url, Some("wrong-token-wrong"), "quota set alice 1", 4, "see EVENKEEL_TOKEN"),
        (&nobody, Some(TOKEN), "quota set alice 1", 4, "admin.tokens"),
        (&nowhere, None, "pools", 5, "no sidecar answers at http://127.0.0.1:1"),
        (&nowhere, None, "sidecars", 5, "no sidecar answers"),
        (&nowhere, None, "top --once", 5, "no sidecar answers"),
    ];
    for (url, token, words, code, says) in cases {
        let words: Vec<&str> = words.split(' ').collect();
        let output = evenkeel(url, *token, &words).await;
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(*code), "{words:?}: {error}");
        assert!(error.contains(says), "{words:?}: {error}");
        assert_eq!(output.stdout.is_empty(), *code != 0, "{words:?}");
    }
}

#[tokio::test]
async fn a_store_that_is_down_exits_with_5() {
    let mut redis = Redis::start();
    let sidecar = Sidecar::start(&with_admin(&(redis.store("") + CONFIG))).await;
    redis.kill();
    let output = evenkeel(&sidecar.url(), Some(TOKEN), &["quota", "set", "alice", "1"]).await;
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
}

/// `evenkeel leases | head` neither panics nor fails.
#[tokio::test]
async fn a_closed_pipe_is_no_error() {
    let s = Sidecar::start(CONFIG).await;
    s.lease("llm", "h", 1).await;
    let url = s.url();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = tokio::task::spawn_blocking(move || {
        let mut leases = std::process::Command::new(PROGRAM);
        leases.args(["leases", "--server", &url, "--cluster", "llm"]).stdout(writer).output().unwrap()
    });
    let output = status.await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty());
}
