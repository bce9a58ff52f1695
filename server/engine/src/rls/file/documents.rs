//! Finds the documents of limits in a text: documents of their own, and those in a Kubernetes ConfigMap.

use evenkeel_domain::file_kind::{FileKind, items_of};
use serde_json::{Map, Value};

use super::{Fault, File, Written, from_yaml};

/// The documents of limits in one text.
#[derive(Debug, Default)]
pub(in crate::rls) struct Documents {
    pub(in crate::rls) files: Vec<File>,
    /// What was passed over, and why.
    pub(in crate::rls) warnings: Vec<String>,
}

/// Parses a text. `name` is its file's name.
///
/// # Errors
/// Returns all errors in all documents.
pub(in crate::rls) fn parse(name: &str, yaml: &str) -> Result<Documents, Vec<Fault>> {
    let mut found = Found::default();
    found.text(name, yaml, true);
    let Found { documents, faults, others } = found;
    let Documents { files, mut warnings } = documents;
    if !faults.is_empty() {
        return Err(faults);
    }
    // Other objects are usual beside a ConfigMap, for example the Deployment that mounts it.
    if files.is_empty()
        && let Some((at, kind)) = others.first()
    {
        return Err(vec![of_other_kind(at, kind)]);
    }
    warnings.extend(others.iter().map(|(at, kind)| format!("{at}: is not read: it is {kind}")));
    Ok(Documents { files, warnings })
}

/// Returns whether a file of this name contains limits.
pub(in crate::rls) fn is_limit_file_name(name: &str) -> bool {
    !name.starts_with('.') && (name.ends_with(".yaml") || name.ends_with(".yml"))
}

fn of_other_kind(name: &str, kind: &FileKind) -> Fault {
    Fault {
        file: name.to_owned(),
        path: String::new(),
        text: format!("must be a file of limits, got {kind}: {}", kind.remedy()),
    }
}

#[derive(Default)]
struct Found {
    documents: Documents,
    faults: Vec<Fault>,
    /// Kubernetes objects that contain no limits, with their places.
    others: Vec<(String, FileKind)>,
}

impl Found {
    fn fault(&mut self, name: &str, path: &str, text: String) {
        self.faults.push(Fault { file: name.to_owned(), path: path.to_owned(), text });
    }

