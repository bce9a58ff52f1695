//! Commands that report the past: refusals, activity, repairs, drains and the change log.

use std::time::Duration;

use evenkeel_proto::v1::admit_response::Answer;
use serde_json::{Value, json};

use super::{both, csv_agrees, equals_http};
use crate::support::{
    admin::TOKEN,
    command::{evenkeel, prints, prints_json},
    eventually,
    requests::admit_for,
    sidecar::Sidecar,
};

/// Sends an Admit, and returns whether it was admitted.
async fn admit(sidecar: &Sidecar, consumer: &str, lease: u64) -> bool {
    matches!(sidecar.send(admit_for(consumer, "m", lease)).await, Answer::Admitted(_))
}

#[tokio::test]
async fn commands_report_refusals_activity_and_limits() {
    for (_redis, sidecar) in both().await {
        let s = &sidecar;
        prints(s, "quota set alice 100000").await;
        prints(s, "limits override rpm consumer=alice --amount 1").await;
        eventually(Duration::from_secs(60), "the override applies", async || {
            let explained = prints_json(s, "explain --consumer alice").await;
            if explained["limits"][0]["amount"] == 1 { Ok(()) } else { Err(explained.to_string()) }
        })
        .await;
        assert!(admit(s, "alice", 1).await && !admit(s, "alice", 2).await);
        let listed = async |words: &str, list: &str| {
            eventually(Duration::from_secs(60), words, async || {
                let json = prints_json(s, words).await;
                if json[list].as_array().is_some_and(|list| !list.is_empty()) {
                    Ok(json)
                } else {
                    Err(json.to_string())
                }
            })
            .await
        };
        let refusals = listed("refusals", "refusals").await;
        assert_eq!(refusals["refusals"].as_array().unwrap().len(), 1);
        let refusal = prints_json(s, "refusals req-2").await;
        assert_eq!(refusal, refusals["refusals"][0]);
        assert_eq!(refusal, prints_json(s, "explain --request-id req-2").await);
        assert_eq!(
            (&refusal["reason"], &refusal["limit"], &refusal["status"]),
            (&json!("limit"), &json!("rpm"), &json!(429))
        );
        let words = prints(s, "refusals req-2").await;
        assert!(words.contains("\nbecause       ") && words.contains("consumer      alice"), "{words}");
        assert_eq!(
            prints_json(s, "refusals --consumer bob").await,
            json!({"refusals": [], "next_page_token": ""})
        );
        let unknown = evenkeel(&s.url(), None, &["refusals", "req-9"]).await;
        assert_eq!(unknown.status.code(), Some(3));
        equals_http(s, "refusals", "/api/v1/refusals").await;
        equals_http(s, "refusals req-2", "/api/v1/refusals/req-2").await;
        let refusal = "at_ms,request_id,status,reason,consumer,model,route,cluster,limit,key,amount,used,cost,\
                       retry_after_ms,sidecar,why";
        let csv = prints(s, "refusals -o csv").await;
        assert!(
            csv.starts_with(&format!("{refusal}\r\n")) && csv.contains(",req-2,429,limit,alice,m,,llm,rpm,"),
            "{csv}"
        );

        listed("sidecars", "sidecars").await;
        equals_http(s, "sidecars", "/api/v1/sidecars").await;
        let sidecars = prints_json(s, "sidecars").await;
        assert_eq!(
            (&sidecars["sidecars"][0]["alive"], &sidecars["sidecars"][0]["store_up"]),
            (&json!(true), &json!(true))
        );
        prints(s, "sidecars").await;
        csv_agrees(
            s,
            "sidecars",
            "name,id,alive,stopping,version,store,store_up,store_losses,holders,admitted,refused,started_at_ms,\
             seen_at_ms,certificate_expires_at_ms,limits_revision",
            1,
        )
        .await;
        equals_http(s, "gateways", "/api/v1/gateways").await;
        csv_agrees(
            s,
            "gateways",
            "gateway,workers,sidecars,lost_at_ms,now,since_at_ms,last_at_ms,unreachable,late,failed,without_store",
            0,
        )
        .await;

        let sum = |activity: &Value, result: &str| {
            let steps = activity["steps"].as_array().unwrap().iter();
            steps.map(|step| step[result].as_u64().unwrap()).sum::<u64>()
        };
        let activity = prints_json(s, "activity").await;
        assert_eq!((sum(&activity, "shared"), sum(&activity, "limit")), (1, 1), "{activity}");
        assert_eq!((&activity["step_ms"], activity["steps"].as_array().unwrap().len()), (&json!(10_000), 90));
        equals_http(s, "activity --span 48h --cluster llm", "/api/v1/activity?span_ms=172800000&cluster=llm")
            .await;
        csv_agrees(
            s,
            "activity",
            "at_ms,admitted,refused,shared,local,open,pool_full,no_endpoints,limit,quota,store_unavailable",
            90,
        )
        .await;

        listed("limits fullest", "keys").await;
        equals_http(s, "limits fullest --limit rpm", "/api/v1/limits/fullest?limit=rpm").await;
        let fullest = "limit,key,used,amount,share,reset_at_ms,shadow,seen_at_ms,counts";
        csv_agrees(s, "limits fullest --limit rpm", fullest, 1).await;
        let table = prints(s, "limits fullest --limit rpm").await;
        assert!(table.contains("consumer=alice") && table.contains("100%"), "{table}");
        equals_http(s, "quota burn-rates", "/api/v1/quotas/burn-rates").await;
        let burn_rates = prints(s, "quota burn-rates -o csv").await;
        assert!(
            burn_rates.starts_with("quota,consumer,balance,amount,burn_per_hour,runs_out_at_ms,"),
            "{burn_rates}"
        );
        equals_http(s, "repairs", "/api/v1/repairs").await;
        csv_agrees(s, "repairs", "at_ms,kind,count,route,cluster,holder,sidecar", 0).await;

        let text = prints(s, "top --once").await;
        assert!(
            text.contains("sidecars 1/1") && text.contains("admits ") && text.contains("store up"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn commands_drain_endpoints_and_list_the_change_log() {
    for (_redis, sidecar) in both().await {
        let s = &sidecar;
        assert_eq!(prints_json(s, "drains").await, json!({"drains": []}));
        let drained = prints_json(s, "drain a:1 --note maintenance").await;
        assert_eq!((&drained["endpoint"], &drained["pool"]), (&json!("a:1"), &Value::Null));
        assert_eq!((&drained["note"], &drained["who"]), (&json!("maintenance"), &json!("ops")));
        let only = prints_json(s, "drain b:1 --cluster llm").await;
        assert_eq!(only["pool"], json!({"route": "", "cluster": "llm"}));
        equals_http(s, "drains", "/api/v1/drains").await;
        let csv = csv_agrees(s, "drains", "endpoint,route,cluster,at_ms,who,note", 2).await;
        assert!(csv.contains("\r\na:1,,,") && csv.contains("\r\nb:1,,llm,"), "{csv}");
        let table = prints(s, "drains").await;
        assert!(table.contains("a:1       (every pool)  ") && table.contains("b:1       llm  "), "{table}");
        eventually(Duration::from_secs(60), "the pool shows the drains", async || {
            let table = prints(s, "pools").await;
            if table.matches("  drained\n").count() == 2 { Ok(()) } else { Err(table) }
        })
        .await;
        let undrained = prints_json(s, "undrain a:1").await;
        assert_eq!(undrained, json!({"endpoint": "a:1", "route": "", "cluster": ""}));
        for (words, code) in [("undrain a:1", 3), ("undrain b:1", 3), ("drain nowhere:1", 3)] {
            let words: Vec<&str> = words.split(' ').collect();
            let output = evenkeel(&s.url(), Some(TOKEN), &words).await;
            assert_eq!(
                output.status.code(),
                Some(code),
                "{words:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        prints(s, "undrain b:1 --cluster llm").await;
        equals_http(s, "changes", "/api/v1/changes").await;
        let changes = prints_json(s, "changes --rows 2").await;
        let what: Vec<_> =
            changes["changes"].as_array().unwrap().iter().map(|c| (&c["what"], &c["who"])).collect();
        assert_eq!(what, [(&json!("endpoint.undrain"), &json!("ops")); 2]);
        csv_agrees(s, "changes", "at_ms,who,what,target,before,after,note", 4).await;
    }
}
