//! `evenkeel usage`: what was used, from a running sidecar.

use clap::{Args, Subcommand, ValueEnum};
use evenkeel_domain::{
    limit::price::Tokens,
    usage::{Day, NONE, Outcome, SessionKey, SessionSum, Turn, Usage as Sums},
};
use evenkeel_engine::ledger::{
    query::{By, Row},
    text,
};
use evenkeel_proto::v1 as pb;
use serde_json::{Value, json};

use super::{
    connect::Ask,
    exit::answered,
    output::{Column, Output, number, put, put_json, terminal_width, text as texts},
    table,
};

/// Rows and sessions asked for at once.
const ROWS_MAX: u32 = 10_000;
const SESSIONS_MAX: u32 = 1000;

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
    /// Show a day's sessions by tokens, most first
    Sessions(SessionsArgs),
    /// Show one session's turns, without any content
    Session(SessionArgs),
}

#[derive(Args)]
struct SumsArgs {
    /// Tell apart by these: day, consumer, model, route
    #[arg(long, value_enum, value_delimiter = ',', default_value = "model", value_name = "DIMENSION,...")]
    by: Vec<Dimension>,
    /// First day (UTC), such as 2026-11-21
    #[arg(long, conflicts_with = "days", value_name = "DAY")]
    from: Option<String>,
    /// Last day, included; today unless given
    #[arg(long, conflicts_with = "days", value_name = "DAY")]
    to: Option<String>,
    /// This many days up to today
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=400))]
    days: u32,
    /// Only this consumer's; "(none)" for requests without
    #[arg(long, default_value = "", hide_default_value = true)]
    consumer: String,
    /// Only this model's
    #[arg(long, default_value = "", hide_default_value = true)]
    model: String,
    /// Only this route's
    #[arg(long, default_value = "", hide_default_value = true)]
    route: String,
    /// Most rows to show; 0 for all. Tables show 50 unless given, JSON and CSV all
    #[arg(long, value_name = "ROWS")]
    limit: Option<usize>,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Args)]
struct SessionsArgs {
    /// The day (UTC), such as 2026-11-21; today unless given
    #[arg(long, default_value = "", hide_default_value = true)]
    day: String,
    /// Only this consumer's; "(none)" for requests without
    #[arg(long, default_value = "", hide_default_value = true)]
    consumer: String,
    /// Most sessions to show; 0 for all
    #[arg(long, default_value_t = 20)]
    limit: usize,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Args)]
struct SessionArgs {
    /// Its id, as the client gave it
    session: String,
    /// Whose; leave out where the requests had no consumer
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
            from_day: self.from.clone().or(first).or_else(|| self.to.clone()).unwrap_or_default(),
            to_day: self.to.clone().unwrap_or_default(),
            by: by.map(Into::into).collect(),
            consumer: self.consumer.clone(),
            model: self.model.clone(),
            route: self.route.clone(),
            page_size: 0,
            page_token: String::new(),
        }
    }

    async fn run(self) -> anyhow::Result<()> {
        let has = |dimension| self.by.contains(&dimension);
        let by = By {
            day: has(Dimension::Day),
            consumer: has(Dimension::Consumer),
            model: has(Dimension::Model),
            route: has(Dimension::Route),
        };
        let limit = self.limit.unwrap_or(if self.ask.output == Output::Table { 50 } else { 0 });
        let mut client = self.ask.admin().await?;
        let mut request = self.request();
        let (mut rows, mut count) = (Vec::new(), 0);
        if self.ask.output == Output::Csv {
            put(&text::csv_usage_header(by))?;
        }
        let (total, more) = loop {
            request.page_size = page_size(limit, count, ROWS_MAX);
            let page = client.query_usage(request.clone()).await.map_err(answered)?.into_inner();
            let total = sums(page.total);
            count += page.rows.len();
            rows.extend(page.rows.into_iter().map(|row| {
                let usage = sums(row.usage);
                Row::new(Day::parse(&row.day), &row.consumer, &row.model, &row.route, usage)
            }));
            if self.ask.output == Output::Csv {
                // Written as they come: nothing gathers.
                let mut out = String::new();
                rows.iter().for_each(|row| text::csv_usage_row(&mut out, by, row));
                put(&out)?;
                rows.clear();
            }
            let full = limit > 0 && count >= limit;
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() || full {
                break (total, !request.page_token.is_empty());
            }
        };
        match self.ask.output {
            Output::Csv => {}
            Output::Json => {
                let rows: Vec<Value> = rows.iter().map(|row| row_json(by, row)).collect();
                put_json(&json!({"rows": rows, "total": sums_json(&total), "more": more}))?;
            }
            Output::Table => {
                usage_table(by, &rows, &total).put()?;
                if more {
                    put("(more rows: see --limit)\n")?;
                }
            }
        }
        Ok(())
    }
}

