//! Placements in Redis, a stream for each pool.

use std::sync::Arc;

use async_trait::async_trait;
use evenkeel_domain::StoreError;
use redis::Value;

use super::{RedisStore, call::Call, link::Way, script::PLACEMENTS};
use crate::{
    Pool,
    placements::{BATCHES_KEPT, BATCHES_KEPT_MS, BATCHES_READ_MAX, Exchanged, PlacementStore, Position},
};

#[async_trait]
impl PlacementStore for RedisStore {
    async fn exchange(
        &self,
        pool: &Arc<Pool>,
        position: &Position,
        batches: &[Vec<u8>],
    ) -> Result<Exchanged, StoreError> {
        let mut call = Call::new(&PLACEMENTS, &[&self.keys().pool(pool).placements]);
        call.arg(&position.0).number(BATCHES_READ_MAX).number(BATCHES_KEPT).number(BATCHES_KEPT_MS);
        for batch in batches {
            call.bytes(batch);
        }
        let mut reply = self.shared.client.run(&call, Way::Beside).await?;
        let position = match reply.value()? {
            Value::BulkString(id) => String::from_utf8(id).ok(),
            _ => None,
        };
        let unreadable = reply.corrupt(&Value::SimpleString("not a position and batches".to_owned()));
        let batches: Option<Vec<Vec<u8>>> = reply.rest().iter().map(bytes).collect();
        match (position, batches) {
            (Some(id), Some(batches)) => Ok(Exchanged { position: Position(id), batches }),
            _ => Err(unreadable),
        }
    }
}

fn bytes(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes.clone()),
        _ => None,
    }
}
