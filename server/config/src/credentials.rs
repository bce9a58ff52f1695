//! User and password of the store. The password comes from a file, such as a mounted secret.

use evenkeel_domain::settings::Credentials;

use super::{Files, check::Check};

/// Maximum length of the password, in bytes.
const PASSWORD_BYTES_MAX: usize = 1024;

/// The names of the two fields.
#[derive(Clone, Copy)]
pub(super) struct Fields {
    pub(super) user: &'static str,
    pub(super) file: &'static str,
}

/// Checks the user, and the password in the file. Error messages contain neither of them.
pub(super) fn validate(
    check: &mut Check,
    files: &mut Files,
    fields: Fields,
    user: Option<String>,
    password_file: Option<String>,
) -> Option<Credentials> {
    let Some(file) = password_file else {
        if user.is_some() {
            check.fault(fields.user, &format!("absent if {} is not given", fields.file), "a name");
        }
        return None;
    };
    if user.as_deref().is_some_and(|user| user.is_empty() || user.chars().any(char::is_control)) {
        check.fault(fields.user, "a name without control characters", "something else");
    }
    if let Some(text) = files.read(check, fields.file, &file) {
        let password = text.trim_end_matches(['\r', '\n']);
        let is_valid = !password.is_empty()
            && password.len() <= PASSWORD_BYTES_MAX
            && !password.chars().any(char::is_control);
        if !is_valid {
            let expected = "a file with a password of 1..1024 bytes without control characters";
            check.fault(fields.file, expected, format!("{} bytes", password.len()));
        }
    }
    Some(Credentials { user, password_file: files.resolve(&file) })
}

/// Checks that no URL has a user or password of its own if there are credentials.
pub(super) fn not_in_urls(
    check: &mut Check,
    field: &str,
    credentials: Option<&Credentials>,
    urls: &[String],
) {
    let has_login = |url: &String| {
        let rest = url.split_once("://").map_or("", |(_, rest)| rest);
        rest.split(['/', '?']).next().unwrap_or_default().contains('@')
    };
    if credentials.is_some() && urls.iter().any(has_login) {
        check.fault(field, "absent if the store's URL holds a user or password", "both");
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_domain::settings::Credentials;

    use crate::{Config, StoreConfig};

    fn load(yaml: &str, password: &str) -> Result<Option<Credentials>, Vec<String>> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("password"), password).unwrap();
        let path = directory.path().join("evenkeel.yaml");
        std::fs::write(&path, yaml).unwrap();
        match Config::load(&path) {
            Ok(config) => match config.store {
                StoreConfig::Redis(options) => Ok(options.credentials),
                StoreConfig::Memory => Ok(None),
            },
            Err(faults) => Err(faults.0),
        }
    }

    #[test]
    fn the_password_stays_in_its_file() {
        let yaml = "store: {type: redis, cluster: true, urls: ['redis://a:1', 'rediss://[::1]:2/0'], user: e k, \
                    password_file: password}";
        let credentials = load(yaml, "p@/ü:%\n").unwrap().unwrap();
        assert_eq!(credentials.user.as_deref(), Some("e k"));
        assert!(credentials.password_file.ends_with("password"));
        assert!(credentials.password_file.is_absolute());
    }

    #[test]
    fn faults_of_credentials_do_not_show_them() {
        let both = "store: {type: redis, url: 'redis://:hunter1@a', password_file: password}";
        for (yaml, password, fault) in [
            (
                both,
                "hunter2",
                "store.password_file: must be absent if the store's URL holds a user or password, got both",
            ),
            (
                "store: {type: redis, url: 'redis://a', user: hunter1}",
                "hunter2",
                "store.user: must be absent if store.password_file is not given, got a name",
            ),
            (
                "store: {type: redis, url: 'redis://a', password_file: password}",
                "\n",
                "store.password_file: must be a file with a password of 1..1024 bytes without control characters, got 0 bytes",
            ),
            (
                "store: {password_file: password}",
                "hunter2",
                "store.type: must be redis if store.password_file is given, got memory",
            ),
        ] {
            assert_eq!(load(yaml, password).unwrap_err(), [fault]);
        }
        let missing = load("store: {type: redis, url: 'redis://a', password_file: nowhere}", "").unwrap_err();
        assert!(
            missing[0].starts_with("store.password_file: must be a file that can be read"),
            "{missing:?}"
        );
    }
}
