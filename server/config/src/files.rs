//! Reads the files that a configuration names, and finds the sections that differ between two configurations.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// Maximum size of a file, in bytes.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Sections whose changes take effect without a restart.
pub(super) const RELOADED: [&str; 8] =
    ["limits", "higress_rules", "quotas", "prices", "models", "limit_headers", "quota_admins", "admin"];

/// Reads files that the configuration names, and records their paths.
pub(super) struct Files {
    directory: PathBuf,
    read: Vec<PathBuf>,
}

impl Files {
    pub(super) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), read: Vec::new() }
    }

    /// Resolves a relative path against the configuration file's directory.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.directory.join(path)
    }

    /// Reads a file. A relative path is resolved against the configuration file's directory.
    pub(super) fn read(&mut self, path: &str) -> io::Result<String> {
        let path = self.resolve(path);
        let size = std::fs::metadata(&path).map(|metadata| metadata.len());
        if !self.read.contains(&path) {
            self.read.push(path.clone());
        }
        if size? > FILE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 4 MiB"));
        }
        std::fs::read_to_string(path)
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
        let digest = |value: &Value| {
            ring::digest::digest(&ring::digest::SHA256, value.to_string().as_bytes()).as_ref().to_vec()
        };
        Self(sections.iter().map(|(name, value)| (name.clone(), digest(value))).collect())
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

impl fmt::Debug for Sections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