impl SessionsArgs {
    async fn run(self) -> anyhow::Result<()> {
        let mut client = self.ask.admin().await?;
        let mut sessions: Vec<(SessionKey, SessionSum)> = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = pb::ListSessionsRequest {
                day: self.day.clone(),
                consumer: self.consumer.clone(),
                page_size: page_size(self.limit, sessions.len(), SESSIONS_MAX),
                page_token,
            };
            let page = client.list_sessions(request).await.map_err(answered)?.into_inner();
            sessions.extend(page.sessions.into_iter().map(|row| {
                let sum = SessionSum { last_ms: row.last_ms, usage: sums(row.usage) };
                (SessionKey::new(&row.consumer, &row.session), sum)
            }));
            page_token = page.next_page_token;
            if page_token.is_empty() || (self.limit > 0 && sessions.len() >= self.limit) {
                break;
            }
        }
        match self.ask.output {
            Output::Csv => {
                let mut out = text::csv_sessions_header();
                sessions.iter().for_each(|(key, sum)| text::csv_session_row(&mut out, key, sum));
                put(&out)?;
            }
            Output::Json => {
                let sessions: Vec<Value> = sessions
                    .iter()
                    .map(|(key, sum)| {
                        json!({"session": key.session(), "consumer": key.consumer(), "last_ms": sum.last_ms,
                               "usage": sums_json(&sum.usage)})
                    })
                    .collect();
                put_json(&json!({"sessions": sessions}))?;
            }
            Output::Table => sessions_table(&sessions).put()?,
        }
        Ok(())
    }
}

impl SessionArgs {
    async fn run(self) -> anyhow::Result<()> {
        let request = pb::GetSessionRequest { session: self.session, consumer: self.consumer };
        let answer = self.ask.admin().await?.get_session(request).await.map_err(answered)?.into_inner();
        let usage = sums(answer.usage);
        let turns: Vec<Turn> = answer.turns.into_iter().map(turn).collect();
        match self.ask.output {
            Output::Csv => {
                let mut out = text::csv_turns_header();
                turns.iter().for_each(|turn| text::csv_turn_row(&mut out, turn));
                put(&out)?;
            }
            Output::Json => {
                let turns: Vec<Value> = turns.iter().map(turn_json).collect();
                put_json(&json!({"session": answer.session, "consumer": answer.consumer,
                                 "usage": sums_json(&usage), "turns": turns}))?;
            }
            Output::Table => {
                turns_table(&turns).put()?;
                let Sums { requests, tokens, cost, .. } = usage;
                let not_kept = requests.saturating_sub(turns.len() as u64);
                put(&format!(
                    "{requests} turns, {not_kept} of them no longer kept; {} input, {} output tokens; cost {}\n",
                    tokens.input,
                    tokens.output,
                    text::decimal(cost)
                ))?;
            }
        }
        Ok(())
    }
}

/// What is left up to the limit, at most a page.
fn page_size(limit: usize, have: usize, max: u32) -> u32 {
    match limit {
        0 => max,
        limit => u32::try_from(limit - have.min(limit)).unwrap_or(max).clamp(1, max),
    }
}

fn tokens(t: Option<pb::Tokens>) -> Tokens {
    let t = t.unwrap_or_default();
    Tokens { input: t.input, output: t.output, cached_input: t.cached_input, reasoning: t.reasoning }
}

fn sums(usage: Option<pb::Usage>) -> Sums {
    let u = usage.unwrap_or_default();
    Sums { requests: u.requests, estimated: u.estimated, tokens: tokens(u.tokens), cost: u.cost }
}

fn turn(t: pb::Turn) -> Turn {
    Turn {
        at_ms: t.at_ms,
        model: t.model.into(),
        route: t.route.into(),
        status: u16::try_from(t.status).unwrap_or_default(),
        outcome: Outcome::from_number(t.outcome),
        tokens: tokens(t.tokens),
        estimated: t.estimated,
        cost: t.cost,
        first_token_ms: t.first_token_ms,
        total_ms: t.total_ms,
    }
}

fn sums_json(u: &Sums) -> Value {
    let mut tokens = json!(u.tokens);
    tokens["total"] = json!(u.tokens.total());
    json!({"requests": u.requests, "estimated": u.estimated, "tokens": tokens, "cost": u.cost,
           "cost_decimal": text::decimal(u.cost)})
}

