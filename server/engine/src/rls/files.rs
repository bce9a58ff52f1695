//! Finds, reads and compiles the files of limits.

use std::{
    fmt, fs,
    io::{self, ErrorKind, Read as _},
    path::{Path, PathBuf},
};

use evenkeel_domain::settings::LimitFiles;

use super::{
    compile,
    file::{Documents, Fault, is_limit_file_name, parse},
    metrics::RateLimitMetrics,
    tree::Rules,
};

/// Maximum number of files in a directory.
const FILES_MAX: usize = 1024;
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Maximum number of passed-over files that are named. A directory with more is probably not meant for limits.
const NAMED_MAX: usize = 20;

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

/// The files that were found.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Sources {
    /// Names and texts, sorted by name.
    texts: Vec<(String, String)>,
    /// Names of files and directories beside them that are not read, sorted.
    passed_over: Vec<String>,
}

impl Sources {
    /// Describes the passed-over files, for a warning.
    fn warning(&self, from: &LimitFiles) -> Option<String> {
        let names = list(&self.passed_over)?;
        let path = from.path.display();
        Some(format!("{path}: only files whose names end in .yaml or .yml are read, not {names}"))
    }
}

/// Returns at most [`NAMED_MAX`] names as text. `None` without names.
fn list(names: &[String]) -> Option<String> {
    let (named, more) = names.split_at(names.len().min(NAMED_MAX));
    let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
    (!named.is_empty()).then(|| named.join(", ") + &more)
}

/// Reads and compiles all files.
///
/// # Errors
/// Returns all errors in all files.
pub fn load(from: &LimitFiles, metrics: &RateLimitMetrics) -> Result<Rules, Faults> {
    let sources = read(from)?;
    compile_sources(from, &sources, metrics)
}

pub(super) fn compile_sources(
    from: &LimitFiles,
    sources: &Sources,
    metrics: &RateLimitMetrics,
) -> Result<Rules, Faults> {
    let (mut files, mut faults) = (Vec::new(), Vec::new());
    let mut warnings: Vec<String> = sources.warning(from).into_iter().collect();
    for (name, text) in &sources.texts {
        match parse(name, text) {
            Ok(Documents { files: found, warnings: more }) => {
                files.extend(found);
                warnings.extend(more);
            }
            Err(found) => faults.extend(found),
        }
    }
    match compile::compile(files, from.merge_domains, metrics) {
        Ok(mut rules) if faults.is_empty() => {
            warnings.append(&mut rules.warnings);
            Ok(Rules { warnings, ..rules })
        }
        Ok(_) => Err(Faults(faults)),
        Err(found) => {
            faults.extend(found);
            Err(Faults(faults))
        }
    }
}

