//! Checks the dashboard files for errors that Grafana would not report, and returns all their queries.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use evenkeel_loadtest::lab::paths;
use serde_json::Value;

/// The oldest schema that supports the panels: Grafana 10.
const SCHEMA_VERSION: u64 = 39;
const COLUMNS: u64 = 24;
const DATA_SOURCE: &str = "${datasource}";
const PANEL_TYPES: [&str; 5] = ["timeseries", "stat", "bargauge", "heatmap", "row"];

/// One query of a dashboard.
pub(super) struct Query {
    /// Names the dashboard, and the panel or variable.
    pub(super) place: String,
    /// The PromQL expression with every variable set to "All".
    pub(super) expression: String,
    /// Labels that the legend uses.
    pub(super) legend: BTreeSet<String>,
}

pub(super) fn all() -> BTreeMap<String, Value> {
    let directory = paths::workspace().join("helm/evenkeel/dashboards");
    let files = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(path).unwrap();
        (name.clone(), serde_json::from_str(&text).unwrap_or_else(|problem| panic!("{name}: {problem}")))
    };
    files.map(|path| read(&path)).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Returns the variables whose values come from Prometheus.
fn variables(dashboard: &Value) -> impl Iterator<Item = &Value> {
    list(&dashboard["templating"]["list"]).iter().filter(|variable| variable["type"] == "query")
}

/// Replaces Grafana's own variables by values, and the dashboard's variables by "All".
fn substituted(expression: &str, dashboard: &Value) -> String {
    let mut expression = expression.replace("$__rate_interval", "2m").replace("$__range", "5m");
    for variable in variables(dashboard) {
        expression =
            expression.replace(&format!("${}", text(&variable["name"])), text(&variable["allValue"]));
    }
    expression
}

/// Converts Grafana's `label_values(metric, label)` to PromQL.
fn label_values(query: &str) -> String {
    let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
    let (metric, label) =
        inner.and_then(|inner| inner.rsplit_once(", ")).unwrap_or_else(|| panic!("{query}"));
    format!("count by ({label}) ({metric})")
}

/// Returns all queries of a dashboard, including the queries of its variables.
pub(super) fn queries(name: &str, dashboard: &Value) -> Vec<Query> {
    let mut all: Vec<Query> = variables(dashboard)
        .map(|variable| Query {
            place: format!("{name}: variable {}", text(&variable["name"])),
            expression: substituted(&label_values(text(&variable["query"]["query"])), dashboard),
            legend: BTreeSet::new(),
        })
        .collect();
    for panel in list(&dashboard["panels"]) {
        all.extend(list(&panel["targets"]).iter().map(|target| {
            Query {
                place: format!("{name}: {}, {}", text(&panel["title"]), text(&target["refId"])),
                expression: substituted(text(&target["expr"]), dashboard),
                legend: text(&target["legendFormat"])
                    .split("{{")
                    .skip(1)
                    .filter_map(|rest| Some(rest.split_once("}}")?.0.to_owned()))
                    .collect(),
            }
        }));
    }
    all
}

struct Problems<'a>(&'a str, Vec<String>);

impl Problems<'_> {
    fn unless(&mut self, is_valid: bool, problem: impl std::fmt::Display) {
        if !is_valid {
            self.1.push(format!("{}: {problem}", self.0));
        }
    }
}

fn check_panel(panel: &Value, dashboard: &Value, problems: &mut Problems<'_>) {
    let title = text(&panel["title"]);
    problems.unless(!title.is_empty(), "a panel without a title");
    problems.unless(PANEL_TYPES.contains(&text(&panel["type"])), format!("{title}: type {}", panel["type"]));
    if panel["type"] == "row" {
        return;
    }
    problems.unless(text(&panel["description"]).len() > 8, format!("{title}: no description"));
    problems.unless(!text(&panel["fieldConfig"]["defaults"]["unit"]).is_empty(), format!("{title}: no unit"));
    problems.unless(
        panel["datasource"]["uid"] == DATA_SOURCE,
        format!("{title}: does not use the data source variable"),
    );
    let targets = list(&panel["targets"]);
    problems.unless(!targets.is_empty(), format!("{title}: no query"));
    let mut ids = BTreeSet::new();
    let names: Vec<&str> = list(&dashboard["templating"]["list"]).iter().map(|v| text(&v["name"])).collect();
    for target in targets {
        let expression = text(&target["expr"]);
        problems.unless(!expression.is_empty(), format!("{title}: an empty expression"));
        problems
            .unless(target["datasource"]["uid"] == DATA_SOURCE, format!("{title}: {}", target["datasource"]));
        problems.unless(ids.insert(text(&target["refId"])), format!("{title}: refId twice"));
        for used in expression.split('$').skip(1) {
            let used: String = used.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let known =
                names.contains(&used.as_str()) || ["__rate_interval", "__range"].contains(&used.as_str());
            problems.unless(known, format!("{title}: no variable ${used}"));
        }
        // Without this selector, the panel would include metrics with the same names from other jobs.
        problems.unless(
            expression.contains("job=~\"$job\""),
            format!("{title}: does not select the chosen jobs"),
        );
    }
}

