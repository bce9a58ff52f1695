use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use evenkeel_domain::settings::LimitFiles;
use evenkeel_engine::rls::RateLimitMetrics;
use serde_json::{Value, json};

use super::{
    judge::{faults, followed},
    reference::reference,
    schema,
};
use crate::{Config, Sections, from_yaml};

/// Configurations that have every section, and in all of them every field has its place.
const BASES: [&str; 6] = [
    "{}",
    "listen: {}\nlog: {}\nruntime: {}\nstore: {}\nunlisted_pools: {}\nadmin: {tokens: [{name: ops, token: \
     0123456789abcdef}]}\nledger: {}\nrate_limit_service: {config: limits}\ntraces: {endpoint: 'https://c:1', headers: \
     [{name: a, value: b}]}",
    "store: {type: redis, url: 'redis://h'}\npools: [{cluster: a, endpoints: [{address: 'a:1'}]}, \
     {cluster: b, dns: {name: x, port: 1}}, {cluster: c, kubernetes: {service: s}}]\nlog: {}\nlisten: \
     {grpc_socket: s}\nkubernetes: {namespace: x}",
    "limits: [{name: l, counts: tokens, amount: 5, per: day, rejected: {}, exceptions: [{amount: 5, when: \
     [{attribute: ip, not: {exact: a}}]}]}]\nquotas: [{name: q, counts: tokens, kind: budget, per: month, rejected: {}}]",
    "limits: [{name: b, counts: tokens, amount: 5, per: 1m, algorithm: token_bucket, exceptions: [{amount: 5, when: \
     [{attribute: model, exact: a}]}]}]\nprices: [{model: m, input: 1, output: 1}]\nmodels: [{model: m, \
     output_tokens: 5, bytes_per_token: 5}]",
    "kubernetes: {api_server: 'https://a', token_file: a, ca_file: a, namespace: x}\n\
     pools: [{cluster: a, route: r, per_route: true, kubernetes: {service: s}}]\n\
     limits: [{name: l, counts: requests, amount: 5, per: 1m, exceptions: [{amount: 5, when: [{attribute: model, \
     prefix: a}, {attribute: route, regex: a}, {attribute: path, not: {prefix: a}}, {attribute: cluster, not: \
     {regex: a}}]}]}]",
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

fn base(text: &str) -> Value {
    from_yaml(text).unwrap()
}

/// All there is to say of what a configuration means, but for which sections it was written with.
fn meaning(value: &Value) -> Result<String, Vec<String>> {
    let mut config = Config::parse(&value.to_string()).map_err(|faults| faults.0)?;
    config.sections = Sections::default();
    Ok(format!("{config:?}"))
}

/// Every object of a value with its shape: the pointer to it, the path as faults tell it, and the shape.
fn objects<'s>(
    root: &'s Value,
    shape: &'s Value,
    value: &Value,
    at: &str,
    path: &str,
    found: &mut Vec<(String, String, &'s Value)>,
) {
    let shape = followed(root, shape);
    match value {
        Value::Object(fields) => {
            found.push((at.to_owned(), path.to_owned(), shape));
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                if let Some(field) = shape.pointer(&format!("/properties/{name}")) {
                    objects(root, field, value, &format!("{at}/{name}"), &path, found);
                }
            }
        }
        Value::Array(items) => {
            for (i, value) in items.iter().enumerate() {
                objects(root, &shape["items"], value, &format!("{at}/{i}"), &format!("{path}[{i}]"), found);
            }
        }
        _ => {}
    }
}

/// Calls with every field of every base: the base, the object's pointer, the field's path and name, and its schema.
fn each_field(root: &Value, mut with: impl FnMut(&Value, &str, &str, &str, &Value)) {
    for text in BASES {
        let base = base(text);
        let mut found = Vec::new();
        objects(root, root, &base, "", "", &mut found);
        for (at, path, shape) in found {
            for (name, field) in shape["properties"].as_object().unwrap() {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                with(&base, &at, &path, name, field);
            }
        }
    }
}

fn set(base: &Value, at: &str, name: &str, value: Value) -> Value {
    let mut changed = base.clone();
    changed.pointer_mut(at).unwrap()[name] = value;
    changed
}

/// A path without the numbers of its entries.
fn place(path: &str) -> String {
    path.chars().filter(|c| !c.is_ascii_digit()).collect()
}

#[test]
fn every_field_has_a_text() {
    let root = schema();
    let shapes = root["$defs"].as_object().unwrap().values().chain([&root]);
    let mut count = 0;
    for shape in shapes {
        assert_eq!(shape["additionalProperties"], false, "{shape}");
        for (name, field) in shape["properties"].as_object().unwrap() {
            assert!(field["description"].as_str().is_some_and(|text| text.ends_with('.')), "{name}: {field}");
            count += 1;
        }
    }
    assert!(count > 100, "{count}");
}

