//! The files that contain the limits: reloads, symbolic links, and `check-config`.

use std::{fs, path::Path, time::Duration};

use super::{LIMITS, OVER, Rls, by, client, hits};
use crate::support::{command::offline, eventually, sidecar::Sidecar};

async fn limit_of(rls: &Rls, key: &str) -> Option<u32> {
    let response = rls.ask(1, &[hits(0, by(&[(key, "a")]))]).await;
    response.statuses[0].current_limit.as_ref().map(|limit| limit.requests_per_unit)
}

async fn limit_becomes(rls: &Rls, key: &str, expected: Option<u32>) {
    eventually(Duration::from_secs(10), "the file is loaded", || async {
        let limit = limit_of(rls, key).await;
        if limit == expected { Ok(()) } else { Err(format!("{limit:?}")) }
    })
    .await;
}

async fn config_valid(rls: &Rls, expected: f64) {
    eventually(Duration::from_secs(10), "the gauge follows", || async {
        let valid = rls.sidecar.metric("evenkeel_rls_config_valid").await;
        if valid == expected { Ok(()) } else { Err(valid.to_string()) }
    })
    .await;
}

#[tokio::test]
async fn changed_files_are_loaded_and_wrong_ones_rejected() {
    let rls = Rls::start(LIMITS, "", None).await;
    assert_eq!(limit_of(&rls, "two").await, Some(2));
    rls.write(&LIMITS.replace("requests_per_unit: 2", "requests_per_unit: 20"));
    limit_becomes(&rls, "two", Some(20)).await;
    rls.write("domain: d\ndescriptors: [{key: two, rate_limit: {unit: fortnight}}]");
    config_valid(&rls, 0.0).await;
    assert_eq!(limit_of(&rls, "two").await, Some(20), "the last good one stays");
    // A second file is added, and the first file is corrected.
    fs::write(rls.dir.path().join("more.yaml"), LIMITS.replace("domain: d", "domain: e")).unwrap();
    rls.write(LIMITS);
    config_valid(&rls, 1.0).await;
    assert_eq!(limit_of(&rls, "two").await, Some(2));
    assert_eq!(rls.ask_in("e", 1, &[by(&[("none", "a")])]).await.unwrap().overall_code(), OVER);
    fs::remove_file(rls.dir.path().join("limits.yaml")).unwrap();
    limit_becomes(&rls, "two", None).await;
}

/// A renamed file would otherwise remove all limits silently.
#[tokio::test]
async fn a_directory_without_a_file_of_limits_keeps_the_last_limits() {
    let rls = Rls::start(LIMITS, "", None).await;
    let path = |name: &str| rls.dir.path().join(name);
    fs::rename(path("limits.yaml"), path("limits.conf")).unwrap();
    config_valid(&rls, 0.0).await;
    assert_eq!(limit_of(&rls, "two").await, Some(2));
    let config_map = |requests: u32| {
        let limits = LIMITS.replace("requests_per_unit: 2", &format!("requests_per_unit: {requests}"));
        serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"limits.yaml": limits}})
            .to_string()
    };
    fs::write(path("map.yaml"), config_map(7)).unwrap();
    limit_becomes(&rls, "two", Some(7)).await;
    config_valid(&rls, 1.0).await;
    fs::write(path("map.yaml"), config_map(8)).unwrap();
    limit_becomes(&rls, "two", Some(8)).await;
}

fn link(to: &str, at: &Path) {
    let partial = at.with_file_name("partial");
    std::os::unix::fs::symlink(to, &partial).unwrap();
    fs::rename(&partial, at).unwrap();
}

/// To update a mounted ConfigMap, the kubelet writes the files to a new directory, and then lets the link `..data`
/// point to it.
#[tokio::test]
async fn an_updated_config_map_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let put = |version: &str, requests: u32| {
        let version_dir = dir.path().join(version);
        fs::create_dir(&version_dir).unwrap();
        let limits = LIMITS.replace("requests_per_unit: 2", &format!("requests_per_unit: {requests}"));
        fs::write(version_dir.join("limits.yaml"), limits).unwrap();
        link(version, &dir.path().join("..data"));
    };
    put("..1", 3);
    std::os::unix::fs::symlink("..data/limits.yaml", dir.path().join("limits.yaml")).unwrap();
    for path in [dir.path().to_owned(), dir.path().join("limits.yaml")] {
        let sidecar = Sidecar::start(&format!("rate_limit_service: {{config: '{}'}}", path.display())).await;
        let client = client(&sidecar).await;
        let rls = Rls { sidecar, client, dir: tempfile::tempdir().unwrap(), _redis: None };
        let before = limit_of(&rls, "two").await.unwrap();
        put(&format!("..{}", before + 1), before + 1);
        limit_becomes(&rls, "two", Some(before + 1)).await;
    }
}

