use std::{collections::HashMap, sync::Arc};

use evenkeel_domain::limit::{Attributes, LimitRules};

use super::*;
use crate::Config;

fn options() -> Options {
    Options::default()
}

fn converted(options: &Options, yaml: &str) -> (Arc<LimitRules>, Vec<String>) {
    let (text, warnings) = convert(options, "x.yaml", yaml).unwrap();
    (Config::parse(&text).unwrap_or_else(|faults| panic!("{faults}\n{text}")).rules, warnings)
}

fn faults(options: &Options, yaml: &str) -> Vec<String> {
    convert(options, "x.yaml", yaml).unwrap_err().0
}

/// Builds a file with one limit that has these conditions.
fn with_conditions(conditions: &[&str]) -> String {
    let conditions: Vec<String> = conditions.iter().map(|text| format!("{text:?}")).collect();
    format!("- {{namespace: n, max_value: 1, seconds: 60, conditions: [{}]}}", conditions.join(", "))
}

fn entries(entries: &[(&str, &str)]) -> Attributes {
    let of = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Attributes { descriptors: entries.iter().map(of).collect::<HashMap<_, _>>(), ..Attributes::default() }
}

/// Returns whether the only limit of the rules applies.
fn applies(rules: &LimitRules, attributes: &Attributes) -> bool {
    rules.limits[0].when.iter().all(|condition| condition.holds(attributes))
}

#[test]
fn the_example_of_limitador_is_converted() {
    let yaml = "---
- namespace: test_namespace
  max_value: 10
  seconds: 60
  conditions:
    - \"descriptors[0]['req.method'] == 'GET'\"
    - \"descriptors[0]['req.path'] != '/json'\"
  variables: []
- namespace: test_namespace
  name: per-user
  max_value: 50000
  seconds: 7200
  conditions: []
  variables: [\"descriptors[0]['user_id']\"]
";
    let options = Options {
        attributes: vec![("req.path".into(), "path".into()), ("user_id".into(), "consumer".into())],
        tokens: vec!["per-user".into()],
        ..options()
    };
    let (text, warnings) = convert(&options, "x.yaml", yaml).unwrap();
    let rules = Config::parse(&text).unwrap().rules;
    let names: Vec<&str> = rules.limits.iter().map(|limit| &*limit.name).collect();
    assert_eq!(names, ["test_namespace", "per-user"]);
    assert!(
        text.contains("per: 1m") && text.contains("per: 2h") && text.contains("counts: tokens"),
        "{text}"
    );
    let request =
        |method: &str, path: &str| Attributes { path: path.into(), ..entries(&[("req.method", method)]) };
    for (method, path, expected) in
        [("GET", "/a", true), ("GET", "/json", false), ("POST", "/a", false), ("GET", "", false)]
    {
        assert_eq!(applies(&rules, &request(method, path)), expected, "{method} {path}");
    }
    assert_eq!(rules.limits[1].key.attributes()[0].to_string(), "consumer");
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[0].contains("apply to every request") && warnings[1].contains("req.method"),
        "{warnings:?}"
    );
}

