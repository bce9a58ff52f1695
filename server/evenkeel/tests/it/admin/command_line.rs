//! Changes that administrators make with the command, and the texts it prints.

use serde_json::json;

use super::start;
use crate::support::{
    admin::{LIMITS_AND_QUOTAS, TOKEN},
    command::{evenkeel, fails, prints, prints_json},
};

#[tokio::test]
async fn the_command_changes_and_lists_quotas() {
    let sidecar = start().await;
    let set = prints(&sidecar, "quota set alice 100 --quota credit --note welcome").await;
    assert_eq!(
        set,
        "QUOTA   CONSUMER  BALANCE  RESERVED  USED  OVERRUN  AMOUNT  RESETS-IN  COUNTS  RECORDED\n\
         credit  alice         100         0     0        0       -          -  tokens  yes\n"
    );
    prints(&sidecar, "quota add alice 50 --quota credit").await;
    prints(&sidecar, "quota subtract alice 30 --quota credit --request-id r").await;
    prints(&sidecar, "quota subtract alice 30 --quota credit --request-id r").await;
    let got = prints_json(&sidecar, "quota get alice --quota credit").await;
    assert_eq!((&got["balance"], &got["recorded"]), (&json!(120), &json!(true)));
    prints(&sidecar, "quota set bob 5 --quota credit").await;
    let list = prints(&sidecar, "quota list --quota credit --search b").await;
    assert_eq!(list.lines().count(), 2, "{list}");
    let list = prints(&sidecar, "quota list --quota credit --rows 1").await;
    assert!(list.contains("alice") && list.ends_with("\n(more rows: see --rows)\n"), "{list}");
    let history = prints(&sidecar, "quota history alice --quota credit").await;
    let lines: Vec<_> = history.lines().collect();
    assert_eq!(lines.len(), 4, "{history}");
    assert!(lines[3].contains("set") && lines[3].ends_with("ops  welcome"), "{history}");
    assert_eq!(prints(&sidecar, "quota delete alice --quota credit").await, "DELETED\nalice\n");
    // A budget shows its default and its period.
    let month = prints(&sidecar, "quota get alice --quota month").await;
    assert!(month.contains("no (default)") && month.contains("500"), "{month}");

    let (code, error) = fails(&sidecar, Some(TOKEN), "quota delete alice --quota credit").await;
    assert_eq!(code, 3);
    assert!(
        error.starts_with(
            "evenkeel: cannot delete the record (`evenkeel quota list` lists all): record of \"alice\""
        ),
        "{error}"
    );
    let (code, error) = fails(&sidecar, None, "quota set alice 1 --quota credit").await;
    assert!(code == 4 && error.contains("EVENKEEL_TOKEN"), "{error}");
    let (_, error) = fails(&sidecar, Some("wrong-token-wrong"), "quota set a 1 --quota credit").await;
    assert!(error.contains("this token belongs to nobody") && !error.contains("wrong-token"), "{error}");
    assert_eq!(fails(&sidecar, Some(TOKEN), "quota set alice much").await.0, 2);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{TOKEN}\n")).unwrap();
    let path = file.path().to_str().unwrap();
    let words = ["quota", "set", "alice", "1", "--quota", "credit", "--token-file", path];
    assert!(evenkeel(&sidecar.url(), None, &words).await.status.success());
    assert!(
        evenkeel(&sidecar.url(), Some("wrong-token-wrong"), &words).await.status.success(),
        "the file first"
    );
}

#[tokio::test]
async fn the_command_lists_and_overrides_limits() {
    let sidecar = start().await;
    let list = prints(&sidecar, "limits list").await;
    assert_eq!(
        list,
        "LIMIT     COUNTS    ALGORITHM     AMOUNT  BURST  PER  KEY              SHADOW\n\
         rpm       requests  fixed_window      60      -  1m   consumer         no\n\
         tpm       tokens    token_bucket    1000   2000  1m   consumer, model  yes\n\
         parallel  requests  concurrency        8      -  -    (all)            no\n"
    );
    let set = prints(&sidecar, "limits override rpm consumer=alice --amount 5 --for 2h").await;
    assert!(set.contains("consumer=alice") && set.contains("ops"), "{set}");
    prints(&sidecar, "limits override rpm consumer=bob --unlimited").await;
    let overrides = prints_json(&sidecar, "limits overrides").await;
    assert_eq!(overrides["overrides"][0]["amount"], json!(5));
    assert!(overrides["overrides"][0]["expires_at_ms"].as_u64().unwrap() > 0);
    assert_eq!(overrides["overrides"][1]["unlimited"], json!(true));
    prints(&sidecar, "limits reset rpm consumer=alice").await;
    assert_eq!(prints(&sidecar, "limits overrides").await.lines().count(), 2);
    let (code, error) = fails(&sidecar, Some(TOKEN), "limits override rpm alice --amount 1").await;
    assert!(code == 2 && error.contains("consumer=…"), "{error}");
    assert_eq!(fails(&sidecar, Some(TOKEN), "limits override rpm consumer=a").await.0, 2);
}

#[tokio::test]
async fn explain_reads_limits_from_a_file() {
    let sidecar = start().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), LIMITS_AND_QUOTAS).unwrap();
    let path = file.path().to_str().unwrap();
    let table = prints(&sidecar, &format!("explain --config {path} --consumer alice --model small")).await;
    let line = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("rpm").contains("consumer=alice") && line("rpm").contains("always"), "{table}");
    assert!(line("tpm").contains("consumer=alice|model=small"), "{table}");
    assert!(line("parallel").contains("no") && line("parallel").ends_with("not model is \"big\""), "{table}");
    assert!(line("credit").contains("quota  yes"), "{table}");
    let nobody = prints_json(&sidecar, &format!("explain --config {path}")).await;
    assert_eq!(nobody["limits"][0]["why"], json!("the request has no consumer"));
}

#[tokio::test]
async fn explain_shows_what_applies_to_a_request() {
    let sidecar = start().await;
    prints(&sidecar, "quota set alice 50 --quota credit").await;
    let words = "explain --consumer alice --model big --prompt-bytes 4000 --max-tokens 10";
    let table = prints(&sidecar, words).await;
    let line = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(line("rpm").contains("consumer=alice") && line("parallel").contains("yes"), "{table}");
    assert!(line("credit").contains("quota"), "{table}");
    let json = prints_json(&sidecar, words).await;
    assert_eq!(json["limits"][0]["amount"], json!(60));
    assert_eq!(json["limits"][3]["name"], json!("credit"));
    assert_eq!(json["limits"][3]["refuses"], json!(!json["admitted"].as_bool().unwrap()));
    let nobody = prints(&sidecar, "explain --header X-Team=red --ip 10.0.0.1").await;
    assert!(nobody.contains("the request would be admitted"), "{nobody}");
}
