//! Commands that change amounts.

use serde_json::json;

use super::CONFIG;
use crate::support::{
    admin::with_admin,
    command::{prints, prints_json},
    sidecar::Sidecar,
};

#[tokio::test]
async fn changing_commands_print_json() {
    let sidecar = Sidecar::start(&with_admin(CONFIG)).await;
    let s = &sidecar;
    assert_eq!(prints_json(s, "quota set alice 10").await["balance"], 10);
    assert_eq!(prints_json(s, "quota add alice 5").await["balance"], 15);
    assert_eq!(prints_json(s, "quota subtract alice 1").await["balance"], 14);
    assert_eq!(prints_json(s, "quota delete alice").await, json!({"quota": "", "consumer": "alice"}));
    assert_eq!(prints_json(s, "limits override rpm consumer=a --amount 3").await["amount"], 3);
    assert_eq!(
        prints_json(s, "limits reset rpm consumer=a").await,
        json!({"limit": "rpm", "key": "consumer=a"})
    );
    assert_eq!(
        prints(s, "quota set =1+1 3 -o csv").await.lines().nth(1).unwrap().split(',').nth(1),
        Some("\"'=1+1\"")
    );
}

/// Commands accept amounts in the syntax of the configuration. Tables show which amounts are in millionths.
#[tokio::test]
async fn amounts_accept_units() {
    let config = "
limits: [{name: spend, counts: cost, amount: 2.50, per: day, key: [consumer]}]
quotas:
- {name: credit, counts: tokens, kind: prepaid}
- {name: money, counts: cost, kind: budget, default: 1.25, per: day}
prices: [{model: m, input: 1, output: 2}]
";
    let sidecar = Sidecar::start(&with_admin(config)).await;
    let s = &sidecar;
    assert_eq!(prints_json(s, "quota set alice 100k --quota credit").await["balance"], 100_000);
    assert_eq!(prints_json(s, "quota add alice 1.5M --quota credit").await["balance"], 1_600_000);
    assert_eq!(prints_json(s, "quota subtract alice 0.5k --quota credit").await["balance"], 1_599_500);
    assert_eq!(prints_json(s, "limits override spend consumer=a --amount 3M").await["amount"], 3_000_000);
    // 1.25M millionths equal the configured 1.25.
    let default = prints_json(s, "quota get bob --quota money").await;
    let set = prints_json(s, "quota set alice 1.25M --quota money").await;
    assert_eq!((&set["amount"], &set["counts"]), (&default["amount"], &json!("cost")));

    let table = prints(s, "quota get alice --quota money").await;
    assert!(table.contains("1250000") && table.contains("  cost (millionths)  "), "{table}");
    assert!(prints(s, "limits list").await.contains("  cost (millionths)  "));
    let tokens = prints(s, "quota get alice --quota credit").await;
    assert!(tokens.contains("  tokens  ") && !tokens.contains("millionths"), "{tokens}");
    for command in ["quota set", "quota add", "quota list", "limits override", "limits overrides"] {
        let help = prints(s, &format!("{command} --help")).await;
        assert!(help.contains("millionths of the currency"), "{command}: {help}");
    }
}
