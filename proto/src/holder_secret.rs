//! The secret of a holder, in the metadata of unary calls.

use tonic::{
    Request, Status,
    metadata::{Binary, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
};

use crate::v1::gateway_client::GatewayClient;

/// Metadata of a unary call of `Gateway` that proves that the caller is the holder.
pub const HOLDER_SECRET: &str = "evenkeel-holder-secret-bin";

/// A client of `Gateway` that sends the same secret with all calls.
pub type HolderClient<S> = GatewayClient<InterceptedService<S, HolderSecret>>;

/// Sends a secret with each call. The first call of a holder makes it the holder's secret.
#[derive(Clone, Debug)]
pub struct HolderSecret(MetadataValue<Binary>);

impl HolderSecret {
    #[must_use]
    pub fn new(secret: [u8; 16]) -> Self {
        Self(MetadataValue::from_bytes(&secret))
    }

    /// Returns a service that sends the secret, for [`HolderClient`].
    #[must_use]
    pub fn on<S>(self, service: S) -> InterceptedService<S, Self> {
        InterceptedService::new(service, self)
    }
}

impl Interceptor for HolderSecret {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert_bin(HOLDER_SECRET, self.0.clone());
        Ok(request)
    }
}
