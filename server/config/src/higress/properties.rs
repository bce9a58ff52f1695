//! Compares converted limits with a model of the plugin that is written from the plugin's documentation. For any
//! configuration, both must count the same requests.

use std::collections::HashMap;

use evenkeel_domain::limit::{Attributes, condition::parse_cidr};
use proptest::prelude::*;

use super::{Plugin, convert};
use crate::Config;

/// An entry of `rule_items`: the field, the field's value, and the keys with unit and amount.
type Item = (&'static str, &'static str, Vec<(&'static str, &'static str, u64)>);

/// A request: consumer, header `x-a` and client address. An empty text means absent.
type Request = (&'static str, &'static str, &'static str);

fn items() -> impl Strategy<Value = Vec<Item>> {
    let rate = || (prop_oneof![Just("second"), Just("hour")], 1..4_u64);
    let exact = prop_oneof![Just("a"), Just("ab"), Just("b"), Just("ba"), Just("a.")];
    let per = prop_oneof![
        Just("*"),
        Just("regexp:^a.*"),
        Just("regexp:^ab$"),
        Just("regexp:b$"),
        Just("regexp:a|^b"),
        Just("regexp:^a|b$"),
        Just("regexp:."),
        Just("regexp:^b"),
    ];
    let network = prop_oneof![Just("1.1.1.1"), Just("1.1.1.0/24"), Just("0.0.0.0/0"), Just("2.0.0.0/8")];
    let keys = |key: BoxedStrategy<&'static str>| {
        prop::collection::vec((key, rate()).prop_map(|(key, (unit, amount))| (key, unit, amount)), 1..5)
    };
    let exact_field = prop_oneof![Just(("limit_by_consumer", "")), Just(("limit_by_header", "x-a"))];
    let per_field = prop_oneof![Just(("limit_by_per_consumer", "")), Just(("limit_by_per_header", "x-a"))];
    let item = prop_oneof![
        (exact_field, keys(exact.boxed())),
        (per_field, keys(per.boxed())),
        (Just(("limit_by_per_ip", "from-remote-addr")), keys(network.boxed())),
    ];
    prop::collection::vec(item.prop_map(|((field, name), keys)| (field, name, keys)), 1..5)
}

fn requests() -> impl Strategy<Value = Request> {
    let value = || prop_oneof![Just(""), Just("a"), Just("ab"), Just("b"), Just("ba"), Just("a."), Just("c")];
    let address = prop_oneof![Just(""), Just("1.1.1.1"), Just("1.1.1.2"), Just("2.1.1.1"), Just("3.1.1.1")];
    (value(), value(), address)
}

fn yaml(items: &[Item]) -> String {
    let item = |(field, name, keys): &Item| {
        let key =
            |(key, unit, amount): &(&str, &str, u64)| format!("{{key: '{key}', token_per_{unit}: {amount}}}");
        let keys: Vec<String> = keys.iter().map(key).collect();
        format!("- {field}: '{name}'\n  limit_keys: [{}]\n", keys.join(", "))
    };
    format!("rule_name: r\nrule_items:\n{}", items.iter().map(item).collect::<String>())
}

/// Returns what the plugin counts: the first key that matches, in the first item that matches or in all items.
fn expected(items: &[Item], matching: &str, (consumer, header, address): Request) -> Vec<String> {
    let of_item = |(i, (field, _, keys)): (usize, &Item)| {
        let value = match *field {
            "limit_by_consumer" | "limit_by_per_consumer" => consumer,
            "limit_by_per_ip" => address,
            _ => header,
        };
        let hit = |key: &str| match *field {
            _ if value.is_empty() => false,
            "limit_by_per_ip" => {
                let network = parse_cidr(key).unwrap();
                evenkeel_domain::limit::Matcher::Cidr(vec![network]).matches(Some(value))
            }
            "limit_by_consumer" | "limit_by_header" => key == value,
            _ => {
                key == "*" || regex::Regex::new(key.strip_prefix("regexp:").unwrap()).unwrap().is_match(value)
            }
        };
        let (_, unit, amount) = keys.iter().find(|(key, ..)| hit(key))?;
        Some(format!("{i} {unit} {amount} {value}"))
    };
    let hits = items.iter().enumerate().filter_map(of_item);
    if matching == "first" { hits.take(1).collect() } else { hits.collect() }
}

fn counted(config: &Config, (consumer, header, address): Request) -> Vec<String> {
    let facts = Attributes {
        consumer: consumer.to_owned(),
        source_ip: address.parse().ok(),
        headers: HashMap::from([("x-a".to_owned(), header.to_owned())]),
        ..Attributes::default()
    };
    let limits = config.rules.limits.iter().filter(|limit| limit.when.iter().all(|c| c.holds(&facts)));
    let text = limits.filter_map(|limit| {
        let value = limit.key.attributes()[0].value(&facts)?.into_owned();
        let exception = limit.exceptions.iter().find(|e| e.when.iter().all(|c| c.holds(&facts)));
        let amount = exception.map_or(limit.amount, |exception| exception.amount.unwrap());
        let mut parts = limit.name.split('.').skip(2);
        let item = parts.next().unwrap();
        let unit = parts.next().unwrap().split('-').next().unwrap();
        Some(format!("{item} {unit} {amount} {value}"))
    });
    text.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn the_same_requests_are_counted(
        items in items(),
        requests in prop::collection::vec(requests(), 30),
        matching in prop_oneof![Just("first"), Just("all")],
    ) {
        let yaml = yaml(&items);
        let (converted, _) = convert(Plugin::AiTokenRatelimit, Some(matching), "x.yaml", &yaml).unwrap();
        let config = Config::parse(&converted).map_err(|f| TestCaseError::fail(format!("{f}\n{converted}")))?;
        for request in requests {
            prop_assert_eq!(
                counted(&config, request), expected(&items, matching, request),
                "{:?} {}\n{}\n{}", request, matching, yaml, converted
            );
        }
    }
}
