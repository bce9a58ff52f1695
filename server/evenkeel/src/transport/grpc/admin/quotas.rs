//! Quotas.

use evenkeel_domain::limit::Counts;
use evenkeel_engine::limiter::quotas::{QuotaEdit, QuotaView};
use evenkeel_proto::v1::{
    self as pb, AdjustQuotaRequest, DeleteQuotaRequest, DeleteQuotaResponse, GetQuotaRequest,
    ListQuotaChangesRequest, ListQuotaChangesResponse, ListQuotasRequest, ListQuotasResponse, Quota,
    QuotaChange, SetQuotaRequest,
};
use evenkeel_store::records::{Action, Change};
use tonic::{Request, Response, Status};

use super::{AdminService, who};
use crate::transport::status::to_status;

type Answer<T> = Result<Response<T>, Status>;

impl AdminService {
    pub(super) async fn quota(&self, request: Request<GetQuotaRequest>) -> Answer<Quota> {
        let GetQuotaRequest { quota, consumer } = request.into_inner();
        let view = self.administration.quotas.get(&quota, &consumer).await;
        Ok(Response::new(encode(&view.map_err(|e| to_status(&e))?)))
    }

    pub(super) async fn set(&self, request: Request<SetQuotaRequest>) -> Answer<Quota> {
        let who = who(&self.administration.admins, &request)?;
        let SetQuotaRequest { quota, consumer, amount, note } = request.into_inner();
        let edit = QuotaEdit { action: Action::Set(amount), who, note, request_id: String::new() };
        self.edit(&quota, &consumer, edit).await
    }

    pub(super) async fn adjust(&self, request: Request<AdjustQuotaRequest>) -> Answer<Quota> {
        let who = who(&self.administration.admins, &request)?;
        let AdjustQuotaRequest { quota, consumer, delta, note, request_id } = request.into_inner();
        self.edit(&quota, &consumer, QuotaEdit { action: Action::Adjust(delta), who, note, request_id }).await
    }

    pub(super) async fn delete(&self, request: Request<DeleteQuotaRequest>) -> Answer<DeleteQuotaResponse> {
        let who = who(&self.administration.admins, &request)?;
        let DeleteQuotaRequest { quota, consumer } = request.into_inner();
        let (note, request_id) = (String::new(), String::new());
        self.edit(&quota, &consumer, QuotaEdit { action: Action::Delete, who, note, request_id }).await?;
        Ok(Response::new(DeleteQuotaResponse {}))
    }

    async fn edit(&self, quota: &str, consumer: &str, edit: QuotaEdit) -> Answer<Quota> {
        let view = self.administration.quotas.edit(quota, consumer, edit).await;
        Ok(Response::new(encode(&view.map_err(|e| to_status(&e))?)))
    }

    pub(super) async fn quotas(&self, request: Request<ListQuotasRequest>) -> Answer<ListQuotasResponse> {
        let ListQuotasRequest { quota, prefix, page_size, page_token } = request.into_inner();
        let page = self.administration.quotas.list(&quota, &prefix, page_size, &page_token).await;
        let (page, next_page_token) = page.map_err(|e| to_status(&e))?;
        let quotas = page.iter().map(encode).collect();
        Ok(Response::new(ListQuotasResponse { quotas, next_page_token }))
    }

    pub(super) async fn changes(
        &self,
        request: Request<ListQuotaChangesRequest>,
    ) -> Answer<ListQuotaChangesResponse> {
        let ListQuotaChangesRequest { quota, consumer } = request.into_inner();
        let changes = self.administration.quotas.changes(&quota, &consumer).await;
        let changes = changes.map_err(|e| to_status(&e))?.into_iter().map(encode_change).collect();
        Ok(Response::new(ListQuotaChangesResponse { changes }))
    }
}

pub(in crate::transport::grpc) fn counts(counts: Counts) -> pb::Counts {
    match counts {
        Counts::Requests => pb::Counts::Requests,
        Counts::Tokens => pb::Counts::Tokens,
        Counts::InputTokens => pb::Counts::InputTokens,
        Counts::OutputTokens => pb::Counts::OutputTokens,
        Counts::Cost => pb::Counts::Cost,
    }
}

fn encode(view: &QuotaView) -> Quota {
    Quota {
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

fn encode_change(change: Change) -> QuotaChange {
    let Change { at_ms, who, what, before, after, note } = change;
    QuotaChange { at_ms, who, what, before, after, note }
}
