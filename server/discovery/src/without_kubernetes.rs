//! Replaces the module `kubernetes` in a build without that feature. In such a build, `check_support` rejects
//! Kubernetes sources.

use std::sync::Arc;

use evenkeel_domain::settings::{KubernetesOptions, PoolService};
use evenkeel_telemetry::Metrics;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::Target;

pub(super) struct Hub;

impl Hub {
    pub(super) fn new(
        _: KubernetesOptions,
        _: Arc<Metrics>,
        _: TaskTracker,
        _: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self)
    }
}

pub(super) async fn follow(_: &Target<'_>, _: &PoolService, _: &Arc<Hub>) {}
