use std::{collections::BTreeMap, time::Duration};

use evenkeel_domain::{PoolId, usage::OTHER};

use super::*;
use crate::Metrics;

fn answer<'a>(model: &'a str, endpoint: &'a str) -> Answer<'a> {
    Answer { model, endpoint, total_ms: 2100, first_token_ms: Some(100), output_tokens: Some(41) }
}

fn pool() -> Arc<PoolLatencies> {
    Arc::new(PoolLatencies::new(&Arc::default()))
}

/// Returns the number of answers by name.
fn counts(names: &ByName) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    names.each(|name, timings| {
        assert!(counts.insert(name.to_owned(), timings.total.count()).is_none(), "{name} has two series");
    });
    counts.retain(|_, count| *count > 0);
    counts
}

fn id(cluster: &str) -> PoolId {
    PoolId::new("", cluster).unwrap()
}

/// Returns the text of a scrape that shows these pools.
fn scrape(metrics: &Metrics, pools: &[(PoolId, Arc<PoolLatencies>)]) -> String {
    let pools = || pools.iter().map(|(id, latencies)| (id, latencies, |_: &str| true));
    metrics.encode(|metrics| metrics.latency.set_pools(pools())).unwrap()
}

fn lines(text: &str, beginning: &str) -> Vec<String> {
    text.lines().filter(|line| line.starts_with(beginning)).map(str::to_owned).collect()
}

