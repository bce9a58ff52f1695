//! Holds docs/metrics.md against what is declared, both ways.

use std::collections::{BTreeMap, BTreeSet};

use super::{Declared, Metrics};

const DOCUMENT: &str = include_str!("../../../docs/metrics.md");

/// A row of a table: its cells, without blanks around them.
fn rows() -> impl Iterator<Item = Vec<&'static str>> {
    let rows = DOCUMENT.lines().filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'));
    // `\|` is a bar within a cell; none of what is compared has one.
    rows.map(|row| row.split('|').map(str::trim).collect())
}

/// What stands between backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Of each metric with a row: its type, labels and meaning.
fn documented() -> BTreeMap<String, (String, Vec<String>, String)> {
    let mut all = BTreeMap::new();
    for cells in rows() {
        let [name, kind, labels, meaning] = cells[..] else { continue };
        let [name] = &quoted(name)[..] else { continue };
        let row = (kind.to_owned(), quoted(labels), meaning.to_owned());
        assert!(all.insert(name.clone(), row).is_none(), "docs/metrics.md has {name} twice");
    }
    all
}

#[test]
fn every_metric_is_documented_as_it_is() {
    let mut documented = documented();
    let mut faults = Vec::new();
    for Declared { name, kind, labels, help } in Metrics::new().unwrap().declared() {
        let Some(found) = documented.remove(&name) else {
            faults.push(format!("missing: | `{name}` | {kind} | {labels:?} | {help} |"));
            continue;
        };
        if found.0 != kind || found.1 != labels {
            faults.push(format!(
                "{name}: is a {kind} with {labels:?}, documented as {} with {:?}",
                found.0, found.1
            ));
        }
        if !found.2.starts_with(&help) {
            faults.push(format!("{name}: its meaning must begin with its help text, {help:?}"));
        }
    }
    faults.extend(documented.keys().map(|name| format!("{name}: documented, and not declared")));
    assert!(faults.is_empty(), "docs/metrics.md:\n{}", faults.join("\n"));
}

/// A label without a stated bound would be a metric that a client can make as large as it likes.
#[test]
fn every_label_has_a_stated_bound() {
    let stated: BTreeSet<String> = rows()
        .filter(|cells| cells.len() == 2)
        .filter_map(|cells| quoted(cells[0]).first().cloned())
        .collect();
    let declared = Metrics::new().unwrap().declared();
    let used: BTreeSet<String> = declared.into_iter().flat_map(|metric| metric.labels).collect();
    assert_eq!(used, stated, "labels of metrics, and those docs/metrics.md states a bound of");
}

/// Values known from the start are those of enums: each has to be explained.
#[test]
fn every_value_known_from_the_start_is_documented() {
    let (documented, metrics) = (documented(), Metrics::new().unwrap());
    let mut faults = Vec::new();
    for family in metrics.gather() {
        let told: BTreeSet<String> = quoted(&documented[family.name()].2).into_iter().collect();
        for label in family.get_metric().iter().flat_map(prometheus::proto::Metric::get_label) {
            if label.name() != "version" && !told.contains(label.value()) {
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
