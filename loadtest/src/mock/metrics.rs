//! A host's metrics, with the names of vLLM.

use std::fmt::Write;

use super::host::Host;
use crate::engine::BLOCK_TOKENS;

/// Returns the metrics in Prometheus's text format.
pub(super) fn text(host: &Host) -> String {
    let (stats, totals, kv) = (host.stats(), host.totals(), host.kv_usage());
    // As in vLLM, the counters of the prefix cache count tokens, and a server without one looks nothing up.
    let prompt_tokens = totals.prompt_tokens + totals.cached_tokens;
    let queries = if host.has_cache() { prompt_tokens } else { 0 };
    let mut out = cache_config(host);
    for (name, kind, value) in [
        ("num_requests_running", "gauge", stats.running as f64),
        ("num_requests_waiting", "gauge", stats.waiting as f64),
        ("gpu_cache_usage_perc", "gauge", kv),
        ("kv_cache_usage_perc", "gauge", kv),
        ("prompt_tokens_total", "counter", prompt_tokens as f64),
        ("prefix_cache_queries_total", "counter", queries as f64),
        ("prefix_cache_hits_total", "counter", totals.cached_tokens as f64),
        ("generation_tokens_total", "counter", totals.generated_tokens as f64),
        ("request_success_total", "counter", stats.finished as f64),
    ] {
        let _ = writeln!(out, "# TYPE vllm:{name} {kind}\nvllm:{name}{{model_name=\"mock\"}} {value}");
    }
    out
}

/// Returns the series whose labels have the size of the cache.
fn cache_config(host: &Host) -> String {
    let params = host.params();
    let (enabled, tokens) = match params.cache_tokens {
        0 => ("False", params.kv_tokens),
        tokens => ("True", tokens),
    };
    format!(
        "# TYPE vllm:cache_config_info gauge\nvllm:cache_config_info{{block_size=\"{BLOCK_TOKENS}\",enable_prefix_caching=\"{enabled}\",\
         num_gpu_blocks=\"{}\"}} 1\n",
        tokens / u64::from(BLOCK_TOKENS)
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::{
        engine::EngineParams,
        lab::probe,
        mock::{Fleet, FleetConfig},
        replay::{Client, Route},
        workload::{Request, prompt},
    };

    /// Returns the value of a metric.
    async fn metric(url: &str, name: &str) -> f64 {
        let (_, text) = probe::get(&format!("{url}/metrics")).await.unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("vllm:{name}{{"))).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    #[tokio::test]
    async fn the_counters_of_the_prefix_cache_count_tokens() {
        for (cache_tokens, queries, hits) in [(100_000, 2700.0, 512.0), (0, 0.0, 0.0)] {
            let engine = EngineParams { cache_tokens, ..EngineParams::default() };
            let fleet = Fleet::start(&FleetConfig::local(1, engine, 100.0, 8)).unwrap();
            let url = format!("http://{}", fleet.addresses()[0]);
            let client = Client::new(Duration::from_secs(10));
            for (prompt, blocks) in [(1200, [1, 2]), (1500, [1, 3])] {
                let request = Request { prompt, output: 2, blocks: blocks.into(), ..Request::default() };
                let body = prompt::chat_request(&request, 0);
                assert_eq!(client.send(&url, &request, body, Route::Gateway).await.error, None);
            }
            assert_eq!(metric(&url, "prefix_cache_queries_total").await, queries);
            assert_eq!(metric(&url, "prefix_cache_hits_total").await, hits);
            assert_eq!(metric(&url, "prompt_tokens_total").await, 2700.0);
            assert_eq!(metric(&url, "num_requests_running").await, 0.0);
            assert_eq!(metric(&url, "num_requests_waiting").await, 0.0);
            assert_eq!(metric(&url, "kv_cache_usage_perc").await, 0.0);
            assert_eq!(metric(&url, "request_success_total").await, 2.0);
            let (_, text) = probe::get(&format!("{url}/metrics")).await.unwrap();
            let blocks = if cache_tokens > 0 { cache_tokens / 512 } else { 200_000 / 512 };
            assert!(
                text.contains(&format!(
                    "block_size=\"512\",enable_prefix_caching=\"{}\",num_gpu_blocks=\"{blocks}\"",
                    if cache_tokens > 0 { "True" } else { "False" }
                )),
                "{text}"
            );
        }
    }
}
