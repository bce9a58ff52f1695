//! Commands that need no sidecar.

use serde_json::{Value, json};

use crate::support::command::{evenkeel, offline};

#[tokio::test]
async fn check_config_prints_json_and_csv() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("evenkeel.yaml").display().to_string();
    let check = async |yaml: &str, output: &str| {
        std::fs::write(&path, yaml).unwrap();
        let output = evenkeel("", None, &["check-config", &path, "--output", output]).await;
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = check("keep_alive_interval: 1ms\nstore: {type: disk}\n", "json").await;
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (code, &json["ok"], json["findings"].as_array().unwrap().len()),
        (1, &json!(false), 2),
        "{text}"
    );
    assert_eq!(json["findings"][0]["level"], "fault");
    assert!(text.contains("store.type: must be memory, redis or sentinel"), "{text}");
    let warned = "limits: [{name: none, counts: requests, amount: 0, per: day}]";
    let (code, text) = check(warned, "json").await;
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &json["ok"], &json["findings"][0]["level"]), (0, &json!(true), &json!("warning")));
    assert_eq!(json["files"][0]["file"], json!(path));
    let (_, text) = check(warned, "csv").await;
    assert!(text.starts_with("level,file,message\r\nwarning,"), "{text}");
}

#[test]
fn commands_report_errors_once() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "keep_alive_interval: 1ms\nstore: {type: disk}\n").unwrap();
    let run = |args: &[&str]| {
        let (ok, out, err) = offline(args);
        (ok, out + &err)
    };
    let (ok, text) = run(&["check-config", file.path().to_str().unwrap()]);
    assert!(
        !ok && text.contains("keep_alive_interval: must be")
            && text.contains("store.type: must be memory, redis or sentinel"),
        "{text}"
    );
    let (ok, text) = run(&["pools", "--server", "http://127.0.0.1:1"]);
    assert!(!ok && text.contains("no sidecar answers at http://127.0.0.1:1: Connection refused"), "{text}");
    assert_eq!(text.matches("refused").count(), 1, "{text}");
    std::fs::write(file.path(), "pools: [{cluster: llm, endpoints: [{address: 'a:1'}]}]").unwrap();
    let (ok, text) = run(&["check-config", file.path().to_str().unwrap()]);
    assert!(ok && text.contains("ok (1 pool rules, memory store)"), "{text}");
    for subcommand in ["serve", "check-config", "pools", "leases", "admit"] {
        let (ok, text) = run(&[subcommand, "--help"]);
        assert!(ok && text.contains("Usage:"), "{text}");
    }
}
