//! The keys of tickets in Redis, one hash.

use async_trait::async_trait;
use evenkeel_domain::StoreError;
use redis::Value;

use super::{RedisStore, call::Call, link::Way, script::TICKET_KEYS};
use crate::ticket_keys::{TICKET_KEY_AGE_MAX_MS, TICKET_KEYS_MAX, TicketKey, TicketKeyStore};

#[async_trait]
impl TicketKeyStore for RedisStore {
    async fn merge(&self, mine: &[TicketKey], in_use: bool) -> Result<Vec<TicketKey>, StoreError> {
        let mut call = Call::new(&TICKET_KEYS, &[&self.keys().map("ticket-keys")]);
        call.number(u8::from(in_use)).number(TICKET_KEY_AGE_MAX_MS).number(TICKET_KEYS_MAX);
        for key in mine {
            call.bytes(&key.bytes).number(key.made_ms);
        }
        let mut reply = self.shared.client.run(&call, Way::Beside).await?;
        reply.count()?;
        // The error must not contain the bytes.
        let unreadable = reply.corrupt(&Value::SimpleString("not a key and its time".to_owned()));
        let values = reply.rest();
        let keys: Option<Vec<TicketKey>> = values.chunks(2).map(key).collect();
        keys.ok_or(unreadable)
    }
}

fn key(pair: &[Value]) -> Option<TicketKey> {
    let [Value::BulkString(bytes), Value::BulkString(ms)] = pair else { return None };
    let bytes = bytes.as_slice().try_into().ok()?;
    Some(TicketKey { made_ms: std::str::from_utf8(ms).ok()?.parse().ok()?, bytes })
}