/// A condition of Limitador is false if the entry is absent.
#[test]
fn conditions_hold_for_the_same_values() {
    let values = ["", "a", "b", "ab", "ba", "xabx", "a.b", "a\nb"];
    type Holds = fn(&str) -> bool;
    let cases: [(&str, Holds); 17] = [
        ("descriptors[0]['x'] == 'a'", |x| x == "a"),
        ("'a' == descriptors[0].x", |x| x == "a"),
        ("descriptors[0].x != 'a'", |x| x != "a"),
        ("!(descriptors[0].x == 'a')", |x| x != "a"),
        ("!(descriptors[0].x != 'a')", |x| x == "a"),
        ("descriptors[0].x in ['a', 'b', 'a']", |x| x == "a" || x == "b"),
        ("!(descriptors[0].x in ['a', ''])", |x| x != "a"),
        ("descriptors[0].x == 'a' || descriptors[0].x == 'b' || descriptors[0].x in ['ab']", |x| {
            ["a", "b", "ab"].contains(&x)
        }),
        ("descriptors[0].x.startsWith('a') && descriptors[0].x != 'ab'", |x| x.starts_with('a') && x != "ab"),
        ("descriptors[0].x.endsWith('a')", |x| x.ends_with('a')),
        ("!descriptors[0].x.contains('a')", |x| !x.contains('a')),
        ("descriptors[0].x.matches('a.b')", |x| x == "a.b"),
        ("descriptors[0].x.matches('^a|b$')", |x| x.starts_with('a') || x.ends_with('b')),
        ("descriptors[0].x.matches('b')", |x| x.contains('b')),
        ("'x' in descriptors[0]", |_| true),
        ("descriptors[0].x != ''", |_| true),
        ("x == 'a' && true", |x| x == "a"),
    ];
    for (source, expected) in cases {
        let (rules, _) = converted(&options(), &with_conditions(&[source]));
        for value in values {
            let found = applies(&rules, &entries(&[("x", value)]));
            assert_eq!(found, !value.is_empty() && expected(value), "{source} {value:?}");
        }
    }
    for source in ["!('x' in descriptors[0])", "!has(descriptors[0].x)"] {
        let (rules, _) = converted(&options(), &with_conditions(&[source]));
        assert!(
            applies(&rules, &Attributes::default()) && !applies(&rules, &entries(&[("x", "a")])),
            "{source}"
        );
    }
}

#[test]
fn what_has_no_equivalent_is_a_fault_with_its_path() {
    for (condition, expected) in [
        (
            "descriptors[0].x == 'a' || descriptors[0].y == 'b'",
            "an || of other tests than == and in of one entry",
        ),
        ("descriptors[0].x == ''", "a comparison with the empty text"),
        ("!(descriptors[0].x == 'a' && descriptors[0].y == 'b')", "a ! before several tests"),
        ("int(descriptors[0].x) == 5", "the function int"),
        ("descriptors[1].x == 'a'", "descriptors[1]"),
    ] {
        let found = faults(&options(), &with_conditions(&["true", condition]));
        let start = "x.yaml: [0].conditions[1]: must be tests of entries such as descriptors[0]['x'] == 'a', joined by &&, got ";
        assert!(found[0].starts_with(&format!("{start}{expected}")), "{found:?}");
        assert!(found[0].ends_with(&format!(" in {condition:?}")), "{found:?}");
    }
    let cases = [
        (
            "- {namespace: n, max_value: 1, seconds: 60, variables: ['a + b']}",
            "x.yaml: [0].variables[0]: must be an entry",
        ),
        ("- {namespace: n, max_value: 1, seconds: 60, policy: x}", "x.yaml: [0].policy: must be one of id, "),
        (
            "- {namespace: n, max_value: -1, seconds: 60}",
            "x.yaml: [0].max_value: must be a whole number, got -1",
        ),
        (
            "- {namespace: n, max_value: 1, seconds: 60, conditions: x}",
            "x.yaml: [0].conditions: must be a list of texts",
        ),
        ("- {max_value: 1, seconds: 60}", "x.yaml: [0].namespace: must be the name of a namespace, got none"),
        ("- {namespace: n, max_value: 1, seconds: 9999999}", "x.yaml: [0].seconds: must be 1..2678400, got "),
        ("- {namespace: n, max_value: 1, seconds: 0}", "x.yaml: [0].seconds: must be 1..2678400, got "),
        (
            "- {namespace: n, max_value: 1, seconds: 1}\n- {namespace: m, max_value: 1, seconds: 1}",
            "x.yaml: must be one namespace",
        ),
        (
            "- {namespace: n, max_value: 1, seconds: 1}\n- {namespace: n, max_value: 2, seconds: 1}",
            "x.yaml: [1]: must be a limit with other seconds",
        ),
        ("- {namespace: 7, max_value: 1, seconds: 60}", "x.yaml: [0].namespace: must be a text, in quotes"),
        (
            "- {namespace: n, max_value: 010, seconds: 60}",
            "x.yaml: [0].max_value: must be a whole number, got \"010\"",
        ),
        (
            "- {namespace: n, max_value: 1000000000000001, seconds: 60}",
            "x.yaml: [0].max_value: must be 0..1000000000000000, got 1000000000000001",
        ),
        ("- 7", "x.yaml: [0]: must be a limit"),
        ("a: 7", "x.yaml: must be a list of limits"),
        ("", "x.yaml: must be a list of limits, "),
        ("- [", "x.yaml: "),
        (
            "domain: d\ndescriptors: []",
            "x.yaml: must be a file of Limitador's limits, got a file of limits of Envoy's",
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\ndata: {a.txt: x}",
            "x.yaml: data: must be a map with a text whose name ends in .yaml or .yml, got \"a.txt\"",
        ),
        (
            "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Service}]",
            "x.yaml: items[0]: must be a file of Limitador's limits, got a Kubernetes Service",
        ),
    ];
    for (yaml, expected) in cases {
        let found = faults(&options(), yaml);
        assert!(found[0].starts_with(expected), "{yaml}: {found:?}");
        // The faults are at fields of the file, and not at those of the converted limit.
        assert!(found.iter().all(|fault| !fault.contains("x.yaml: limit ")), "{yaml}: {found:?}");
    }
    let yaml = with_conditions(&["x == 'a'"]);
    for (options, expected) in [
        (
            Options { namespace: Some("m".into()), ..options() },
            "--namespace: must be one of \"n\", got \"m\"",
        ),
        (
            Options { attributes: vec![("y".into(), "path".into())], ..options() },
            "--attribute: must be an entry",
        ),
        (Options { tokens: vec!["y".into()], ..options() }, "--tokens: must be the name or id of a limit"),
        (
            Options { attributes: vec![("x".into(), "nowhere".into())], ..options() },
            "x.yaml: limit n.when[0].attribute: ",
        ),
    ] {
        assert!(
            faults(&options, &yaml)[0].starts_with(expected),
            "{expected}: {:?}",
            faults(&options, &yaml)
        );
    }
}

