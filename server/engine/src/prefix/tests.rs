use evenkeel_config::Config;

use super::{learned::MISSES_MAX, *};

const BLOCK: u32 = 1000;

fn prefixes(tokens: u64, per_consumer: bool) -> Prefixes {
    of_pool(&format!("prefix_cache: {{tokens: {tokens}, per_consumer: {per_consumer}}}"))
}

fn of_pool(options: &str) -> Prefixes {
    let yaml = format!("pools: [{{cluster: c, policy: least_work, {options}}}]");
    Prefixes::new(&Config::parse(&yaml).unwrap().pools[0]).unwrap()
}

/// A prompt of one token for each byte.
fn prompt(hashes: &[u64]) -> PromptPrefix {
    let bytes = (1..=hashes.len() as u32).map(|n| n * BLOCK).collect();
    let prompt_bytes = u64::from(BLOCK) * hashes.len() as u64;
    PromptPrefix { hashes: hashes.to_vec(), bytes, prompt_bytes, ..PromptPrefix::default() }
}

fn holder() -> HolderId {
    HolderId::new("h").unwrap()
}

fn look_up(prefixes: &Prefixes, prompt: &PromptPrefix) -> LookUp {
    prefixes.look_up(prompt.clone(), prompt.prompt_bytes)
}

fn cached(prefixes: &Prefixes, prompt: &PromptPrefix) -> Vec<(String, u64)> {
    look_up(prefixes, prompt)
        .cached
        .into_iter()
        .map(|(address, tokens)| (address.to_string(), tokens))
        .collect()
}

/// Places a prompt, and answers it with that many cached tokens.
fn send(prefixes: &Prefixes, endpoint: &str, prompt: &PromptPrefix, lease: u64, answer: Answer) {
    let found = look_up(prefixes, prompt);
    let lease = LeaseId::new(lease).unwrap();
    let in_cache =
        found.cached.iter().find(|(address, _)| &**address == endpoint).map_or(0, |(_, tokens)| *tokens);
    let placed = Placed { endpoint: endpoint.into(), unread: prompt.prompt_bytes - in_cache, found };
    prefixes.placed(&holder(), lease, placed);
    prefixes.responded(&holder(), lease, answer);
}

fn stated(input: u64, cached: u64) -> Answer {
    Answer::Read(ReadTokens { input, cached, is_stated: true })
}

fn silent(input: u64) -> Answer {
    Answer::Read(ReadTokens { input, cached: 0, is_stated: false })
}

/// A prompt of 6 blocks that begins with this hash: enough expected tokens for a miss to count.
fn long(hash: u64) -> PromptPrefix {
    prompt(&(0..6).map(|n| hash * 10 + n).collect::<Vec<_>>())
}

#[test]
fn an_endpoint_has_the_part_of_a_prompt_that_it_has_read() {
    let prefixes = prefixes(1_000_000, false);
    assert_eq!(cached(&prefixes, &prompt(&[1, 2, 3])), []);
    send(&prefixes, "a", &prompt(&[1, 2, 3]), 1, Answer::Unknown);
    send(&prefixes, "b", &prompt(&[1, 9]), 2, Answer::Unknown);
    let found = cached(&prefixes, &prompt(&[1, 2, 3, 4]));
    assert_eq!(found, [("a".to_owned(), 3000), ("b".to_owned(), 1000)]);
    assert_eq!(
        cached(&prefixes, &prompt(&[8, 9])),
        [("b".to_owned(), 2000)],
        "a longer prefix implies the shorter ones"
    );
    assert_eq!(cached(&prefixes, &prompt(&[8])), []);
}

#[test]
fn models_share_nothing_and_consumers_only_if_they_may() {
    let of = |model: &str, consumer: &str| PromptPrefix {
        model: model.to_owned(),
        consumer: consumer.to_owned(),
        ..prompt(&[1])
    };
    for per_consumer in [false, true] {
        let prefixes = prefixes(1_000_000, per_consumer);
        send(&prefixes, "a", &of("m", "alice"), 1, Answer::Unknown);
        assert_eq!(cached(&prefixes, &of("m", "alice")).len(), 1);
        assert_eq!(cached(&prefixes, &of("m", "bob")).len(), usize::from(!per_consumer));
        assert_eq!(cached(&prefixes, &of("n", "alice")), []);
        assert_eq!(cached(&prefixes, &of("ma", "lice")), []);
    }
}

