//! The comparison as one self-contained page with inline styles and charts.

use std::{collections::BTreeMap, fmt::Write};

use super::{
    Noise, PolicyReport, Report, Series, machine,
    markup::{escape, thousands, title},
    plots::{self, HostChart},
};
use crate::{
    engine::EngineParams,
    lab::Policy,
    verdict::{Finding, Order},
};

const STYLE: &str = include_str!("style.css");

pub(super) fn page(report: &Report, series: &BTreeMap<Policy, Series>) -> String {
    document("Evenkeel: balancing policies on a real trace", &comparison(report, series))
}

/// Returns a page with this title and content.
pub(super) fn document(title: &str, content: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{content}</main>\n</body>\n</html>\n"
    )
}

/// Returns the heading and the sections of one comparison.
pub(super) fn comparison(report: &Report, series: &BTreeMap<Policy, Series>) -> String {
    let mut out = head(report);
    // Charts would show what the machine decided as if the policies had decided it.
    if report.verdict.valid {
        out.push_str(&charts(report, series));
    }
    if !report.policies.is_empty() {
        out.push_str(&table(report));
        out.push_str(&machine::measures(report));
    }
    out.push_str(&method(report));
    if !report.noise.paths.is_empty() {
        out.push_str(&noise(&report.noise, report.setup.time_scale));
    }
    out
}

fn charts(report: &Report, series: &BTreeMap<Policy, Series>) -> String {
    let mut out = bars(report);
    let _ = writeln!(
        out,
        "<section><h2>Time to first token</h2>\
         <p class=\"note\">Fraction of requests whose first token arrived within a given time. Each step up leaves a tenth of the requests, so the \
         right end of a curve is its slow tail. Further left is better.</p>{}{}</section>",
        legend(series),
        plots::ttft_cdf(series)
    );
    out.push_str(&multiples(report, series));
    out.push_str(&work(report, series));
    let _ = writeln!(
        out,
        "<section><h2>Imbalance over time</h2><p class=\"note\">Requests in flight on the busiest host minus \
         the mean of all hosts. Lower is better; 0 is perfectly balanced.</p>{}{}</section>",
        legend(series),
        plots::imbalance(series)
    );
    out
}

fn head(report: &Report) -> String {
    let setup = &report.setup;
    let headline = report.headline();
    let heading = heading(report);
    let mut out = format!("<h1>{heading}</h1>\n");
    if !report.verdict.valid {
        out.push_str(&machine::rejection(report));
        return out;
    }
    let _ = writeln!(
        out,
        "<p class=\"lead\">{} requests of {} through {} real Envoys to {} model servers at {:.0} % load, \
         once under each policy.</p>",
        thousands(setup.requests),
        escape(&setup.trace),
        setup.gateways,
        setup.hosts,
        setup.load * 100.0
    );
    if setup.synthetic {
        out.push_str("<p class=\"note\">This trace is synthetic, with the statistics of a public one.</p>\n");
    }
    let Some(headline) = headline else { return out };
    let errors: usize = report.policies.values().map(|p| p.errors).sum();
    let mut figure = |value: String, what: &str| {
        let _ = write!(out, "<div class=\"figure\"><b>{value}</b><span>{what}</span></div>");
    };
    figure(plots::duration(headline.evenkeel_p99_ms), "p99 time to first token with Evenkeel");
    if let Some(p) = report.policies.get(&Policy::EnvoyLeastRequest) {
        figure(plots::duration(p.ttft_ms.p99), "p99 time to first token with Envoy’s least request");
    }
    if let Some(above) = headline.above_ideal {
        figure(
            format!("{:+.1} %", above * 100.0),
            "compared to the ideal policy, which always knows every request in flight",
        );
    }
    figure(errors.to_string(), "errors in all runs");
    let at = out.find("<div class=\"figure\">").unwrap_or(out.len());
    out.insert_str(at, "<div class=\"figures\">");
    out.push_str("</div>\n");
    out
}