#[test]
fn bases_are_right_and_reach_every_shape() {
    let root = schema();
    let mut reached = BTreeSet::new();
    for text in BASES {
        assert_eq!(faults(&root, &base(text)), [""; 0], "{text}");
        meaning(&base(text)).unwrap();
        let mut found = Vec::new();
        objects(&root, &root, &base(text), "", "", &mut found);
        reached.extend(found.into_iter().map(|(_, _, shape)| shape["description"].to_string()));
    }
    let shapes = root["$defs"].as_object().unwrap().iter();
    // It only names a file.
    let missed: Vec<&String> = shapes
        .filter(|(name, shape)| {
            *name != "HigressRules" && !reached.contains(&shape["description"].to_string())
        })
        .map(|(name, _)| name)
        .collect();
    assert!(missed.is_empty(), "{missed:?}");
}

/// A default that is written out changes nothing.
#[test]
fn defaults_are_those_that_hold() {
    let root = schema();
    let (mut all, mut shown) = (BTreeSet::new(), BTreeSet::new());
    each_field(&root, |base, at, path, name, field| {
        let Some(default) = field.get("default") else { return };
        all.insert(place(path));
        let written = set(base, at, name, default.clone());
        assert_eq!(faults(&root, &written), [""; 0], "{path}");
        let mut left_out = base.clone();
        left_out.pointer_mut(at).unwrap().as_object_mut().unwrap().remove(name);
        // Where it may not stand, another base has it.
        let (Ok(with), Ok(without)) = (meaning(&written), meaning(&left_out)) else { return };
        assert_eq!(with, without, "{path}: {default}");
        shown.insert(place(path));
    });
    assert_eq!(shown, all);
    assert!(all.len() > 40, "{all:?}");
}

/// What is at the bound is taken, and what is beyond is not.
#[test]
fn bounds_are_those_that_hold() {
    let root = schema();
    // At a bound; taken there, in one base at least; told to be wrong beyond it.
    let (mut at_bound, mut taken, mut told) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    each_field(&root, |base, at, path, name, field| {
        let (within, beyond) = edges(field);
        for value in within {
            let written = set(base, at, name, value.clone());
            at_bound.insert((place(path), value.to_string()));
            if faults(&root, &written).is_empty() && meaning(&written).is_ok() {
                taken.insert((place(path), value.to_string()));
            }
        }
        for value in beyond {
            let written = set(base, at, name, value.clone());
            assert!(!faults(&root, &written).is_empty() || field.get("x-range").is_some(), "{path}: {value}");
            let Err(found) = meaning(&written) else { panic!("{path}: {value} is taken") };
            if found.iter().any(|fault| fault.starts_with(path)) {
                told.insert(place(path));
            }
        }
    });
    let refused: Vec<_> = at_bound.difference(&taken).collect();
    assert!(refused.is_empty(), "at their bounds, and not taken: {refused:?}");
    let places: BTreeSet<String> = at_bound.into_iter().map(|(place, _)| place).collect();
    let untold: Vec<&String> = places.difference(&told).collect();
    assert!(untold.is_empty() && told.len() > 30, "{untold:?} {told:?}");
}

/// Values at the bounds of a field and beyond them.
fn edges(field: &Value) -> (Vec<Value>, Vec<Value>) {
    let (mut within, mut beyond) = (Vec::new(), Vec::new());
    let range = field.get("x-range").and_then(Value::as_str).and_then(|range| range.split(' ').next());
    let times = range.and_then(|range| range.split_once("..")).map(|(least, most)| {
        let time = |text: &str| text.parse::<humantime_serde::re::humantime::Duration>().map(|time| *time);
        (time(least), time(most))
    });
    if let Some((Ok(least), Ok(most))) = times {
        let text = |time: std::time::Duration| json!(format!("{}ms", time.as_millis()));
        let ms = std::time::Duration::from_millis(1);
        within.extend([text(least), text(most)]);
        beyond.push(text(most + ms));
        beyond.extend(least.checked_sub(ms).map(text));
    }
    let whole = field["type"] == "integer" || field["x-type"] == "whole number";
    let step = |number: &Value, up: bool| match number.as_i64() {
        Some(number) if whole => json!(if up { number + 1 } else { number - 1 }),
        _ => json!(number.as_f64().unwrap() + if up { 0.5 } else { -0.0005 }),
    };
    if let Some(most) = field.get("maximum") {
        within.push(most.clone());
        beyond.push(step(most, true));
    }
    match (field.get("minimum"), field.get("exclusiveMinimum")) {
        (_, Some(least)) => beyond.push(least.clone()),
        (Some(least), None) => {
            within.push(least.clone());
            beyond.push(step(least, false));
        }
        (None, None) => {}
    }
    let length = |keyword: &str| field.get(keyword).and_then(Value::as_u64).map(|n| n as usize);
    let text = |length: usize| json!("a".repeat(length));
    let fits = |value: &Value| faults(field, value).is_empty();
    if let Some(most) = length("maxLength").filter(|most| fits(&text(*most))) {
        within.push(text(most));
        beyond.push(text(most + 1));
    }
    if let Some(least) = length("minLength").filter(|least| fits(&text(*least))) {
        within.push(text(least));
        beyond.push(text(least - 1));
    }
    (within, beyond)
}

