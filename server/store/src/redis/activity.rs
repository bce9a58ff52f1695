//! Activity in Redis: the sidecars' reports in hashes, as JSON, and lists of refusals and repairs.
//! docs/redis-layout.md shows the layout.

use std::sync::Arc;

use async_trait::async_trait;
use evenkeel_domain::{
    StoreError,
    activity::{FullestKey, PoolSteps, QuotaCharges, Refused, Repair, Resolution, SidecarStatus},
};
use futures::StreamExt as _;
use redis::Value;
use serde::{Serialize, de::DeserializeOwned};

use super::{
    RedisClient,
    call::Call,
    link::Way,
    script::{APPEND, REPORT},
};
use crate::activity::{
    ActivityStore, REFUSAL_KEPT_MS, REFUSALS_MAX, REPAIRS_MAX, REPORT_KEPT_MS, Report, page_kept_ms,
};

/// Maximum number of JSON bytes that the runtime's threads parse, which takes a few hundred microseconds.
const READ_BYTES_MAX: usize = 32 * 1024;
/// Maximum number of concurrent writes of refusals.
const CONCURRENCY: usize = 4;
/// Expiry of a list after its last entry: a week, in ms.
const LIST_KEPT_MS: u64 = 7 * 86_400_000;

/// The activity store that all sidecars share.
pub struct RedisActivity {
    client: Arc<RedisClient>,
}

impl RedisActivity {
    #[must_use]
    pub fn new(client: Arc<RedisClient>) -> Self {
        Self { client }
    }

    async fn command(&self, cmd: &redis::Cmd) -> Result<Value, StoreError> {
        self.client.command("activity", cmd).await
    }

    /// Returns every sidecar's report in one hash, with its time. Skips reports that another version wrote in another
    /// format.
    async fn timed<T: DeserializeOwned + Send + 'static>(
        &self,
        key: &str,
    ) -> Result<Vec<(u64, T)>, StoreError> {
        let values = self.command(redis::cmd("HVALS").arg(key)).await?;
        read_beside(texts(values)?, |text| {
            let (at, json) = text.split_once('\n')?;
            Some((at.parse().ok()?, serde_json::from_str(json).ok()?))
        })
        .await
    }

    async fn all<T: DeserializeOwned + Send + 'static>(&self, key: &str) -> Result<Vec<T>, StoreError> {
        Ok(self.timed(key).await?.into_iter().map(|(_, told)| told).collect())
    }

    async fn list<T: DeserializeOwned + Send + 'static>(&self, key: &str) -> Result<Vec<T>, StoreError> {
        let values = self.command(redis::cmd("LRANGE").arg(key).arg(0).arg(-1)).await?;
        read_beside(texts(values)?, |text| serde_json::from_str(text).ok()).await
    }

    async fn append<T: Serialize>(&self, key: &str, most: usize, entries: &[T]) -> Result<(), StoreError> {
        let mut call = Call::new(&APPEND, &[key]);
        call.number(most).number(LIST_KEPT_MS);
        for entry in entries {
            call.arg(&json(entry)?);
        }
        self.client.run(&call, Way::Beside).await.map(drop)
    }
}

fn corrupt(detail: &str) -> StoreError {
    StoreError::Corrupt { script: "activity", detail: detail.to_owned() }
}

fn texts(value: Value) -> Result<Vec<String>, StoreError> {
    redis::from_redis_value(value).map_err(|e| corrupt(&e.to_string()))
}

/// Parses texts. A separate thread parses long texts, because the runtime's threads admit requests.
async fn read_beside<T: Send + 'static>(
    texts: Vec<String>,
    read: fn(&str) -> Option<T>,
) -> Result<Vec<T>, StoreError> {
    let read = move |texts: Vec<String>| texts.iter().filter_map(|text| read(text)).collect();
    if texts.iter().map(String::len).sum::<usize>() <= READ_BYTES_MAX {
        return Ok(read(texts));
    }
    tokio::task::spawn_blocking(move || read(texts)).await.map_err(|e| corrupt(&e.to_string()))
}

fn json<T: Serialize + ?Sized>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| corrupt(&e.to_string()))
}

