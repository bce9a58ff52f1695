//! The report of the demonstration: one comparison for each trace.

use std::{collections::BTreeMap, fmt::Write, fs, io, path::Path};

use serde::{Deserialize, Serialize};

use super::{
    Report, Series, html,
    markup::{escape, thousands, title},
};
use crate::lab::Policy;

/// Content of the demonstration's `report.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DemoReport {
    /// Whether the comparisons on all traces are valid.
    pub valid: bool,
    pub traces: BTreeMap<String, TraceReport>,
}

/// The comparison on one trace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TraceReport {
    /// The same as `verdict.valid`.
    pub valid: bool,
    #[serde(flatten)]
    pub report: Report,
}

/// One trace of the demonstration, in the order of the page.
#[derive(Clone, Debug)]
pub struct DemoPart {
    /// Key in `report.json`.
    pub name: &'static str,
    /// What distinguishes this trace from the others.
    pub about: &'static str,
    pub report: Report,
    pub series: BTreeMap<Policy, Series>,
}

impl DemoReport {
    pub fn of(parts: &[DemoPart]) -> Self {
        let trace = |part: &DemoPart| {
            let report = TraceReport { valid: part.report.verdict.valid, report: part.report.clone() };
            (part.name.to_owned(), report)
        };
        let traces: BTreeMap<String, TraceReport> = parts.iter().map(trace).collect();
        Self { valid: traces.values().all(|trace| trace.valid), traces }
    }
}

/// Writes `report.json` and `report.html` into `dir`.
pub fn write_demo(dir: &Path, parts: &[DemoPart]) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let mut json = serde_json::to_string_pretty(&DemoReport::of(parts))?;
    json.push('\n');
    fs::write(dir.join("report.json"), json)?;
    fs::write(dir.join("report.html"), page(parts))
}

fn page(parts: &[DemoPart]) -> String {
    let mut out = overview(parts);
    for part in parts {
        let _ = write!(
            out,
            "<p class=\"part\" id=\"{}\">{}: {}</p>\n{}",
            part.name,
            escape(&part.report.setup.trace),
            part.about,
            html::comparison(&part.report, &part.series)
        );
    }
    html::document("Evenkeel: balancing policies on two traces", &out)
}

/// Lists all results that are valid in one table.
fn overview(parts: &[DemoPart]) -> String {
    let mut out = String::from(
        "<section><h2>Time to first token on each trace</h2><p class=\"note\">Milliseconds on the model servers’ clock.</p>\
         <div class=\"scroll\"><table><tr><th>policy</th><th>p50</th><th>p90</th><th>p99</th><th>mean</th><th>in time</th>\
         <th>prefix hits</th><th>errors</th></tr>",
    );
    for part in parts {
        let _ = write!(
            out,
            "<tr><th colspan=\"8\"><a href=\"#{}\">{}: {}</a>{}</th></tr>",
            part.name,
            escape(&part.report.setup.trace),
            part.about,
            if part.report.verdict.valid { "" } else { ", not valid on this machine" }
        );
        for (policy, p) in part.report.policies.iter().filter(|_| part.report.verdict.valid) {
            let ours = if policy.is_evenkeel() { " class=\"ours\"" } else { "" };
            let _ = write!(
                out,
                "<tr{ours}><td><i style=\"background:var(--{policy})\"></i>{}</td>",
                title(*policy)
            );
            for ms in [p.ttft_ms.p50, p.ttft_ms.p90, p.ttft_ms.p99, p.ttft_ms.mean] {
                let _ = write!(out, "<td>{}</td>", thousands(ms.round() as usize));
            }
            let (slo, hits) = (p.slo_attainment * 100.0, p.hit_rate * 100.0);
            let _ = write!(out, "<td>{slo:.1} %</td><td>{hits:.0} %</td><td>{}</td></tr>", p.errors);
        }
    }
    out.push_str("</table></div></section>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{not_valid, sample};

    fn part(name: &'static str, (report, series): (Report, BTreeMap<Policy, Series>)) -> DemoPart {
        DemoPart { name, about: "prompts", report, series }
    }

    #[test]
    fn the_json_has_every_trace() {
        let report = DemoReport::of(&[part("a", sample()), part("b", not_valid())]);
        assert!(!report.valid);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(
            (&json["traces"]["a"]["valid"], &json["traces"]["b"]["valid"]),
            (&true.into(), &false.into())
        );
        for policy in Policy::ALL {
            let result = &json["traces"]["a"]["policies"][policy.name()];
            for key in ["p50", "p90", "p99", "mean"] {
                assert!(result["ttft_ms"][key].is_f64(), "{policy}: {key}");
            }
            assert!(result["hit_rate"].is_f64() && result["errors"].is_u64());
        }
        assert_eq!(serde_json::from_value::<DemoReport>(json).unwrap(), report);
    }

    #[test]
    fn the_page_shows_every_trace_once() {
        let html = page(&[part("a", sample()), part("b", not_valid())]);
        assert_eq!(html.matches("<html").count(), 1);
        assert!(
            html.contains("id=\"a\"")
                && html.contains("href=\"#b\"")
                && html.contains("not valid on this machine</th>")
        );
        assert_eq!(html.matches("<h1>").count(), 2);
    }
}