#[test]
fn an_answer_has_three_latencies_by_model_and_by_endpoint() {
    let (metrics, latencies) = (Metrics::new().unwrap(), pool());
    latencies.observe(&answer("m", "a:1"), || false);
    // One token, or a whole answer at once, has no time per token.
    latencies.observe(&Answer { output_tokens: Some(1), ..answer("m", "b:1") }, || false);
    latencies.observe(&Answer { output_tokens: None, ..answer("m", "b:1") }, || false);
    latencies.observe(&Answer { first_token_ms: None, ..answer("n", "b:1") }, || false);
    let text = scrape(&metrics, &[(id("llm"), latencies)]);
    let count = |series: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{series} is missing in\n{text}")).to_owned()
    };
    let labels = |by: &str| format!("{{cluster=\"llm\",{by},route=\"\"}}");
    for (by, expected) in [(r#"model="m""#, [3, 1, 3]), (r#"endpoint="b:1""#, [2, 0, 3])] {
        let prefix = if by.starts_with("model") { "" } else { "endpoint_" };
        for (kind, expected) in
            ["time_to_first_token", "time_per_output_token", "request_duration"].into_iter().zip(expected)
        {
            let series = format!("evenkeel_{prefix}{kind}_seconds_count{}", labels(by));
            if expected > 0 {
                assert_eq!(count(&series), expected.to_string());
            } else {
                assert!(!text.contains(&series), "{series}");
            }
        }
    }
    // (2.1 s - 0.1 s) / 40
    assert_eq!(
        count(r#"evenkeel_time_per_output_token_seconds_sum{cluster="llm",model="m",route=""}"#),
        "0.05"
    );
    for (le, expected) in [("0.025", "0"), ("0.05", "1"), ("+Inf", "1")] {
        let series = format!(
            r#"evenkeel_endpoint_time_per_output_token_seconds_bucket{{cluster="llm",endpoint="a:1",route="",le="{le}"}}"#
        );
        assert_eq!(count(&series), expected, "{le}");
    }
}

/// A gateway may report anything.
#[test]
fn impossible_durations_are_bounded() {
    let latencies = pool();
    let impossible = Answer {
        total_ms: u64::MAX,
        first_token_ms: Some(u64::MAX),
        output_tokens: Some(u64::MAX),
        ..answer("m", "")
    };
    latencies.observe(&impossible, || false);
    latencies.observe(&Answer { total_ms: 0, ..impossible }, || false);
    latencies.observe(&Answer { output_tokens: Some(0), ..impossible }, || false);
    latencies.models.each(|name, timings| {
        if name != OTHER {
            let sum = timings.total.read(&histogram::TOTAL_US).unwrap().get_sample_sum();
            assert!((sum - 2.0 * 86_400.0).abs() < 1e-9, "{sum}");
            let sum = timings.per_token.read(&histogram::PER_TOKEN_US).unwrap().get_sample_sum();
            assert!(sum.abs() < 1e-9, "{sum}");
        }
    });
}

#[test]
fn invented_models_do_not_take_the_room_of_others() {
    let room = Arc::new(LatencyRoom::default());
    let pools: Vec<_> = (0..6).map(|_| PoolLatencies::new(&room)).collect();
    for pool in &pools {
        for model in 0..10_000 {
            pool.observe(&answer(&format!("invented-{model}"), "a:1"), || false);
        }
        let models = counts(&pool.models);
        assert!(models.len() <= MODELS_PER_POOL_MAX + 1, "{}", models.len());
        assert_eq!(models.values().sum::<u64>(), 10_000);
        // The endpoints have room of their own, and so do models that the configuration names.
        assert_eq!(counts(&pool.endpoints), BTreeMap::from([("a:1".to_owned(), 10_000)]));
        pool.observe(&answer("named", "a:1"), || true);
        assert_eq!(counts(&pool.models)["named"], 1);
    }
    let series: usize = pools.iter().map(|pool| counts(&pool.models).len()).sum();
    // 128 invented ones in all pools together, and in each pool one that is named, and the rest.
    assert_eq!(series, 128 + 6 + 6);
}

#[test]
fn a_name_like_that_of_the_rest_has_no_second_series() {
    let latencies = pool();
    for model in [OTHER, UNKNOWN_MODEL, ""] {
        latencies.observe(&answer(model, model), || true);
    }
    let both = BTreeMap::from([(OTHER.to_owned(), 1), (UNKNOWN_MODEL.to_owned(), 2)]);
    assert_eq!([counts(&latencies.models), counts(&latencies.endpoints)], [both.clone(), both]);
}

#[test]
fn endpoints_that_have_left_go_when_they_are_idle() {
    let (latencies, start) = (pool(), Instant::now());
    for endpoint in ["a:1", "b:1"] {
        latencies.observe(&answer("m", endpoint), || false);
    }
    let endpoints = || counts(&latencies.endpoints).into_keys().collect::<Vec<_>>();
    let at = |minutes: u64| start + Duration::from_secs(60 * minutes);
    let only_a = |endpoint: &str| endpoint == "a:1";
    latencies.tidy(at(1), only_a);
    latencies.observe(&answer("m", "b:1"), || false);
    latencies.tidy(at(9), only_a);
    latencies.tidy(at(18), only_a);
    assert_eq!(endpoints(), ["a:1", "b:1"], "the last answer may be 9 minutes old");
    latencies.tidy(at(20), only_a);
    assert_eq!(endpoints(), ["a:1"]);
    // A model stays as long as there is room.
    assert_eq!(counts(&latencies.models).len(), 1);
}

#[test]
fn idle_names_make_room_when_there_is_none() {
    let (room, start) = (Arc::new(LatencyRoom::default()), Instant::now());
    let (idle, busy) = (PoolLatencies::new(&room), PoolLatencies::new(&room));
    for endpoint in 0..600 {
        idle.observe(&answer("m", &format!("{endpoint}:1")), || false);
    }
    busy.observe(&answer("m", "new:1"), || false);
    assert_eq!(counts(&busy.endpoints), BTreeMap::from([(OTHER.to_owned(), 1)]));
    for minutes in [0, 11] {
        idle.tidy(start + Duration::from_secs(60 * minutes), |_| true);
    }
    busy.observe(&answer("m", "new:1"), || false);
    assert_eq!(counts(&busy.endpoints)["new:1"], 1);
    assert_eq!(counts(&idle.endpoints), BTreeMap::from([(OTHER.to_owned(), 600 - 512)]));
}

#[test]
fn a_pool_that_is_gone_releases_its_series() {
    let room = Arc::new(LatencyRoom::default());
    let metrics = Metrics::new().unwrap();
    let series =
        |pools: &[_]| lines(&scrape(&metrics, pools), "evenkeel_endpoint_request_duration_seconds_count");
    let pool = |cluster| {
        let latencies = Arc::new(PoolLatencies::new(&room));
        for endpoint in 0..300 {
            latencies.observe(&answer("m", &format!("{endpoint}:1")), || false);
        }
        (id(cluster), latencies)
    };
    let mut pools = vec![pool("a"), pool("b")];
    // 300 and 212 endpoints, and the rest.
    assert_eq!(series(&pools).len(), 513);
    pools.remove(0);
    assert_eq!(series(&pools).len(), 213);
    pools.push(pool("c"));
    assert_eq!(series(&pools).len(), 513);
}

#[test]
fn pools_beyond_the_maximum_have_no_series_and_take_no_room() {
    let (room, metrics) = (Arc::new(LatencyRoom::default()), Metrics::new().unwrap());
    let mut pools: Vec<_> = (0..200)
        .map(|n| {
            let latencies = Arc::new(PoolLatencies::new(&room));
            latencies.observe(&answer("m", "a:1"), || false);
            (id(&format!("c{n}")), latencies)
        })
        .collect();
    let text = scrape(&metrics, &pools);
    assert!(text.contains("evenkeel_pools_without_latencies 72"));
    let observe = |pools: &[(PoolId, Arc<PoolLatencies>)]| {
        pools.iter().for_each(|(_, latencies)| latencies.observe(&answer("m", "a:1"), || false));
    };
    observe(&pools);
    // There was no room for its model.
    let before = counts(&pools[199].1.models);
    assert_eq!(before, BTreeMap::from([(OTHER.to_owned(), 1)]));
    // The first pools go, so the others have series.
    pools.drain(..100);
    let text = scrape(&metrics, &pools);
    observe(&pools);
    assert!(text.contains("evenkeel_pools_without_latencies 0"));
    let after = BTreeMap::from([("m".to_owned(), 1), (OTHER.to_owned(), 1)]);
    assert_eq!(counts(&pools[99].1.models), after);
}

#[test]
fn requests_observe_while_names_come_and_go() {
    let latencies = pool();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let latencies = &latencies;
            scope.spawn(move || {
                for n in 0..20_000 {
                    let endpoint = format!("{}:1", (n * (thread + 1)) % 600);
                    latencies.observe(&answer("m", &endpoint), || false);
                }
            });
        }
    });
    assert_eq!(counts(&latencies.models)["m"], 80_000);
    let endpoints = counts(&latencies.endpoints);
    assert_eq!((endpoints.values().sum::<u64>(), endpoints.len()), (80_000, 513));
    assert!(latencies.room.is_full(Kind::Endpoint));
    latencies.hide();
    assert!(!latencies.room.is_full(Kind::Endpoint));
}

