//! Tests what the log says at start about access.

use std::{path::Path, process::Stdio, time::Duration};

use serde_json::Value;

use crate::support::{eventually, process::Process};

/// Starts a sidecar, and returns the lines of its log about access until it serves: level, listener and message.
async fn access_lines(yaml: &str) -> Vec<(String, String, String)> {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("evenkeel.yaml"), format!("{yaml}log: {{format: json}}\n")).unwrap();
    let log = std::fs::File::create(path("log")).unwrap();
    let ready_file = [Path::new("--ready-file"), &path("ready")];
    let _process = Process::serve(&path("evenkeel.yaml"), &ready_file, Stdio::from(log));
    eventually(Duration::from_secs(20), "serving", || async {
        if path("ready").exists() { Ok(()) } else { Err(std::fs::read_to_string(path("log")).unwrap()) }
    })
    .await;
    let log = std::fs::read_to_string(path("log")).unwrap();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let lines = lines.map(|line| {
        let fields = &line["fields"];
        (text(&line["level"]), text(&fields["listener"]), text(&fields["message"]))
    });
    lines.filter(|(.., message)| message.starts_with("access: ")).collect()
}

fn has(lines: &[(String, String, String)], level: &str, listener: &str, message: &str) -> bool {
    lines.iter().any(|line| line.0 == level && line.1 == listener && line.2.contains(message))
}

#[tokio::test]
async fn the_log_says_what_is_open() {
    let lines = access_lines("listen: {grpc: '127.0.0.1:0', http: '127.0.0.1:0'}\n").await;
    assert!(has(&lines, "INFO", "listen.grpc", "these roles need no token or certificate"), "{lines:?}");
    assert!(lines.iter().all(|line| line.0 == "INFO"), "{lines:?}");

    let lines = access_lines("listen: {grpc: '0.0.0.0:0', http: '0.0.0.0:0'}\n").await;
    for listener in ["listen.grpc", "listen.http"] {
        assert!(has(&lines, "INFO", listener, "every call but health needs a token"), "{lines:?}");
    }
    assert!(has(&lines, "WARN", "", "nobody has the role gateway"), "{lines:?}");

    let open = "listen: {grpc: '0.0.0.0:0', grpc_roles: [gateway], http: '0.0.0.0:0', http_roles: [reader], metrics: anyone}\n\
                admin: {tokens: [{name: ops, token: 0123456789abcdef}]}\n";
    let lines = access_lines(open).await;
    for listener in ["listen.grpc", "listen.http"] {
        assert!(
            has(&lines, "WARN", listener, "anyone who can reach this address has these roles"),
            "{lines:?}"
        );
        assert!(has(&lines, "WARN", listener, "tokens travel in clear text"), "{lines:?}");
    }
    assert!(has(&lines, "WARN", "", "anyone who can reach this address can read /metrics"), "{lines:?}");
}
