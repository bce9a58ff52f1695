//! The CPU limit that control groups set, as containers have it.

use std::{fs, path::Path};

/// Directories at which the CPU controller of version 1 is usually mounted, below the root of all controllers.
const V1_MOUNTS: [&str; 2] = ["cpu", "cpu,cpuacct"];

/// Returns the lowest CPU limit of this process's control group and its ancestors, in cores.
pub(super) fn quota_cores() -> Option<f64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    lowest_quota(Path::new("/sys/fs/cgroup"), &groups)
}

/// `groups` is the content of `/proc/self/cgroup`: lines of `number:controllers:path`, without controllers in version
/// 2.
fn lowest_quota(root: &Path, groups: &str) -> Option<f64> {
    let mut quotas = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        for ancestor in Path::new(path.trim_start_matches('/')).ancestors() {
            if controllers.is_empty() {
                quotas.extend(v2_quota(&root.join(ancestor)));
            } else if controllers.split(',').any(|name| name == "cpu") {
                quotas
                    .extend(V1_MOUNTS.iter().filter_map(|mount| v1_quota(&root.join(mount).join(ancestor))));
            }
        }
    }
    quotas.into_iter().reduce(f64::min)
}

/// Reads `cpu.max`: the quota (`max` without a limit) and the period, in microseconds.
fn v2_quota(group: &Path) -> Option<f64> {
    let text = fs::read_to_string(group.join("cpu.max")).ok()?;
    let mut fields = text.split_whitespace();
    cores(fields.next()?, fields.next()?)
}

/// Reads the quota (-1 without a limit) and the period, in microseconds.
fn v1_quota(group: &Path) -> Option<f64> {
    let read = |name| fs::read_to_string(group.join(name)).ok();
    cores(&read("cpu.cfs_quota_us")?, &read("cpu.cfs_period_us")?)
}

fn cores(quota: &str, period: &str) -> Option<f64> {
    let quota: f64 = quota.trim().parse().ok()?;
    let period: f64 = period.trim().parse().ok()?;
    (quota > 0.0 && period > 0.0).then(|| quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_lowest_limit_of_all_ancestors_applies() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write(root, "a/b/cpu.max", "max 100000\n");
        write(root, "a/cpu.max", "150000 100000\n");
        write(root, "cpu.max", "400000 100000\n");
        assert_eq!(lowest_quota(root, "0::/a/b\n"), Some(1.5));
        assert_eq!(lowest_quota(root, "0::/\n"), Some(4.0));
    }

    #[test]
    fn limits_of_version_1_are_read() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write(root, "cpu/job/cpu.cfs_quota_us", "50000\n");
        write(root, "cpu/job/cpu.cfs_period_us", "100000\n");
        write(root, "cpu/cpu.cfs_quota_us", "-1\n");
        write(root, "cpu/cpu.cfs_period_us", "100000\n");
        let groups = "5:cpuset:/job\n4:cpu,cpuacct:/job\n0::/\n";
        assert_eq!(lowest_quota(root, groups), Some(0.5));
        assert_eq!(lowest_quota(root, "1:cpu:/\n"), None);
        assert_eq!(lowest_quota(root, "no such format"), None);
    }
}
