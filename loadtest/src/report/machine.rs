//! The sections of the page that show whether the machine kept up.

use std::fmt::Write;

use super::{
    Report,
    markup::{escape, title},
};
use crate::verdict::BUSY_MAX;

/// Lists why the comparison is not valid.
pub(super) fn rejection(report: &Report) -> String {
    let consequence = if report.policies.is_empty() {
        "No policy ran."
    } else {
        "The machine, and not the policies, may have decided the results below. They can be the opposite of the truth."
    };
    format!(
        "<section class=\"rejected\"><h2>No verdict, because</h2><ul>{}</ul><p class=\"note\">{consequence}</p></section>\n",
        report
            .verdict
            .reasons
            .iter()
            .map(|reason| format!("<li>{}</li>", escape(reason)))
            .collect::<String>()
    )
}

/// Shows what the machine did while each policy ran.
pub(super) fn measures(report: &Report) -> String {
    let scale = report.setup.time_scale;
    let mut out = format!(
        "<section><h2>Machine</h2><p class=\"note\">A verdict requires that the CPU is at most {:.0} % busy, and that the delays by the \
         machine are short compared with the time to first token. The delays are 99th percentiles in milliseconds on the model \
         servers’ clock.</p><div class=\"scroll\"><table><tr><th>policy</th><th>CPU busy</th><th>cores used</th>\
         <th>by others</th><th>threads late</th><th>requests sent late</th><th>tokens sent late</th><th>not from the shared table</th></tr>",
        BUSY_MAX * 100.0
    );
    for (policy, p) in &report.policies {
        let cpu = p.cpu.usage;
        let _ = write!(
            out,
            "<tr><td><i style=\"background:var(--{policy})\"></i>{}</td><td>{:.0} %</td><td>{:.1}</td><td>{:.1}</td>",
            title(*policy),
            cpu.busy * 100.0,
            cpu.ours_cores,
            cpu.others_cores
        );
        for late in [p.scheduling_late_wall_ms, p.generator_late_wall_ms, p.hosts_late_wall_ms] {
            let _ = write!(out, "<td>{:.0}</td>", late.p99 * scale);
        }
        let _ = write!(out, "<td>{}</td></tr>", p.not_shared);
    }
    out.push_str("</table></div></section>\n");
    out
}