/// Both refuse them, each for the shape alone.
#[test]
fn what_is_misshapen_is_refused_by_schema_and_parser() {
    let root = schema();
    for yaml in [
        "7",
        "[a]",
        "xyz: 1",
        "shutdown_delay: [1s]",
        "shutdown_delay: soon",
        "keep_alive_interval: 2 parsecs",
        "log: loud",
        "log: {format: xml}",
        "listen: {grpc: here}",
        "listen: {http: 'off'}",
        "listen: {http: 'localhost:1'}",
        "listen: {grpc_socket_mode: '999'}",
        "runtime: {worker_threads: many}",
        "store: {type: postgres}",
        "store: {type: redis, url: 'http://x'}",
        "store: {type: redis, urls: 'redis://a'}",
        "store: {type: redis, url: 'redis://a', key_prefix: 'a{'}",
        "store: {type: redis, url: 'redis://a', cluster: maybe}",
        "pools: {cluster: a}",
        "pools: [7]",
        "pools: [{}]",
        "pools: [{cluster: llm, capp: 3}]",
        "pools: [{cluster: a, cap: many}]",
        "pools: [{cluster: a, cap: -1}]",
        "pools: [{cluster: a, endpoints: [{weight: 2}]}]",
        "pools: [{cluster: a, dns: {name: x}}]",
        "pools: [{cluster: a, dns: {name: x, port: 1, prt: 1}}]",
        "pools: [{cluster: a, on_store_failure: maybe}]",
        "pools: [{cluster: a, kubernetes: {service: A}}]",
        "pools: [{cluster: a, kubernetes: {service: a, port: 0}}]",
        "kubernetes: {api_server: 'ftp://a'}",
        "traces: {endpoint: 'c:1'}",
        "traces: {endpoint: 'http://c:1', sample: all}",
        "traces: {endpoint: 'http://c:1', headers: [{name: a}]}",
        "unlisted_pools: {accept: 3}",
        "limits: [{counts: tokens, amount: 1, per: 1m}]",
        "limits: [{name: a, amount: 1, per: 1m}]",
        "limits: [{name: a, counts: tokens, per: 1m}]",
        "limits: [{name: 'a b', counts: tokens, amount: 1, per: 1m}]",
        "limits: [{name: a, counts: words, amount: 1, per: 1m}]",
        "limits: [{name: a, counts: tokens, amount: -1, per: 1m}]",
        "limits: [{name: a, counts: tokens, amount: 1K, per: 1m}]",
        "limits: [{name: a, counts: tokens, amount: {a: b}, per: 1m}]",
        "limits: [{name: a, counts: tokens, amount: 1, per: year}]",
        "limits: [{name: a, counts: tokens, amount: 1, per: 1m, algorithm: leaky}]",
        "limits: [{name: a, counts: tokens, amount: 1, per: 1m, mode: test}]",
        "limits: [{name: a, counts: tokens, amount: 1, per: 1m, kay: [consumer]}]",
        "limits: [{name: a, counts: tokens, amount: 1, per: 1m, key: [user]}]",
        "limits: [{name: a, counts: tokens, amount: 1, per: 1m, reserve_margin: lots}]",
        "limits: [{name: a, counts: tokens, amount: 1, per: 1m, when: [{attribute: model}]}]",
        "limits: [{name: a, counts: tokens, amount: 1, per: 1m, when: [{exact: a}]}]",
        "limits: [{name: a, counts: tokens, amount: 1, per: 1m, when: [{attribute: ip, exact: a, prefix: a}]}]",
        "limits: [{name: a, counts: tokens, amount: 1, per: 1m, when: [{attribute: ip, exat: a}]}]",
        "limits: [{name: a, counts: tokens, amount: 1, per: 1m, when: [{attribute: ip, not: {not: {exact: a}}}]}]",
        "limits: [{name: a, counts: tokens, amount: 1, per: 1m, exceptions: [{amount: 1}]}]",
        "limits: [{name: a, counts: tokens, amount: 1, per: 1m, rejected: {status: ok}}]",
        "quotas: [{name: a, counts: tokens}]",
        "quotas: [{name: a, counts: tokens, kind: gift}]",
        "prices: [{model: a, input: 1}]",
        "prices: [{model: 'a*b', input: 1, output: 1}]",
        "models: [{model: a}]",
        "models: [{model: a, output_tokens: few}]",
        "limit_headers: [y]",
        "limit_headers: ietf",
        "quota_admins: admin",
        "admin: {tokens: [{name: a}]}",
        "admin: {tokens: [{name: a, token: short}]}",
        "ledger: {enabled: 2}",
        "ledger: {rows_max: many}",
        "higress_rules: [{plugin: ai-cache, file: a}]",
        "rate_limit_service: {}",
        "rate_limit_service: {config: a, headers: [w]}",
        "rate_limit_service: {config: a, on_outage: never}",
    ] {
        assert!(!faults(&root, &base(yaml)).is_empty(), "the schema takes {yaml}");
        assert!(Config::parse(yaml).is_err(), "the parser takes {yaml}");
    }
}

