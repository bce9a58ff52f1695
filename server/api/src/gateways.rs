//! Operations on gateways, and what the overview reports about them and about the sidecars.

use std::collections::BTreeMap;

use evenkeel_domain::{
    activity::SidecarStatus,
    gateway::{GatewayStatus, LimitGap},
    page::{page_at, page_size_of},
};
use evenkeel_proto::v1::{self as pb, GatewayState, ListGatewaysRequest, ListGatewaysResponse, SidecarState};

use crate::{Api, Result, convert::store_kind};

/// Maximum number of entries in each list of the overview that asks for attention. The full lists are elsewhere.
const ATTENTION_MAX: usize = 20;
/// A certificate needs attention when it expires within this time, in ms: seven days.
const CERTIFICATE_SOON_MS: u64 = 7 * 86_400_000;
/// Time without a break in this sidecar's own reports, in ms, before it says that another sidecar has stopped.
const SETTLED_MS: u64 = 5000;

/// The reports of sidecars, and whether each sidecar is alive.
type Reported = Vec<(SidecarStatus, bool)>;

/// The parts of the overview that ask for attention.
#[derive(Default)]
pub(crate) struct Attention {
    pub(crate) gaps: Vec<GatewayState>,
    pub(crate) lost_sidecars: Vec<SidecarState>,
    pub(crate) expiring: Vec<SidecarState>,
}

/// A gateway, and the names of its sidecars.
struct Known {
    status: GatewayStatus,
    sidecars: Vec<String>,
}

impl Api {
    pub async fn list_gateways(&self, request: ListGatewaysRequest) -> Result<ListGatewaysResponse> {
        let ListGatewaysRequest { search, page_size, page_token } = request;
        let size = page_size_of(page_size)?;
        let (mut known, unlisted) = self.gateways(&self.reported(self.history.sidecars()).await?);
        known.retain(|one| {
            one.status.name.contains(&search) || one.sidecars.iter().any(|name| name.contains(&search))
        });
        let total = known.len() as u64;
        let (page, next_page_token) = page_at(known, size, &page_token)?;
        let gateways = page.into_iter().map(state).collect();
        Ok(ListGatewaysResponse { gateways, next_page_token, total, unlisted })
    }

    /// Returns what the overview shows first. While the store is unavailable, `reported` is `None`, and this sidecar's own
    /// gateways are known.
    pub(crate) fn attention(&self, reported: Option<&Reported>, now_ms: u64) -> Attention {
        let none = Vec::new();
        let reported = reported.unwrap_or(&none);
        let (mut gaps, _) = self.gateways(reported);
        gaps.retain(|one| one.status.has_gap());
        let mut attention = Attention {
            gaps: gaps.into_iter().take(ATTENTION_MAX).map(state).collect(),
            ..Attention::default()
        };
        if self.balancer.recorder.has_reported_for(SETTLED_MS) {
            let lost = reported.iter().filter(|(status, alive)| !alive && is_lost(status, reported));
            attention.lost_sidecars = lost.take(ATTENTION_MAX).map(|one| self.sidecar(one)).collect();
        }
        attention.expiring = self.expiring(reported, now_ms);
        attention
    }

    /// Returns the live sidecars whose certificates need attention. This sidecar knows its own.
    fn expiring(&self, reported: &Reported, now_ms: u64) -> Vec<SidecarState> {
        let mut all: Vec<SidecarState> =
            reported.iter().filter(|(_, alive)| *alive).map(|one| self.sidecar(one)).collect();
        match all.iter_mut().find(|sidecar| sidecar.id == self.about.id) {
            Some(own) => own.certificate_expires_at_ms = self.balancer.recorder.certificate_expiry(),
            None => all.push(SidecarState {
                id: self.about.id.clone(),
                name: self.balancer.recorder.name().to_owned(),
                alive: true,
                certificate_expires_at_ms: self.balancer.recorder.certificate_expiry(),
                ..SidecarState::default()
            }),
        }
        let needs_attention = |at_ms: u64| at_ms > 0 && at_ms <= now_ms + CERTIFICATE_SOON_MS;
        all.retain(|sidecar| needs_attention(sidecar.certificate_expires_at_ms));
        all.sort_by_key(|sidecar| sidecar.certificate_expires_at_ms);
        all.truncate(ATTENTION_MAX);
        all
    }

    /// Joins what all sidecars know of the gateways. Returns also the number of gateways that no sidecar reports.
    fn gateways(&self, reported: &Reported) -> (Vec<Known>, u64) {
        let recorder = &self.balancer.recorder;
        let (own, mut unlisted) = recorder.gateways.statuses();
        let mut known = BTreeMap::new();
        own.iter().for_each(|status| join(&mut known, &self.about.id, recorder.name(), status));
        for (sidecar, alive) in reported.iter().filter(|(sidecar, _)| sidecar.id != self.about.id) {
            unlisted += sidecar.gateways_unlisted;
            for status in &sidecar.gateways {
                let status = if *alive { status.clone() } else { last_seen(status, sidecar) };
                if status.is_shown() {
                    join(&mut known, &sidecar.id, &sidecar.name, &status);
                }
            }
        }
        let mut all: Vec<Known> = known.into_values().collect();
        all.sort_by(|a, b| (a.status.order(), &a.sidecars).cmp(&(b.status.order(), &b.sidecars)));
        (all, unlisted)
    }

