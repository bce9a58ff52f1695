//! Reloading the configuration of a running sidecar, and the commands that check a configuration.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use crate::support::{command::offline, eventually, http::metric, process::Process};

/// The sidecar watches the file, and also reads it on SIGHUP. If the file is invalid, the previous configuration stays
/// active.
#[tokio::test]
async fn a_running_sidecar_reloads_a_changed_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let write = |limits: &str| {
        let listen = "listen: {grpc: '127.0.0.1:0', http: '127.0.0.1:0'}\n";
        fs::write(path("new"), format!("{listen}limits: [{limits}]\n")).unwrap();
        fs::rename(path("new"), path("evenkeel.yaml")).unwrap();
    };
    write("");
    let ready_file = [Path::new("--ready-file"), &path("ready")];
    let process = Process::serve(&path("evenkeel.yaml"), &ready_file, Stdio::null());
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
    let signalled = Command::new("kill").args(["-HUP", &process.id().to_string()]).status().unwrap();
    assert!(signalled.success());
    eventually(Duration::from_secs(20), "read on SIGHUP", || async {
        let now = metric(http, "evenkeel_config_last_success_timestamp_seconds").await;
        if now > before { Ok(()) } else { Err(now.to_string()) }
    })
    .await;
}

#[test]
fn check_config_reports_what_it_reads_and_what_is_wrong() {
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
    let (ok, out, err) = offline(&["check-config", &path("evenkeel.yaml")]);
    assert!(ok && out.ends_with("ok (0 pool rules, 2 limits, 1 other file, memory store)\n"), "{out}{err}");
    assert_eq!(err, "warning: limits[0].amount: is 0: every request it applies to is refused\n");

    let by_model = "limits: [{name: m, counts: requests, amount: 1, per: day, key: [model]}]\n\
                    quotas: [{name: q, counts: tokens, kind: prepaid, when: [{attribute: model, prefix: a}]}]";
    fs::write(path("model.yaml"), by_model).unwrap();
    let (ok, _, err) = offline(&["check-config", &path("model.yaml")]);
    assert!(
        ok && err.starts_with("warning: limits: m, q use the model, ") && err.contains("read_body"),
        "{err}"
    );

    let convert = ["convert-higress", "--plugin", "ai-token-ratelimit", &path("higress.yaml")];
    let (ok, out, err) = offline(&convert);
    assert!(ok && err.is_empty(), "{err}");
    fs::write(path("converted.yaml"), &out).unwrap();
    let (ok, out, err) = offline(&["check-config", &path("converted.yaml")]);
    assert!(ok && out.contains("1 limit, "), "{out}{err}");

    let convert = ["convert-higress", "--plugin", "ai-quota", &path("higress.yaml")];
    let (ok, _, err) = offline(&convert);
    assert!(!ok && err.contains("set quotas and quota_admins"), "{err}");
    fs::write(
        path("limitador.yaml"),
        "- {namespace: n, max_value: 9, seconds: 60, conditions: [\"descriptors[0]['tier'] == 'free'\"]}",
    )
    .unwrap();
    let convert = ["convert-limitador", "--attribute", "tier=header:x-tier", &path("limitador.yaml")];
    let (ok, out, err) = offline(&convert);
    assert!(ok && err.starts_with("warning: ") && out.contains("header:x-tier"), "{out}{err}");
    fs::write(path("converted.yaml"), &out).unwrap();
    let (ok, out, err) = offline(&["check-config", &path("converted.yaml")]);
    assert!(ok && out.contains("1 limit, "), "{out}{err}");
    let (ok, _, err) = offline(&["convert-limitador", "--attribute", "tier", &path("limitador.yaml")]);
    assert!(!ok && err.contains("must be ENTRY=ATTRIBUTE"), "{err}");

    let convert = ["convert-higress", "--plugin", "ai-token-ratelimit", &path("higress.yaml")];
    fs::write(path("higress.yaml"), rules.replace('9', "0")).unwrap();
    let (ok, out, err) = offline(&convert);
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
    let (ok, _, err) = offline(&["check-config", &path("evenkeel.yaml")]);
    assert!(!ok && err.contains("2 faults") && err.contains("limits[0].per: must be 1s..31d"), "{err}");
}