/// Reads the file, or the files of the directory.
///
/// # Errors
/// If a file cannot be read, returns the errors in the other files too.
pub(super) fn read(from: &LimitFiles) -> Result<Sources, Faults> {
    let (paths, passed_over) = find(from).map_err(|fault| Faults(vec![fault]))?;
    let (mut texts, mut faults) = (Vec::new(), Vec::new());
    for path in paths {
        match read_text(&path) {
            Ok(text) => texts.push(text),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() {
        return Ok(Sources { texts, passed_over });
    }
    faults.extend(texts.iter().filter_map(|(name, text)| parse(name, text).err()).flatten());
    Err(Faults(faults))
}

/// Returns the paths of the files to read, and the names of the passed-over files.
///
/// # Errors
/// Returns the first error of the file system. A directory that contains no file of limits is an error too: a sidecar
/// without any limit would admit everything.
fn find(from: &LimitFiles) -> Result<(Vec<PathBuf>, Vec<String>), Fault> {
    let (paths, passed_over) = match fs::read_dir(&from.path) {
        Err(error) if error.kind() == ErrorKind::NotADirectory => (vec![from.path.clone()], Vec::new()),
        Err(error) => return Err(unreadable(&from.path, &error)),
        Ok(entries) => sort_out(entries).map_err(|error| unreadable(&from.path, &error))?,
    };
    let count = paths.len();
    if count > FILES_MAX {
        return Err(fault(&from.path, format!("must hold at most {FILES_MAX} files, got {count}")));
    }
    if count == 0 {
        let got = list(&passed_over).unwrap_or_else(|| "none".to_owned());
        let text = format!(
            "must contain a file whose name ends in .yaml or .yml and has no dot in front, got {got}"
        );
        return Err(fault(&from.path, text));
    }
    Ok((paths, passed_over))
}

/// Returns the paths of the files of limits, and the names of everything else that a directory contains. Names that start
/// with two dots are Kubernetes's own: the versions of a mounted ConfigMap.
fn sort_out(entries: fs::ReadDir) -> io::Result<(Vec<PathBuf>, Vec<String>)> {
    let (mut paths, mut passed_over) = (Vec::new(), Vec::new());
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("..") {
            continue;
        }
        // A link that leads nowhere is not passed over: reading it fails.
        let is_file = fs::metadata(&path).map_or(true, |metadata| metadata.is_file());
        if is_file && is_limit_file_name(&name) {
            paths.push(path);
        } else {
            passed_over.push(if path.is_dir() { format!("{name}/") } else { name });
        }
    }
    paths.sort();
    passed_over.sort();
    Ok((paths, passed_over))
}

/// Reads a file, but no more of it than the maximum: a pipe or a device has no size that a check could see first.
fn read_text(path: &Path) -> Result<(String, String), Fault> {
    let read = || {
        let mut bytes = Vec::new();
        fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| unreadable(path, &error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(fault(path, format!("must be at most {FILE_BYTES_MAX} bytes, got more")));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        fault(path, format!("must be text in UTF-8, got another encoding or no text, from byte {at} on"))
    })?;
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    Ok((name, text))
}

fn fault(path: &Path, text: String) -> Fault {
    Fault { file: path.display().to_string(), path: String::new(), text }
}

fn unreadable(path: &Path, error: &io::Error) -> Fault {
    fault(path, format!("cannot be read: {error}"))
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
        // A file that is named itself may have any name.
        fs::rename(dir.path().join("a.yaml"), dir.path().join("limits.conf")).unwrap();
        let one = LimitFiles { path: dir.path().join("limits.conf"), merge_domains: false };
        assert_eq!(super::load(&one, &RateLimitMetrics::unregistered()).unwrap().size(), (1, 1));
    }

    /// Guards against a directory whose files all have another ending, which would serve no limit.
    #[test]
    fn a_directory_without_a_file_of_limits_is_a_fault() {
        let dir = tempfile::tempdir().unwrap();
        let source = LimitFiles { path: dir.path().to_owned(), merge_domains: false };
        let fault = || load(&source, &RateLimitMetrics::unregistered()).unwrap_err().to_string();
        assert!(fault().ends_with("has no dot in front, got none"), "{}", fault());
        fs::create_dir(dir.path().join("..data")).unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        for name in ["limits.json", "limits.yaml.bak", ".limits.yaml", "limits.YAML"] {
            fs::write(dir.path().join(name), GOOD).unwrap();
        }
        assert!(
            fault().ends_with("got .limits.yaml, limits.YAML, limits.json, limits.yaml.bak, sub/"),
            "{}",
            fault()
        );
        for i in 0..NAMED_MAX {
            fs::write(dir.path().join(format!("m{i}")), GOOD).unwrap();
        }
        assert!(fault().ends_with(" and 5 more"), "{}", fault());
    }

    #[test]
    fn an_unreadable_file_does_not_hide_the_faults_of_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let load = |path: PathBuf| {
            load(&LimitFiles { path, merge_domains: false }, &RateLimitMetrics::unregistered()).unwrap_err().0
        };
        std::os::unix::fs::symlink("nowhere", path("a.yaml")).unwrap();
        fs::write(path("b.yaml"), b"\xff\xfed\0").unwrap();
        fs::write(path("c.yaml"), "domain: c\ndescriptors: [{value: x}]").unwrap();
        let large = fs::File::create(path("d.yaml")).unwrap();
        large.set_len(FILE_BYTES_MAX + 1).unwrap();
        let faults: Vec<String> = load(dir.path().to_owned()).iter().map(ToString::to_string).collect();
        let expected = [
            ("a.yaml", "cannot be read: No such file"),
            ("b.yaml", "must be text in UTF-8, got another encoding or no text, from byte 0 on"),
            ("d.yaml", "must be at most 8388608 bytes, got more"),
            ("c.yaml", "descriptors[0].key: must be a name, got none"),
        ];
        assert_eq!(faults.len(), expected.len(), "{faults:?}");
        for (fault, (name, text)) in faults.iter().zip(expected) {
            assert!(fault.contains(&format!("{name}: {text}")), "{faults:?}");
        }
        // A device has no end.
        assert!(load("/dev/zero".into())[0].text.ends_with("got more"));
    }

    #[test]
    fn what_is_passed_over_is_a_warning() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let source = LimitFiles { path: dir.path().to_owned(), merge_domains: false };
        let load = || load(&source, &RateLimitMetrics::unregistered());
        write("a.yaml", GOOD);
        assert_eq!(load().unwrap().warnings(), [""; 0]);
        write("more.json", GOOD);
        write("none.yaml", "domain: none\ndescriptors: [{key: a}]");
        let warnings = load().unwrap().warnings().to_vec();
        assert!(
            warnings[0].ends_with(": only files whose names end in .yaml or .yml are read, not more.json")
        );
        assert_eq!(warnings[1..], ["none.yaml: sets no limit"]);
        std::os::unix::fs::symlink("nowhere", dir.path().join("b.yaml")).unwrap();
        assert!(load().unwrap_err().to_string().contains("b.yaml: cannot be read: "));
    }
}
