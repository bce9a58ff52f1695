//! Operations on the reports of all sidecars: requests over time, the fullest keys of limits, burn rates of quotas,
//! refusals, repairs, and the sidecars themselves.

use evenkeel_domain::{
    DomainError, NAME_BYTES_MAX,
    activity::{AdmitResult, Counts, Refused, Repair, Resolution, admitted_and_refused},
    page::{page_at, page_before, page_size_of},
    shorten,
};
use evenkeel_engine::activity::Steps;
use evenkeel_proto::v1::{
    self as pb, ActivityStep, BurnRate, FullestKey, GetActivityRequest, GetActivityResponse,
    GetRefusalRequest, ListBurnRatesRequest, ListBurnRatesResponse, ListFullestKeysRequest,
    ListFullestKeysResponse, ListRefusalsRequest, ListRefusalsResponse, ListRepairsRequest,
    ListRepairsResponse, ListSidecarsRequest, ListSidecarsResponse, Pool, Reason, Refusal,
};

use crate::{Api, Result, convert::counts};

const SPAN_MS: u64 = 15 * 60_000;

impl Api {
    pub async fn list_sidecars(&self, _: ListSidecarsRequest) -> Result<ListSidecarsResponse> {
        let reported = self.reported(self.history.sidecars()).await?;
        Ok(ListSidecarsResponse { sidecars: reported.iter().map(|one| self.sidecar(one)).collect() })
    }

    pub async fn get_activity(&self, request: GetActivityRequest) -> Result<GetActivityResponse> {
        let GetActivityRequest { route, cluster, span_ms } = request;
        let span_ms = match span_ms {
            0 => SPAN_MS,
            ms if ms <= Resolution::Coarse.span_max_ms() => ms,
            ms => return Err(DomainError::invalid("span_ms", "at most 48 hours", &ms.to_string()).into()),
        };
        let is_all = route.is_empty() && cluster.is_empty();
        let entry = if is_all { None } else { Some(self.entry(&route, &cluster)?) };
        let pool = entry.as_ref().map(|entry| (entry.pool.id.route(), entry.pool.id.cluster()));
        let Steps { step_ms, from_ms, counts } = self.reported(self.history.steps(span_ms, pool)).await?;
        let starts = (0..).map(|i| from_ms + i * step_ms);
        let steps = counts.iter().zip(starts).map(|(counts, at_ms)| step(counts, at_ms)).collect();
        Ok(GetActivityResponse { step_ms, steps })
    }

    pub async fn list_fullest_keys(
        &self,
        request: ListFullestKeysRequest,
    ) -> Result<ListFullestKeysResponse> {
        let ListFullestKeysRequest { limit, search, page_size, page_token } = request;
        let all = self.reported(self.history.fullest_keys()).await?;
        let wanted: Vec<_> = all
            .iter()
            .filter(|one| {
                (limit.is_empty() || one.limit == limit) && (search.is_empty() || one.key().contains(&search))
            })
            .cloned()
            .collect();
        let total = wanted.len() as u64;
        let (mut page, next_page_token) = page_at(wanted, page_size_of(page_size)?, &page_token)?;
        self.limiter.refresh(&mut page).await;
        page.sort_by(|a, b| b.share().total_cmp(&a.share()));
        let rules = self.rules.load();
        let counts_of = |name: &str| rules.limits.iter().find(|limit| *limit.name == *name).map(|l| l.counts);
        let keys = page.into_iter().map(|one| FullestKey {
            key: one.key(),
            share: one.share(),
            counts: counts_of(&one.limit).map_or(0, |of| counts(of).into()),
            limit: one.limit,
            amount: one.amount,
            used: one.used,
            reset_at_ms: one.reset_at_ms,
            shadow: one.shadow,
            seen_at_ms: one.seen_at_ms,
        });
        Ok(ListFullestKeysResponse { keys: keys.collect(), next_page_token, total })
    }

