//! Compares docs/metrics.md with the registered metrics, in both directions.

use std::collections::{BTreeMap, BTreeSet};

use super::{Metrics, catalogue::MetricDescription};

const DOCUMENT: &str = include_str!("../../../docs/metrics.md");

/// Returns the trimmed cells of each row of each table.
fn rows() -> impl Iterator<Item = Vec<&'static str>> {
    let rows = DOCUMENT.lines().filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'));
    rows.map(|row| row.split('|').map(str::trim).collect())
}

/// Returns the texts between backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

struct Row {
    kind: String,
    labels: Vec<String>,
    meaning: String,
}

/// Returns the documented metrics by name.
fn documented() -> BTreeMap<String, Row> {
    let mut all = BTreeMap::new();
    for cells in rows() {
        let [name, kind, labels, meaning, _watch] = cells[..] else { continue };
        let [name] = &quoted(name)[..] else { continue };
        let row = Row { kind: kind.to_owned(), labels: quoted(labels), meaning: meaning.to_owned() };
        assert!(all.insert(name.clone(), row).is_none(), "docs/metrics.md has {name} twice");
    }
    all
}

#[test]
fn the_document_describes_every_metric() {
    let mut documented = documented();
    let mut faults = Vec::new();
    for MetricDescription { name, kind, labels, help } in Metrics::new().unwrap().catalogue().descriptions() {
        let Some(row) = documented.remove(&name) else {
            faults.push(format!("missing: | `{name}` | {kind} | {labels:?} | {help} | |"));
            continue;
        };
        if row.kind != kind || row.labels != labels {
            faults.push(format!(
                "{name}: is a {kind} with {labels:?}, documented as {} with {:?}",
                row.kind, row.labels
            ));
        }
        if !row.meaning.starts_with(&help) {
            faults.push(format!("{name}: its meaning must begin with its help text, {help:?}"));
        }
    }
    faults.extend(documented.keys().map(|name| format!("{name}: documented but not registered")));
    assert!(faults.is_empty(), "docs/metrics.md:\n{}", faults.join("\n"));
}

/// Without a bound on a label's values, a client could create any number of series.
#[test]
fn the_document_states_a_bound_for_every_label() {
    let stated: BTreeSet<String> = rows()
        .filter(|cells| cells.len() == 2)
        .filter_map(|cells| quoted(cells[0]).first().cloned())
        .collect();
    let descriptions = Metrics::new().unwrap().catalogue().descriptions();
    let used: BTreeSet<String> = descriptions.into_iter().flat_map(|metric| metric.labels).collect();
    assert_eq!(used, stated, "labels of metrics, and labels whose bound docs/metrics.md states");
}

/// Label values that exist from the start come from enums, so the document can explain all of them.
#[test]
fn the_document_explains_every_fixed_label_value() {
    let (documented, metrics) = (documented(), Metrics::new().unwrap());
    let mut faults = Vec::new();
    for family in metrics.catalogue().gather() {
        let explained: BTreeSet<String> = quoted(&documented[family.name()].meaning).into_iter().collect();
        for label in family.get_metric().iter().flat_map(prometheus::proto::Metric::get_label) {
            if label.name() != "version" && !explained.contains(label.value()) {
                faults.push(format!(
                    "{}: {}={:?} is not explained",
                    family.name(),
                    label.name(),
                    label.value()
                ));
            }
        }
    }
    assert!(faults.is_empty(), "docs/metrics.md:\n{}", faults.join("\n"));
}