fn row_json(by: By, row: &Row) -> Value {
    let mut out = sums_json(&row.usage);
    let [consumer, model, route] = row.names();
    if let Some(day) = row.day {
        out["day"] = json!(day.to_string());
    }
    for (told, name, value) in
        [(by.consumer, "consumer", consumer), (by.model, "model", model), (by.route, "route", route)]
    {
        if told {
            out[name] = json!(value);
        }
    }
    out
}

fn turn_json(t: &Turn) -> Value {
    json!({"at_ms": t.at_ms, "model": &*t.model, "route": &*t.route, "status": t.status, "outcome": t.outcome,
           "tokens": t.tokens, "estimated": t.estimated, "cost": t.cost,
           "first_token_ms": t.first_token_ms, "total_ms": t.total_ms})
}

/// Lines of cells under columns.
struct Table {
    columns: Vec<Column>,
    lines: Vec<Vec<String>>,
}

impl Table {
    fn new(names: &[&'static str], numbers: &[&'static str]) -> Self {
        let columns =
            names.iter().map(|name| texts("", name)).chain(numbers.iter().map(|name| number("", name)));
        Self { columns: columns.collect(), lines: Vec::new() }
    }

    fn put(&self) -> anyhow::Result<()> {
        Ok(put(&table::lines(&self.columns, &self.lines, terminal_width()))?)
    }
}

fn shown(name: &str) -> String {
    if name.is_empty() { NONE.to_owned() } else { name.to_owned() }
}

fn sums_cells(u: &Sums) -> impl Iterator<Item = String> + use<> {
    let t = u.tokens;
    let counts = [u.requests, u.estimated, t.input, t.output, t.cached_input, t.reasoning];
    let cost = text::decimal(u.cost);
    counts.into_iter().map(|count| count.to_string()).chain([cost])
}

const SUMS: [&str; 7] = ["REQUESTS", "ESTIMATED", "INPUT", "OUTPUT", "CACHED", "REASONING", "COST"];

fn usage_table(by: By, rows: &[Row], total: &Sums) -> Table {
    let dimensions = [(by.day, "DAY"), (by.consumer, "CONSUMER"), (by.model, "MODEL"), (by.route, "ROUTE")];
    let names: Vec<&str> = dimensions.iter().filter(|(told, _)| *told).map(|(_, name)| *name).collect();
    let mut table = Table::new(&names, &SUMS);
    for row in rows {
        let [consumer, model, route] = row.names().map(shown);
        let day = row.day.map(|day| day.to_string()).unwrap_or_default();
        let values = dimensions.iter().zip([day, consumer, model, route]);
        let values = values.filter(|((told, _), _)| *told).map(|(_, value)| value);
        table.lines.push(values.chain(sums_cells(&row.usage)).collect());
    }
    if !names.is_empty() {
        let first = std::iter::once("total".to_owned());
        let empty = std::iter::repeat_n(String::new(), names.len() - 1);
        table.lines.push(first.chain(empty).chain(sums_cells(total)).collect());
    }
    table
}

fn sessions_table(sessions: &[(SessionKey, SessionSum)]) -> Table {
    let mut table = Table::new(&["SESSION", "CONSUMER", "LAST"], &SUMS);
    for (key, sum) in sessions {
        let texts = [key.session().to_owned(), shown(key.consumer()), text::moment(sum.last_ms)];
        table.lines.push(texts.into_iter().chain(sums_cells(&sum.usage)).collect());
    }
    table
}

fn turns_table(turns: &[Turn]) -> Table {
    let numbers = ["STATUS", "INPUT", "OUTPUT", "CACHED", "REASONING", "COST", "FIRST-MS", "TOTAL-MS"];
    let mut table = Table::new(&["AT", "MODEL", "ROUTE", "OUTCOME"], &numbers);
    for turn in turns {
        let t = turn.tokens;
        let reckoned = if turn.estimated { "~" } else { "" };
        table.lines.push(vec![
            text::moment(turn.at_ms),
            shown(&turn.model),
            shown(&turn.route),
            turn.outcome.name().to_owned(),
            turn.status.to_string(),
            format!("{reckoned}{}", t.input),
            format!("{reckoned}{}", t.output),
            t.cached_input.to_string(),
            t.reasoning.to_string(),
            text::decimal(turn.cost),
            turn.first_token_ms.to_string(),
            turn.total_ms.to_string(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_fill_up_to_the_limit() {
        assert_eq!([page_size(0, 5, 10), page_size(7, 5, 10), page_size(99, 0, 10)], [10, 2, 10]);
    }
}
