//! The configuration of a running sidecar, and the commands that read one.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use http_body_util::{BodyExt as _, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

use crate::support::eventually;

/// A sidecar as a process of its own, ended when dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn evenkeel(arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_evenkeel")).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

async fn metric(http: &str, name: &str) -> f64 {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<axum::body::Bytes>>();
    let response = client.get(format!("http://{http}/metrics").parse().unwrap()).await.unwrap();
    let text = String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap();
    let line = text.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// With a signal, and by watching; a fault keeps what was.
#[tokio::test]
async fn the_file_is_read_again_by_a_running_sidecar() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let write = |limits: &str| {
        let listen = "listen: {grpc: '127.0.0.1:0', http: '127.0.0.1:0'}\n";
        fs::write(path("new"), format!("{listen}limits: [{limits}]\n")).unwrap();
        fs::rename(path("new"), path("evenkeel.yaml")).unwrap();
    };
    write("");
    let child = Command::new(env!("CARGO_BIN_EXE_evenkeel"))
        .args([Path::new("serve"), Path::new("--config"), &path("evenkeel.yaml")])
        .args([Path::new("--ready-file"), &path("ready")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let process = Process(child);
    let ready = || async { fs::read(path("ready")).map_err(|error| error.to_string()) };
    let ready: serde_json::Value =
        serde_json::from_slice(&eventually(Duration::from_secs(20), "serving", ready).await).unwrap();
    let http = ready["http"].as_str().unwrap();
    assert_eq!(metric(http, "evenkeel_config_valid").await, 1.0);
    let valid = |wanted: f64| async move {
        eventually(Duration::from_secs(20), "read again", || async {
            let now = metric(http, "evenkeel_config_valid").await;
            if now == wanted { Ok(()) } else { Err(now.to_string()) }
        })
        .await;
    };

    write("{name: a, counts: requests, amount: 1, per: 0s}");
    valid(0.0).await;
    write("{name: a, counts: requests, amount: 1, per: 1s}");
    valid(1.0).await;

    let before = metric(http, "evenkeel_config_last_success_timestamp_seconds").await;
    let signalled = Command::new("kill").args(["-HUP", &process.0.id().to_string()]).status().unwrap();
    assert!(signalled.success());
    eventually(Duration::from_secs(20), "read on SIGHUP", || async {
        let now = metric(http, "evenkeel_config_last_success_timestamp_seconds").await;
        if now > before { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
}

#[test]
fn commands_tell_what_they_read_and_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let rules = "rule_name: r\nrule_items:\n- limit_by_per_consumer: ''\n  limit_keys: [{key: '*', token_per_minute: 9}]";
    fs::write(path("higress.yaml"), rules).unwrap();
    fs::write(
        path("evenkeel.yaml"),
        "limits: [{name: none, counts: requests, amount: 0, per: day}]\n\
         higress_rules: [{plugin: ai-token-ratelimit, file: higress.yaml}]",
    )
    .unwrap();
    let (ok, out, err) = evenkeel(&["check-config", &path("evenkeel.yaml")]);
    assert!(ok && out.ends_with("ok (0 pool rules, 2 limits, 1 other file, memory store)\n"), "{out}{err}");
    assert_eq!(err, "warning: limits[0].amount: is 0: every request it applies to is refused\n");

    let by_model = "limits: [{name: m, counts: requests, amount: 1, per: day, key: [model]}]\n\
                    quotas: [{name: q, counts: tokens, kind: prepaid, when: [{attribute: model, prefix: a}]}]";
    fs::write(path("model.yaml"), by_model).unwrap();
    let (ok, _, err) = evenkeel(&["check-config", &path("model.yaml")]);
    assert!(
        ok && err.starts_with("warning: limits: m, q look at the model, ") && err.contains("read_body"),
        "{err}"
    );

    let convert = ["convert-higress", "--plugin", "ai-token-ratelimit", &path("higress.yaml")];
    let (ok, out, err) = evenkeel(&convert);
    assert!(ok && err.is_empty(), "{err}");
    fs::write(path("converted.yaml"), &out).unwrap();
    let (ok, out, err) = evenkeel(&["check-config", &path("converted.yaml")]);
    assert!(ok && out.contains("1 limit, "), "{out}{err}");

    fs::write(path("higress.yaml"), rules.replace('9', "0")).unwrap();
    let (ok, out, err) = evenkeel(&convert);
    assert!(!ok && out.is_empty(), "{out}");
    assert!(
        err.contains(
            "higress.yaml: rule_items[0].limit_keys[0].token_per_minute: must be a whole number from 1 to"
        ),
        "{err}"
    );
    fs::write(
        path("evenkeel.yaml"),
        "limits: [{name: none, counts: requests, amount: 0, per: year}]\n\
         higress_rules: [{plugin: ai-token-ratelimit, file: higress.yaml}]",
    )
    .unwrap();
    let (ok, _, err) = evenkeel(&["check-config", &path("evenkeel.yaml")]);
    assert!(!ok && err.contains("2 faults") && err.contains("limits[0].per: must be 1s..31d"), "{err}");
}