/// Checks that panels are within the grid and do not overlap.
fn check_grid(panels: &[Value], problems: &mut Problems<'_>) {
    let mut taken = BTreeMap::new();
    for panel in panels {
        let title = text(&panel["title"]);
        let [x, y, w, h] =
            ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap_or(u64::MAX));
        let is_valid = x < COLUMNS && w > 0 && w <= COLUMNS - x && h > 0 && h <= 20 && y < 500;
        problems.unless(is_valid, format!("{title}: {}", panel["gridPos"]));
        if !is_valid {
            continue;
        }
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            if let Some(other) = taken.insert(cell, title) {
                problems.unless(false, format!("{title} overlaps {other} at {cell:?}"));
                break;
            }
        }
    }
}

#[test]
fn dashboards_are_valid() {
    let dashboards = all();
    let names: Vec<&str> = dashboards.keys().map(String::as_str).collect();
    assert_eq!(names, ["capacity.json", "fairness.json", "health.json", "latency.json", "limits.json"]);
    let mut all_problems = Vec::new();
    for (name, dashboard) in &dashboards {
        let mut problems = Problems(name, Vec::new());
        // Links and bookmarks use the uid.
        let uid = format!("evenkeel-{}", name.trim_end_matches(".json"));
        problems.unless(dashboard["uid"] == uid.as_str(), format!("uid {}, not {uid}", dashboard["uid"]));
        problems.unless(dashboard.get("id").is_none(), "an id, which is specific to one Grafana");
        problems.unless(dashboard["schemaVersion"] == SCHEMA_VERSION, "schemaVersion");
        problems.unless(!text(&dashboard["title"]).is_empty(), "no title");
        problems.unless(!text(&dashboard["description"]).is_empty(), "no description");
        problems.unless(
            list(&dashboard["tags"]).contains(&"evenkeel".into()),
            "no tag `evenkeel`, which links the dashboards",
        );
        let links = list(&dashboard["links"]);
        let linked = links.iter().any(|link| link["type"] == "dashboards" && link["tags"][0] == "evenkeel");
        problems.unless(linked, "no links to the other dashboards");
        let list_of_variables = list(&dashboard["templating"]["list"]);
        let source = list_of_variables.first().is_some_and(|variable| {
            variable["type"] == "datasource"
                && variable["name"] == "datasource"
                && variable["query"] == "prometheus"
        });
        problems.unless(source, "the first variable is not the data source");
        for variable in variables(dashboard) {
            let name = text(&variable["name"]);
            problems.unless(
                variable["datasource"]["uid"] == DATA_SOURCE,
                format!("{name}: does not use the data source variable"),
            );
            problems.unless(
                variable["allValue"] == ".*",
                format!("{name}: allValue is not `.*`, which also matches a missing label"),
            );
            let used = dashboard["panels"].to_string().contains(&format!("=~\\\"${name}\\\""));
            problems.unless(used, format!("{name}: not used"));
        }
        let panels = list(&dashboard["panels"]);
        problems.unless(panels.len() >= 12, format!("{} panels", panels.len()));
        let mut ids = BTreeSet::new();
        for panel in panels {
            problems.unless(
                panel["id"].as_u64().is_some_and(|id| ids.insert(id)),
                format!("{}: no id or a duplicate", panel["title"]),
            );
            check_panel(panel, dashboard, &mut problems);
        }
        check_grid(panels, &mut problems);
        all_problems.append(&mut problems.1);
    }
    assert!(all_problems.is_empty(), "{}", all_problems.join("\n"));
}

/// Every queried metric is documented. This detects misspelt metrics in queries that have a default for a missing
/// series.
#[test]
fn queried_metrics_are_documented() {
    let documented = fs::read_to_string(paths::workspace().join("docs/metrics.md")).unwrap();
    let mut asked: Vec<(String, String)> = Vec::new();
    for (name, dashboard) in all() {
        asked.extend(queries(&name, &dashboard).into_iter().map(|asked| (asked.place, asked.expression)));
    }
    let rule = |rule: Value| (text(&rule["alert"]).to_owned(), text(&rule["expr"]).to_owned());
    asked.extend(super::rules::all().into_iter().map(rule));
    let mut names = BTreeSet::new();
    for (place, expression) in asked {
        let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
        for word in words.filter(|word| word.starts_with("evenkeel_") || word.starts_with("process_")) {
            let parts = ["_bucket", "_sum", "_count"];
            let name = parts.iter().find_map(|part| word.strip_suffix(part)).unwrap_or(word);
            assert!(
                documented.contains(&format!("\n| `{name}` | ")),
                "{place}: {word} is not a documented metric"
            );
            names.insert(name.to_owned());
        }
    }
    assert!(names.len() > 40, "{}", names.len());
}

/// No query sums a metric of a shared pool over sidecars. All sidecars report the same values, so the sum would be a
/// multiple.
#[test]
fn shared_pool_metrics_are_not_summed() {
    let shared =
        ["in_flight", "endpoint_cap", "endpoint_weight", "pool_capacity", "pool_endpoints", "holders"];
    let mut problems = Vec::new();
    let mut checked = 0;
    for (name, dashboard) in all() {
        for Query { place, expression, .. } in queries(&name, &dashboard) {
            for metric in shared.map(|metric| format!("evenkeel_{metric}{{")) {
                for (at, _) in expression.match_indices(&metric).filter(|_| !place.contains("variable")) {
                    checked += 1;
                    // `max by (…) (` or `min by (…) (` must precede the metric.
                    let before = expression[..at].trim_end_matches('(').trim_end();
                    let clause = before.rfind("by (").map_or("", |by| before[..by].trim_end());
                    if !before.ends_with(')') || !(clause.ends_with("max") || clause.ends_with("min")) {
                        problems.push(format!("{place}: {expression}"));
                    }
                }
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(checked > 30, "{checked}");
}
