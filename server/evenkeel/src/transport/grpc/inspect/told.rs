//! What all sidecars told, as messages.

use evenkeel_domain::{
    DomainError,
    activity::{AdmitResult, Counts, Refused, Resolution, StoreKind as Kind},
    page::page_size_of,
};
use evenkeel_engine::activity::Steps;
use evenkeel_proto::v1::{
    ActivityStep, GetActivityRequest, GetActivityResponse, GetRefusalRequest, ListNearestLimitsRequest,
    ListNearestLimitsResponse, ListQuotaBurnsRequest, ListQuotaBurnsResponse, ListRefusalsRequest,
    ListRefusalsResponse, ListRepairsRequest, ListRepairsResponse, ListSidecarsResponse, NearestLimit, Pool,
    QuotaBurn, Reason, Refusal, Repair, SidecarState, StoreKind,
};

use super::super::admin::quotas::counts;
use crate::transport::capacity::{Capacity, Page, Part};

/// How far back activity is told where the request does not say.
const SPAN_MS: u64 = 15 * 60_000;

pub(super) async fn sidecars(capacity: &Capacity) -> Result<ListSidecarsResponse, DomainError> {
    let sidecars = capacity.told(capacity.history.sidecars()).await?.into_iter().map(|(status, alive)| {
        let store = match status.store {
            Kind::Memory => StoreKind::Memory,
            Kind::Redis => StoreKind::Redis,
            Kind::RedisCluster => StoreKind::RedisCluster,
        };
        SidecarState {
            store_up: capacity.reaches_store(&status, alive),
            id: status.id,
            name: status.name,
            version: status.version,
            started_at_ms: status.started_at_ms,
            seen_at_ms: status.seen_at_ms,
            alive,
            draining: status.draining,
            store: store.into(),
            store_losses: status.store_losses,
            holders: status.holders,
            admitted: status.admitted,
            refused: status.refused,
            limits_revision: status.limits_revision,
        }
    });
    Ok(ListSidecarsResponse { sidecars: sidecars.collect() })
}

pub(super) async fn activity(
    capacity: &Capacity,
    request: GetActivityRequest,
) -> Result<GetActivityResponse, DomainError> {
    let longest = Resolution::Coarse.span_max_ms();
    let span_ms = match request.span_ms {
        0 => SPAN_MS,
        ms if ms <= longest => ms,
        ms => return Err(DomainError::invalid("span_ms", "at most 48 hours", &ms.to_string())),
    };
    let entry = request.pool.map(|pool| capacity.pool(&pool.route, &pool.cluster)).transpose()?;
    let pool = entry.as_ref().map(|entry| (entry.pool.id.route(), entry.pool.id.cluster()));
    let Steps { step_ms, from_ms, counts } = capacity.told(capacity.history.steps(span_ms, pool)).await?;
    let starts = (0..).map(|i| from_ms + i * step_ms);
    let steps = counts.iter().zip(starts).map(|(counts, at_ms)| step(counts, at_ms)).collect();
    Ok(GetActivityResponse { step_ms, steps })
}

fn step(counts: &Counts, at_ms: u64) -> ActivityStep {
    let of = |result: AdmitResult| counts[result as usize];
    ActivityStep {
        at_ms,
        shared: of(AdmitResult::Shared),
        local: of(AdmitResult::Local),
        open: of(AdmitResult::Open),
        pool_full: of(AdmitResult::PoolFull),
        no_endpoints: of(AdmitResult::NoEndpoints),
        limit: of(AdmitResult::Limit),
        quota: of(AdmitResult::Quota),
        store_unavailable: of(AdmitResult::StoreUnavailable),
    }
}

