//! Fuzzes the readers of responses and request bodies. The inputs are samples of each provider, mutated with some
//! knowledge of their structure and split at random. Runs on stable Rust for a bounded time.
//!
//! | variable | meaning |
//! |---|---|
//! | `EVENKEEL_FUZZ_MS` | duration for each provider in milliseconds, 2000 by default |
//! | `EVENKEEL_FUZZ_SEED` | the only seed to run; a failure prints its seed |

// The code below is test code outside test functions.
#![allow(clippy::unwrap_used)]

mod mutate;

use std::{
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use evenkeel_plugin::{
    request_body::{self, BodyReader, PrefixSettings, Prefixes},
    usage::{Format, Usage, UsageReader},
    usage_stripper::{EVENT_BYTES_MAX, UsageStripper},
};
use mutate::{Random, mutate};

/// Returns the samples whose names start with a prefix.
fn samples(prefix: &str) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut samples: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap()))
        .filter(|(name, _)| name.starts_with(prefix))
        .collect();
    samples.sort();
    assert!(!samples.is_empty(), "no sample of {prefix}");
    samples
}

/// Runs a check on mutated samples until the time is over.
fn fuzz(prefix: &str, check: impl Fn(&[u8], &mut Random)) {
    let samples = samples(prefix);
    let run = |seed: u64| {
        let mut random = Random::new(seed);
        let input = mutate(&samples, &mut random);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(&input, &mut random))) {
            eprintln!("{prefix}: EVENKEEL_FUZZ_SEED={seed} fails with\n{}", input.escape_ascii());
            resume_unwind(panic);
        }
    };
    if let Ok(seed) = env::var("EVENKEEL_FUZZ_SEED") {
        return run(seed.parse().expect("EVENKEEL_FUZZ_SEED: a number"));
    }
    let ms = env::var("EVENKEEL_FUZZ_MS").map_or(2000, |ms| ms.parse().expect("EVENKEEL_FUZZ_MS: a number"));
    let mut seeds = Random::new(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64);
    let (start, mut inputs) = (Instant::now(), 0_u64);
    while start.elapsed() < Duration::from_millis(ms) {
        run(seeds.next());
        inputs += 1;
    }
    println!("{prefix}: {inputs} inputs");
}

/// Reads a body in these chunks.
fn read<'a>(chunks: impl IntoIterator<Item = &'a [u8]>, format: Format, end: bool) -> (Usage, u64) {
    let mut reader = UsageReader::new(format);
    for chunk in chunks {
        reader.feed(chunk);
        assert!(reader.held_bytes() <= 1024, "holds {} bytes", reader.held_bytes());
    }
    if end {
        reader.end();
    }
    (reader.usage(), reader.faults())
}

fn usage_is_sound(body: &[u8], random: &mut Random) {
    let formats = [Format::Unknown, Format::Json, Format::Lines, Format::Events, Format::WebSocket];
    // Most inputs are read in the form that they have, or nearly have.
    let format = if random.below(4) == 0 { formats[random.below(formats.len())] } else { Format::Unknown };
    reading_is_sound(body, format, random);
}

fn connection_is_sound(body: &[u8], random: &mut Random) {
    reading_is_sound(body, Format::WebSocket, random);
}

fn reading_is_sound(body: &[u8], format: Format, random: &mut Random) {
    let (usage, faults) = read([body], format, true);
    assert_eq!(read(random.split(body), format, true), (usage.clone(), faults), "splits do not matter");
    assert!(usage.model.len() <= 256);
    assert!(usage.output_bytes <= body.len() as u64, "not more text than bytes");
    assert!(!usage.is_final || usage.tokens.is_some());
    assert!(usage.total_tokens == 0 || usage.tokens.is_none());
    if let Some(tokens) = usage.tokens {
        assert!(tokens.cached_input <= tokens.input && tokens.reasoning <= tokens.output);
    }
    // A prefix can report more text than the whole body while it is unknown whether its text is incremental.
    let (before, _) = read([&body[..random.below(body.len() + 1)]], format, false);
    assert!(before.output_bytes <= body.len() as u64 && before.model.len() <= 256);
}

#[test]
fn openai() {
    fuzz("openai", usage_is_sound);
}

#[test]
fn anthropic() {
    fuzz("anthropic", usage_is_sound);
}

#[test]
fn gemini() {
    fuzz("gemini", usage_is_sound);
}