fn heading(report: &Report) -> String {
    if !report.verdict.valid {
        return "Not valid on this machine".to_owned();
    }
    let finding = report.verdict.findings.get(&Policy::EnvoyLeastRequest);
    match finding.map(|finding| (finding.order, finding.times_lower)) {
        Some((Order::Ahead, times)) => {
            format!(
                "The p99 time to first token is <em>{times:.1} times lower</em> than with Envoy’s least request"
            )
        }
        Some((Order::Level, _)) => {
            "The p99 time to first token is about the same as with Envoy’s least request".to_owned()
        }
        Some((Order::Behind, times)) => {
            format!(
                "The p99 time to first token is {:.1} times higher than with Envoy’s least request",
                1.0 / times
            )
        }
        None => "Balancing policies on a trace of LLM requests".to_owned(),
    }
}

fn bars(report: &Report) -> String {
    let longest = report.policies.values().map(|p| p.ttft_ms.p99).fold(1.0, f64::max);
    let mut out = String::from("<section><h2>p99 time to first token</h2><div class=\"bars\">");
    for (policy, p) in &report.policies {
        let finding = report.verdict.findings.get(policy).map(order).unwrap_or_default();
        let _ = write!(
            out,
            "<div class=\"name\">{}</div><div class=\"bar\"><i style=\"width:{:.1}%;background:var(--{policy})\"></i>{}\
             <small>{finding}</small></div>",
            title(*policy),
            p.ttft_ms.p99 / longest * 65.0,
            plots::duration(p.ttft_ms.p99)
        );
    }
    out.push_str("</div></section>\n");
    out
}

fn legend(series: &BTreeMap<Policy, Series>) -> String {
    let mut out = String::from("<div class=\"legend\">");
    for policy in series.keys() {
        let _ = write!(out, "<span><i style=\"background:var(--{policy})\"></i>{}</span>", title(*policy));
    }
    out.push_str("</div>");
    out
}

fn multiples(report: &Report, series: &BTreeMap<Policy, Series>) -> String {
    let slots = report.setup.engine.slots;
    let highest = series.values().flat_map(|s| &s.in_flight).flat_map(|s| &s.hosts).max().copied();
    let chart = HostChart {
        title: "Requests in flight",
        values: |sample| &sample.hosts,
        max: (highest.unwrap_or_default() as f64).max(slots as f64) * 1.05,
        mark: Some(slots as f64),
    };
    let mut out = format!(
        "<section><h2>Requests in flight on each host</h2><p class=\"note\">One line per host. The dashed line marks the {slots} \
         slots; requests above it wait in the host’s queue. The closer the lines, the more balanced \
         the load.</p><div class=\"multiples\">"
    );
    for (policy, s) in series {
        let imbalance = report.policies.get(policy).map_or(0.0, |p| p.imbalance.mean);
        let _ = write!(
            out,
            "<div><h3>{}<small>busiest host: {imbalance:.1} requests above the mean</small></h3>{}</div>",
            title(*policy),
            plots::hosts(*policy, s, &chart)
        );
    }
    out.push_str("</div></section>\n");
    out
}

/// Shows the work that waits on each host, if policies by work ran.
fn work(report: &Report, series: &BTreeMap<Policy, Series>) -> String {
    if !report.policies.keys().any(|policy| policy.is_by_work()) {
        return String::new();
    }
    let highest = series.values().flat_map(|s| &s.in_flight).flat_map(|s| &s.unread).max().copied();
    let chart = HostChart {
        title: "Unread prompt tokens",
        values: |sample| &sample.unread,
        max: (highest.unwrap_or_default() as f64).max(1.0) * 1.05,
        mark: None,
    };
    let mut out = String::from(
        "<section><h2>Work on each host</h2><p class=\"note\">Prompt tokens that each host has not read yet, one line per \
         host. A new prompt waits for all of them.</p><div class=\"multiples\">",
    );
    for (policy, s) in series {
        let busiest = report.policies.get(policy).map_or(0.0, |p| p.unread_tokens.busiest_mean);
        let _ = write!(
            out,
            "<div><h3>{}<small>busiest host: {} tokens on average</small></h3>{}</div>",
            title(*policy),
            thousands(busiest as usize),
            plots::hosts(*policy, s, &chart)
        );
    }
    out.push_str("</div></section>\n");
    out
}