    pub(crate) fn sidecar(&self, (status, alive): &(SidecarStatus, bool)) -> SidecarState {
        // Another sidecar reaches the store if its reports arrive. This sidecar knows the state of its own connection.
        let is_this = status.id == self.about.id;
        let status = status.clone();
        SidecarState {
            store_up: if is_this { self.balancer.store.is_up() } else { *alive },
            id: status.id,
            name: status.name,
            version: status.version,
            started_at_ms: status.started_at_ms,
            seen_at_ms: status.seen_at_ms,
            alive: *alive,
            stopping: status.shutting_down,
            store: store_kind(status.store).into(),
            store_losses: status.store_losses,
            holders: status.holders,
            admitted: status.admitted,
            refused: status.refused,
            limits_revision: status.limits_revision,
            certificate_expires_at_ms: status.certificate_expires_at_ms,
        }
    }
}

/// Returns whether a sidecar has stopped without shutting down, and nothing has replaced it.
fn is_lost(stopped: &SidecarStatus, reported: &Reported) -> bool {
    let replaces = |other: &SidecarStatus| {
        other.name == stopped.name && other.id != stopped.id && other.started_at_ms >= stopped.started_at_ms
    };
    !stopped.ended && !reported.iter().any(|(other, _)| replaces(other))
}

/// Returns a gateway of a sidecar that has stopped. Its workers are not connected any more.
fn last_seen(status: &GatewayStatus, sidecar: &SidecarStatus) -> GatewayStatus {
    let over = |gap: Option<LimitGap>| gap.map(|gap| LimitGap { now: false, ..gap });
    let lost_at_ms = if status.workers == 0 { status.lost_at_ms } else { sidecar.seen_at_ms };
    let (unlimited, local) = (over(status.unlimited), over(status.local));
    GatewayStatus { name: status.name.clone(), workers: 0, lost_at_ms, unlimited, local }
}

/// Adds what a sidecar knows of a gateway. Gateways without a name are one for each sidecar.
fn join(known: &mut BTreeMap<(String, String), Known>, id: &str, name: &str, status: &GatewayStatus) {
    let sidecar = if status.name.is_empty() { id.to_owned() } else { String::new() };
    match known.entry((status.name.clone(), sidecar)) {
        std::collections::btree_map::Entry::Occupied(mut entry) => {
            let known = entry.get_mut();
            known.status.join(status);
            if !known.sidecars.iter().any(|known| known == name) {
                known.sidecars.push(name.to_owned());
            }
        }
        std::collections::btree_map::Entry::Vacant(entry) => {
            entry.insert(Known { status: status.clone(), sidecars: vec![name.to_owned()] });
        }
    }
}

fn state(Known { status, sidecars }: Known) -> GatewayState {
    let GatewayStatus { name, workers, lost_at_ms, unlimited, local } = status;
    GatewayState {
        gateway: name,
        sidecars,
        workers,
        lost_at_ms,
        unlimited: unlimited.map(gap),
        local: local.map(gap),
    }
}

fn gap(gap: LimitGap) -> pb::LimitGap {
    pb::LimitGap {
        now: gap.now,
        since_at_ms: gap.since_at_ms,
        last_at_ms: gap.last_at_ms,
        requests: gap.requests.total(),
        unreachable: gap.requests.unreachable,
        late: gap.requests.late,
        failed: gap.requests.failed,
        without_store: gap.requests.without_store,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sidecar(id: &str, name: &str, started_at_ms: u64) -> SidecarStatus {
        SidecarStatus { id: id.into(), name: name.into(), started_at_ms, ..SidecarStatus::default() }
    }

    #[test]
    fn a_sidecar_is_lost_unless_it_ended_or_was_replaced() {
        let stopped = sidecar("1", "a", 5);
        let ended = SidecarStatus { ended: true, ..stopped.clone() };
        let others =
            |started_at_ms, name| vec![(stopped.clone(), false), (sidecar("2", name, started_at_ms), true)];
        assert!(is_lost(&stopped, &others(9, "b")) && is_lost(&stopped, &others(4, "a")));
        assert!(!is_lost(&stopped, &others(9, "a")) && !is_lost(&ended, &others(9, "b")));
    }

    #[test]
    fn a_gateway_of_a_stopped_sidecar_is_lost_unless_another_sidecar_has_it() {
        let gap = Some(LimitGap { now: true, last_at_ms: 70, ..LimitGap::default() });
        let connected =
            GatewayStatus { name: "g".into(), workers: 2, unlimited: gap, ..GatewayStatus::default() };
        let stopped = SidecarStatus { seen_at_ms: 99, ..sidecar("1", "a", 5) };
        let last = last_seen(&connected, &stopped);
        assert_eq!((last.workers, last.lost_at_ms, last.unlimited.unwrap().now), (0, 99, false));
        let leaving = GatewayStatus { workers: 0, ..connected.clone() };
        assert_eq!(last_seen(&leaving, &stopped).lost_at_ms, 0, "its workers had said goodbye");
        let mut known = BTreeMap::new();
        join(&mut known, "1", "a", &last);
        join(&mut known, "2", "b", &connected);
        let unnamed = GatewayStatus { name: String::new(), workers: 1, ..GatewayStatus::default() };
        ["1", "2"].iter().for_each(|id| join(&mut known, id, "s", &unnamed));
        let known: Vec<_> =
            known.into_values().map(|one| (one.status.name, one.status.lost_at_ms, one.sidecars)).collect();
        let s = || vec!["s".to_owned()];
        assert_eq!(
            known,
            [(String::new(), 0, s()), (String::new(), 0, s()), ("g".into(), 0, vec!["a".into(), "b".into()])]
        );
    }
}
