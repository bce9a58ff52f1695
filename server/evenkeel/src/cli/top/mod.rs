//! `evenkeel top`: shows pools live in the terminal.

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use evenkeel_proto::v1 as pb;
use humantime_serde::re::humantime::parse_duration;
use ratatui::{buffer::Buffer, layout::Rect};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::{JoinError, JoinHandle},
};

use self::{
    feed::{NEWS_MAX, News},
    grid::Look,
    keys::{Action, Ui},
    model::Model,
    screen::{Input, Screen},
    view::{HEAD_LINES, View},
};
use super::{
    connect::{OnlyPool, Server, if_known, inspect},
    exit::failed,
    output::{Output, csv, put, terminal_width},
    pools,
};

mod feed;
mod grid;
mod keys;
mod model;
mod screen;
mod view;

/// Maximum time between two frames, so that the ages on the screen stay right.
const REDRAW_EVERY: Duration = Duration::from_millis(250);
/// Minimum time between two frames, however fast messages arrive.
const FRAME: Duration = Duration::from_millis(50);
/// Width in columns of a frame that is printed to a file or pipe.
const PLAIN_WIDTH: usize = 120;

/// Watch pools live.
#[derive(Args)]
#[command(after_help = "\
Keys: arrows or j k select, Enter shows a pool's endpoints, Esc goes back, s changes the order, / filters, p pauses,
d drains the selected endpoint after asking (with an administrator's token), ? shows all keys, q quits.

If standard output is not a terminal, one frame is printed, as with --once. NO_COLOR is respected.

Examples:
  evenkeel top --cluster llm                # the endpoints of one pool
  evenkeel top --once                       # one frame as text, for a script or a mail
  evenkeel top --output json                # each change as one line of JSON, until interrupted")]
pub(crate) struct Top {
    #[command(flatten)]
    server: Server,
    #[command(flatten)]
    pool: OnlyPool,
    /// Print one frame and exit
    #[arg(long)]
    once: bool,
    /// How often to refresh rates and sidecars, 200ms..1h; changes of pools are shown at once
    #[arg(long, default_value = "1s", value_parser = interval, value_name = "TIME")]
    interval: Duration,
    /// Output format: json and csv print each change of a pool, until interrupted
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text).map_err(|error| error.to_string())?;
    if interval < Duration::from_millis(200) || interval > Duration::from_secs(3600) {
        return Err("must be 200ms..1h".to_owned());
    }
    Ok(interval)
}