#[test]
fn an_index_whose_expectations_never_come_true_fades() {
    let prefixes = prefixes(1_000_000, false);
    send(&prefixes, "a", &prompt(&[1, 2]), 1, stated(2000, 1));
    for lease in 2..200 {
        // A little comes true, so that the endpoint does not count as restarted.
        send(&prefixes, "a", &prompt(&[1, 2]), lease, stated(2000, 220));
    }
    let found = cached(&prefixes, &prompt(&[1, 2]));
    assert!(found[0].1 < 500, "{found:?}");
    let PrefixFigures { prompt_tokens, expected_tokens, cached_tokens, .. } = prefixes.figures();
    assert_eq!((prompt_tokens, cached_tokens), (2000 * 199, 1 + 220 * 198));
    assert!(expected_tokens > cached_tokens && expected_tokens < prompt_tokens / 2, "{expected_tokens}");
}

#[test]
fn a_cache_that_is_off_fades() {
    let prefixes = prefixes(1_000_000, false);
    (1..300).for_each(|lease| send(&prefixes, "a", &long(1), lease, stated(6000, 0)));
    let found = cached(&prefixes, &long(1));
    assert!(found.is_empty() || found[0].1 < 600, "{found:?}");
    assert_eq!(prefixes.figures().losses, 0, "an endpoint that never had a hit has nothing to lose");
}

#[test]
fn only_apis_that_state_cached_tokens_teach_that_there_are_none() {
    let prefixes = prefixes(1_000_000, false);
    let chat = long(1);
    let messages = PromptPrefix { path: "/v1/messages?beta=1".into(), ..long(1) };
    (1..20).for_each(|lease| send(&prefixes, "a", &chat, lease, silent(6000)));
    assert_eq!((cached(&prefixes, &chat), prefixes.figures().prompt_tokens), (vec![("a".into(), 6000)], 0));
    send(&prefixes, "a", &chat, 20, stated(6000, 6000));
    (21..40).for_each(|lease| send(&prefixes, "a", &messages, lease, silent(6000)));
    assert_eq!(cached(&prefixes, &chat), [("a".to_owned(), 6000)], "another API never states the number");
    (41..=40 + MISSES_MAX as u64).for_each(|lease| send(&prefixes, "a", &chat, lease, silent(6000)));
    assert_eq!(prefixes.figures().losses, 1, "this API leaves the number out if it is 0");
}

#[test]
fn an_endpoint_that_has_restarted_is_forgotten_and_learned_again() {
    let prefixes = prefixes(1_000_000, false);
    (1..=50).for_each(|n| send(&prefixes, "a", &long(n), n, stated(6000, 0)));
    send(&prefixes, "b", &long(1), 60, stated(6000, 0));
    send(&prefixes, "a", &long(1), 61, stated(6000, 6000));
    for n in 1..=MISSES_MAX as u64 {
        assert!(!cached(&prefixes, &long(40)).is_empty(), "after {n} misses");
        send(&prefixes, "a", &long(n), 100 + n, stated(6000, 0));
    }
    assert_eq!(cached(&prefixes, &long(40)), []);
    assert_eq!(cached(&prefixes, &long(1)).len(), 1, "the other endpoint still has it");
    let news = prefixes.state.lock().unshared.take();
    let losses: Vec<&str> = news.iter().filter(|news| news.is_loss()).map(|news| &*news.endpoint).collect();
    assert_eq!(losses, ["a"]);
    assert!(news.last().unwrap().is_loss());
    send(&prefixes, "a", &long(40), 200, stated(6000, 0));
    assert_eq!(cached(&prefixes, &long(40)), [("a".to_owned(), 6000)]);
}

