//! `evenkeel usage`: usage and sessions.

use clap::{Args, Subcommand, ValueEnum};
use evenkeel_api::csv::{self, decimal, moment};
use evenkeel_domain::usage::{Day, NONE};
use evenkeel_proto::v1::{self as pb, Outcome, TokenUsage};

use super::{
    connect::Ask,
    exit::failed,
    list::{Rows, note, page_size, pages},
    output::{Output, put, put_json, terminal_width, word},
    table,
};

/// Maximum number of rows, and of sessions, on a requested page.
const ROWS_MAX: u32 = 10_000;

/// Show usage.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Usage {
    #[command(subcommand)]
    part: Option<Part>,
    #[command(flatten)]
    sums: SumsArgs,
}

#[derive(Subcommand)]
enum Part {
    /// Show the sessions of one day, sorted by tokens in descending order
    Sessions(SessionsArgs),
    /// Show the turns of one session, without prompts or responses
    Session(SessionArgs),
}

#[derive(Args)]
struct SumsArgs {
    /// Group by these dimensions: day, consumer, model, route
    #[arg(long, value_enum, value_delimiter = ',', default_value = "model", value_name = "DIMENSION,...")]
    by: Vec<Dimension>,
    /// First day (UTC), such as 2026-11-21
    #[arg(long, conflicts_with = "days", value_name = "DAY")]
    from: Option<String>,
    /// Last day (UTC), inclusive; today by default
    #[arg(long, conflicts_with = "days", value_name = "DAY")]
    to: Option<String>,
    /// Number of days up to and including today
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=400))]
    days: u32,
    /// Show only usage of this consumer; "(none)" selects requests without a consumer
    #[arg(long, default_value = "", hide_default_value = true)]
    consumer: String,
    /// Show only usage of this model
    #[arg(long, default_value = "", hide_default_value = true)]
    model: String,
    /// Show only usage of this route
    #[arg(long, default_value = "", hide_default_value = true)]
    route: String,
    #[command(flatten)]
    list: Rows,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Args)]
struct SessionsArgs {
    /// The day (UTC), such as 2026-11-21; today by default
    #[arg(long, default_value = "", hide_default_value = true)]
    day: String,
    /// Show only sessions of this consumer; "(none)" selects sessions without a consumer
    #[arg(long, default_value = "", hide_default_value = true)]
    consumer: String,
    #[command(flatten)]
    list: Rows,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Args)]
struct SessionArgs {
    /// The session's id, as the client sent it
    session: String,
    /// The session's consumer; omit it if the requests had no consumer
    #[arg(long, default_value = "", hide_default_value = true)]
    consumer: String,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Dimension {
    Day,
    Consumer,
    Model,
    Route,
}

impl Usage {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self.part {
            None => self.sums.run().await,
            Some(Part::Sessions(sessions)) => sessions.run().await,
            Some(Part::Session(session)) => session.run().await,
        }
    }
}

impl SumsArgs {
    fn request(&self) -> pb::QueryUsageRequest {
        let today = Day::of_ms(evenkeel_domain::clock::unix_ms());
        let by = self.by.iter().map(|dimension| match dimension {
            Dimension::Day => pb::UsageDimension::Day,
            Dimension::Consumer => pb::UsageDimension::Consumer,
            Dimension::Model => pb::UsageDimension::Model,
            Dimension::Route => pb::UsageDimension::Route,
        });
        let whole_range = self.from.is_none() && self.to.is_none();
        let first = whole_range.then(|| today.minus(self.days - 1).to_string());
        pb::QueryUsageRequest {
            from: self.from.clone().or(first).or_else(|| self.to.clone()).unwrap_or_default(),
            to: self.to.clone().unwrap_or_default(),
            by: by.map(Into::into).collect(),
            consumer: self.consumer.clone(),
            model: self.model.clone(),
            route: self.route.clone(),
            page_size: 0,
            page_token: String::new(),
        }
    }

    async fn run(self) -> anyhow::Result<()> {
        let output = self.ask.output;
        let limit = self.list.limit(output);
        let mut client = self.ask.admin().await?;
        let mut request = self.request();
        if output == Output::Csv {
            put(&csv::usage_header(&request.by))?;
        }
        let (mut rows, mut count) = (Vec::new(), 0);
        let mut whole = loop {
            request.page_size = page_size(limit, count, ROWS_MAX);
            let page = client.query_usage(request.clone()).await;
            let mut page = page.map_err(failed("show the usage"))?.into_inner();
            count += page.rows.len();
            if output == Output::Csv {
                // Print each page as it arrives, so that memory stays bounded.
                put(&page.rows.iter().map(csv::usage_row).collect::<String>())?;
            } else {
                rows.append(&mut page.rows);
            }
            request.page_token.clone_from(&page.next_page_token);
            if request.page_token.is_empty() || (limit > 0 && count >= limit) {
                break page;
            }
        };
        whole.rows = rows;
        match output {
            Output::Csv => {}
            Output::Json => put_json(&whole)?,
            Output::Table => put(&usage_table(&request.by, &whole))?,
        }
        note(output, &whole.next_page_token)
    }
}

