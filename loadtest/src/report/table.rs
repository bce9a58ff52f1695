//! The comparison as a text table.

use super::Report;
use crate::{
    lab::Policy,
    verdict::{Finding, Order},
};

/// Formats one line per policy, followed by the verdict.
pub fn table(report: &Report) -> String {
    let mut out = String::new();
    if !report.policies.is_empty() {
        out.push_str(&policies(report));
    }
    if !report.machine.explanation.is_empty() {
        out.push_str(&format!("{}\n", report.machine.explanation));
    }
    match report.verdict.rejection() {
        Some(rejection) => out.push_str(&format!("Verdict: {rejection}\n")),
        None => out.push_str(&verdict(report)),
    }
    out
}

fn policies(report: &Report) -> String {
    let mut out = format!(
        "{:<22} {:>8} {:>8} {:>8} {:>8}  {:>8} {:>8}  {:>6} {:>9} {:>6} {:>5} {:>6} {:>5} {:>8}\n",
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
        "hits",
        "slo",
        "cpu",
        "sim p99"
    );
    for (policy, p) in &report.policies {
        out.push_str(&format!(
            "{:<22} {:>8.0} {:>8.0} {:>8.0} {:>8.0}  {:>8.0} {:>8.0}  {:>6} {:>9.1} {:>5.0}% {:>4.0}% {:>5.1}% {:>4.0}% {:>8.0}\n",
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
            p.hit_rate * 100.0,
            p.slo_attainment * 100.0,
            p.cpu.usage.busy * 100.0,
            p.simulated_ttft_p99_ms,
        ));
    }
    out.push_str(&format!(
        "Times are in trace milliseconds; one wall millisecond is {:.1} trace milliseconds. slo: {}.\n",
        report.setup.time_scale, report.setup.slo
    ));
    out
}

fn verdict(report: &Report) -> String {
    let Some(headline) = report.headline() else { return String::new() };
    let mut out = format!("Verdict: p99 time to first token of Evenkeel: {:.0} ms", headline.evenkeel_p99_ms);
    let rival = "Envoy's least request";
    let finding = report.verdict.findings.get(&Policy::EnvoyLeastRequest);
    out.push_str(&match finding.map(|finding| (finding.order, finding.times_lower)) {
        Some((Order::Ahead, times)) => format!(", {times:.1} times lower than with {rival}"),
        Some((Order::Behind, times)) => format!(", {:.1} times higher than with {rival}", 1.0 / times),
        Some((Order::Level, _)) => format!(", not significantly different from that with {rival}"),
        None => String::new(),
    });
    if let Some(above) = headline.above_ideal {
        out.push_str(&format!(", {:+.1} % compared to the ideal policy", above * 100.0));
    }
    out.push_str(".\n");
    for (policy, finding) in &report.verdict.findings {
        out.push_str(&format!("  {} {}\n", order(finding), policy.name()));
    }
    for ratios in report.ratios() {
        out.push_str(&format!("{ratios}\n"));
    }
    out
}

fn order(finding: &Finding) -> String {
    let Finding { times_lower, simulated_times_lower, significant_times, .. } = *finding;
    match finding.order {
        Order::Ahead => {
            format!("{times_lower:.1} times lower (in simulation {simulated_times_lower:.1}) than with")
        }
        Order::Behind => format!(
            "{:.1} times higher (in simulation {:.1}) than with",
            1.0 / times_lower,
            1.0 / simulated_times_lower
        ),
        Order::Level => format!(
            "not significantly different (factor {:.2}, significant from {significant_times:.2}) from that with",
            times_lower.max(1.0 / times_lower)
        ),
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        lab::Policy,
        report::tests::{not_valid, sample},
        verdict::Order,
    };

    #[test]
    fn every_policy_has_a_line() {
        let (mut report, _) = sample();
        let text = super::table(&report);
        for policy in Policy::ALL {
            assert!(text.lines().any(|line| line.starts_with(policy.name())), "{text}");
        }
        assert!(
            text.contains("Verdict: p99 time")
                && text.contains("times lower than with Envoy's least request")
        );
        let ratios =
            "under evenkeel_least_request, 990 requests, with 95 % intervals: p50 0.50 (0.40 to 0.60), p90 ";
        assert!(text.contains(ratios), "{text}");
        assert!(text.contains("  2.0 times lower (in simulation 2.0) than with envoy_random"), "{text}");
        for finding in report.verdict.findings.values_mut() {
            (finding.order, finding.times_lower) = (Order::Level, 0.8);
        }
        let text = super::table(&report);
        assert!(
            text.contains(" ms, not significantly different from that with Envoy's least request, "),
            "{text}"
        );
        assert!(!text.contains("times lower"), "{text}");
        assert!(
            text.contains("different (factor 1.25, significant from 1.50) from that with envoy_random"),
            "{text}"
        );
    }

    #[test]
    fn an_invalid_comparison_has_a_reason_and_no_verdict() {
        let text = super::table(&not_valid().0);
        assert!(text.contains("Verdict: not valid on this machine, because the CPU & more.\n"), "{text}");
        assert!(!text.contains("times lower") && text.contains("evenkeel_least_work "), "{text}");
        let (mut nothing_ran, _) = not_valid();
        nothing_ran.policies.clear();
        nothing_ran.machine.explanation.clear();
        assert!(super::table(&nothing_ran).starts_with("Verdict: not valid"));
    }
}