pub(super) async fn nearest(
    capacity: &Capacity,
    request: ListNearestLimitsRequest,
) -> Result<ListNearestLimitsResponse, DomainError> {
    let ListNearestLimitsRequest { limit, search, page_size, page_token } = request;
    let part = Part { search, size: page_size_of(page_size)?, token: page_token };
    let Page { rows, next_page_token, total } = capacity.nearest(&limit, &part).await?;
    let limits = rows.into_iter().map(|nearest| {
        let counts = capacity.limit_counts(&nearest.limit).map_or(0, |of| counts(of).into());
        NearestLimit {
            key: nearest.key(),
            share: nearest.share(),
            limit: nearest.limit,
            amount: nearest.amount,
            used: nearest.used,
            reset_at_ms: nearest.reset_at_ms,
            shadow: nearest.shadow,
            seen_at_ms: nearest.seen_at_ms,
            counts,
        }
    });
    Ok(ListNearestLimitsResponse { limits: limits.collect(), next_page_token, total: total as u64 })
}

pub(super) async fn burns(
    capacity: &Capacity,
    request: ListQuotaBurnsRequest,
) -> Result<ListQuotaBurnsResponse, DomainError> {
    let ListQuotaBurnsRequest { quota, search, page_size, page_token } = request;
    let part = Part { search, size: page_size_of(page_size)?, token: page_token };
    let Page { rows, next_page_token, total } = capacity.burns(&quota, &part).await?;
    let burns = rows.into_iter().map(|burn| {
        let counts = capacity.quota_counts(&burn.quota).map_or(0, |of| counts(of).into());
        QuotaBurn {
            quota: burn.quota,
            consumer: burn.consumer,
            balance: burn.balance,
            amount: burn.amount,
            burn_per_hour: burn.burn_per_hour,
            runs_out_at_ms: burn.runs_out_at_ms,
            reset_at_ms: burn.reset_at_ms,
            seen_at_ms: burn.seen_at_ms,
            counts,
        }
    });
    Ok(ListQuotaBurnsResponse { burns: burns.collect(), next_page_token, total: total as u64 })
}

pub(super) async fn refusals(
    capacity: &Capacity,
    request: ListRefusalsRequest,
) -> Result<ListRefusalsResponse, DomainError> {
    let most = page_size_of(request.page_size)?;
    let refusals = capacity.told(capacity.history.refusals(&request.consumer, most)).await?;
    Ok(ListRefusalsResponse { refusals: refusals.into_iter().map(encode).collect() })
}

pub(super) async fn refusal(capacity: &Capacity, request: GetRefusalRequest) -> Result<Refusal, DomainError> {
    let id = &request.request_id;
    let refused = capacity.told(capacity.history.refusal(id)).await?;
    refused.map(encode).ok_or_else(|| DomainError::not_recorded(id))
}

fn encode(refused: Refused) -> Refusal {
    let reason = match refused.reason {
        AdmitResult::PoolFull => Reason::PoolFull,
        AdmitResult::NoEndpoints => Reason::NoEndpoints,
        AdmitResult::Limit => Reason::Limit,
        AdmitResult::Quota => Reason::Quota,
        AdmitResult::StoreUnavailable => Reason::StoreUnavailable,
        AdmitResult::Shared | AdmitResult::Local | AdmitResult::Open => Reason::Unspecified, // never refused
    };
    Refusal {
        request_id: refused.request_id,
        at_ms: refused.at_ms,
        pool: Some(Pool { route: refused.route, cluster: refused.cluster }),
        reason: reason.into(),
        why: refused.why,
        status: refused.status.into(),
        retry_after_ms: refused.retry_after_ms,
        consumer: refused.consumer,
        model: refused.model,
        limit: refused.limit,
        key: refused.key,
        amount: refused.amount,
        used: refused.used,
        cost: refused.cost,
        sidecar: refused.sidecar,
    }
}

pub(super) async fn repairs(
    capacity: &Capacity,
    request: ListRepairsRequest,
) -> Result<ListRepairsResponse, DomainError> {
    let most = page_size_of(request.page_size)?;
    let repairs = capacity.told(capacity.history.repairs(most)).await?.into_iter().map(|repair| Repair {
        at_ms: repair.at_ms,
        kind: repair.kind.name().to_owned(),
        pool: Some(Pool { route: repair.route, cluster: repair.cluster }),
        holder: repair.holder,
        count: repair.count,
        sidecar: repair.sidecar,
    });
    Ok(ListRepairsResponse { repairs: repairs.collect() })
}
