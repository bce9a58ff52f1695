//! Operations on consumers' balances and budgets.

use evenkeel_engine::limiter::quotas::{QuotaEdit, QuotaView};
use evenkeel_proto::v1::{
    self as pb, AdjustQuotaRequest, DeleteQuotaRequest, DeleteQuotaResponse, GetQuotaRequest,
    ListQuotaChangesRequest, ListQuotaChangesResponse, ListQuotasRequest, ListQuotasResponse, Quota,
    QuotaChange, SetQuotaRequest,
};
use evenkeel_store::records::{Action, Change};

use crate::{Administrator, Api, ApiError, Code, Result, convert::counts};

impl Api {
    pub async fn get_quota(&self, request: GetQuotaRequest) -> Result<Quota> {
        Ok(encode(&self.quotas.get(&request.quota, &request.consumer).await?))
    }

    pub async fn set_quota(&self, by: Administrator, request: SetQuotaRequest) -> Result<Quota> {
        let SetQuotaRequest { quota, consumer, amount, note } = request;
        let action = Action::Set(given("amount", amount)?);
        let edit = QuotaEdit { action, who: by.0, note, request_id: String::new() };
        Ok(encode(&self.quotas.edit(&quota, &consumer, edit).await?))
    }

    pub async fn adjust_quota(&self, by: Administrator, request: AdjustQuotaRequest) -> Result<Quota> {
        let AdjustQuotaRequest { quota, consumer, delta, note, request_id } = request;
        let edit = QuotaEdit { action: Action::Adjust(given("delta", delta)?), who: by.0, note, request_id };
        Ok(encode(&self.quotas.edit(&quota, &consumer, edit).await?))
    }

    pub async fn delete_quota(
        &self,
        by: Administrator,
        request: DeleteQuotaRequest,
    ) -> Result<DeleteQuotaResponse> {
        let (note, request_id) = (String::new(), String::new());
        let edit = QuotaEdit { action: Action::Delete, who: by.0, note, request_id };
        self.quotas.edit(&request.quota, &request.consumer, edit).await?;
        Ok(DeleteQuotaResponse {})
    }

    pub async fn list_quotas(&self, request: ListQuotasRequest) -> Result<ListQuotasResponse> {
        let ListQuotasRequest { quota, search, page_size, page_token } = request;
        let (page, next_page_token) = self.quotas.list(&quota, &search, page_size, &page_token).await?;
        Ok(ListQuotasResponse { quotas: page.iter().map(encode).collect(), next_page_token })
    }

    pub async fn list_quota_changes(
        &self,
        request: ListQuotaChangesRequest,
    ) -> Result<ListQuotaChangesResponse> {
        let changes = self.quotas.changes(&request.quota, &request.consumer).await?;
        let changes = changes.into_iter().map(|change| {
            let Change { at_ms, who, what, before, after, note } = change;
            QuotaChange { at_ms, who, what, before, after, note }
        });
        Ok(ListQuotaChangesResponse { changes: changes.collect() })
    }
}

/// Returns a required value, or an error if the value is missing. Otherwise, a change without an amount would set a
/// balance to 0.
fn given<T>(field: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| ApiError::of_field(Code::InvalidArgument, field, "given", "none"))
}

fn encode(view: &QuotaView) -> pb::Quota {
    pb::Quota {
        quota: view.quota.to_string(),
        consumer: view.consumer.to_string(),
        balance: view.record.balance,
        reserved: view.record.reserved,
        amount: view.record.amount,
        used: view.record.used,
        overrun: view.record.overrun,
        reset_ms: view.record.reset_ms,
        counts: counts(view.counts).into(),
        recorded: view.record.recorded,
    }
}
