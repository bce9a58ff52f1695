//! The section `tickets`: the file with the keys that sign tickets.

use evenkeel_domain::settings::Secret;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Files, check::Check};

/// Lengths of a key, in bytes. 32 hexadecimal digits are 128 bits.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 32..=1024;
/// Maximum number of keys: the one that signs, and the one before it or after it.
const KEYS_MAX: usize = 2;

/// The tickets that gateways get for admitted requests and send back at their end.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTickets {
    /// A file with the key that signs tickets, one line of 32 to 1024 printable characters, such as `openssl rand -hex
    /// 32` makes. A second line may contain another key that verifies tickets but signs none, for a rotation. All
    /// sidecars that share a Redis need the same keys. A relative path is resolved against the configuration file's
    /// directory. Without a file, the sidecars share a key that the first of them makes and stores in Redis.
    #[schemars(extend("x-default" = "none"))]
    key_file: Option<String>,
}

/// Reads the keys. Error messages do not contain them. Without a file, returns none.
pub(super) fn validate(check: &mut Check, files: &mut Files, raw: RawTickets) -> Vec<Secret> {
    let (path, Some(file)) = ("tickets.key_file", raw.key_file) else { return Vec::new() };
    let Some(text) = files.read(check, path, &file) else { return Vec::new() };
    let keys: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if !(1..=KEYS_MAX).contains(&keys.len()) {
        check.fault(path, "a file of one or two lines, each with a key", format!("{} lines", keys.len()));
    }
    for key in &keys {
        if !KEY_BYTES.contains(&key.len()) || !key.bytes().all(|b| b.is_ascii_graphic()) {
            let expected = "keys of 32..1024 printable ASCII characters without blanks, such as `openssl rand -hex 32` makes";
            check.fault(path, expected, format!("{} bytes", key.len()));
        }
    }
    keys.into_iter().map(|key| Secret::new(key.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use crate::Config;

    fn load(keys: &str) -> Result<Vec<String>, Vec<String>> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("keys"), keys).unwrap();
        let path = directory.path().join("evenkeel.yaml");
        std::fs::write(&path, "tickets: {key_file: keys}").unwrap();
        let config = Config::load(&path).map_err(|faults| faults.0)?;
        Ok(config.tickets.iter().map(|key| key.reveal().to_owned()).collect())
    }

    #[test]
    fn a_file_has_one_key_or_two() {
        let (one, other) = ("1".repeat(32), "2".repeat(64));
        assert_eq!(load(&format!("{one}\n")).unwrap(), [one.as_str()]);
        assert_eq!(load(&format!("\r\n{other} \r\n{one}")).unwrap(), [other.as_str(), &one]);
        assert!(Config::parse("").unwrap().tickets.is_empty());
    }

    #[test]
    fn faults_of_keys_do_not_show_them() {
        let lines = "tickets.key_file: must be a file of one or two lines, each with a key, got";
        let bytes = "tickets.key_file: must be keys of 32..1024 printable ASCII characters without blanks, such as \
                     `openssl rand -hex 32` makes, got";
        for (keys, fault) in [
            ("", format!("{lines} 0 lines")),
            ("hunter2", format!("{bytes} 7 bytes")),
            (&format!("{}\nhun ter2", "1".repeat(32)), format!("{bytes} 8 bytes")),
            (&"x".repeat(1025), format!("{bytes} 1025 bytes")),
            (&format!("{}\n", "3".repeat(40)).repeat(3), format!("{lines} 3 lines")),
        ] {
            assert_eq!(load(keys).unwrap_err(), [fault]);
        }
        let missing = Config::parse("tickets: {key_file: /nowhere/at/all}").unwrap_err();
        assert!(
            missing.0[0].starts_with("tickets.key_file: must be a file that can be read, got"),
            "{missing}"
        );
    }
}
