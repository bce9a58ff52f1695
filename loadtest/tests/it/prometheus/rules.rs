//! Checks the file of alert rules: promtool accepts and tests the rules, and each alert has a section in the runbook.

use std::{collections::BTreeSet, fs, path::PathBuf, process::Command};

use evenkeel_loadtest::lab::paths;
use serde_json::Value;

use crate::support::lab;

pub(super) fn file() -> PathBuf {
    paths::workspace().join("helm/evenkeel/rules/evenkeel.rules.yaml")
}

/// Returns every rule of the file.
pub(super) fn all() -> Vec<Value> {
    let rules: Value = serde_saphyr::from_str(&fs::read_to_string(file()).unwrap()).unwrap();
    let groups = rules["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

/// Runs promtool and returns its output. If promtool is not installed, prints this and returns `None`.
pub(super) fn promtool(arguments: &[&str], input: &str) -> Option<String> {
    use std::{io::Write as _, process::Stdio};
    let program = lab::found(paths::promtool())?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "promtool {}: {text}", arguments.join(" "));
    Some(text)
}

#[test]
fn promtool_accepts_the_rules() {
    let Some(output) =
        promtool(&["check", "rules", "--lint=all", "--lint-fatal", file().to_str().unwrap()], "")
    else {
        return;
    };
    assert!(output.contains(&format!("SUCCESS: {} rules found", all().len())), "{output}");
}

#[test]
fn each_alert_fires_when_it_should_and_none_on_a_healthy_system() {
    let tests = paths::workspace().join("helm/tests/rules_test.yaml");
    let Some(output) = promtool(&["test", "rules", tests.to_str().unwrap()], "") else { return };
    assert!(output.contains("SUCCESS"), "{output}");
    // Every alert must fire in some test.
    let text = fs::read_to_string(tests).unwrap();
    for rule in all() {
        if let Some(alert) = rule["alert"].as_str() {
            assert!(text.contains(&format!("labels: '{{alertname=\"{alert}\"}}'")), "{alert} has no test");
        }
    }
}

#[test]
fn each_alert_has_annotations_and_a_runbook_section() {
    let runbook = fs::read_to_string(paths::workspace().join("docs/runbook.md")).unwrap();
    let sections: BTreeSet<&str> = runbook.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let mut alerts = BTreeSet::new();
    for rule in all() {
        let Some(name) = rule["alert"].as_str() else { continue };
        assert!(alerts.insert(name.to_owned()), "{name} twice");
        assert!(name.starts_with("Evenkeel"), "{name}");
        let severity = rule["labels"]["severity"].as_str().unwrap_or_default();
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: severity {severity:?}");
        let annotation = |key: &str| rule["annotations"][key].as_str().unwrap_or_default();
        assert!(annotation("summary").len() > 15, "{name}: no summary");
        assert!(annotation("description").len() > 60, "{name}: no description");
        let anchor = format!("docs/runbook.md#{}", name.to_lowercase());
        assert_eq!(annotation("runbook_url"), anchor, "{name}");
        // A label that the expression aggregates away would be empty in the text.
        let expression = rule["expr"].as_str().unwrap();
        let texts = format!("{}{}", annotation("summary"), annotation("description"));
        for label in texts.split("$labels.").skip(1) {
            let label: String = label.chars().take_while(char::is_ascii_alphanumeric).collect();
            let by = expression.split("by (").skip(1).filter_map(|by| by.split(')').next());
            let kept = by.clone().count() == 0 || by.into_iter().any(|by| by.split(", ").any(|l| l == label));
            // Recorded series have the labels of the pool.
            let recorded = expression.contains("evenkeel:")
                && ["route", "cluster", "instance"].contains(&label.as_str());
            assert!(kept || recorded, "{name}: {expression} has no label {label}");
        }
    }
    let alerts: BTreeSet<&str> = alerts.iter().map(String::as_str).collect();
    assert_eq!(alerts, sections, "alerts and sections of docs/runbook.md");
}
