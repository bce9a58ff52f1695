use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{
    reference::reference,
    schema,
    validator::{faults, resolved},
};
use crate::{Config, Sections, from_yaml};

/// Configurations that together contain every section, so that every field can be set in one of them.
const BASES: [&str; 7] = [
    "{}",
    "listen: {}\nlog: {}\nruntime: {}\nstore: {}\nunlisted_pools: {}\ngateway: {}\nadmin: {tokens: [{name: ops, token: \
     0123456789abcdef}]}\nledger: {}\ntickets: {}\nrate_limit_service: {config: limits}\ntraces: {endpoint: 'https://c:1', headers: \
     [{name: a, value: b}]}",
    "store: {type: sentinel, sentinels: ['redis://h'], master_name: m, tls: {server_name: h}}",
    "store: {type: redis, url: 'redis://h'}\nprefix_index: {}\npools: [{cluster: a, policy: least_work, \
     prefix_cache: {}, affinity: {session: soft}, endpoints: [{address: 'a:1'}]}, {cluster: b, dns: {name: x, port: 1}}, {cluster: c, kubernetes: {service: s}}]\nlog: {}\nlisten: \
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

pub(super) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

fn base(text: &str) -> Value {
    from_yaml(text).unwrap()
}

/// Parses a configuration and formats the result. Leaves out `sections`, which depends on the text as written.
fn meaning(value: &Value) -> Result<String, Vec<String>> {
    let mut config = Config::parse(&value.to_string()).map_err(|faults| faults.0)?;
    config.sections = Sections::default();
    Ok(format!("{config:?}"))
}

/// Collects every object in a value, with the object's pointer, its path in error messages, and its schema.
fn objects<'s>(
    root: &'s Value,
    schema: &'s Value,
    value: &Value,
    at: &str,
    path: &str,
    found: &mut Vec<(String, String, &'s Value)>,
) {
    let schema = resolved(root, schema);
    match value {
        Value::Object(fields) => {
            found.push((at.to_owned(), path.to_owned(), schema));
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                if let Some(field) = schema.pointer(&format!("/properties/{name}")) {
                    objects(root, field, value, &format!("{at}/{name}"), &path, found);
                }
            }
        }
        Value::Array(items) => {
            for (i, value) in items.iter().enumerate() {
                objects(root, &schema["items"], value, &format!("{at}/{i}"), &format!("{path}[{i}]"), found);
            }
        }
        _ => {}
    }
}

