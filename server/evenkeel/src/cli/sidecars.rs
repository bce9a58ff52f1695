//! `evenkeel sidecars`: who takes part, and how each of them is.

use clap::Args;
use evenkeel_proto::v1 as pb;
use serde_json::{Value, json};

use super::{
    connect::Ask,
    exit::answered,
    output::{Column, Item, number, or_dash, text, time, word},
};

/// Show sidecars.
#[derive(Args)]
pub(crate) struct Sidecars {
    #[command(flatten)]
    ask: Ask,
}

impl Sidecars {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let answer = self.ask.inspect().await?.list_sidecars(pb::ListSidecarsRequest {}).await;
        self.ask.output.list(&answer.map_err(answered)?.into_inner().sidecars)
    }
}

impl Item for pb::SidecarState {
    const LIST: &'static str = "sidecars";
    const COLUMNS: &'static [Column] = &[
        text("name", "NAME"),
        text("id", ""),
        text("", "STATE"),
        text("alive", ""),
        text("draining", ""),
        text("version", "VERSION"),
        text("store", "STORE"),
        text("store_up", ""),
        number("store_losses", "LOSSES"),
        number("holders", "HOLDERS"),
        number("admitted", "ADMITTED"),
        number("refused", "REFUSED"),
        text("started_at_ms", "STARTED"),
        text("seen_at_ms", "SEEN"),
        text("limits_revision", "LIMITS"),
    ];

    fn json(&self) -> Value {
        json!({
            "id": self.id,
            "name": self.name,
            "version": self.version,
            "started_at_ms": self.started_at_ms,
            "seen_at_ms": self.seen_at_ms,
            "alive": self.alive,
            "draining": self.draining,
            "store": store(self.store()),
            "store_up": self.store_up,
            "store_losses": self.store_losses,
            "holders": self.holders,
            "admitted": self.admitted,
            "refused": self.refused,
            "limits_revision": self.limits_revision,
        })
    }

    fn cells(&self) -> Vec<String> {
        let state = match (self.alive, self.draining, self.store_up) {
            (false, _, _) => "gone",
            (true, true, _) => "draining",
            (true, false, false) => "store away",
            (true, false, true) => "up",
        };
        vec![
            or_dash(&self.name),
            state.to_owned(),
            self.version.clone(),
            store(self.store()),
            self.store_losses.to_string(),
            self.holders.to_string(),
            self.admitted.to_string(),
            self.refused.to_string(),
            time(self.started_at_ms),
            time(self.seen_at_ms),
            // Enough to see that two differ.
            self.limits_revision.chars().take(8).collect(),
        ]
    }
}

fn store(kind: pb::StoreKind) -> String {
    word(kind.as_str_name(), "STORE_KIND_")
}
