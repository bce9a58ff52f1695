//! The comparison as a text table.

use super::Report;

/// Formats one line per policy, followed by the headline.
pub fn table(report: &Report) -> String {
    let mut out = format!(
        "{:<20} {:>8} {:>8} {:>8} {:>8}  {:>8} {:>8}  {:>6} {:>9} {:>6} {:>5} {:>8}\n",
        "policy",
        "ttft p50",
        "p90",
        "p99",
        "p99.9",
        "e2e p50",
        "p99",
        "errors",
        "imbalance",
        "util",
        "cpu",
        "sim p99"
    );
    for (policy, p) in &report.policies {
        out.push_str(&format!(
            "{:<20} {:>8.0} {:>8.0} {:>8.0} {:>8.0}  {:>8.0} {:>8.0}  {:>6} {:>9.1} {:>5.0}% {:>4.0}% {:>8.0}\n",
            policy.name(),
            p.ttft_ms.p50,
            p.ttft_ms.p90,
            p.ttft_ms.p99,
            p.ttft_ms.p999,
            p.e2e_ms.p50,
            p.e2e_ms.p99,
            p.errors,
            p.imbalance.mean,
            p.utilisation * 100.0,
            p.cpu.machine * 100.0,
            p.simulated_ttft_p99_ms,
        ));
    }
    out.push_str(&format!(
        "Times are in trace milliseconds; one wall millisecond is {:.0} trace milliseconds.\n",
        report.setup.time_scale
    ));
    if let Some(headline) = report.headline() {
        out.push_str(&format!("p99 time to first token of Evenkeel: {:.0} ms", headline.evenkeel_p99_ms));
        if let Some(times) = headline.times_better {
            out.push_str(&format!(", {times:.1} times lower than Envoy's least request"));
        }
        if let Some(above) = headline.above_ideal {
            out.push_str(&format!(", {:+.1} % compared to the ideal policy", above * 100.0));
        }
        out.push_str(".\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use crate::{lab::Policy, report::tests::sample};

    #[test]
    fn every_policy_has_a_line() {
        let text = super::table(&sample().0);
        for policy in Policy::ALL {
            assert!(text.lines().any(|line| line.starts_with(policy.name())), "{text}");
        }
        assert!(text.contains("times lower than Envoy's least request"));
    }
}
