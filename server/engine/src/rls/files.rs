//! Finds, reads and compiles the files of limits.

use std::{
    fmt, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use evenkeel_domain::settings::LimitFiles;

use super::{
    compile,
    file::{Fault, File},
    metrics::RateLimitMetrics,
    tree::Rules,
};

/// Maximum number of files in a directory.
const FILES_MAX: usize = 1024;
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The errors in all files.
#[derive(Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "{count} fault{} in the files of limits:", if count == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

impl std::error::Error for Faults {}

/// The names and texts of the files, sorted by name.
pub(super) type Texts = Vec<(String, String)>;

/// Reads and compiles all files.
///
/// # Errors
/// Returns all errors in all files.
pub fn load(from: &LimitFiles, metrics: &RateLimitMetrics) -> Result<Rules, Faults> {
    let texts = read(from).map_err(|fault| Faults(vec![fault]))?;
    compile_texts(from, &texts, metrics)
}

pub(super) fn compile_texts(
    from: &LimitFiles,
    texts: &Texts,
    metrics: &RateLimitMetrics,
) -> Result<Rules, Faults> {
    let (mut files, mut faults) = (Vec::new(), Vec::new());
    for (name, text) in texts {
        match File::parse(name, text) {
            Ok(file) => files.push(file),
            Err(found) => faults.extend(found),
        }
    }
    match compile::compile(files, from.merge_domains, metrics) {
        Ok(rules) if faults.is_empty() => Ok(rules),
        Ok(_) => Err(Faults(faults)),
        Err(found) => {
            faults.extend(found);
            Err(Faults(faults))
        }
    }
}

pub(super) fn read(from: &LimitFiles) -> Result<Texts, Fault> {
    let fault =
        |path: &Path, text: String| Fault { file: path.display().to_string(), path: String::new(), text };
    let failed = |path: &Path, error: std::io::Error| fault(path, format!("cannot be read: {error}"));
    let paths = match fs::read_dir(&from.path) {
        Err(error) if error.kind() == ErrorKind::NotADirectory => vec![from.path.clone()],
        Err(error) => return Err(failed(&from.path, error)),
        Ok(entries) => {
            let mut paths = Vec::new();
            for entry in entries {
                let path = entry.map_err(|error| failed(&from.path, error))?.path();
                if is_limit_file(&path) && path.is_file() {
                    paths.push(path);
                }
            }
            paths.sort();
            paths
        }
    };
    if paths.len() > FILES_MAX {
        let text = format!("must hold at most {FILES_MAX} files, got {}", paths.len());
        return Err(fault(&from.path, text));
    }
    let read = |path: PathBuf| {
        let size = fs::metadata(&path).map_err(|error| failed(&path, error))?.len();
        if size > FILE_BYTES_MAX {
            return Err(fault(&path, format!("must be at most {FILE_BYTES_MAX} bytes, got {size}")));
        }
        let text = fs::read_to_string(&path).map_err(|error| failed(&path, error))?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        Ok((name, text))
    };
    paths.into_iter().map(read).collect()
}

/// Returns the directories to watch: the directory of the files, and the directories of all symbolic links in its path.
pub(super) fn watched_directories(from: &LimitFiles) -> Vec<PathBuf> {
    let path = std::path::absolute(&from.path).unwrap_or_else(|_| from.path.clone());
    let mut directories = Vec::new();
    for step in path.ancestors() {
        let is_link = fs::symlink_metadata(step).is_ok_and(|meta| meta.file_type().is_symlink());
        if let Some(parent) = step.parent().filter(|_| is_link || step == path) {
            directories.push(parent.to_owned());
        }
    }
    if path.is_dir() {
        directories.push(path);
    }
    directories.sort();
    directories.dedup();
    directories
}

fn is_limit_file(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden && path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "domain: d\ndescriptors: [{key: a, rate_limit: {unit: second, requests_per_unit: 1}}]";

    #[test]
    fn all_files_of_a_directory_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let source = LimitFiles { path: dir.path().to_owned(), merge_domains: false };
        let load = || load(&source, &RateLimitMetrics::unregistered()).map(|rules| rules.size());
        assert_eq!(load().unwrap(), (0, 0));
        write("a.yaml", GOOD);
        write("b.yml", &GOOD.replace("domain: d", "domain: e"));
        write(".hidden.yaml", "no yaml: [");
        write("README.md", "no yaml: [");
        fs::create_dir(dir.path().join("sub.yaml")).unwrap();
        assert_eq!(load().unwrap(), (2, 2));
        // Reports errors in all files together, and conflicts between files.
        write("b.yml", GOOD);
        write("c.yaml", "domain: f\ndescriptors: [{value: x}]");
        write("d.yaml", "domain: [");
        let faults = load().unwrap_err().0;
        let files: Vec<&str> = faults.iter().map(|fault| fault.file.as_str()).collect();
        assert_eq!(files, ["c.yaml", "d.yaml", "b.yml"]);
        let missing = LimitFiles { path: dir.path().join("none"), merge_domains: false };
        assert!(
            super::load(&missing, &RateLimitMetrics::unregistered())
                .unwrap_err()
                .to_string()
                .contains("cannot be read")
        );
        let one = LimitFiles { path: dir.path().join("a.yaml"), merge_domains: false };
        assert_eq!(super::load(&one, &RateLimitMetrics::unregistered()).unwrap().size(), (1, 1));
    }
}