impl Top {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        // Reject invalid options here, because the feed would retry them forever.
        self.server.endpoint()?;
        self.server.credentials()?;
        match self.output {
            Output::Table if self.once || !io::stdout().is_terminal() => self.frame().await,
            Output::Table => self.live().await,
            Output::Json | Output::Csv if self.once => self.list().await,
            Output::Json | Output::Csv => self.changes().await,
        }
    }

    async fn pools(&self) -> anyhow::Result<pb::ListPoolsResponse> {
        pools::list(inspect(self.server.connect().await?), &self.pool).await
    }

    /// Prints the pools once, as `evenkeel pools` does.
    async fn list(self) -> anyhow::Result<()> {
        let pools = self.pools().await?;
        self.output.list(&pools::lines(&pools.pools), &pools)
    }

    /// Prints one frame as text.
    async fn frame(self) -> anyhow::Result<()> {
        let (mut model, now) = (Model::default(), Instant::now());
        let pools = self.pools().await?.pools;
        let mut client = inspect(self.server.connect().await?);
        let sidecars = client.list_sidecars(pb::ListSidecarsRequest {}).await;
        let sidecars = if_known(sidecars).map_err(failed("list the sidecars"))?;
        let request = pb::GetActivityRequest { span_ms: 60_000, ..pb::GetActivityRequest::default() };
        let activity = if_known(client.get_activity(request).await).map_err(failed("show the activity"))?;
        model.hear(News::Begun, now);
        let rows = pools.iter().map(|state| state.endpoints.len()).max().unwrap_or(0).max(pools.len());
        pools.into_iter().for_each(|state| model.hear(News::Pool(Box::new(state)), now));
        model.hear(News::Sidecars(sidecars.map(|answer| answer.into_inner().sidecars)), now);
        model.hear(News::Activity(activity.map(tonic::Response::into_inner)), now);

        let mut ui = Ui::new(false);
        ui.open = self.pool.encode().and_then(|_| model.first().cloned());
        // Printed frames have no selected row.
        let (width, height) =
            (terminal_width().unwrap_or(PLAIN_WIDTH), rows as u64 + u64::from(HEAD_LINES) + 2);
        let area = Rect::new(0, 0, width.clamp(20, 1000) as u16, height.min(60_000) as u16);
        let mut buffer = Buffer::empty(area);
        View { url: &self.server.url, model: &model, look: look(), now }.draw(&mut buffer, &mut ui);
        let mut lines = lines(&buffer);
        // The last line lists keys, which a printed frame does not need.
        lines.pop();
        let text = lines.join("\n");
        Ok(put(&format!("{}\n", text.trim_end()))?)
    }

    fn listen(&self) -> (mpsc::Receiver<News>, JoinHandle<()>) {
        let (send, receive) = mpsc::channel(NEWS_MAX);
        let feed = feed::run(self.server.clone(), self.pool.encode(), self.interval, send);
        (receive, tokio::spawn(feed))
    }

    /// Prints each change of a pool, until the output is closed.
    async fn changes(self) -> anyhow::Result<()> {
        let (mut news, _feed) = self.listen();
        let mut header = true;
        while let Some(news) = news.recv().await {
            match news {
                News::Pool(state) if self.output == Output::Json => {
                    put(&format!("{}\n", serde_json::to_string(&*state)?))?;
                }
                News::Pool(state) => {
                    let text = csv(&pools::lines(std::slice::from_ref(&*state)))?;
                    let records = text.split_once("\r\n").map_or("", |(_, records)| records);
                    put(if std::mem::take(&mut header) { &text } else { records })?;
                }
                News::Lost(why) => eprintln!("no answer from {}; trying again: {why}", self.server.url),
                News::Begun | News::Sidecars(_) | News::Unlimited(_) | News::Activity(_) => {}
            }
        }
        Ok(())
    }

    /// Shows pools on the screen until the user quits or a signal arrives.
    async fn live(self) -> anyhow::Result<()> {
        let (mut news, mut feed) = self.listen();
        let mut ends = Ends::new()?;
        let (mut screen, mut keys) = Screen::open().context("cannot take over the terminal")?;
        let (send, mut done) = mpsc::channel::<String>(8);
        let (mut model, mut ui, look) = (Model::default(), Ui::new(self.pool.encode().is_some()), look());
        let mut redraw = tokio::time::interval(REDRAW_EVERY);
        loop {
            let now = Instant::now();
            model.tidy(now);
            if ui.open_first && model.first().is_some() {
                (ui.open, ui.open_first) = (model.first().cloned(), false);
            }
            let view = View { url: &self.server.url, model: &model, look, now };
            screen.terminal.draw(|frame| view.draw(frame.buffer_mut(), &mut ui))?;
            tokio::select! {
                input = keys.recv() => match input {
                    Some(Input::Key(key)) => match ui.key(key, &model) {
                        Action::None => {}
                        Action::Quit => return Ok(()),
                        action => self.act(action, &mut ui, send.clone()),
                    },
                    Some(Input::Resized) => {}
                    Some(Input::Closed) | None => return Ok(()),
                },
                // While the display is paused, the feed's channel fills up. The sidecar then merges the changes.
                Some(first) = news.recv(), if !ui.paused => {
                    model.hear(first, now);
                    // One frame shows all messages that arrive within a short time.
                    tokio::time::sleep_until((now + FRAME).into()).await;
                    while let Ok(next) = news.try_recv() {
                        model.hear(next, Instant::now());
                    }
                }
                Some(text) = done.recv() => ui.message = text,
                _ = redraw.tick() => {}
                ended = &mut feed => return stopped(ended),
                () = ends.wait() => return Ok(()),
            }
        }
    }

    /// Runs an action in the background, so that the screen stays responsive.
    fn act(&self, action: Action, ui: &mut Ui, send: mpsc::Sender<String>) {
        let server = self.server.clone();
        "waiting for the sidecar".clone_into(&mut ui.message);
        tokio::spawn(async move {
            let done = match action {
                Action::Drain { endpoint, pool } => feed::drain(&server, &endpoint, pool).await,
                Action::Undrain { endpoint, pool } => feed::undrain(&server, &endpoint, &pool).await,
                Action::None | Action::Quit => return,
            };
            // The receiver is gone if `top` has ended in the meantime.
            let _ = send.send(done.unwrap_or_else(|error| format!("{error:#}"))).await;
        });
    }
}

/// Returns the error for a feed that ended. The feed runs as long as its receiver, so an earlier end is a bug or a
/// panic.
fn stopped(ended: Result<(), JoinError>) -> anyhow::Result<()> {
    ended.context("the connection to the sidecar failed")?;
    anyhow::bail!("the connection to the sidecar stopped unexpectedly")
}

/// Signals that end `top`.
struct Ends([tokio::signal::unix::Signal; 3]);

impl Ends {
    fn new() -> io::Result<Self> {
        let [terminate, interrupt, hangup] =
            [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        Ok(Self([terminate?, interrupt?, hangup?]))
    }

    async fn wait(&mut self) {
        let [terminate, interrupt, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

fn look() -> Look {
    Look::of_environment(|name| std::env::var(name).ok())
}

/// Returns the buffer's content as lines of text.
fn lines(buffer: &Buffer) -> Vec<String> {
    let width = usize::from(buffer.area().width.max(1));
    let mut lines = Vec::new();
    for cells in buffer.content().chunks(width) {
        let mut line = String::new();
        let mut wide = 0;
        for cell in cells {
            // A wide character is followed by an empty cell.
            if wide == 0 {
                line.push_str(cell.symbol());
                wide = unicode_width::UnicodeWidthStr::width(cell.symbol());
            }
            wide = wide.saturating_sub(1);
        }
        lines.push(line.trim_end().to_owned());
    }
    lines
}