#[test]
fn limits_in_kubernetes_objects_are_read() {
    let limit = "{namespace: n, max_value: 1, seconds: 60, name: 'a b', id: i}";
    let resource =
        format!("apiVersion: limitador.kuadrant.io/v1alpha1\nkind: Limitador\nspec: {{limits: [{limit}]}}");
    let map =
        format!("apiVersion: v1\nkind: ConfigMap\ndata: {{limitador-config.yaml: \"- {limit}\", x: y}}");
    let service = "apiVersion: v1\nkind: Service\nspec: {}";
    let with_service = format!("{service}\n---\n{resource}");
    let list = format!(
        "apiVersion: v1\nkind: List\nitems:\n- {{apiVersion: x/v1, kind: Limitador, spec: {{limits: [{limit}]}}}}"
    );
    let typed = format!("apiVersion: x/v1\nkind: LimitadorList\nitems:\n- {{spec: {{limits: [{limit}]}}}}");
    for yaml in [resource, with_service, list, typed, map, format!("limits: [{limit}]")] {
        let (rules, warnings) = converted(&options(), &yaml);
        assert_eq!(&*rules.limits[0].name, "a-b", "{yaml}");
        assert!(warnings.iter().any(|warning| warning.contains("\"i\" is not converted")), "{warnings:?}");
    }
    let two = "- {namespace: n, max_value: 1, seconds: 1}\n- {namespace: m, max_value: 1, seconds: 1}";
    let (rules, warnings) = converted(&Options { namespace: Some("m".into()), ..options() }, two);
    assert_eq!(rules.limits.len(), 1);
    assert!(warnings[0].contains("[0]: is not converted: its namespace is \"n\""), "{warnings:?}");
}