/// Calls `with` for every field of every base, with the base, the object's pointer, and the field's path, name and
/// schema.
fn each_field(root: &Value, mut with: impl FnMut(&Value, &str, &str, &str, &Value)) {
    for text in BASES {
        let base = base(text);
        let mut found = Vec::new();
        objects(root, root, &base, "", "", &mut found);
        for (at, path, schema) in found {
            for (name, field) in schema["properties"].as_object().unwrap() {
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

/// Returns a path without its indexes.
fn place(path: &str) -> String {
    path.chars().filter(|c| !c.is_ascii_digit()).collect()
}

#[test]
fn every_field_is_documented() {
    let root = schema();
    let definitions = root["$defs"].as_object().unwrap().values().chain([&root]);
    let mut count = 0;
    for schema in definitions {
        assert_eq!(schema["additionalProperties"], false, "{schema}");
        for (name, field) in schema["properties"].as_object().unwrap() {
            assert!(field["description"].as_str().is_some_and(|text| text.ends_with('.')), "{name}: {field}");
            count += 1;
        }
    }
    assert!(count > 100, "{count}");
}

#[test]
fn bases_are_valid_and_reach_every_definition() {
    let root = schema();
    let mut reached = BTreeSet::new();
    for text in BASES {
        assert_eq!(faults(&root, &base(text)), [""; 0], "{text}");
        meaning(&base(text)).unwrap();
        let mut found = Vec::new();
        objects(&root, &root, &base(text), "", "", &mut found);
        reached.extend(found.into_iter().map(|(_, _, schema)| schema["description"].to_string()));
    }
    let definitions = root["$defs"].as_object().unwrap().iter();
    // No base contains `higress_rules` or `tls`, which need files.
    let missed: Vec<&String> = definitions
        .filter(|(name, schema)| {
            !["HigressRules", "Tls"].contains(&name.as_str())
                && !reached.contains(&schema["description"].to_string())
        })
        .map(|(name, _)| name)
        .collect();
    assert!(missed.is_empty(), "{missed:?}");
}

/// Writing a default value into the file changes nothing.
#[test]
fn documented_defaults_are_the_real_ones() {
    let root = schema();
    let (mut all, mut shown) = (BTreeSet::new(), BTreeSet::new());
    each_field(&root, |base, at, path, name, field| {
        let Some(default) = field.get("default") else { return };
        all.insert(place(path));
        let written = set(base, at, name, default.clone());
        assert_eq!(faults(&root, &written), [""; 0], "{path}");
        let mut left_out = base.clone();
        left_out.pointer_mut(at).unwrap().as_object_mut().unwrap().remove(name);
        // Skip a base that does not allow the field: another base allows it.
        let (Ok(with), Ok(without)) = (meaning(&written), meaning(&left_out)) else { return };
        assert_eq!(with, without, "{path}: {default}");
        shown.insert(place(path));
    });
    assert_eq!(shown, all);
    assert!(all.len() > 40, "{all:?}");
}

/// The parser accepts values at the documented bounds and rejects values beyond them.
#[test]
fn documented_bounds_are_the_real_ones() {
    let root = schema();
    // Values at a bound, values at a bound that some base accepts, and fields whose error for a value beyond the bound
    // names the field's path.
    let (mut at_bound, mut accepted, mut reported) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    each_field(&root, |base, at, path, name, field| {
        let (within, beyond) = edges(field);
        for value in within {
            let written = set(base, at, name, value.clone());
            at_bound.insert((place(path), value.to_string()));
            if faults(&root, &written).is_empty() && meaning(&written).is_ok() {
                accepted.insert((place(path), value.to_string()));
            }
        }
        for value in beyond {
            let written = set(base, at, name, value.clone());
            assert!(!faults(&root, &written).is_empty() || field.get("x-range").is_some(), "{path}: {value}");
            let Err(found) = meaning(&written) else { panic!("{path}: {value} is accepted") };
            if found.iter().any(|fault| fault.starts_with(path)) {
                reported.insert(place(path));
            }
        }
    });
    let rejected: Vec<_> = at_bound.difference(&accepted).collect();
    assert!(rejected.is_empty(), "rejected at their bounds: {rejected:?}");
    let places: BTreeSet<String> = at_bound.into_iter().map(|(place, _)| place).collect();
    let unreported: Vec<&String> = places.difference(&reported).collect();
    assert!(unreported.is_empty() && reported.len() > 30, "{unreported:?} {reported:?}");
}

/// Returns the values at the bounds of a field, and the values just beyond the bounds.
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

#[test]
fn schema_and_parser_reject_malformed_values() {
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
        "traces: {endpoint: 'http://c:1', sample_ratio: all}",
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
        "rate_limit_service: {config: a, on_store_failure: never}",
    ] {
        assert!(!faults(&root, &base(yaml)).is_empty(), "the schema accepts {yaml}");
        assert!(Config::parse(yaml).is_err(), "the parser accepts {yaml}");
    }
}

#[test]
fn schema_and_parser_accept_the_same_times_and_amounts() {
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

/// With `UPDATE=1`, regenerates the reference.
#[test]
fn the_reference_matches_the_types() {
    let (path, made) = (repository().join("docs/configuration-reference.md"), reference());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let differing = made.lines().zip(written.lines()).find(|(made, written)| made != written);
    assert!(
        made == written,
        "{} does not match the types: {differing:?}\nUPDATE=1 cargo test -p evenkeel-config reference regenerates it",
        path.display()
    );
}
