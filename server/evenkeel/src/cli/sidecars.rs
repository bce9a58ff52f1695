//! `evenkeel sidecars`.

use clap::Args;
use evenkeel_proto::v1::{self as pb, StoreKind};

use super::{
    connect::Ask,
    exit::failed,
    output::{Column, Item, csv_only, number, or_dash, text, time, word},
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
        let answer = answer.map_err(failed("list the sidecars"))?.into_inner();
        self.ask.output.list(&answer.sidecars, &answer)
    }
}

fn state(sidecar: &pb::SidecarState) -> &'static str {
    match (sidecar.alive, sidecar.stopping, sidecar.store_up) {
        (false, _, _) => "stopped",
        (true, true, _) => "stopping",
        (true, false, false) => "store down",
        (true, false, true) => "alive",
    }
}

impl Item for pb::SidecarState {
    const COLUMNS: &'static [Column<Self>] = &[
        text("name", "NAME", |s| or_dash(&s.name)),
        csv_only("id"),
        text("", "STATE", |s| state(s).to_owned()),
        csv_only("alive"),
        csv_only("stopping"),
        text("version", "VERSION", |s| s.version.clone()),
        text("store", "STORE", |s| word::<StoreKind>(s.store)),
        csv_only("store_up"),
        number("store_losses", "LOSSES", |s| s.store_losses.to_string()),
        number("holders", "HOLDERS", |s| s.holders.to_string()),
        number("admitted", "ADMITTED", |s| s.admitted.to_string()),
        number("refused", "REFUSED", |s| s.refused.to_string()),
        text("started_at_ms", "STARTED", |s| time(s.started_at_ms)),
        text("seen_at_ms", "LAST-SEEN", |s| time(s.seen_at_ms)),
        text("certificate_expires_at_ms", "CERTIFICATE-UNTIL", |s| time(s.certificate_expires_at_ms)),
        // Eight characters are enough to distinguish two revisions.
        text("limits_revision", "LIMITS", |s| s.limits_revision.chars().take(8).collect()),
    ];
}
