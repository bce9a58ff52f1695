//! Usage: decode, ask the ledger, encode.

use evenkeel_domain::{
    DomainError,
    limit::price::Tokens,
    usage::{SessionKey, SessionSum, Turn, Usage},
};
use evenkeel_engine::ledger::{
    Ledger,
    query::{By, Query, Row},
};
use evenkeel_proto::v1::{
    self as pb, GetSessionRequest, ListSessionsRequest, ListSessionsResponse, QueryUsageRequest,
    QueryUsageResponse, UsageDimension,
};
use tonic::Status;

use crate::transport::status::to_status;

/// The default and the largest number of rows, and of sessions, on a page.
const ROWS: (usize, usize) = (100, 10_000);
const SESSIONS: (usize, usize) = (20, 1000);

fn page_size((default, max): (usize, usize), given: u32, range: &'static str) -> Result<usize, DomainError> {
    match given as usize {
        0 => Ok(default),
        n if n <= max => Ok(n),
        n => Err(DomainError::invalid("page_size", range, &n.to_string())),
    }
}

pub(super) async fn query(ledger: &Ledger, request: QueryUsageRequest) -> Result<QueryUsageResponse, Status> {
    let answer = async {
        let mut by = By::default();
        for dimension in request.by() {
            match dimension {
                UsageDimension::Day => by.day = true,
                UsageDimension::Consumer => by.consumer = true,
                UsageDimension::Model => by.model = true,
                UsageDimension::Route => by.route = true,
                UsageDimension::Unspecified => {
                    let expected = "dimensions that this release knows: day, consumer, model, route";
                    return Err(DomainError::invalid("by", expected, "another"));
                }
            }
        }
        let size = page_size(ROWS, request.page_size, "at most 10000")?;
        let days = ledger.days(&request.from_day, &request.to_day, ["from_day", "to_day"])?;
        let QueryUsageRequest { consumer, model, route, page_token, .. } = request;
        ledger.query(&Query { days, by, consumer, model, route }, size, &page_token).await
    };
    let page = answer.await.map_err(|e| to_status(&e))?;
    Ok(QueryUsageResponse {
        rows: page.rows.iter().map(encode_row).collect(),
        next_page_token: page.next,
        total: Some(encode_usage(&page.total)),
    })
}

pub(super) async fn sessions(
    ledger: &Ledger,
    request: ListSessionsRequest,
) -> Result<ListSessionsResponse, Status> {
    let ListSessionsRequest { day, consumer, page_size: size, page_token } = request;
    let answer = async {
        let size = page_size(SESSIONS, size, "at most 1000")?;
        let days = ledger.days(&day, &day, ["day", "day"])?;
        ledger.sessions(*days.start(), &consumer, size, &page_token).await
    };
    let page = answer.await.map_err(|e| to_status(&e))?;
    Ok(ListSessionsResponse {
        sessions: page.sessions.iter().map(|(key, sum)| encode_session(key, sum)).collect(),
        next_page_token: page.next,
    })
}

pub(super) async fn session(ledger: &Ledger, request: GetSessionRequest) -> Result<pb::Session, Status> {
    let session = ledger.session(&request.consumer, &request.session).await.map_err(|e| to_status(&e))?;
    Ok(pb::Session {
        session: session.key.session().to_owned(),
        consumer: session.key.consumer().to_owned(),
        turns: session.turns.iter().map(encode_turn).collect(),
        usage: Some(encode_usage(&session.sum.usage)),
    })
}

fn encode_tokens(tokens: &Tokens) -> pb::Tokens {
    pb::Tokens {
        input: tokens.input,
        output: tokens.output,
        cached_input: tokens.cached_input,
        reasoning: tokens.reasoning,
    }
}

fn encode_usage(usage: &Usage) -> pb::Usage {
    pb::Usage {
        requests: usage.requests,
        estimated: usage.estimated,
        tokens: Some(encode_tokens(&usage.tokens)),
        cost: usage.cost,
    }
}

fn encode_row(row: &Row) -> pb::UsageRow {
    let [consumer, model, route] = row.names().map(str::to_owned);
    let day = row.day.map(|day| day.to_string()).unwrap_or_default();
    pb::UsageRow { day, consumer, model, route, usage: Some(encode_usage(&row.usage)) }
}

fn encode_session(key: &SessionKey, sum: &SessionSum) -> pb::SessionRow {
    pb::SessionRow {
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
        tokens: Some(encode_tokens(&turn.tokens)),
        estimated: turn.estimated,
        cost: turn.cost,
        first_token_ms: turn.first_token_ms,
        total_ms: turn.total_ms,
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_domain::usage::Outcome;

    use super::*;

    #[test]
    fn outcomes_have_the_numbers_of_the_api() {
        for number in 0..8 {
            let outcome = Outcome::from_number(number);
            let name = pb::Outcome::try_from(number).unwrap().as_str_name().to_owned();
            let ours = format!("OUTCOME_{}", outcome.name().to_uppercase());
            assert!(name == ours || (number == 0 && name == "OUTCOME_UNSPECIFIED"), "{name} {ours}");
        }
    }
}