#[test]
fn responses_to_prompts_from_before_a_loss_do_not_count_as_another() {
    let prefixes = prefixes(1_000_000, false);
    let place = |n: u64| {
        let found = look_up(&prefixes, &long(n));
        prefixes.placed(
            &holder(),
            LeaseId::new(n).unwrap(),
            Placed { endpoint: "a".into(), unread: 0, found },
        );
    };
    (1..=20).for_each(|n| send(&prefixes, "a", &long(n), n, stated(6000, 0)));
    send(&prefixes, "a", &long(1), 21, stated(6000, 6000));
    (1..=20).for_each(place);
    let miss = |n: u64| prefixes.responded(&holder(), LeaseId::new(n).unwrap(), stated(6000, 0));
    (1..=MISSES_MAX as u64).for_each(miss);
    assert_eq!((prefixes.figures().losses, cached(&prefixes, &long(20))), (1, vec![]));
    send(&prefixes, "a", &long(99), 99, stated(6000, 0));
    (MISSES_MAX as u64 + 1..=20).for_each(miss);
    assert_eq!(prefixes.figures().losses, 1);
    assert_eq!(cached(&prefixes, &long(99)), [("a".to_owned(), 6000)], "the loss taught nothing wrong");
}

/// The sidecar that noticed a restart first tells the others, which have noticed misses too.
#[test]
fn misses_from_before_a_shared_loss_do_not_count() {
    let prefixes = prefixes(1_000_000, false);
    (1..=5).for_each(|n| send(&prefixes, "a", &long(n), n, stated(6000, 0)));
    send(&prefixes, "a", &long(1), 10, stated(6000, 6000));
    (1..MISSES_MAX as u64).for_each(|n| send(&prefixes, "a", &long(n), 10 + n, stated(6000, 0)));
    let loss = Placement { endpoint: "a".into(), unread: 0, keys: Vec::new(), session: None };
    prefixes.state.lock().apply(vec![loss]);
    send(&prefixes, "a", &long(9), 20, stated(6000, 0));
    send(&prefixes, "a", &long(9), 21, stated(6000, 0));
    assert_eq!(prefixes.figures().losses, 0);
}

#[test]
fn an_endpoint_that_fails_has_read_nothing() {
    let prefixes = of_pool("prefix_cache: {}, affinity: {session: hard}");
    send(&prefixes, "works", &of_session("s", &[1]), 1, Answer::Unknown);
    send(&prefixes, "broken", &of_session("s", &[1, 2]), 2, Answer::None);
    let of_alice = of_session("s", &[1, 2]);
    assert_eq!(cached(&prefixes, &of_alice), [("works".to_owned(), 1000)]);
    assert_eq!(look_up(&prefixes, &of_alice).stays_at, None);
}

#[test]
fn an_endpoint_that_enters_again_begins_with_an_empty_cache() {
    let prefixes = prefixes(1_000_000, false);
    let roster = |addresses: &[&str]| {
        let endpoint =
            |address: &&str| evenkeel_domain::Endpoint { address: (*address).into(), weight: 1.0, cap: 0 };
        Roster::new(addresses.iter().map(endpoint).collect())
    };
    prefixes.roster_changed(&roster(&[]), &roster(&["a", "b"]));
    for (lease, endpoint) in [(1, "a"), (2, "b")] {
        send(&prefixes, endpoint, &prompt(&[1]), lease, Answer::Unknown);
    }
    prefixes.roster_changed(&roster(&["a", "b"]), &roster(&["b"]));
    // A request that was under way marks the endpoint that has left.
    send(&prefixes, "a", &prompt(&[2]), 3, Answer::Unknown);
    prefixes.roster_changed(&roster(&["b"]), &roster(&["a", "b"]));
    assert_eq!(cached(&prefixes, &prompt(&[2])), []);
    assert_eq!(cached(&prefixes, &prompt(&[1])), [("b".to_owned(), 1000)]);
    assert!(prefixes.state.lock().unshared.take().last().unwrap().is_loss());
}

