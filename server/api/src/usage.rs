//! Operations on usage, and on sessions with their turns.

use evenkeel_domain::{
    DomainError,
    limit::price::Tokens,
    usage::{SessionKey, SessionSum, Turn, Usage},
};
use evenkeel_engine::ledger::query::{By, Query, Row};
use evenkeel_proto::v1::{
    self as pb, GetSessionRequest, ListSessionsRequest, ListSessionsResponse, QueryUsageRequest,
    QueryUsageResponse, Session, SessionRow, TokenUsage, UsageDimension, UsageRow,
};
use futures::{Stream, TryStreamExt as _};

use crate::{Api, ApiError, Result};

/// Default and maximum number of rows, and of sessions, on a page.
const ROWS: (usize, usize) = (100, 10_000);
const SESSIONS: (usize, usize) = (20, 1000);

impl Api {
    pub async fn query_usage(&self, request: QueryUsageRequest) -> Result<QueryUsageResponse> {
        let size = page_size(ROWS, request.page_size, "at most 10000")?;
        let query = self.query(&request)?;
        let page = self.ledger.query(&query, size, &request.page_token).await?;
        Ok(QueryUsageResponse {
            from: query.days.start().to_string(),
            to: query.days.end().to_string(),
            rows: page.rows.iter().map(|row| encode_row(query.by, row)).collect(),
            next_page_token: page.next,
            total: Some(encode_usage(&page.total)),
        })
    }

    /// Streams all rows. If the dimensions include the day, reads one day at a time.
    ///
    /// # Errors
    /// If the request is invalid.
    pub fn export_usage(
        &self,
        request: &QueryUsageRequest,
    ) -> Result<impl Stream<Item = Result<Vec<UsageRow>>> + Send + use<>> {
        let query = self.query(request)?;
        let by = query.by;
        let parts = self.ledger.export(query).map_err(ApiError::from);
        Ok(parts.map_ok(move |rows| rows.iter().map(|row| encode_row(by, row)).collect()))
    }

    pub async fn list_sessions(&self, request: ListSessionsRequest) -> Result<ListSessionsResponse> {
        let ListSessionsRequest { day, consumer, page_size: size, page_token } = request;
        let size = page_size(SESSIONS, size, "at most 1000")?;
        let day = *self.ledger.days(&day, &day, ["day", "day"])?.start();
        let page = self.ledger.sessions(day, &consumer, size, &page_token).await?;
        let sessions = page.sessions.iter().map(|(key, sum)| encode_session(key, sum)).collect();
        Ok(ListSessionsResponse { day: day.to_string(), sessions, next_page_token: page.next })
    }

    pub async fn get_session(&self, request: GetSessionRequest) -> Result<Session> {
        let session = self.ledger.session(&request.consumer, &request.session).await?;
        Ok(Session {
            session: session.key.session().to_owned(),
            consumer: session.key.consumer().to_owned(),
            last_ms: session.sum.last_ms,
            usage: Some(encode_usage(&session.sum.usage)),
            turns: session.turns.iter().map(encode_turn).collect(),
        })
    }

    fn query(&self, request: &QueryUsageRequest) -> Result<Query> {
        let mut by = By::default();
        for dimension in request.by() {
            match dimension {
                UsageDimension::Day => by.day = true,
                UsageDimension::Consumer => by.consumer = true,
                UsageDimension::Model => by.model = true,
                UsageDimension::Route => by.route = true,
                UsageDimension::Unspecified => {
                    let expected = "dimensions this version knows: day, consumer, model, route";
                    return Err(DomainError::invalid("by", expected, "another").into());
                }
            }
        }
        Ok(Query {
            days: self.ledger.days(&request.from, &request.to, ["from", "to"])?,
            by,
            consumer: request.consumer.clone(),
            model: request.model.clone(),
            route: request.route.clone(),
        })
    }
}

fn page_size((default, max): (usize, usize), given: u32, range: &'static str) -> Result<usize> {
    match given as usize {
        0 => Ok(default),
        n if n <= max => Ok(n),
        n => Err(DomainError::invalid("page_size", range, &n.to_string()).into()),
    }
}

pub(crate) fn tokens(tokens: &Tokens) -> TokenUsage {
    TokenUsage {
        input: tokens.input,
        output: tokens.output,
        cached_input: tokens.cached_input,
        reasoning: tokens.reasoning,
        total: tokens.total(),
    }
}

fn encode_usage(usage: &Usage) -> pb::Usage {
    pb::Usage {
        requests: usage.requests,
        estimated: usage.estimated,
        tokens: Some(tokens(&usage.tokens)),
        cost: usage.cost,
    }
}

fn encode_row(by: By, row: &Row) -> UsageRow {
    let [consumer, model, route] = row.names();
    let named = |is: bool, name: &str| is.then(|| name.to_owned());
    UsageRow {
        day: row.day.map(|day| day.to_string()),
        consumer: named(by.consumer, consumer),
        model: named(by.model, model),
        route: named(by.route, route),
        requests: row.usage.requests,
        estimated: row.usage.estimated,
        tokens: Some(tokens(&row.usage.tokens)),
        cost: row.usage.cost,
    }
}

fn encode_session(key: &SessionKey, sum: &SessionSum) -> SessionRow {
    SessionRow {
        session: key.session().to_owned(),
        consumer: key.consumer().to_owned(),
        last_ms: sum.last_ms,
        usage: Some(encode_usage(&sum.usage)),
    }
}

fn encode_turn(turn: &Turn) -> pb::Turn {
    pb::Turn {
        at_ms: turn.at_ms,
        model: turn.model.to_string(),
        route: turn.route.to_string(),
        status: u32::from(turn.status),
        outcome: i32::from(turn.outcome.number()),
        tokens: Some(tokens(&turn.tokens)),
        estimated: turn.estimated,
        cost: turn.cost,
        first_token_ms: turn.first_token_ms,
        total_ms: turn.total_ms,
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_domain::usage::Outcome;
    use evenkeel_proto::json::Named as _;

    use super::*;

    #[test]
    fn outcomes_have_the_numbers_of_the_api() {
        for number in 1..8 {
            assert_eq!(pb::Outcome::short_name(number), Some(Outcome::from_number(number).name()));
        }
        assert_eq!(pb::Outcome::short_name(0), None);
    }
}