    pub async fn list_burn_rates(&self, request: ListBurnRatesRequest) -> Result<ListBurnRatesResponse> {
        let ListBurnRatesRequest { quota, search, page_size, page_token } = request;
        let all = self.reported(self.history.burn_rates()).await?;
        let wanted: Vec<_> = all
            .iter()
            .filter(|one| (quota.is_empty() || one.quota == quota) && one.consumer.contains(&search))
            .cloned()
            .collect();
        let total = wanted.len() as u64;
        let (page, next_page_token) = page_at(wanted, page_size_of(page_size)?, &page_token)?;
        let rules = self.rules.load();
        let counts_of = |name: &str| rules.quotas.iter().find(|quota| *quota.name == *name).map(|q| q.counts);
        let burn_rates = page.into_iter().map(|one| BurnRate {
            counts: counts_of(&one.quota).map_or(0, |of| counts(of).into()),
            quota: one.quota,
            consumer: one.consumer,
            balance: one.balance,
            amount: one.amount,
            burn_per_hour: one.burn_per_hour,
            runs_out_at_ms: one.runs_out_at_ms,
            reset_at_ms: one.reset_at_ms,
            seen_at_ms: one.seen_at_ms,
        });
        Ok(ListBurnRatesResponse { burn_rates: burn_rates.collect(), next_page_token, total })
    }

    pub async fn list_refusals(&self, request: ListRefusalsRequest) -> Result<ListRefusalsResponse> {
        let ListRefusalsRequest { consumer, page_size, page_token } = request;
        let consumer = shorten(&consumer, NAME_BYTES_MAX);
        let size = page_size_of(page_size)?;
        let all = self.reported(self.history.refusals()).await?;
        let wanted = all.iter().filter(|refused| consumer.is_empty() || refused.consumer == consumer);
        let key = |refused: &&Refused| (refused.at_ms, refused.id);
        let (page, next_page_token) = page_before(wanted.collect(), size, &page_token, key)?;
        Ok(ListRefusalsResponse {
            refusals: page.into_iter().cloned().map(refusal).collect(),
            next_page_token,
        })
    }

    pub async fn get_refusal(&self, request: GetRefusalRequest) -> Result<Refusal> {
        let id = &request.request_id;
        let refused = self.reported(self.history.refusal(id)).await?;
        Ok(refused.map(refusal).ok_or_else(|| DomainError::not_recorded(id))?)
    }

    pub async fn list_repairs(&self, request: ListRepairsRequest) -> Result<ListRepairsResponse> {
        let ListRepairsRequest { page_size, page_token } = request;
        let size = page_size_of(page_size)?;
        let all = self.reported(self.history.repairs()).await?;
        let key = |repair: &&Repair| (repair.at_ms, repair.id);
        let (page, next_page_token) = page_before(all.iter().collect(), size, &page_token, key)?;
        Ok(ListRepairsResponse { repairs: page.into_iter().cloned().map(repair).collect(), next_page_token })
    }
}

pub(crate) fn step(counts: &Counts, at_ms: u64) -> ActivityStep {
    let of = |result: AdmitResult| counts[result as usize];
    let (admitted, refused) = admitted_and_refused(counts);
    ActivityStep {
        at_ms,
        admitted,
        refused,
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

fn refusal(refused: Refused) -> Refusal {
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

fn repair(repair: Repair) -> pb::Repair {
    pb::Repair {
        at_ms: repair.at_ms,
        kind: repair.kind.name().to_owned(),
        pool: Some(Pool { route: repair.route, cluster: repair.cluster }),
        holder: repair.holder,
        count: repair.count,
        sidecar: repair.sidecar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_result_is_admitted_or_refused() {
        let step = step(&[1, 2, 3, 4, 5, 6, 7, 8], 10);
        assert_eq!((step.at_ms, step.admitted, step.refused), (10, 6, 30));
        assert_eq!((step.shared, step.quota, step.store_unavailable), (1, 7, 8));
    }
}
