//! The overview of all pools, as of the last sweep. Reading every pool for each request would load the store too much.

use std::cmp::Ordering;

use evenkeel_domain::{
    activity::{ADMIT_RESULTS, Counts},
    clock::unix_ms,
    limit,
    page::{page_at, page_size_of},
};
use evenkeel_proto::v1::{
    ActivityStep, ConfiguredQuota, GetOverviewRequest, Overview, PoolSort, PoolSummary, QuotaKind,
    SidecarState, StoreState, ThisSidecar, Totals,
};

use crate::{
    Api, Result,
    activity::step,
    convert::{counts, store_kind},
    gateways::Attention,
    pools::summary,
};

impl Api {
    pub async fn get_overview(&self, request: GetOverviewRequest) -> Result<Overview> {
        let sort_by = request.sort();
        let GetOverviewRequest { search, page_size, page_token, .. } = request;
        let mut rows: Vec<PoolSummary> = self.views.all().values().map(|view| summary(view)).collect();
        let sum = |of: fn(&PoolSummary) -> u64| rows.iter().map(of).sum();
        let (now_ms, reported) = (unix_ms(), self.reported(self.history.sidecars()).await.ok());
        let Attention { gaps, lost_sidecars, expiring } = self.attention(reported.as_ref(), now_ms);
        let totals = Totals {
            pools: rows.len() as u64,
            endpoints: sum(|row| row.endpoints),
            drained: sum(|row| row.drained),
            in_flight: sum(|row| row.in_flight),
            capacity: rows.iter().map(|row| row.capacity).sum(),
            room: rows.iter().map(|row| row.room).sum(),
            holders: rows.iter().map(|row| row.holders).max().unwrap_or(0),
            // This sidecar may not have reported yet.
            sidecars: reported
                .as_ref()
                .map(|all| all.iter().filter(|(_, alive)| *alive).count().max(1) as u64),
        };
        rows.retain(|row| row.cluster.contains(&search) || row.route.contains(&search));
        sort(&mut rows, sort_by);
        let total = rows.len() as u64;
        let (pools, next_page_token) = page_at(rows, page_size_of(page_size)?, &page_token)?;
        Ok(Overview {
            now_ms,
            interval_ms: self.keep_alive_interval.as_millis() as u64,
            sidecar: Some(ThisSidecar {
                id: self.about.id.clone(),
                name: self.balancer.recorder.name().to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                started_at_ms: self.started_at_ms,
            }),
            store: Some(StoreState {
                kind: store_kind(self.about.store).into(),
                up: self.balancer.store.is_up(),
            }),
            age_ms: self.views.age().as_millis() as u64,
            totals: Some(totals),
            last_minute: self.last_minute().await,
            admin: self.access.has_administrators(),
            quotas: self.configured_quotas(),
            pools,
            next_page_token,
            total,
            gaps,
            lost_sidecars,
            expiring,
        })
    }

    async fn last_minute(&self) -> Option<ActivityStep> {
        let steps = self.reported(self.history.steps(60_000, None)).await.ok()?;
        let mut sum: Counts = [0; ADMIT_RESULTS];
        steps.counts.iter().for_each(|counts| evenkeel_domain::activity::add(&mut sum, counts));
        Some(step(&sum, steps.from_ms))
    }

    fn configured_quotas(&self) -> Vec<ConfiguredQuota> {
        let rules = self.rules.load();
        let quotas = rules.quotas.iter().map(|quota| {
            let kind = match quota.kind {
                limit::QuotaKind::Prepaid => QuotaKind::Prepaid,
                _ => QuotaKind::Budget,
            };
            let counts = counts(quota.counts).into();
            ConfiguredQuota { name: quota.name.to_string(), counts, kind: kind.into() }
        });
        quotas.collect()
    }
}

/// Returns whether anything except times differs.
pub(crate) fn differs(a: &Overview, b: &Overview) -> bool {
    let timeless = |overview: &Overview| {
        let mut copy = Overview { now_ms: 0, age_ms: 0, ..overview.clone() };
        copy.pools.iter_mut().for_each(|pool| pool.read_at_ms = 0);
        copy.last_minute.iter_mut().for_each(|minute| minute.at_ms = 0);
        let sidecars = copy.lost_sidecars.iter_mut().chain(&mut copy.expiring);
        sidecars.for_each(|sidecar| {
            *sidecar = SidecarState {
                id: std::mem::take(&mut sidecar.id),
                certificate_expires_at_ms: sidecar.certificate_expires_at_ms,
                ..SidecarState::default()
            };
        });
        copy
    };
    timeless(a) != timeless(b)
}

fn sort(rows: &mut [PoolSummary], sort: PoolSort) {
    let by_name = |a: &PoolSummary, b: &PoolSummary| (&a.cluster, &a.route).cmp(&(&b.cluster, &b.route));
    rows.sort_by(|a, b| {
        let order = match sort {
            PoolSort::Unspecified | PoolSort::InFlight => b.in_flight.cmp(&a.in_flight),
            PoolSort::Name => Ordering::Equal,
            PoolSort::Room => a.room.unwrap_or(u64::MAX).cmp(&b.room.unwrap_or(u64::MAX)),
            PoolSort::Imbalance => b.imbalance.total_cmp(&a.imbalance),
        };
        order.then_with(|| by_name(a, b))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_sorted_as_requested() {
        let row = |cluster: &str, in_flight, capacity: Option<u64>, imbalance| PoolSummary {
            cluster: cluster.to_owned(),
            in_flight,
            room: capacity.map(|capacity| capacity.saturating_sub(in_flight)),
            capacity,
            imbalance,
            ..PoolSummary::default()
        };
        let sorted = |order| {
            let mut rows = [row("b", 9, None, 0.0), row("a", 1, Some(2), 0.5), row("c", 5, Some(50), 0.1)];
            sort(&mut rows, order);
            rows.map(|row| row.cluster).concat()
        };
        assert_eq!([sorted(PoolSort::InFlight), sorted(PoolSort::Unspecified)], ["bca", "bca"]);
        assert_eq!(sorted(PoolSort::Name), "abc");
        assert_eq!(sorted(PoolSort::Room), "acb");
        assert_eq!(sorted(PoolSort::Imbalance), "acb");
    }
}