/// Guards the figure in docs/metrics.md.
#[test]
fn a_name_takes_half_a_kilobyte() {
    assert_eq!(size_of::<timings::Timings>(), 400);
}

/// Prints the time that an answer takes, and that of a scrape. Run it with `--release -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn cost_per_answer() {
    let (room, metrics) = (Arc::new(LatencyRoom::default()), Metrics::new().unwrap());
    let latencies = Arc::new(PoolLatencies::new(&room));
    let endpoints: Vec<String> = (0..600).map(|n| format!("10.0.{}.{}:8000", n / 250, n % 250)).collect();
    let models = ["meta-llama/Llama-3.3-70B-Instruct", "Qwen/Qwen3-32B"];
    let all = |range: std::ops::Range<usize>, invent: bool| {
        let invented: Vec<String> = (0..1000).map(|n| format!("invented-{n}")).collect();
        let started = Instant::now();
        for n in 0..1_000_000 {
            let endpoint = &endpoints[range.start + n % range.len()];
            let model = if invent { &invented[n % 1000] } else { models[n % 2] };
            latencies.observe(&answer(model, endpoint), || false);
        }
        started.elapsed().as_nanos() / 1_000_000
    };
    let known = all(0..64, false);
    let threads = std::thread::scope(|scope| {
        let other = scope.spawn(|| all(0..64, false));
        (all(0..64, false), other.join().unwrap())
    });
    let invented = all(0..64, true);
    let beyond = all(0..600, false);
    let pools = [(id("llm"), Arc::clone(&latencies))];
    let started = Instant::now();
    let text = scrape(&metrics, &pools);
    println!(
        "{known} ns; on two threads {threads:?} ns; invented models {invented} ns; 600 endpoints {beyond} ns; \
         a scrape of {} names {:?}, {} bytes",
        lines(&text, "evenkeel_endpoint_request_duration_seconds_count").len(),
        started.elapsed(),
        text.len()
    );
}

/// Without answers, no series.
#[test]
fn a_pool_without_answers_has_no_series() {
    let text = scrape(&Metrics::new().unwrap(), &[(id("llm"), pool())]);
    assert!(!text.contains("cluster=\"llm\""), "{text}");
}
