//! The feed of `top`: watches the pools, polls sidecars and rates, and reconnects automatically.

use std::time::Duration;

use evenkeel_proto::v1::{self as pb, inspect_client::InspectClient};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at},
};
use tonic::{Status, service::interceptor::InterceptedService};

use super::super::{
    connect::{Server, SidecarChannel, admin, if_known, inspect},
    exit::{HTTP_PORT, failed, is_http, why},
    tls_error::cause,
};

/// Wait between attempts to reach a sidecar.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// Lifetime of a watch. A new watch does not send pools that no sidecar knows any more, so they disappear.
const WATCH_ANEW: Duration = Duration::from_secs(60);
/// Interval of HTTP/2 pings, and maximum wait for the answer to a ping. After that the connection counts as lost.
const PING_EVERY: Duration = Duration::from_secs(2);
/// Maximum wait for a response.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Time span of the requested rates. `top` shows only the last complete step.
const RATES_SPAN_MS: u64 = 60_000;
/// Maximum number of messages that wait for the screen. While the queue is full, the sidecar merges further changes.
pub(super) const NEWS_MAX: usize = 256;

/// A message from the feed to the screen.
#[derive(Debug)]
pub(super) enum News {
    /// A watch has started. It sends every pool, and then each change of a pool.
    Begun,
    /// The current state of a pool.
    Pool(Box<pb::PoolState>),
    /// The sidecars; `None` if the sidecar's version does not report them.
    Sidecars(Option<Vec<pb::SidecarState>>),
    /// The number of gateways whose requests pass without limits now.
    Unlimited(usize),
    /// Requests over time; `None` if the sidecar's version does not report them.
    Activity(Option<pb::GetActivityResponse>),
    /// The connection is lost, for this reason.
    Lost(String),
}

/// Error: the receiver of the messages is gone.
struct Closed;

/// The reason why the feed's connection ended.
enum End {
    Closed,
    Lost(String),
}

impl From<Closed> for End {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        if is_http(&status) {
            return Self::Lost(HTTP_PORT.to_owned());
        }
        Self::Lost(why(&status))
    }
}

/// Sends messages until the receiver is gone.
pub(super) async fn run(server: Server, only: Option<pb::Pool>, every: Duration, news: mpsc::Sender<News>) {
    loop {
        let why = match converse(&server, only.clone(), every, &news).await {
            End::Closed => return,
            End::Lost(why) => why,
        };
        if news.send(News::Lost(why)).await.is_err() {
            return;
        }
        sleep(RETRY_EVERY).await;
    }
}

async fn converse(
    server: &Server,
    only: Option<pb::Pool>,
    every: Duration,
    news: &mpsc::Sender<News>,
) -> End {
    let options = server.endpoint().and_then(|endpoint| Ok((endpoint, server.credentials()?)));
    let (endpoint, credentials) = match options {
        Ok(options) => options,
        Err(error) => return End::Lost(error.to_string()),
    };
    let endpoint = endpoint
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY)
        .keep_alive_while_idle(true);
    let channel = match endpoint.connect().await {
        Ok(channel) => channel,
        Err(error) => return End::Lost(cause(&error)),
    };
    let client = inspect(InterceptedService::new(channel, credentials));
    let watched = async { watch(client.clone(), only, news).await.err() };
    let asked = async { ask(client.clone(), every, news).await.err() };
    let end = tokio::select! {
        end = watched => end,
        end = asked => end,
    };
    end.unwrap_or(End::Closed)
}

/// Watches the pools until the connection fails.
async fn watch(
    mut client: InspectClient<SidecarChannel>,
    only: Option<pb::Pool>,
    news: &mpsc::Sender<News>,
) -> Result<(), End> {
    let late = |_| End::Lost(format!("no answer within {} s", ANSWER_WITHIN.as_secs()));
    loop {
        let request = pb::WatchPoolsRequest { pools: only.iter().cloned().collect() };
        let mut stream =
            timeout(ANSWER_WITHIN, client.watch_pools(request)).await.map_err(late)??.into_inner();
        send(news, News::Begun).await?;
        let until = Instant::now() + WATCH_ANEW;
        // The inner loop ends when the watch must be renewed.
        while let Ok(message) = timeout_at(until, stream.message()).await {
            let state = message?.ok_or_else(|| End::Lost("it is stopping".to_owned()))?;
            send(news, News::Pool(Box::new(state))).await?;
        }
    }
}

/// Polls the sidecars, the gateways and the rates, which have no watch. Ignores failures, because the watch of pools
/// reports lost connections.
async fn ask(
    mut client: InspectClient<SidecarChannel>,
    every: Duration,
    news: &mpsc::Sender<News>,
) -> Result<(), End> {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let sidecars = timeout(ANSWER_WITHIN, client.list_sidecars(pb::ListSidecarsRequest {})).await;
        if let Ok(Ok(answer)) = sidecars.map(if_known) {
            send(news, News::Sidecars(answer.map(|answer| answer.into_inner().sidecars))).await?;
        }
        let request = pb::GetOverviewRequest { page_size: 1, ..pb::GetOverviewRequest::default() };
        if let Ok(Ok(overview)) = timeout(ANSWER_WITHIN, client.get_overview(request)).await {
            let gaps = overview.into_inner().gaps;
            let unlimited = gaps.iter().filter(|gateway| gateway.unlimited.is_some_and(|gap| gap.now));
            send(news, News::Unlimited(unlimited.count())).await?;
        }
        let request = pb::GetActivityRequest { span_ms: RATES_SPAN_MS, ..pb::GetActivityRequest::default() };
        let activity = timeout(ANSWER_WITHIN, client.get_activity(request)).await;
        if let Ok(Ok(answer)) = activity.map(if_known) {
            send(news, News::Activity(answer.map(tonic::Response::into_inner))).await?;
        }
    }
}

async fn send(news: &mpsc::Sender<News>, what: News) -> Result<(), Closed> {
    news.send(what).await.map_err(|_| Closed)
}

/// Drains an endpoint in one pool, or in every pool if `pool` is `None`.
pub(super) async fn drain(server: &Server, endpoint: &str, pool: Option<pb::Pool>) -> anyhow::Result<String> {
    let note = "by evenkeel top".to_owned();
    let pb::Pool { route, cluster } = pool.unwrap_or_default();
    let drain = pb::DrainEndpointRequest { endpoint: endpoint.to_owned(), route, cluster, note };
    let done = admin(server.connect().await?).drain_endpoint(drain).await;
    done.map_err(failed("drain the endpoint"))?;
    Ok(format!("{endpoint} is drained: it gets no new requests"))
}

/// Ends every drain of an endpoint that applies to a pool.
pub(super) async fn undrain(server: &Server, endpoint: &str, pool: &pb::Pool) -> anyhow::Result<String> {
    let mut client = admin(server.connect().await?);
    let answer = client.list_drains(pb::ListDrainsRequest {}).await;
    let answer = answer.map_err(failed("list the drains"))?.into_inner();
    let holds = |drain: &pb::Drain| {
        drain.endpoint == endpoint && drain.pool.as_ref().is_none_or(|drained| drained == pool)
    };
    for drain in answer.drains.into_iter().filter(holds) {
        let pb::Drain { endpoint, pool, .. } = drain;
        let pb::Pool { route, cluster } = pool.unwrap_or_default();
        let request = pb::UndrainEndpointRequest { endpoint, route, cluster };
        client.undrain_endpoint(request).await.map_err(failed("undrain the endpoint"))?;
    }
    Ok(format!("{endpoint} is undrained: it gets requests again"))
}
