//! Streams the results of sweeps.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use evenkeel_domain::PoolId;
use evenkeel_engine::balancer::view::PoolView;
use evenkeel_proto::v1::{
    GetOverviewRequest, ListEndpointsRequest, ListEndpointsResponse, Overview, PoolState, WatchPoolsRequest,
    WatchRequest, WatchResponse,
};
use futures::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, watch::Receiver};
use tokio_util::sync::CancellationToken;

use crate::{
    Api, ApiError, Code, Result,
    overview::differs,
    pools::{endpoints_of, state},
};

/// Maximum number of concurrent watches of one sidecar.
pub const WATCHERS_MAX: usize = 1000;
/// Maximum number of pools in the overview of a watch.
const POOLS: u32 = 100;
/// Maximum time between two responses. After this time, a watch sends unchanged figures again.
const QUIET: Duration = Duration::from_secs(2);
/// Minimum time between two responses.
const PACE: Duration = Duration::from_millis(250);

/// The overview of one sweep, with the time of the sweep. All watches share it.
#[derive(Default)]
pub struct Watched(tokio::sync::Mutex<Option<(Instant, Arc<Overview>)>>);

struct Watcher {
    api: Arc<Api>,
    endpoints: Option<ListEndpointsRequest>,
    swept: Receiver<Instant>,
    stop: CancellationToken,
    sent: Option<(tokio::time::Instant, Arc<Overview>, Option<ListEndpointsResponse>)>,
    /// Permit of the watch, which is released when the watch ends.
    _permit: OwnedSemaphorePermit,
}

impl Api {
    /// Streams the overview, and one pool's endpoints if the request names a cluster, until `stop` is cancelled.
    ///
    /// # Errors
    /// If the request is invalid, no sidecar knows the pool, or too many watches are open.
    pub fn watch(
        self: &Arc<Self>,
        request: WatchRequest,
        stop: CancellationToken,
    ) -> Result<impl Stream<Item = WatchResponse> + Send + use<>> {
        let WatchRequest { route, cluster, sort, search, page_size, page_token } = request;
        let request = ListEndpointsRequest { route, cluster, sort, search, page_size, page_token };
        let endpoints = (!request.cluster.is_empty()).then_some(request);
        if let Some(request) = &endpoints {
            // Invalid requests and unknown pools fail at once.
            self.swept_endpoints(request)?;
        }
        let permit = Arc::clone(&self.watchers).try_acquire_owned().map_err(|_| {
            let message = format!("{WATCHERS_MAX} watches of this sidecar are open already");
            ApiError { code: Code::Unavailable, field: None, message }
        })?;
        let (api, swept) = (Arc::clone(self), self.views.subscribe());
        let watcher = Watcher { api, endpoints, swept, stop, sent: None, _permit: permit };
        Ok(stream::unfold(watcher, |mut watcher| async move { Some((watcher.next().await?, watcher)) }))
    }

    /// Streams the state of every pool, then the state of each pool that changes, until `stop` is cancelled. A slow
    /// reader gets only the newest state of a pool.
    ///
    /// # Errors
    /// If a pool's name is invalid.
    pub fn watch_pools(
        &self,
        request: WatchPoolsRequest,
        stop: CancellationToken,
    ) -> Result<impl Stream<Item = PoolState> + Send + use<>> {
        let mut wanted = HashSet::new();
        for pool in request.pools {
            // The names may be those that lists show or those that gateways send.
            let listed = PoolId::new(&pool.route, &pool.cluster)?;
            wanted.extend([listed, self.balancer.directory.identity(&pool.route, &pool.cluster)?]);
        }
        let views = Arc::clone(&self.views);
        let mut swept = views.subscribe();
        swept.mark_changed();
        let (mut sent, mut changed) = (HashMap::<PoolId, Arc<PoolView>>::new(), Vec::new());
        let next = async move || loop {
            while let Some(id) = changed.pop() {
                if let Some(view) = views.all().get(&id) {
                    sent.insert(id, Arc::clone(view));
                    return Some(state(view));
                }
            }
            tokio::select! {
                result = swept.changed() => result.ok()?,
                () = stop.cancelled() => return None,
            }
            let all = views.all();
            let news = all.iter().filter(|(id, view)| {
                (wanted.is_empty() || wanted.contains(id))
                    && sent.get(id).is_none_or(|before| before.differs(view))
            });
            changed.extend(news.map(|(id, _)| id.clone()).rev());
        };
        Ok(stream::unfold(next, async |mut next| Some((next().await?, next))))
    }

    async fn shared_overview(&self) -> Result<Arc<Overview>> {
        let swept = self.views.swept_at();
        let mut known = self.watched.0.lock().await;
        if let Some((at, overview)) = &*known
            && *at == swept
        {
            return Ok(Arc::clone(overview));
        }
        let request = GetOverviewRequest { page_size: POOLS, ..GetOverviewRequest::default() };
        let overview = Arc::new(self.get_overview(request).await?);
        *known = Some((swept, Arc::clone(&overview)));
        Ok(overview)
    }

    /// Returns one page of a pool's endpoints as of the last sweep. `None` if the sidecar learned of the pool after the
    /// sweep.
    fn swept_endpoints(&self, request: &ListEndpointsRequest) -> Result<Option<ListEndpointsResponse>> {
        let entry = self.entry(&request.route, &request.cluster)?;
        self.views.all().get(&entry.pool.id).map(|view| endpoints_of(view, request)).transpose()
    }
}

impl Watcher {
    /// Waits for the next response. Returns `None` when the sidecar stops, so that the client connects to another
    /// sidecar.
    async fn next(&mut self) -> Option<WatchResponse> {
        loop {
            if let Some((at, ..)) = &self.sent {
                if self.api.balancer.recorder.is_stopping() {
                    return None;
                }
                let (next, stop) = (*at + PACE, self.stop.clone());
                tokio::select! {
                    swept = async { tokio::time::sleep_until(next).await; self.wait_for_sweep().await } => swept?,
                    () = stop.cancelled() => return None,
                }
            }
            let overview = self.api.shared_overview().await.ok()?;
            // Continue if the pool is gone, because it may come back.
            let request = self.endpoints.as_ref();
            let endpoints = request.and_then(|request| self.api.swept_endpoints(request).ok().flatten());
            let is_news = self.sent.as_ref().is_none_or(|(at, before, endpoints_before)| {
                at.elapsed() >= QUIET || differs(&overview, before) || endpoints != *endpoints_before
            });
            if is_news {
                self.sent = Some((tokio::time::Instant::now(), Arc::clone(&overview), endpoints.clone()));
                return Some(WatchResponse { overview: Some((*overview).clone()), endpoints });
            }
        }
    }

    /// Waits for the next sweep, but at most for [`QUIET`]. Returns `None` if there will be no more sweeps.
    async fn wait_for_sweep(&mut self) -> Option<()> {
        match tokio::time::timeout(QUIET, self.swept.changed()).await {
            Ok(Err(_)) => None,
            _ => Some(()),
        }
    }
}