#[test]
fn texts_of_times_and_amounts_are_those_that_are_read() {
    let root = schema();
    for per in [
        "1s",
        "1m 30s",
        "1h30m",
        "90 seconds",
        "31d",
        "4w",
        "day",
        "month",
        "5",
        "1 day 2",
        "s",
        "one day",
        "",
    ] {
        let value = json!({"limits": [{"name": "a", "counts": "tokens", "amount": 1, "per": per}]});
        assert_eq!(faults(&root, &value).is_empty(), meaning(&value).is_ok(), "{per}");
    }
    for amount in ["1", "10k", "1.5M", "1G", "007", "1.", ".5", "1e3", "+1", "1 k", "k", "ten", ""] {
        let value = json!({"limits": [{"name": "a", "counts": "cost", "amount": amount, "per": "1m"}],
            "prices": [{"model": "*", "input": 1, "output": 1}]});
        assert_eq!(faults(&root, &value).is_empty(), meaning(&value).is_ok(), "{amount}");
    }
}

/// Whole configurations in the documents, that is blocks of YAML of whose fields every one is a section; and whole files
/// of the rate limit service.
#[test]
fn configurations_in_documents_are_right() {
    let root = schema();
    let sections = root["properties"].as_object().unwrap();
    let mut files: Vec<PathBuf> = std::fs::read_dir(repository().join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .chain([repository().join("README.md")])
        .collect();
    files.sort();
    let (mut count, mut limits) = (0, 0);
    let directory = tempfile::tempdir().unwrap();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let blocks: Vec<String> = match file.extension().and_then(|end| end.to_str()) {
            Some("yaml") => vec![text],
            Some("md") => blocks(&text),
            _ => continue,
        };
        for block in blocks {
            if block.contains("\ndomain: ") && block.contains("\ndescriptors:") {
                limits += 1;
                let limits_file = directory.path().join("limits.yaml");
                std::fs::write(&limits_file, &block).unwrap();
                let source = LimitFiles { path: limits_file, merge_domains: false };
                let loaded = evenkeel_engine::rls::load(&source, &RateLimitMetrics::unregistered());
                assert!(loaded.is_ok(), "{}: {:?} in {block}", file.display(), loaded.err());
                continue;
            }
            let Ok(value @ Value::Object(_)) = from_yaml::<Value>(&block) else { continue };
            if !value.as_object().unwrap().keys().all(|name| sections.contains_key(name)) {
                continue;
            }
            count += 1;
            assert_eq!(faults(&root, &value), [""; 0], "{}: {block}", file.display());
            let found = Config::parse(&block).err().map(|faults| faults.0).unwrap_or_default();
            // The files that examples name are elsewhere.
            let found: Vec<String> = found.into_iter().filter(|fault| !fault.contains("be read")).collect();
            assert!(found.is_empty(), "{}: {found:?} in {block}", file.display());
        }
    }
    assert!(count >= 20 && limits >= 3, "{count}, {limits}");
}

/// Blocks of YAML, also those that stand within a list.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for line in text.lines() {
        let fence = line.trim_start();
        match &mut open {
            None if fence == "```yaml" => open = Some((line.len() - fence.len(), String::new())),
            Some(_) if fence == "```" => blocks.extend(open.take().map(|(_, block)| block)),
            Some((indent, block)) => {
                block.push_str(line.get(*indent..).unwrap_or_default());
                block.push('\n');
            }
            None => {}
        }
    }
    blocks
}

/// `UPDATE=1` writes it anew.
#[test]
fn the_reference_is_that_of_the_types() {
    let (path, made) = (repository().join("docs/configuration-reference.md"), reference());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let differing = made.lines().zip(written.lines()).find(|(made, written)| made != written);
    assert!(
        made == written,
        "{} is not what the types say: {differing:?}\nUPDATE=1 cargo test -p evenkeel-config reference writes it anew",
        path.display()
    );
}
