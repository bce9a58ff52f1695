//! Records of holders in Redis, one hash for each holder.

use async_trait::async_trait;
use evenkeel_domain::{HolderId, StoreError};
use redis::Value;

use super::{KEY_EXPIRY_MS, RedisStore, call::Call, link::Way, script::CLAIM};
use crate::holders::{Epoch, HolderRecord, HolderStore, Secret};

#[async_trait]
impl HolderStore for RedisStore {
    async fn claim(
        &self,
        holder: &HolderId,
        secret: &Secret,
        epoch: Epoch,
    ) -> Result<HolderRecord, StoreError> {
        let mut call = Call::new(&CLAIM, &[&self.keys().holder(holder)]);
        call.bytes(secret.as_bytes());
        match epoch {
            Epoch::Next => call.arg(""),
            Epoch::AtLeast(epoch) => call.number(epoch),
        };
        call.number(KEY_EXPIRY_MS);
        let mut reply = self.shared.client.run(&call, Way::Request).await?;
        reply.count()?;
        let recorded = reply.value()?;
        let secret = match &recorded {
            Value::BulkString(bytes) => Secret::from_slice(bytes),
            _ => None,
        };
        // The error must not contain the bytes: they may be most of a secret.
        let secret = secret.ok_or_else(|| reply.corrupt(&Value::SimpleString("no secret".to_owned())))?;
        Ok(HolderRecord { secret, epoch: reply.count()? })
    }
}
