//! The dashboards as files: what Grafana would not say, and everything they ask Prometheus.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use evenkeel_loadtest::lab::paths;
use serde_json::Value;

/// The oldest schema with what the panels use: Grafana 10.
const SCHEMA_VERSION: u64 = 39;
const COLUMNS: u64 = 24;
const DATA_SOURCE: &str = "${datasource}";
const KINDS: [&str; 5] = ["timeseries", "stat", "bargauge", "heatmap", "row"];

/// One question of a dashboard.
pub(super) struct Question {
    /// Where it stands.
    pub(super) place: String,
    /// As Prometheus is asked it, with every variable set to all.
    pub(super) expression: String,
    /// Labels its legend names.
    pub(super) legend: BTreeSet<String>,
}

pub(super) fn all() -> BTreeMap<String, Value> {
    let directory = paths::workspace().join("helm/evenkeel/dashboards");
    let files = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(path).unwrap();
        (name.clone(), serde_json::from_str(&text).unwrap_or_else(|fault| panic!("{name}: {fault}")))
    };
    files.map(|path| read(&path)).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Variables that Prometheus is asked for.
fn variables(dashboard: &Value) -> impl Iterator<Item = &Value> {
    list(&dashboard["templating"]["list"]).iter().filter(|variable| variable["type"] == "query")
}

/// With what Grafana puts in for its own variables, and all for those of the dashboard.
fn substituted(expression: &str, dashboard: &Value) -> String {
    let mut expression = expression.replace("$__rate_interval", "2m").replace("$__range", "5m");
    for variable in variables(dashboard) {
        expression =
            expression.replace(&format!("${}", text(&variable["name"])), text(&variable["allValue"]));
    }
    expression
}

/// `label_values(metric, label)` as Prometheus can be asked it.
fn label_values(query: &str) -> String {
    let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
    let (metric, label) =
        inner.and_then(|inner| inner.rsplit_once(", ")).unwrap_or_else(|| panic!("{query}"));
    format!("count by ({label}) ({metric})")
}