#[test]
fn dashscope() {
    fuzz("dashscope", usage_is_sound);
}

#[test]
fn ollama() {
    fuzz("ollama", usage_is_sound);
}

#[test]
fn cohere() {
    fuzz("cohere", usage_is_sound);
}

#[test]
fn bedrock() {
    fuzz("bedrock", usage_is_sound);
}

#[test]
fn inference_servers() {
    for server in ["tgi", "llama-cpp", "sglang", "triton", "kserve", "watsonx", "mistral"] {
        fuzz(server, usage_is_sound);
    }
}

#[test]
fn connections() {
    fuzz("realtime", connection_is_sound);
}

#[test]
fn stripping_usage() {
    let strip = |chunks: &[&[u8]]| {
        let (mut stripper, mut out) = (UsageStripper::default(), Vec::new());
        for chunk in chunks {
            out.extend(stripper.feed(chunk));
            assert!(stripper.held_bytes() <= EVENT_BYTES_MAX);
        }
        out.extend(stripper.end());
        out
    };
    fuzz("openai", |body, random| {
        let stripped = strip(&[body]);
        assert_eq!(strip(&random.split(body)), stripped, "splits do not matter");
        assert!(stripped.len() <= body.len());
    });
}

fn prefixes_are_sound(body: &[u8], summary: &request_body::BodySummary, random: &mut Random) {
    let settings = PrefixSettings::new(1 + random.below(20) as u32, 1 + random.below(40) as u32).unwrap();
    let read = |chunks: &[&[u8]]| {
        let mut reader = BodyReader::new(Some(settings));
        chunks.iter().for_each(|chunk| reader.feed(chunk));
        reader.summary()
    };
    let hashed = read(&[body]);
    assert_eq!(read(&random.split(body)), hashed, "splits do not matter");
    let Prefixes { hashes, bytes } = &hashed.prefixes;
    assert!(hashes.len() == bytes.len() && hashes.len() <= settings.hashes_max as usize);
    assert!(bytes.is_sorted_by(|a, b| a < b));
    assert!(bytes.last().is_none_or(|last| u64::from(*last) <= summary.prompt_bytes));
    assert!(hashes.is_empty() || summary.is_object);
    let unhashed = request_body::BodySummary { prefixes: Prefixes::default(), ..hashed.clone() };
    assert_eq!(unhashed, *summary, "hashing changes nothing else");
    // The same JSON with other whitespace and escapes, unless a parser would change its numbers or members.
    if let Ok(value) = serde_json::from_slice::<serde_json::Value>(body)
        && !has_repeated_member_or_odd_number(body, &value)
    {
        let pretty = serde_json::to_vec_pretty(&value).unwrap();
        let compact = serde_json::to_vec(&value).unwrap();
        assert_eq!(read(&[&pretty]).prefixes.hashes, read(&[&compact]).prefixes.hashes, "whitespace");
    }
}

/// Returns whether writing the value again may lose something.
fn has_repeated_member_or_odd_number(body: &[u8], value: &serde_json::Value) -> bool {
    let written = value.to_string();
    let tokens = |text: &[u8]| text.iter().filter(|byte| b"{}[],:".contains(byte)).count();
    tokens(body) != tokens(written.as_bytes())
}

#[test]
fn request_bodies() {
    fuzz("request", |body, random| {
        let summary = request_body::summarize(body);
        let mut reader = BodyReader::default();
        random.split(body).into_iter().for_each(|part| reader.feed(part));
        assert_eq!(reader.summary(), summary, "splits do not matter");
        assert_eq!(reader.bytes(), body.len() as u64);
        assert!(summary.model.len() <= 256 && summary.choices > 0);
        assert!(!(summary.is_object && reader.is_hopeless()));
        prefixes_are_sound(body, &summary, random);
        if let Some(edit) = summary.usage_edit {
            let changed = edit.apply(body).expect("the edit is within the body");
            let value: Result<serde_json::Value, _> = serde_json::from_slice(&changed);
            if let (Ok(value), Ok(before)) = (value, serde_json::from_slice::<serde_json::Value>(body)) {
                assert_eq!(value["stream_options"]["include_usage"], true, "{}", changed.escape_ascii());
                assert_eq!(value["messages"], before["messages"]);
            } else {
                assert!(serde_json::from_slice::<serde_json::Value>(body).is_err(), "broken by the edit");
            }
        }
    });
}