#[async_trait]
impl ActivityStore for RedisActivity {
    async fn report(&self, sidecar: &str, report: &Report) -> Result<(), StoreError> {
        let status = report.status.as_ref().map(json).transpose()?;
        let fullest_keys = report.fullest_keys.as_ref().map(json).transpose()?;
        let charges = report.charges.as_ref().map(json).transpose()?;
        let told = [("status", status), ("fullest-keys", fullest_keys), ("burn-rates", charges)];
        let told: Vec<(String, String)> = told
            .into_iter()
            .filter_map(|(kind, text)| Some((self.client.keys.activity(kind), text?)))
            .collect();
        if told.is_empty() {
            return Ok(());
        }
        let keys: Vec<&str> = told.iter().map(|(key, _)| key.as_str()).collect();
        let mut call = Call::new(&REPORT, &keys);
        call.arg(sidecar);
        for (_, text) in &told {
            call.arg(text).number(REPORT_KEPT_MS);
        }
        self.client.run(&call, Way::Beside).await.map(drop)
    }

    async fn statuses(&self) -> Result<Vec<SidecarStatus>, StoreError> {
        let told: Vec<(u64, SidecarStatus)> = self.timed(&self.client.keys.activity("status")).await?;
        Ok(told.into_iter().map(|(seen_at_ms, status)| SidecarStatus { seen_at_ms, ..status }).collect())
    }

    async fn fullest_keys(&self) -> Result<Vec<Vec<FullestKey>>, StoreError> {
        self.all(&self.client.keys.activity("fullest-keys")).await
    }

    async fn quota_charges(&self) -> Result<Vec<Vec<QuotaCharges>>, StoreError> {
        self.all(&self.client.keys.activity("burn-rates")).await
    }

    async fn forget(&self, sidecars: &[String]) -> Result<(), StoreError> {
        for kind in ["status", "fullest-keys", "burn-rates"] {
            self.command(redis::cmd("HDEL").arg(self.client.keys.activity(kind)).arg(sidecars)).await?;
        }
        Ok(())
    }

    async fn put_page(
        &self,
        sidecar: &str,
        resolution: Resolution,
        page_ms: u64,
        pools: &[PoolSteps],
    ) -> Result<(), StoreError> {
        let key = self.client.keys.activity_page(resolution, page_ms);
        let mut call = Call::new(&REPORT, &[&key]);
        call.arg(sidecar).arg(&json(pools)?).number(page_kept_ms(resolution));
        self.client.run(&call, Way::Beside).await.map(drop)
    }

    async fn page(&self, resolution: Resolution, page_ms: u64) -> Result<Vec<Vec<PoolSteps>>, StoreError> {
        self.all(&self.client.keys.activity_page(resolution, page_ms)).await
    }

    async fn add_refusals(&self, refusals: &[Refused]) -> Result<(), StoreError> {
        let mut sets = Vec::new();
        for refused in refusals.iter().filter(|refused| !refused.request_id.is_empty()) {
            let mut set = redis::cmd("SET");
            set.arg(self.client.keys.refusal(&refused.request_id)).arg(json(refused)?);
            set.arg("PX").arg(REFUSAL_KEPT_MS);
            sets.push(set);
        }
        let sets: Vec<_> = sets.iter().map(|set| self.command(set)).collect();
        let mut sets = futures::stream::iter(sets).buffer_unordered(CONCURRENCY);
        while let Some(set) = sets.next().await {
            set?;
        }
        drop(sets);
        self.append(&self.client.keys.activity("refusals"), REFUSALS_MAX, refusals).await
    }

    async fn refusal(&self, request_id: &str) -> Result<Option<Refused>, StoreError> {
        let value = self.command(redis::cmd("GET").arg(self.client.keys.refusal(request_id))).await?;
        let text: Option<String> = redis::from_redis_value(value).map_err(|e| corrupt(&e.to_string()))?;
        text.map(|text| serde_json::from_str(&text).map_err(|e| corrupt(&e.to_string()))).transpose()
    }

    async fn refusals(&self) -> Result<Vec<Refused>, StoreError> {
        self.list(&self.client.keys.activity("refusals")).await
    }

    async fn add_repairs(&self, repairs: &[Repair]) -> Result<(), StoreError> {
        self.append(&self.client.keys.activity("repairs"), REPAIRS_MAX, repairs).await
    }

    async fn repairs(&self) -> Result<Vec<Repair>, StoreError> {
        self.list(&self.client.keys.activity("repairs")).await
    }
}
