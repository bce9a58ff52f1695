//! The service as it is on the wire. Values of descriptors come from clients' requests and need not be UTF-8, though the
//! message says so: with what is generated such a request would be answered with an error, which gateways let pass by
//! default, and whoever sends one odd byte would be under no limit.

use std::{convert::Infallible, sync::Arc};

use envoy_types::pb::{
    envoy::{
        extensions::common::ratelimit::v3::rate_limit_descriptor::RateLimitOverride,
        service::ratelimit::v3::{
            RateLimitResponse, rate_limit_service_server::SERVICE_NAME as RATE_LIMIT_SERVICE,
        },
    },
    google::protobuf::UInt64Value,
};
use prost::Message as _;
use tonic::{
    Request, Response, Status,
    body::Body,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::{BoxFuture, Context, Poll, Service, http},
    server::{Grpc, NamedService, UnaryService},
};

use super::RlsService;

const METHOD: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

/// `RateLimitRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Asked {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) domain: Vec<u8>,
    #[prost(message, repeated, tag = "2")]
    pub(super) descriptors: Vec<Descriptor>,
    #[prost(uint32, tag = "3")]
    pub(super) hits_addend: u32,
}

/// `RateLimitDescriptor`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Descriptor {
    #[prost(message, repeated, tag = "1")]
    pub(super) entries: Vec<Entry>,
    #[prost(message, optional, tag = "2")]
    pub(super) limit: Option<RateLimitOverride>,
    #[prost(message, optional, tag = "3")]
    pub(super) hits_addend: Option<UInt64Value>,
    #[prost(bool, tag = "4")]
    pub(super) is_negative_hits: bool,
}

/// `RateLimitDescriptor.Entry`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Entry {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
}

/// Serves the service.
#[derive(Clone)]
pub(in crate::transport::grpc) struct RlsServer {
    service: Arc<RlsService>,
    message_bytes_max: usize,
}

impl RlsServer {
    pub(in crate::transport::grpc) fn new(service: RlsService, message_bytes_max: usize) -> Self {
        Self { service: Arc::new(service), message_bytes_max }
    }
}

impl NamedService for RlsServer {
    const NAME: &'static str = RATE_LIMIT_SERVICE;
}

impl Service<http::Request<Body>> for RlsServer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Self { service, message_bytes_max } = self.clone();
        Box::pin(async move {
            if request.uri().path() != METHOD {
                return Ok(Status::unimplemented("").into_http());
            }
            let mut grpc = Grpc::new(Wire).max_decoding_message_size(message_bytes_max);
            Ok(grpc.unary(Method(service), request).await)
        })
    }
}

struct Method(Arc<RlsService>);

impl UnaryService<Asked> for Method {
    type Response = RateLimitResponse;
    type Future = BoxFuture<Response<RateLimitResponse>, Status>;

    fn call(&mut self, request: Request<Asked>) -> Self::Future {
        let service = Arc::clone(&self.0);
        Box::pin(async move {
            service.should_rate_limit(request.metadata(), request.get_ref()).await.map(Response::new)
        })
    }
}

/// Reads questions and writes answers.
#[derive(Clone, Copy)]
struct Wire;

impl Codec for Wire {
    type Encode = RateLimitResponse;
    type Decode = Asked;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Wire {
    type Item = RateLimitResponse;
    type Error = Status;

    fn encode(&mut self, answer: RateLimitResponse, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        answer.encode(to).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Wire {
    type Item = Asked;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Asked>, Status> {
        Asked::decode(from).map(Some).map_err(|error| Status::invalid_argument(error.to_string()))
    }
}