fn table(report: &Report) -> String {
    let heading = if report.verdict.valid { "All results" } else { "Results that are not valid" };
    let mut out = format!(
        "<section><h2>{heading}</h2><p class=\"note\">Milliseconds on the model servers’ clock. In time: {}.</p><div class=\"scroll\"><table>\
         <tr><th>policy</th><th>TTFT p50</th><th>p90</th><th>p99</th><th>p99.9</th><th>full response p50</th><th>p99</th>\
         <th>simulated TTFT p99</th><th>requests</th><th>errors</th><th>slots busy</th><th>prefix hits</th><th>in time</th></tr>",
        report.setup.slo
    );
    for (policy, p) in &report.policies {
        let ours = if policy.is_evenkeel() { " class=\"ours\"" } else { "" };
        let _ =
            write!(out, "<tr{ours}><td><i style=\"background:var(--{policy})\"></i>{}</td>", title(*policy));
        let PolicyReport { ttft_ms: first, e2e_ms: last, .. } = p;
        for value in
            [first.p50, first.p90, first.p99, first.p999, last.p50, last.p99, p.simulated_ttft_p99_ms]
        {
            let _ = write!(out, "<td>{}</td>", thousands(value.round() as usize));
        }
        let _ = write!(
            out,
            "<td>{}</td><td>{}</td><td>{:.0} %</td><td>{:.0} %</td><td>{:.1} %</td></tr>",
            thousands(p.requests),
            p.errors,
            p.utilisation * 100.0,
            p.hit_rate * 100.0,
            p.slo_attainment * 100.0
        );
    }
    out.push_str("</table></div>");
    for ratios in report.ratios().iter().filter(|_| report.verdict.valid) {
        let _ = write!(out, "<p class=\"note\">{ratios}</p>");
    }
    out.push_str("</section>\n");
    out
}

fn order(finding: &Finding) -> String {
    match finding.order {
        Order::Ahead => format!("Evenkeel: {:.1} times lower", finding.times_lower),
        Order::Behind => format!("Evenkeel: {:.1} times higher", 1.0 / finding.times_lower),
        Order::Level => "Evenkeel: no significant difference".to_owned(),
    }
}

fn method(report: &Report) -> String {
    let s = &report.setup;
    let e = &s.engine;
    let mut out = String::from("<section><h2>Method</h2><dl>");
    let mut item = |name: &str, text: String| {
        let _ = write!(out, "<dt>{name}</dt><dd>{text}</dd>");
    };
    item(
        "Trace",
        format!(
            "{}, {:.0} s from second {:.0}: {} requests with a mean of {:.0} prompt and {:.0} output tokens. Arrivals are {:.2} \
             times as fast as recorded, to reach the load.",
            escape(&s.trace),
            s.slice_duration_s,
            s.slice_start_s,
            thousands(s.requests),
            s.prompt_mean,
            s.output_mean,
            s.arrival_factor
        ),
    );
    item(
        "Load",
        format!(
            "{:.2} of the hosts’ capacity. Open loop: each request is sent at its time in the trace, \
             however slow the responses are, and its latency is measured from that time.",
            s.load
        ),
    );
    item(
        "Model servers",
        format!(
            "{} mock hosts with continuous batching and {} slots each. A step takes {} ms, plus {} ms per decoding sequence, plus \
             {} ms per prompt token (at most {} tokens per step). Requests without a slot wait in a first-in, first-out queue.{}",
            s.hosts,
            e.slots,
            e.base_ms,
            e.per_seq_ms,
            e.per_prefill_token_ms,
            e.prefill_budget,
            contexts(e)
        ),
    );
    item(
        "Gateways",
        format!(
            "{} Envoy processes with {} worker each; requests are distributed over them {}. Envoy’s least request uses its default: \
             of two random hosts, the host with fewer requests from this gateway.",
            s.gateways,
            s.envoy_concurrency,
            match s.spread {
                crate::replay::Spread::Random => "at random",
                crate::replay::Spread::RoundRobin => "in turn",
            }
        ),
    );
    if report.policies.keys().any(|policy| policy.is_evenkeel()) {
        item(
            "Evenkeel",
            format!(
                "{} sidecars over one Redis. The plugin in Envoy asks its sidecar for the host of each request.{}",
                s.sidecars,
                pools(&s.pools)
            ),
        );
    }
    item(
        "Ideal",
        "The load generator chooses the host with the fewest requests in flight from one exact table. By work, it chooses \
         the host with the fewest unread prompt tokens, and knows the prefix caches of the hosts."
            .into(),
    );
    if s.time_scale > 0.0 {
        item(
            "Time",
            format!(
                "The model servers run {} times as fast as real time: one wall millisecond is {} ms here. {}",
                s.time_scale,
                s.time_scale,
                escape(&report.machine.explanation)
            ),
        );
    }
    out.push_str("</dl></section>\n");
    out
}

