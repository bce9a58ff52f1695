//! `evenkeel.v1.Gateway`: the unary calls of gateways, and the entry to [`session`](super::session).

use std::sync::Arc;

use evenkeel_domain::{DomainError, HolderId, LeaseId};
use evenkeel_proto::{
    HOLDER_SECRET,
    v1::{
        AdmitRequest, AdmitResponse, FromWorker, KeepAliveRequest, KeepAliveResponse,
        ReportFirstTokensRequest, ReportFirstTokensResponse, SettleRequest, SettleResponse,
        gateway_server::Gateway,
    },
};
use evenkeel_store::holders::Secret;
use tonic::{
    Request, Response, Status, Streaming,
    metadata::{MetadataMap, MetadataValue},
};

use super::{
    calls::{Calls, PARTS_MAX, first_tokens, given},
    keep_alive,
    session::{Outgoing, Sessions},
};
use crate::transport::status::to_status;

pub(super) struct GatewayService {
    sessions: Arc<Sessions>,
}

impl GatewayService {
    pub(super) fn new(sessions: Arc<Sessions>) -> Self {
        Self { sessions }
    }

    fn calls(&self) -> &Calls {
        &self.sessions.calls
    }

    /// Verifies that the caller is the holder. Returns the secret to send to the caller, if it is new.
    async fn verify(&self, holder: &HolderId, metadata: &MetadataMap) -> Result<Option<Secret>, Status> {
        let given = metadata.get_bin(HOLDER_SECRET).map(decode_secret).transpose()?;
        let verified = self.sessions.holders.verify(holder, given).await;
        verified.map_err(|rejected| Status::permission_denied(format!("{HOLDER_SECRET}: {rejected}")))
    }
}

fn decode_secret(value: &MetadataValue<tonic::metadata::Binary>) -> Result<Secret, Status> {
    let bytes = value.to_bytes().ok();
    bytes
        .and_then(|bytes| Secret::from_slice(&bytes))
        .ok_or_else(|| Status::invalid_argument(format!("{HOLDER_SECRET}: must be 16 bytes")))
}

/// Encodes the result of a call. A new secret goes with an error too: otherwise the holder would exist, and nobody would
/// have its secret.
fn respond<T>(result: Result<T, DomainError>, new_secret: Option<Secret>) -> Result<Response<T>, Status> {
    let mut result = result.map(Response::new).map_err(|error| to_status(&error));
    if let Some(secret) = new_secret {
        let metadata = match &mut result {
            Ok(response) => response.metadata_mut(),
            Err(status) => status.metadata_mut(),
        };
        metadata.insert_bin(HOLDER_SECRET, MetadataValue::from_bytes(secret.as_bytes()));
    }
    result
}

fn holder(id: &str) -> Result<HolderId, Status> {
    HolderId::new(id).map_err(|error| to_status(&error))
}

fn lease(number: u64) -> Result<LeaseId, Status> {
    LeaseId::new(number).map_err(|error| to_status(&error))
}

#[tonic::async_trait]
impl Gateway for GatewayService {
    type ConnectStream = Outgoing;

    async fn connect(&self, request: Request<Streaming<FromWorker>>) -> Result<Response<Outgoing>, Status> {
        Arc::clone(&self.sessions).connect(request.into_inner()).await.map(Response::new)
    }

    async fn admit(&self, request: Request<AdmitRequest>) -> Result<Response<AdmitResponse>, Status> {
        let _call = self.sessions.tracker.token();
        let (metadata, _, request) = request.into_parts();
        let (holder, lease) = (holder(&request.holder)?, lease(request.lease)?);
        let new_secret = self.verify(&holder, &metadata).await?;
        respond(self.calls().admit(holder, lease, request, &metadata).await, new_secret)
    }

    async fn settle(&self, request: Request<SettleRequest>) -> Result<Response<SettleResponse>, Status> {
        let _call = self.sessions.tracker.token();
        let (metadata, _, mut request) = request.into_parts();
        let pool = given(request.pool.take()).map_err(|error| to_status(&error))?;
        let (holder, lease) = (holder(&request.holder)?, lease(request.lease)?);
        let new_secret = self.verify(&holder, &metadata).await?;
        // A settlement completes even if its gateway stops waiting for the response.
        let settle = self.calls().settle(holder, lease, pool, request, &metadata);
        let released = self.sessions.tracker.spawn(settle).await.unwrap_or(Err(DomainError::Stopped));
        respond(released.map(|released| SettleResponse { released }), new_secret)
    }

    async fn report_first_tokens(
        &self,
        request: Request<ReportFirstTokensRequest>,
    ) -> Result<Response<ReportFirstTokensResponse>, Status> {
        let _call = self.sessions.tracker.token();
        let (metadata, _, request) = request.into_parts();
        let holder = holder(&request.holder)?;
        let count = request.first_tokens.len();
        if count > PARTS_MAX {
            let error = DomainError::invalid("first_tokens", "at most 256", &count.to_string());
            return Err(to_status(&error));
        }
        let first_tokens = first_tokens(request.first_tokens)
            .map_err(|error| Status::invalid_argument(format!("first_tokens.{error}")))?;
        let new_secret = self.verify(&holder, &metadata).await?;
        self.calls().first_tokens(&holder, first_tokens).await;
        respond(Ok(ReportFirstTokensResponse {}), new_secret)
    }

    async fn keep_alive(
        &self,
        request: Request<KeepAliveRequest>,
    ) -> Result<Response<KeepAliveResponse>, Status> {
        let _call = self.sessions.tracker.token();
        let (metadata, _, request) = request.into_parts();
        let holder = holder(&request.holder)?;
        // Check the whole list before anything changes.
        let list = keep_alive::decode(holder.clone(), request).map_err(|error| to_status(&error))?;
        let new_secret = self.verify(&holder, &metadata).await?;
        respond(Ok(self.calls().keep_alive(list).await), new_secret)
    }
}