impl SessionsArgs {
    async fn run(self) -> anyhow::Result<()> {
        let (day, consumer) = (self.day, self.consumer);
        let request = pb::ListSessionsRequest { day, consumer, ..pb::ListSessionsRequest::default() };
        let (client, limit) = (self.ask.admin().await?, self.list.limit(self.ask.output));
        let whole = pages!(client, list_sessions, request, sessions, limit, "list the sessions");
        match self.ask.output {
            Output::Csv => put(&csv::sessions(&whole.sessions))?,
            Output::Json => put_json(&whole)?,
            Output::Table => put(&sessions_table(&whole.sessions))?,
        }
        note(self.ask.output, &whole.next_page_token)
    }
}

impl SessionArgs {
    async fn run(self) -> anyhow::Result<()> {
        let request = pb::GetSessionRequest { session: self.session, consumer: self.consumer };
        let session = self.ask.admin().await?.get_session(request).await;
        let session =
            session.map_err(failed("show the session (`evenkeel usage sessions` lists a day's)"))?;
        let session = session.into_inner();
        match self.ask.output {
            Output::Csv => put(&csv::turns(&session.turns))?,
            Output::Json => put_json(&session)?,
            Output::Table => {
                put(&turns_table(&session.turns))?;
                let pb::Usage { requests, tokens, cost, .. } = session.usage.unwrap_or_default();
                let TokenUsage { input, output, .. } = tokens.unwrap_or_default();
                let (not_kept, cost) = (requests.saturating_sub(session.turns.len() as u64), decimal(cost));
                put(&format!(
                    "{requests} turns, {not_kept} of them no longer kept; {input} input, {output} output tokens; cost \
                     {cost}\n"
                ))?;
            }
        }
        Ok(())
    }
}

fn lines(names: &[&'static str], numbers: &[&'static str], rows: &[Vec<String>]) -> String {
    let names = names.iter().map(|name| (*name, false));
    let heads: Vec<_> = names.chain(numbers.iter().map(|name| (*name, true))).collect();
    table::lines(&heads, rows, terminal_width())
}

fn shown(name: &str) -> String {
    if name.is_empty() { NONE.to_owned() } else { name.to_owned() }
}

const SUMS: [&str; 7] = ["REQUESTS", "ESTIMATED", "INPUT", "OUTPUT", "CACHED", "REASONING", "COST"];

fn sums(
    requests: u64,
    estimated: u64,
    tokens: Option<TokenUsage>,
    cost: u64,
) -> impl Iterator<Item = String> {
    let t = tokens.unwrap_or_default();
    let counts = [requests, estimated, t.input, t.output, t.cached_input, t.reasoning];
    counts.into_iter().map(|count| count.to_string()).chain([decimal(cost)])
}

fn sums_of(usage: Option<pb::Usage>) -> impl Iterator<Item = String> {
    let pb::Usage { requests, estimated, tokens, cost } = usage.unwrap_or_default();
    sums(requests, estimated, tokens, cost)
}

fn usage_table(by: &[i32], usage: &pb::QueryUsageResponse) -> String {
    let dimensions = [(1, "DAY"), (2, "CONSUMER"), (3, "MODEL"), (4, "ROUTE")];
    let names: Vec<&str> =
        dimensions.iter().filter(|(number, _)| by.contains(number)).map(|(_, name)| *name).collect();
    let row = |row: &pb::UsageRow| {
        let day = row.day.iter().cloned();
        let rest = [&row.consumer, &row.model, &row.route].into_iter().flatten().map(|name| shown(name));
        day.chain(rest).chain(sums(row.requests, row.estimated, row.tokens, row.cost)).collect()
    };
    let mut rows: Vec<Vec<String>> = usage.rows.iter().map(row).collect();
    if !names.is_empty() {
        let first = std::iter::once("total".to_owned());
        let empty = std::iter::repeat_n(String::new(), names.len() - 1);
        rows.push(first.chain(empty).chain(sums_of(usage.total)).collect());
    }
    lines(&names, &SUMS, &rows)
}

fn sessions_table(sessions: &[pb::SessionRow]) -> String {
    let row = |row: &pb::SessionRow| {
        let texts = [row.session.clone(), shown(&row.consumer), moment(row.last_ms)];
        texts.into_iter().chain(sums_of(row.usage)).collect()
    };
    lines(&["SESSION", "CONSUMER", "LAST-SEEN"], &SUMS, &sessions.iter().map(row).collect::<Vec<_>>())
}

fn turns_table(turns: &[pb::Turn]) -> String {
    let numbers = ["STATUS", "INPUT", "OUTPUT", "CACHED", "REASONING", "COST", "FIRST-MS", "TOTAL-MS"];
    let row = |turn: &pb::Turn| {
        let t = turn.tokens.unwrap_or_default();
        let estimated = if turn.estimated { "~" } else { "" };
        vec![
            moment(turn.at_ms),
            shown(&turn.model),
            shown(&turn.route),
            word::<Outcome>(turn.outcome),
            turn.status.to_string(),
            format!("{estimated}{}", t.input),
            format!("{estimated}{}", t.output),
            t.cached_input.to_string(),
            t.reasoning.to_string(),
            decimal(turn.cost),
            turn.first_token_ms.to_string(),
            turn.total_ms.to_string(),
        ]
    };
    let rows: Vec<_> = turns.iter().map(row).collect();
    lines(&["AT", "MODEL", "ROUTE", "OUTCOME"], &numbers, &rows)
}
