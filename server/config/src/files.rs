//! Reads the files that a configuration names, and finds the sections that differ between two configurations.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::check::Check;

/// Maximum size of a file, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Sections whose changes take effect without a restart.
pub(super) const RELOADED: [&str; 10] = [
    "limits",
    "higress_rules",
    "quotas",
    "prices",
    "models",
    "limit_headers",
    "quota_admins",
    "gateway",
    "reader",
    "admin",
];

/// Reads files that the configuration names, and records their paths.
pub(super) struct Files {
    directory: PathBuf,
    read: Vec<PathBuf>,
    /// Contents that the sidecar uses only as they are at start, each with its section.
    fixed: Vec<(&'static str, String)>,
}

impl Files {
    pub(super) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), read: Vec::new(), fixed: Vec::new() }
    }

    /// Resolves a relative path against the configuration file's directory.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.directory.join(path)
    }

    /// Reads the file that a field names. A relative path is resolved against the configuration file's directory.
    pub(super) fn read(&mut self, check: &mut Check, field: &str, file: &str) -> Option<String> {
        let text = self.contents(file);
        text.map_err(|error| check.fault(field, "a file that can be read", format!("{file:?}: {error}"))).ok()
    }

    fn contents(&mut self, path: &str) -> io::Result<String> {
        let path = self.watch(path);
        let size = std::fs::metadata(&path).map(|metadata| metadata.len());
        if size? > FILE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 4 MiB"));
        }
        std::fs::read_to_string(path)
    }

    /// Reads a file of a section whose changes need a restart. So do changes of the file's contents.
    pub(super) fn read_at_start(
        &mut self,
        check: &mut Check,
        section: &'static str,
        field: &str,
        file: &str,
    ) -> Option<String> {
        let text = self.read(check, field, file)?;
        self.fixed.push((section, text.clone()));
        Some(text)
    }

    /// Returns the digests of the sections of a configuration file, with the contents of files that belong to them.
    pub(super) fn sections(&self, yaml: &str) -> Sections {
        let mut sections = Sections::of(yaml);
        for (section, text) in &self.fixed {
            sections.0.entry((*section).to_owned()).or_default().extend(digest(text));
        }
        sections
    }

    /// Records a file that the caller reads, and returns its path.
    pub(super) fn watch(&mut self, path: &str) -> PathBuf {
        let path = self.resolve(path);
        if !self.read.contains(&path) {
            self.read.push(path.clone());
        }
        path
    }

    pub(super) fn into_paths(self) -> Vec<PathBuf> {
        self.read
    }
}

/// A digest of each top-level section of a configuration file.
#[derive(Clone, Default, PartialEq)]
pub(super) struct Sections(BTreeMap<String, Vec<u8>>);

impl Sections {
    pub(super) fn of(yaml: &str) -> Self {
        let sections: BTreeMap<String, Value> = super::from_yaml(yaml).unwrap_or_default();
        Self(sections.iter().map(|(name, value)| (name.clone(), digest(&value.to_string()))).collect())
    }

    /// Returns the names of the sections that differ and whose changes need a restart.
    pub(super) fn changed_for_restart(&self, other: &Self) -> Vec<String> {
        let names: std::collections::BTreeSet<&String> = self.0.keys().chain(other.0.keys()).collect();
        names
            .into_iter()
            .filter(|name| !RELOADED.contains(&name.as_str()) && self.0.get(*name) != other.0.get(*name))
            .cloned()
            .collect()
    }
}

fn digest(text: &str) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA256, text.as_bytes()).as_ref().to_vec()
}

impl fmt::Debug for Sections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::Config;

    /// The password of the store is read for every connection. The headers of traces are read once.
    #[test]
    fn contents_of_files_need_a_restart_as_their_section_does() {
        let directory = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(directory.path().join(file), text).unwrap();
        let load = |path: &Path| Config::load(path).unwrap();
        write("password", "first");
        write("header", "first");
        write(
            "evenkeel.yaml",
            "store: {type: redis, url: 'redis://a', password_file: password}\n\
             traces: {endpoint: 'http://127.0.0.1:4317', headers: [{name: a, value_file: header}]}",
        );
        let path = directory.path().join("evenkeel.yaml");
        let before = load(&path);
        write("password", "second");
        assert!(load(&path).needs_restart(&before).is_empty());
        write("header", "second");
        assert_eq!(load(&path).needs_restart(&before), ["traces"]);
    }
}