    /// Reads all documents of a text. Only the text of a file, and not the text in a ConfigMap, may contain ConfigMaps.
    fn text(&mut self, name: &str, yaml: &str, is_file: bool) {
        let parsed = from_yaml::<Value>(yaml).and_then(|values| Ok((values, Written::documents(yaml)?)));
        let (mut values, mut written) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => return self.fault(name, "", format!("must be YAML: {error}")),
        };
        if values.is_empty() && written.is_empty() {
            values.push(Value::Null);
            written.push(Written::Plain);
        }
        if values.len() != written.len() {
            return self.fault(name, "", "must have no tagged null as a document".to_owned());
        }
        let several = values.len() > 1;
        for (i, (value, written)) in values.iter().zip(&written).enumerate() {
            let name = if several { format!("{name}: document {i}") } else { name.to_owned() };
            self.document(&name, value, written, is_file);
        }
    }

    fn document(&mut self, name: &str, value: &Value, written: &Written, is_file: bool) {
        match FileKind::of(value) {
            None | Some(FileKind::RateLimits) => match File::read(name, value, written) {
                Ok(file) => self.documents.files.push(file),
                Err(faults) => self.faults.extend(faults),
            },
            Some(FileKind::ConfigMap) if is_file => self.config_map(name, value),
            Some(FileKind::List) if is_file => {
                for (i, item) in items_of(value).iter().enumerate() {
                    let written = written.field("items").item(i);
                    self.document(&format!("{name}: items[{i}]"), item, written, is_file);
                }
            }
            Some(kind @ FileKind::Kubernetes(_)) => self.others.push((name.to_owned(), kind)),
            Some(kind) => self.faults.push(of_other_kind(name, &kind)),
        }
    }

    /// Reads the files in a ConfigMap that Kubernetes would write to a directory.
    fn config_map(&mut self, name: &str, value: &Value) {
        let empty = Map::new();
        let entries = value["data"].as_object().unwrap_or(&empty);
        let (read, passed_over): (Vec<_>, Vec<_>) =
            entries.iter().partition(|(key, _)| is_limit_file_name(key));
        if read.is_empty() {
            let got = match passed_over.first() {
                Some((key, _)) => format!("{key:?}"),
                None => "none".to_owned(),
            };
            return self.fault(
                name,
                "data",
                format!("must have an entry whose name ends in .yaml or .yml, got {got}"),
            );
        }
        for (key, _) in passed_over {
            let warning = format!("{name}: data.{key}: is not read: its name does not end in .yaml or .yml");
            self.documents.warnings.push(warning);
        }
        for (key, text) in read {
            match text {
                Value::String(text) => self.text(&format!("{name}: data.{key}"), text, false),
                _ => self.fault(name, &format!("data.{key}"), "must be a text, as in |".to_owned()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "domain: d\ndescriptors: [{key: a, rate_limit: {unit: second, requests_per_unit: 1}}]\n";

    fn faults(yaml: &str) -> Vec<String> {
        parse("a.yaml", yaml).expect_err("accepted").iter().map(ToString::to_string).collect()
    }

    fn config_map(data: &str) -> String {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: limits}}\ndata:\n{data}")
    }

    fn indented(text: &str) -> String {
        text.lines().map(|line| format!("    {line}\n")).collect()
    }

    #[test]
    fn a_text_may_have_several_documents() {
        let other = GOOD.replace("domain: d", "domain: e");
        let found = parse("a.yaml", &format!("---\n{GOOD}---\n---\n{other}")).unwrap();
        let names: Vec<_> =
            found.files.iter().map(|file| (file.name.as_str(), file.domain.as_str())).collect();
        assert_eq!(names, [("a.yaml: document 0", "d"), ("a.yaml: document 1", "e")]);
        let wrong = faults(&format!("{GOOD}---\ndomain: e\ndescriptors: [{{value: 010}}]"));
        assert_eq!(wrong, ["a.yaml: document 1: descriptors[0].key: must be a name, got none"]);
    }

    #[test]
    fn the_files_in_a_config_map_are_read() {
        let data = format!("  b.yml: |\n{}  a.yaml: |\n{}  README: x\n", indented(GOOD), indented(GOOD));
        let service = "\n---\napiVersion: v1\nkind: Service\nspec: {}\n";
        let found = parse("cm.yaml", &(config_map(&data) + service)).unwrap();
        let names: Vec<_> = found.files.iter().map(|file| file.name.as_str()).collect();
        let at = "cm.yaml: document 0: data";
        assert_eq!(names.len(), 2, "{names:?}");
        assert!(names.contains(&&*format!("{at}.a.yaml")) && names.contains(&&*format!("{at}.b.yml")));
        assert_eq!(
            found.warnings,
            [
                "cm.yaml: document 0: data.README: is not read: its name does not end in .yaml or .yml",
                "cm.yaml: document 1: is not read: it is a Kubernetes Service",
            ]
        );
        let list = format!(
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  data: {{l.yaml: {GOOD:?}}}"
        );
        assert_eq!(parse("l.yaml", &list).unwrap().files[0].name, "l.yaml: items[0]: data.l.yaml");
        // The items of a typed list have no kind of their own.
        let list = format!("apiVersion: v1\nkind: ConfigMapList\nitems:\n- data: {{l.yaml: {GOOD:?}}}");
        assert_eq!(parse("l.yaml", &list).unwrap().files[0].name, "l.yaml: items[0]: data.l.yaml");
        for (data, expected) in [
            (
                "  limits.txt: x",
                "a.yaml: data: must have an entry whose name ends in .yaml or .yml, got \"limits.txt\"",
            ),
            ("  {}", "a.yaml: data: must have an entry whose name ends in .yaml or .yml, got none"),
            ("  a.yaml: {domain: d}", "a.yaml: data.a.yaml: must be a text, as in |"),
            ("  a.yaml: 'domain: ['", "a.yaml: data.a.yaml: must be YAML: "),
            ("  a.yaml: 'descriptors: []'", "a.yaml: data.a.yaml: domain: must be a name, got none"),
        ] {
            assert!(
                faults(&config_map(data))[0].starts_with(expected),
                "{data}: {:?}",
                faults(&config_map(data))
            );
        }
        let nested = config_map(&format!("  a.yaml: |\n{}", indented(&config_map("  b.yaml: x"))));
        assert!(
            faults(&nested)[0].starts_with("a.yaml: data.a.yaml: must be a file of limits, got a Kubernetes")
        );
    }

    #[test]
    fn a_file_of_another_format_is_named_with_the_remedy() {
        let object = |kind: &str, spec: &str| format!("apiVersion: x/v1\nkind: {kind}\nspec: {spec}");
        for (yaml, kind, remedy) in [
            (
                "[{namespace: n, max_value: 1, seconds: 60}]".to_owned(),
                "Limitador",
                "evenkeel convert-limitador",
            ),
            (object("Limitador", "{limits: []}"), "Limitador", "convert-limitador"),
            (object("WasmPlugin", "{pluginConfig: {rule_name: r}}"), "pluginConfig", "below pluginConfig"),
            ("pluginConfig: {rule_name: r}".to_owned(), "pluginConfig", "below pluginConfig"),
            (
                "rule_name: r\nglobal_threshold: {query_per_day: 1}".to_owned(),
                "cluster-key-rate-limit",
                "higress_rules",
            ),
            ("lb_policy: global_least_request".to_owned(), "ai-load-balancer", "set pools"),
            (object("EnvoyFilter", "{}"), "EnvoyFilter", "ConfigMap"),
            ("store: {type: memory}".to_owned(), "a configuration of Evenkeel", "check-config FILE"),
            ("static_resources: {}".to_owned(), "a configuration of Envoy", "leave it in the gateway"),
            ("limits: [{name: a, amount: 1}]".to_owned(), "a configuration of Evenkeel", "check-config FILE"),
        ] {
            let found = faults(&yaml);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with("a.yaml: must be a file of limits, got "), "{found:?}");
            assert!(found[0].contains(kind) && found[0].contains(remedy), "{found:?}");
        }
    }

    /// Guards against advice about the parser's functions and options, which a file's author cannot call.
    #[test]
    fn errors_do_not_name_the_parsers_api() {
        for yaml in [
            "a: 1\na: 2",
            "domain: [",
            "domain: {a: ~, a: ~}",
            "domain: *x",
            "domain: !!binary /w==",
            "? [a]\n: b",
            "domain: d\n\tdescriptors: []",
            "domain: .nan\ndescriptors: [{key: .inf}]",
            "domain: !x d\ndescriptors: []",
            "domain: d\ndescriptors: [{key: a, rate_limit: !x {unit: day}}]",
        ] {
            let found = parse("a.yaml", yaml).map_or_else(|faults| faults, |_| Vec::new());
            for fault in found.iter().map(ToString::to_string) {
                for word in ["Options", "Policy", "from_", "Option<", "struct", "Visitor", "enum"] {
                    assert!(!fault.contains(word), "{yaml}: {fault}");
                }
            }
        }
    }
}