/// The `runtime` of envoyproxy/ratelimit swaps a link in the path of the files.
#[tokio::test]
async fn a_swapped_link_in_the_path_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    for (version, requests) in [("1", 3), ("2", 4)] {
        let config = dir.path().join(version).join("ratelimit/config");
        fs::create_dir_all(&config).unwrap();
        let limits = LIMITS.replace("requests_per_unit: 2", &format!("requests_per_unit: {requests}"));
        fs::write(config.join("limits.yaml"), limits).unwrap();
    }
    link("1", &dir.path().join("current"));
    let path = dir.path().join("current/ratelimit/config");
    let sidecar = Sidecar::start(&format!("rate_limit_service: {{config: '{}'}}", path.display())).await;
    let client = client(&sidecar).await;
    let rls = Rls { sidecar, client, dir: tempfile::tempdir().unwrap(), _redis: None };
    limit_becomes(&rls, "two", Some(3)).await;
    link("2", &dir.path().join("current"));
    limit_becomes(&rls, "two", Some(4)).await;
    // The sidecar also watches the new directory.
    fs::write(path.join("limits.yaml"), LIMITS).unwrap();
    limit_becomes(&rls, "two", Some(2)).await;
}

#[test]
fn check_config_checks_rate_limit_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let check = |arguments: &[&Path]| {
        let (ok, out, err) = offline(&[&[Path::new("check-config")], arguments].concat());
        (ok, out + &err)
    };
    fs::write(path("good.yaml"), LIMITS).unwrap();
    fs::write(
        path("evenkeel.yaml"),
        format!("rate_limit_service: {{config: '{}'}}", path("good.yaml").display()),
    )
    .unwrap();
    let (ok, text) = check(&[Path::new("--rate-limit"), &path("good.yaml")]);
    assert!(ok && text.contains("good.yaml: ok (10 limits of 1 domains)"), "{text}");
    let (ok, text) = check(&[&path("evenkeel.yaml")]);
    assert!(ok && text.contains("good.yaml: ok") && text.contains("evenkeel.yaml: ok"), "{text}");
    fs::write(path("good.yaml"), "descriptors: [{value: a}]").unwrap();
    for arguments in [vec![Path::new("--rate-limit"), &path("good.yaml")], vec![&*path("evenkeel.yaml")]] {
        let (ok, text) = check(&arguments);
        assert!(!ok, "{text}");
        assert!(text.contains("good.yaml: domain: must be a name, got none"), "{text}");
        assert!(text.contains("good.yaml: descriptors[0].key: must be a name, got none"), "{text}");
    }
    // A directory whose files all have another ending would serve no limit.
    let empty = path("empty");
    fs::create_dir(&empty).unwrap();
    fs::write(empty.join("limits.json"), LIMITS).unwrap();
    let (ok, text) = check(&[Path::new("--rate-limit"), &empty]);
    assert!(
        !ok && text.contains("must contain a file whose name ends in .yaml or .yml")
            && text.contains("limits.json"),
        "{text}"
    );
    fs::write(empty.join("limits.yml"), LIMITS).unwrap();
    let (ok, text) = check(&[Path::new("--rate-limit"), &empty]);
    assert!(ok && text.contains("warning: ") && text.contains("not limits.json"), "{text}");
    // Faults of the configuration do not hide faults of the files that it names.
    let section =
        format!("xyz: 1\nrate_limit_service: {{config: '{}', hedders: x}}", path("good.yaml").display());
    fs::write(path("evenkeel.yaml"), section).unwrap();
    let (ok, text) = check(&[&path("evenkeel.yaml")]);
    let lines = [
        "  xyz: must be one of ",
        "  rate_limit_service.hedders: must be ",
        "  good.yaml: domain: must be a name",
    ];
    assert!(!ok && lines.iter().all(|line| text.contains(line)), "{text}");
    assert!(!check(&[]).0);
}