/// Describes the pools in a sentence that follows others.
fn pools(pools: &BTreeMap<Policy, String>) -> String {
    let pool = |(policy, lines): (&Policy, &String)| {
        format!("<code>{}</code> under {}", escape(&lines.replace('\n', ", ")), title(*policy))
    };
    let pools: Vec<String> = pools.iter().map(pool).collect();
    if pools.is_empty() { String::new() } else { format!(" The pool has {}.", pools.join("; ")) }
}

/// Describes what contexts and prefix caches change, in sentences that follow others.
fn contexts(engine: &EngineParams) -> String {
    let mut out = String::new();
    if engine.per_kv_token_ms > 0.0 {
        let per_million = engine.per_kv_token_ms * 1e6;
        let _ = write!(out, " A step takes {per_million:.0} ms more per million tokens in the KV cache.");
    }
    if engine.attention_tokens > 0.0 {
        let _ = write!(
            out,
            " After a context of {} tokens, reading takes twice as long.",
            thousands(engine.attention_tokens as usize)
        );
    }
    if engine.cache_tokens > 0 {
        let _ = write!(
            out,
            " Each host has a prefix cache of {} tokens, empty at the start of each policy.",
            thousands(engine.cache_tokens as usize)
        );
    }
    out
}

fn noise(noise: &Noise, scale: f64) -> String {
    let mut out = format!(
        "<section><h2>Noise</h2><p class=\"note\">The load tester sent single small requests through the idle system. Their first token is expected after {:.1} ms; the table shows the additional latency. \
         It comes from the machine, the network stack and the gateway, and is part of every result above \
         ({scale} ms here are 1 ms of wall time). Differences between policies that are smaller than this latency are not significant.</p><div class=\"scroll\"><table><tr><th>path</th><th>requests</th><th>p50, wall</th><th>p99, wall</th>\
         <th>p50</th><th>p99</th></tr>",
        noise.expected_ttft_ms
    );
    for (path, n) in &noise.paths {
        let _ = write!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{:.2} ms</td><td>{:.2} ms</td><td>{:.0} ms</td><td>{:.0} ms</td></tr>",
            escape(path),
            n.requests,
            n.overhead_wall_ms.p50,
            n.overhead_wall_ms.p99,
            n.overhead_ms.p50,
            n.overhead_ms.p99
        );
    }
    out.push_str("</table></div></section>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{not_valid, sample};

    #[test]
    fn the_page_shows_each_policy_and_is_self_contained() {
        let (report, series) = sample();
        let html = page(&report, &series);
        for policy in Policy::ALL {
            assert!(html.contains(title(policy)) && html.contains(&format!("var(--{policy})")));
        }
        assert!(html.contains("a &lt;trace&gt;.csv") && !html.contains("<trace>"));
        // The page loads nothing. Its only URL is the name of the SVG namespace.
        assert!(!html.replace("http://www.w3.org/2000/svg", "").contains("http"));
        // Two charts of all policies, and two small ones for each.
        assert_eq!(html.matches("<svg").count(), 2 + 2 * Policy::ALL.len());
        assert!(html.contains("<code>policy: least_work</code> under Evenkeel least work."));
        assert!(html.contains("In time: first token within 2 s"));
        assert!(html.contains("<em>2.0 times lower</em>") && !html.contains("Not valid"));
    }

    #[test]
    fn the_page_of_an_invalid_comparison_shows_reasons_and_no_charts() {
        let (report, series) = not_valid();
        let html = page(&report, &series);
        assert!(html.contains("<h1>Not valid on this machine</h1>") && html.contains("the CPU &amp; more"));
        for chart in ["<svg", "times lower", "class=\"bars\"", "class=\"figure\""] {
            assert!(!html.contains(chart), "{chart}");
        }
        assert!(html.contains("Results that are not valid") && html.contains("CPU busy"));
        // A comparison that did not start has no table.
        let nothing_ran = Report { policies: BTreeMap::new(), ..report };
        assert!(!page(&nothing_ran, &BTreeMap::new()).contains("Results"));
    }
}
