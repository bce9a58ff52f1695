//! A client of Redis: connections, the names of keys, and the metrics of calls.

use std::{sync::Arc, time::Instant};

use evenkeel_domain::{StoreError, settings::RedisOptions};
use evenkeel_telemetry::Metrics;
use redis::Value;

use super::{
    call::{Call, Reply},
    keys::Keys,
    link::{Background, Link, Way},
};

/// Connections to Redis. Usage and activity each call Redis through a client alone. [`super::RedisStore`] adds lanes.
pub struct RedisClient {
    pub(super) keys: Keys,
    pub(super) link: Link,
    pub(super) metrics: Arc<Metrics>,
}

impl RedisClient {
    /// Prepares a client that no request uses. The first call connects.
    ///
    /// # Errors
    /// If a URL is invalid.
    pub fn new(
        options: &RedisOptions,
        metrics: Arc<Metrics>,
        background: &Background,
    ) -> Result<Self, StoreError> {
        Self::open(options, None, metrics, background)
    }

    /// Prepares the client of the request path, and starts to connect.
    pub(super) fn for_requests(
        options: &RedisOptions,
        metrics: Arc<Metrics>,
        background: &Background,
    ) -> Result<Self, StoreError> {
        Self::open(options, Some(Arc::clone(&metrics)), metrics, background)
    }

    fn open(
        options: &RedisOptions,
        shown: Option<Arc<Metrics>>,
        metrics: Arc<Metrics>,
        background: &Background,
    ) -> Result<Self, StoreError> {
        let link = Link::new(options, shown, background).map_err(invalid)?;
        Ok(Self { keys: Keys::new(&options.key_prefix), link, metrics })
    }

    /// Runs a script. Records its duration and any error in the metrics.
    pub(super) async fn run(&self, call: &Call, way: Way) -> Result<Reply, StoreError> {
        let started = Instant::now();
        let reply = call.run(&self.link, way).await;
        self.observe(call.name(), started, reply.as_ref().err());
        reply
    }

    /// Sends a command outside the request path. Records its duration and any error in the metrics.
    pub(super) async fn command(
        &self,
        operation: &'static str,
        cmd: &redis::Cmd,
    ) -> Result<Value, StoreError> {
        let started = Instant::now();
        let answer = match self.link.query(cmd, Way::Beside).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(StoreError::Script { script: operation, detail: error.to_string() }),
            Err(error) => Err(error),
        };
        self.observe(operation, started, answer.as_ref().err());
        answer
    }

    pub(super) fn observe(&self, operation: &'static str, started: Instant, error: Option<&StoreError>) {
        let metrics = &self.metrics;
        if matches!(error, Some(StoreError::NotSent(_))) {
            return;
        }
        metrics.store_duration.with_label_values(&[operation]).observe(started.elapsed().as_secs_f64());
        if let Some(error) = error {
            metrics.store_errors.with_label_values(&[operation, error.kind()]).inc();
        }
    }
}

#[allow(clippy::needless_pass_by_value)] // in this form, map_err takes it by name
fn invalid(error: redis::RedisError) -> StoreError {
    StoreError::Unavailable(error.to_string())
}