/// Everything a dashboard asks, its variables included.
pub(super) fn questions(name: &str, dashboard: &Value) -> Vec<Question> {
    let mut all: Vec<Question> = variables(dashboard)
        .map(|variable| Question {
            place: format!("{name}: variable {}", text(&variable["name"])),
            expression: substituted(&label_values(text(&variable["query"]["query"])), dashboard),
            legend: BTreeSet::new(),
        })
        .collect();
    for panel in list(&dashboard["panels"]) {
        all.extend(list(&panel["targets"]).iter().map(|target| {
            Question {
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

struct Faults<'a>(&'a str, Vec<String>);

impl Faults<'_> {
    fn unless(&mut self, sound: bool, fault: impl std::fmt::Display) {
        if !sound {
            self.1.push(format!("{}: {fault}", self.0));
        }
    }
}

fn check_panel(panel: &Value, dashboard: &Value, faults: &mut Faults<'_>) {
    let title = text(&panel["title"]);
    faults.unless(!title.is_empty(), "a panel without a title");
    faults.unless(KINDS.contains(&text(&panel["type"])), format!("{title}: type {}", panel["type"]));
    if panel["type"] == "row" {
        return;
    }
    faults.unless(text(&panel["description"]).len() > 8, format!("{title}: no description"));
    faults.unless(!text(&panel["fieldConfig"]["defaults"]["unit"]).is_empty(), format!("{title}: no unit"));
    faults.unless(panel["datasource"]["uid"] == DATA_SOURCE, format!("{title}: a data source of its own"));
    let targets = list(&panel["targets"]);
    faults.unless(!targets.is_empty(), format!("{title}: asks nothing"));
    let mut ids = BTreeSet::new();
    let names: Vec<&str> = list(&dashboard["templating"]["list"]).iter().map(|v| text(&v["name"])).collect();
    for target in targets {
        let expression = text(&target["expr"]);
        faults.unless(!expression.is_empty(), format!("{title}: an empty expression"));
        faults
            .unless(target["datasource"]["uid"] == DATA_SOURCE, format!("{title}: {}", target["datasource"]));
        faults.unless(ids.insert(text(&target["refId"])), format!("{title}: refId twice"));
        for used in expression.split('$').skip(1) {
            let used: String = used.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let known =
                names.contains(&used.as_str()) || ["__rate_interval", "__range"].contains(&used.as_str());
            faults.unless(known, format!("{title}: no variable ${used}"));
        }
        // Another's metrics of the same names would be counted in.
        faults.unless(expression.contains("job=~\"$job\""), format!("{title}: not of the jobs chosen"));
    }
}

/// Panels lie within the grid and on no other.
fn check_grid(panels: &[Value], faults: &mut Faults<'_>) {
    let mut taken = BTreeMap::new();
    for panel in panels {
        let title = text(&panel["title"]);
        let [x, y, w, h] =
            ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap_or(u64::MAX));
        let sound = x < COLUMNS && w > 0 && w <= COLUMNS - x && h > 0 && h <= 20 && y < 500;
        faults.unless(sound, format!("{title}: {}", panel["gridPos"]));
        if !sound {
            continue;
        }
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            if let Some(other) = taken.insert(cell, title) {
                faults.unless(false, format!("{title} lies on {other} at {cell:?}"));
                break;
            }
        }
    }
}

#[test]
fn dashboards_are_sound() {
    let dashboards = all();
    let names: Vec<&str> = dashboards.keys().map(String::as_str).collect();
    assert_eq!(names, ["capacity.json", "fairness.json", "health.json", "limits.json"]);
    let mut all_faults = Vec::new();
    for (name, dashboard) in &dashboards {
        let mut faults = Faults(name, Vec::new());
        // Links and bookmarks go by the uid.
        let uid = format!("evenkeel-{}", name.trim_end_matches(".json"));
        faults.unless(dashboard["uid"] == uid.as_str(), format!("uid {}, not {uid}", dashboard["uid"]));
        faults.unless(dashboard.get("id").is_none(), "an id, which belongs to one Grafana");
        faults.unless(dashboard["schemaVersion"] == SCHEMA_VERSION, "schemaVersion");
        faults.unless(!text(&dashboard["title"]).is_empty(), "no title");
        faults.unless(!text(&dashboard["description"]).is_empty(), "no description");
        faults.unless(
            list(&dashboard["tags"]).contains(&"evenkeel".into()),
            "no tag, by which they are linked",
        );
        let links = list(&dashboard["links"]);
        let linked = links.iter().any(|link| link["type"] == "dashboards" && link["tags"][0] == "evenkeel");
        faults.unless(linked, "no links to the others");
        let list_of_variables = list(&dashboard["templating"]["list"]);
        let source = list_of_variables.first().is_some_and(|variable| {
            variable["type"] == "datasource"
                && variable["name"] == "datasource"
                && variable["query"] == "prometheus"
        });
        faults.unless(source, "its first variable is not the data source");
        for variable in variables(dashboard) {
            let name = text(&variable["name"]);
            faults.unless(variable["datasource"]["uid"] == DATA_SOURCE, format!("{name}: its data source"));
            faults.unless(
                variable["allValue"] == ".*",
                format!("{name}: a label that is missing fits no value"),
            );
            let used = dashboard["panels"].to_string().contains(&format!("=~\\\"${name}\\\""));
            faults.unless(used, format!("{name}: not used"));
        }
        let panels = list(&dashboard["panels"]);
        faults.unless(panels.len() >= 12, format!("{} panels", panels.len()));
        let mut ids = BTreeSet::new();
        for panel in panels {
            faults.unless(
                panel["id"].as_u64().is_some_and(|id| ids.insert(id)),
                format!("{}: its id", panel["title"]),
            );
            check_panel(panel, dashboard, &mut faults);
        }
        check_grid(panels, &mut faults);
        all_faults.append(&mut faults.1);
    }
    assert!(all_faults.is_empty(), "{}", all_faults.join("\n"));
}

/// A name misspelt, with something in its place where there is no series, would not be noticed otherwise.
#[test]
fn whatever_is_asked_for_is_documented() {
    let documented = fs::read_to_string(paths::workspace().join("docs/metrics.md")).unwrap();
    let mut asked: Vec<(String, String)> = Vec::new();
    for (name, dashboard) in all() {
        asked.extend(questions(&name, &dashboard).into_iter().map(|asked| (asked.place, asked.expression)));
    }
    let rule = |rule: Value| (text(&rule["alert"]).to_owned(), text(&rule["expr"]).to_owned());
    asked.extend(super::rules::all().into_iter().map(rule));
    let mut names = BTreeSet::new();
    for (place, expression) in asked {
        let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
        for word in words.filter(|word| word.starts_with("evenkeel_") || word.starts_with("process_")) {
            let parts = ["_bucket", "_sum", "_count"];
            let name = parts.iter().find_map(|part| word.strip_suffix(part)).unwrap_or(word);
            assert!(documented.contains(&format!("\n| `{name}` | ")), "{place}: {word} is no metric");
            names.insert(name.to_owned());
        }
    }
    assert!(names.len() > 40, "{}", names.len());
}

/// What sidecars know of a pool together is the same at each of them: a sum over sidecars would be a multiple of it.
#[test]
fn what_all_sidecars_know_is_not_summed() {
    let shared =
        ["in_flight", "endpoint_cap", "endpoint_weight", "pool_capacity", "pool_endpoints", "holders"];
    let mut faults = Vec::new();
    let mut looked_at = 0;
    for (name, dashboard) in all() {
        for Question { place, expression, .. } in questions(&name, &dashboard) {
            for metric in shared.map(|metric| format!("evenkeel_{metric}{{")) {
                for (at, _) in expression.match_indices(&metric).filter(|_| !place.contains("variable")) {
                    looked_at += 1;
                    // max by (…) ( or min by (…) ( stands right before it.
                    let before = expression[..at].trim_end_matches('(').trim_end();
                    let clause = before.rfind("by (").map_or("", |by| before[..by].trim_end());
                    if !before.ends_with(')') || !(clause.ends_with("max") || clause.ends_with("min")) {
                        faults.push(format!("{place}: {expression}"));
                    }
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(looked_at > 30, "{looked_at}");
}