#[test]
fn a_repeated_admission_is_one_placement() {
    let prefixes = prefixes(1_000_000, false);
    for _ in 0..3 {
        let found = look_up(&prefixes, &prompt(&[1]));
        let placed = Placed { endpoint: "a".into(), unread: 50_000, found };
        prefixes.placed(&holder(), LeaseId::new(1).unwrap(), placed);
    }
    assert_eq!(prefixes.state.lock().unshared.take().len(), 1);
}

#[test]
fn a_placement_that_tells_nothing_new_is_not_shared() {
    let prefixes = prefixes(1_000_000, false);
    for lease in 1..5 {
        send(&prefixes, "a", &prompt(&[1, 2]), lease, Answer::Unknown);
    }
    let news = prefixes.state.lock().unshared.take();
    assert_eq!(news.len(), 1, "{news:?}");
}

fn of_session(session: &str, hashes: &[u64]) -> PromptPrefix {
    PromptPrefix { session: session.to_owned(), consumer: "alice".to_owned(), ..prompt(hashes) }
}

#[test]
fn a_session_prefers_its_latest_endpoint() {
    let prefixes = of_pool("affinity: {session: soft, tokens: 1500}");
    let next = of_session("s", &[7, 8]);
    assert_eq!(cached(&prefixes, &next), []);
    send(&prefixes, "a", &of_session("s", &[1]), 1, Answer::Unknown);
    assert_eq!(cached(&prefixes, &next), [("a".to_owned(), 1500)]);
    send(&prefixes, "b", &of_session("s", &[2]), 2, Answer::Unknown);
    assert_eq!(cached(&prefixes, &next), [("b".to_owned(), 1500)]);
    assert_eq!(cached(&prefixes, &of_session("s", &[9])), [("b".to_owned(), 1000)], "at most the prompt");
    assert_eq!(cached(&prefixes, &of_session("other", &[9])), []);
    let of_bob = PromptPrefix { consumer: "bob".to_owned(), ..next };
    assert_eq!(cached(&prefixes, &of_bob), [], "another consumer may use the same id");
    assert_eq!(cached(&prefixes, &prompt(&[9])), []);
}

#[test]
fn a_prefix_and_a_session_at_one_endpoint_count_once() {
    let prefixes = of_pool("prefix_cache: {}, affinity: {session: soft, tokens: 1500}");
    send(&prefixes, "a", &of_session("s", &[1, 2, 3]), 1, Answer::Unknown);
    assert_eq!(cached(&prefixes, &of_session("s", &[1, 2, 3, 4])), [("a".to_owned(), 3000)]);
    assert_eq!(cached(&prefixes, &of_session("s", &[1, 9])), [("a".to_owned(), 1500)]);
}

#[test]
fn a_hard_session_stays() {
    let prefixes = of_pool("affinity: {session: hard}");
    let stays_at = || look_up(&prefixes, &of_session("s", &[])).stays_at;
    assert_eq!(stays_at(), None);
    send(&prefixes, "a", &of_session("s", &[]), 1, Answer::Unknown);
    assert_eq!(stays_at().as_deref(), Some("a"));
    let news = prefixes.state.lock().unshared.take();
    assert!(news.len() == 1 && news[0].session.is_some(), "{news:?}");
    // Misses say nothing about sessions.
    prefixes.state.lock().index.forget("a");
    assert_eq!(stays_at().as_deref(), Some("a"));
}

#[test]
fn settlements_without_a_placement_and_repeated_ones_change_nothing() {
    let prefixes = prefixes(1_000_000, false);
    prefixes.responded(&holder(), LeaseId::new(1).unwrap(), stated(1000, 500));
    assert_eq!(prefixes.figures(), PrefixFigures::default());
    send(&prefixes, "a", &prompt(&[1]), 2, stated(1000, 500));
    let before = prefixes.figures();
    prefixes.responded(&holder(), LeaseId::new(2).unwrap(), stated(1000, 500));
    assert_eq!(prefixes.figures(), before);
}
