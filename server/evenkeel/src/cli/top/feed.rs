//! What `top` hears: a watch of the pools, and beside it how sidecars and rates stand. Comes back by itself.

use std::time::Duration;

use evenkeel_proto::v1::{self as pb, inspect_client::InspectClient};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout, timeout_at},
};
use tonic::{Status, transport::Channel};

use super::super::{
    connect::{As, Server, admin, if_known, inspect, root_cause},
    exit::{HTTP_PORT, answered, is_http},
};

/// Between attempts to reach a sidecar.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// A watch is begun anew this often: that is how pools that are no longer known go.
const WATCH_ANEW: Duration = Duration::from_secs(60);
/// A sidecar that does not answer a ping for this long is gone.
const PING_EVERY: Duration = Duration::from_secs(2);
/// Longest wait for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How far back rates are asked for: its last whole step counts.
const RATES_SPAN_MS: u64 = 60_000;
/// News that wait to be shown; the sidecar merges further changes meanwhile.
pub(super) const NEWS_MAX: usize = 256;

/// What is heard.
#[derive(Debug)]
pub(super) enum News {
    /// A watch has begun: it tells every pool, and then what changes.
    Begun,
    /// A pool as it is now.
    Pool(Box<pb::PoolState>),
    /// How the sidecars are; none where this one's release cannot tell.
    Sidecars(Option<Vec<pb::SidecarState>>),
    /// What became of requests lately; none where this one's release cannot tell.
    Activity(Option<pb::GetActivityResponse>),
    /// No answer any more, and why.
    Lost(String),
}

/// Nobody listens to news any more.
struct Closed;

/// Why a conversation ended.
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
        // What the transport says of itself is a chain of which the last says most.
        let cause = root_cause(&status).to_string();
        Self::Lost(if status.message().is_empty() { cause } else { status.message().to_owned() })
    }
}

/// Tells news until nobody listens.
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
    let endpoint = match server.endpoint() {
        Ok(endpoint) => endpoint,
        Err(error) => return End::Lost(error.to_string()),
    };
    let endpoint = endpoint
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY)
        .keep_alive_while_idle(true);
    let channel = match endpoint.connect().await {
        Ok(channel) => channel,
        Err(error) => return End::Lost(root_cause(&error).to_string()),
    };
    let client = inspect(channel);
    let watched = async { watch(client.clone(), only, news).await.err() };
    let asked = async { ask(client.clone(), every, news).await.err() };
    let end = tokio::select! {
        end = watched => end,
        end = asked => end,
    };
    end.unwrap_or(End::Closed)
}

/// Follows the pools until that fails.
async fn watch(
    mut client: InspectClient<Channel>,
    only: Option<pb::Pool>,
    news: &mpsc::Sender<News>,
) -> Result<(), End> {
    let late = |_| End::Lost(format!("no answer within {} s", ANSWER_WITHIN.as_secs()));
    loop {
        let request = pb::WatchPoolsRequest { pools: only.iter().cloned().collect() };
        let mut stream =
            timeout(ANSWER_WITHIN, client.watch_pools(request)).await.map_err(late)??.into_inner();
        tell(news, News::Begun).await?;
        let until = Instant::now() + WATCH_ANEW;
        // Until it is time to begin anew.
        while let Ok(message) = timeout_at(until, stream.message()).await {
            let state = message?.ok_or_else(|| End::Lost("it is stopping".to_owned()))?;
            tell(news, News::Pool(Box::new(state))).await?;
        }
    }
}

/// Asks again and again for what cannot be watched. A failure is left to the watch to notice.
async fn ask(
    mut client: InspectClient<Channel>,
    every: Duration,
    news: &mpsc::Sender<News>,
) -> Result<(), End> {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let sidecars = timeout(ANSWER_WITHIN, client.list_sidecars(pb::ListSidecarsRequest {})).await;
        if let Ok(Ok(answer)) = sidecars.map(if_known) {
            tell(news, News::Sidecars(answer.map(|answer| answer.into_inner().sidecars))).await?;
        }
        let request = pb::GetActivityRequest { pool: None, span_ms: RATES_SPAN_MS };
        let activity = timeout(ANSWER_WITHIN, client.get_activity(request)).await;
        if let Ok(Ok(answer)) = activity.map(if_known) {
            tell(news, News::Activity(answer.map(tonic::Response::into_inner))).await?;
        }
    }
}

async fn tell(news: &mpsc::Sender<News>, what: News) -> Result<(), Closed> {
    news.send(what).await.map_err(|_| Closed)
}

/// Drains an endpoint, in one pool or in all.
pub(super) async fn drain(
    server: &Server,
    by: &As,
    endpoint: &str,
    pool: Option<pb::Pool>,
) -> anyhow::Result<String> {
    let note = "by evenkeel top".to_owned();
    let request = by.request(pb::DrainEndpointRequest { endpoint: endpoint.to_owned(), pool, note })?;
    admin(server.connect().await?).drain_endpoint(request).await.map_err(answered)?;
    Ok(format!("{endpoint} is drained: it gets no new requests"))
}

/// Takes back every drain of an endpoint that holds in a pool.
pub(super) async fn undrain(
    server: &Server,
    by: &As,
    endpoint: &str,
    pool: &pb::Pool,
) -> anyhow::Result<String> {
    let mut client = admin(server.connect().await?);
    let answer = client.list_drains(pb::ListDrainsRequest {}).await.map_err(answered)?.into_inner();
    let holds = |drain: &pb::Drain| {
        drain.endpoint == endpoint && drain.pool.as_ref().is_none_or(|drained| drained == pool)
    };
    for drain in answer.drains.into_iter().filter(holds) {
        let pb::Drain { endpoint, pool, .. } = drain;
        let request = by.request(pb::UndrainEndpointRequest { endpoint, pool })?;
        client.undrain_endpoint(request).await.map_err(answered)?;
    }
    Ok(format!("{endpoint} gets requests again"))
}
