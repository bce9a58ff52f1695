//! Commands print each list as JSON, CSV and a table.

use serde_json::json;

use super::{both, csv_agrees, equals_http};
use crate::support::command::{prints, prints_json};

#[tokio::test]
async fn every_list_prints_json_csv_and_a_table() {
    for (_redis, sidecar) in both().await {
        let s = &sidecar;
        let first = s.lease("llm", "h", 1).await;
        s.lease("llm", "h", 2).await;
        prints(s, "limits override rpm consumer=alice --amount 5").await;
        prints(s, "limits override rpm consumer=bob --unlimited").await;
        prints(s, "quota set alice 100 --note welcome").await;

        equals_http(s, "pools", "/api/v1/pools").await;
        equals_http(s, "limits list", "/api/v1/limits").await;
        equals_http(s, "limits overrides", "/api/v1/overrides").await;
        equals_http(s, "quota list", "/api/v1/quotas?quota=credit").await;
        equals_http(s, "quota get alice", "/api/v1/quotas/credit/alice").await;
        equals_http(s, "quota history alice", "/api/v1/quotas/credit/alice/changes").await;
        equals_http(s, "usage sessions", "/api/v1/usage/sessions").await;

        let pools = prints_json(s, "pools --cluster llm").await;
        assert_eq!((&pools["pools"][0]["in_flight"], &pools["pools"][0]["capacity"]), (&json!(2), &json!(4)));
        let leases = prints_json(s, "leases --cluster llm").await;
        let lease = &leases["leases"][0];
        assert_eq!(
            (&lease["holder"], &lease["lease"], &lease["endpoint"]),
            (&json!("h"), &json!(1), &json!(*first))
        );
        assert!(lease["age_ms"].is_u64());
        let holders = prints_json(s, "holders --cluster llm").await;
        assert_eq!(
            (&holders["holders"][0]["leases"], holders["holders"][0]["deadline_in_ms"].is_i64()),
            (&json!(2), true)
        );
        assert_eq!(prints_json(s, "top --once").await["pools"][0]["in_flight"], 2);
        let explained = prints_json(s, "explain --consumer alice --model m").await;
        assert_eq!(
            (&explained["limits"][0]["amount"], explained["admitted"].is_boolean()),
            (&json!(5), true)
        );

        let pools = "cluster,route,address,in_flight,unread_tokens,hit_rate,expected_hit_rate,cap,weight,listed,drained,current";
        let csv = csv_agrees(s, "pools", pools, 2).await;
        assert!(csv.contains("\r\nllm,,b:1,2,0,,,2,3.0,true,false,true\r\n"), "{csv}");
        csv_agrees(s, "top --once", pools, 2).await;
        csv_agrees(s, "leases --cluster llm", "holder,lease,endpoint,age_ms,unread_tokens", 2).await;
        csv_agrees(s, "holders --cluster llm", "holder,leases,deadline_in_ms", 1).await;
        csv_agrees(s, "limits list", "name,counts,algorithm,amount,burst,per,key,shadow", 2).await;
        let csv =
            csv_agrees(s, "limits overrides", "limit,key,amount,unlimited,expires_at_ms,who,at_ms", 2).await;
        assert!(csv.contains("rpm,consumer=bob,,true,0,ops,"), "{csv}");
        let quota = "quota,consumer,balance,reserved,used,overrun,amount,reset_ms,counts,recorded";
        csv_agrees(s, "quota list", quota, 1).await;
        csv_agrees(s, "quota get alice", quota, 1).await;
        csv_agrees(s, "quota history alice", "at_ms,what,before,after,who,note", 1).await;
        let explain = "name,kind,applies,key,amount,used,reserved,cost,reset_ms,refuses,shadow,why";
        csv_agrees(s, "explain --consumer alice", explain, 3).await;

        let table = prints(s, "pools").await;
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines[0], "CLUSTER  ROUTE  ENDPOINT  IN-FLIGHT  CAP  WEIGHT  STATE");
        assert_eq!(lines[2], "llm      (all)  b:1               2    2       3");
    }
}
