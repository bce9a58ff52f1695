//! Adds user and password to the URLs of the store. The password comes from a file, such as a mounted secret.

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::{Files, check::Check};

/// Maximum length of the password, in bytes.
const PASSWORD_BYTES_MAX: usize = 1024;

/// Adds the user, and the password from the file, to each URL. Error messages contain neither of them.
pub(super) fn add_to_urls(
    check: &mut Check,
    files: &mut Files,
    urls: &mut [String],
    user: Option<&str>,
    password_file: Option<&str>,
) {
    let Some(file) = password_file else {
        if user.is_some() {
            check.fault("store.user", "absent if store.password_file is not given", "a name");
        }
        return;
    };
    if user.is_some_and(|user| user.is_empty() || user.chars().any(char::is_control)) {
        check.fault("store.user", "a name without control characters", "something else");
    }
    let password = match files.read(file) {
        Ok(text) => text.trim_end_matches(['\r', '\n']).to_owned(),
        Err(error) => {
            return check.fault(
                "store.password_file",
                "a file that can be read",
                format!("{file:?}: {error}"),
            );
        }
    };
    if password.is_empty() || password.len() > PASSWORD_BYTES_MAX || password.chars().any(char::is_control) {
        let expected = "a file with a password of 1..1024 bytes without control characters";
        return check.fault("store.password_file", expected, format!("{} bytes", password.len()));
    }
    let encoded = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    let credentials = format!("{}:{}@", encoded(user.unwrap_or_default()), encoded(&password));
    for url in urls.iter_mut() {
        // The validation of the URLs reports a text that is not a URL.
        let Some(at) = url.find("://").map(|at| at + 3) else { continue };
        let authority = url[at..].split(['/', '?']).next().unwrap_or_default();
        if authority.contains('@') {
            let expected = "absent if the store's URL holds a user or password";
            return check.fault("store.password_file", expected, "both");
        }
        url.insert_str(at, &credentials);
    }
}

#[cfg(test)]
mod tests {
    use crate::{Config, StoreConfig};

    fn load(yaml: &str, password: &str) -> Result<Vec<String>, Vec<String>> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("password"), password).unwrap();
        let path = directory.path().join("evenkeel.yaml");
        std::fs::write(&path, yaml).unwrap();
        match Config::load(&path) {
            Ok(config) => match config.store {
                StoreConfig::Redis(options) => Ok(options.urls),
                StoreConfig::Memory => Ok(Vec::new()),
            },
            Err(faults) => Err(faults.0),
        }
    }

    #[test]
    fn the_password_of_a_file_is_added_to_every_url() {
        let yaml = "store: {type: redis, cluster: true, urls: ['redis://a:1', 'rediss://[::1]:2/0'], user: e k, \
                    password_file: password}";
        let urls = load(yaml, "p@/ü:%\n").unwrap();
        assert_eq!(
            urls,
            ["redis://e%20k:p%40%2F%C3%BC%3A%25@a:1", "rediss://e%20k:p%40%2F%C3%BC%3A%25@[::1]:2/0"]
        );
        for url in urls {
            let read = redis::IntoConnectionInfo::into_connection_info(url).unwrap();
            assert_eq!(read.redis_settings().username(), Some("e k"));
            assert_eq!(read.redis_settings().password(), Some("p@/ü:%"));
        }
        let urls = load("store: {type: redis, url: 'redis://a', password_file: password}", "secret").unwrap();
        assert_eq!(urls, ["redis://:secret@a"]);
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
