//! Usage over HTTP, as JSON or CSV.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use evenkeel_domain::{
    DomainError, StoreError,
    limit::price::Tokens,
    usage::{SessionKey, SessionSum, Turn, Usage},
};
use evenkeel_engine::ledger::{
    Ledger,
    query::{By, Query, Row},
    text,
};
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::{Map, Value, json};

use super::Http;

/// The default and the largest number of rows, and of sessions, on a page.
const ROWS: (usize, usize) = (100, 10_000);
const SESSIONS: (usize, usize) = (20, 1000);
/// Longest query string read.
const QUERY_BYTES_MAX: usize = 8192;

pub(super) fn routes() -> Router<Arc<Http>> {
    Router::new()
        .route("/api/v1/usage", get(usage))
        .route("/api/v1/usage/sessions", get(sessions))
        .route("/api/v1/usage/sessions/{session}", get(session))
}

/// An error with its HTTP status.
struct Fault(DomainError);

impl From<DomainError> for Fault {
    fn from(error: DomainError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let (status, code) = match &self.0 {
            DomainError::Invalid { .. } => (StatusCode::BAD_REQUEST, "invalid_argument"),
            DomainError::NotFound { .. } => (StatusCode::NOT_FOUND, "not_found"),
            DomainError::Store { source, .. } => match source {
                StoreError::Unavailable(_) | StoreError::Timeout(_) => {
                    (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
                }
                StoreError::Overloaded(_) => (StatusCode::TOO_MANY_REQUESTS, "resource_exhausted"),
                StoreError::Script { .. } | StoreError::Corrupt { .. } => {
                    (StatusCode::INTERNAL_SERVER_ERROR, "internal")
                }
            },
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        let mut message = self.0.to_string();
        if let DomainError::Store { source, .. } = &self.0 {
            message = format!("{message}: {source}");
        }
        let mut error = json!({"code": code, "message": message});
        if let DomainError::Invalid { field, expected, got } = &self.0 {
            error["field"] = json!(field);
            error["expected"] = json!(expected);
            error["got"] = json!(got);
        }
        (status, Json(json!({"error": error}))).into_response()
    }
}

/// What a request asks for. Parameters that are not known are refused: a filter that is misspelt must not answer for all.
struct Asked {
    values: Vec<(&'static str, String)>,
    csv: bool,
}

impl Asked {
    fn read(
        query: Option<&str>,
        headers: &HeaderMap,
        known: &'static [&'static str],
    ) -> Result<Self, DomainError> {
        let query = query.unwrap_or_default();
        if query.len() > QUERY_BYTES_MAX {
            let got = format!("{} bytes", query.len());
            return Err(DomainError::invalid("query", "at most 8192 bytes", &got));
        }
        let mut values: Vec<(&'static str, String)> = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let Some(known) = known.iter().find(|known| **known == name) else {
                let expected = "parameters that docs/usage.md names for this path";
                return Err(DomainError::invalid("query", expected, &format!("{name:?}")));
            };
            match values.iter_mut().find(|(name, _)| name == known) {
                // ?by=model&by=day is ?by=model,day.
                Some((_, before)) if *known == "by" => {
                    before.push(',');
                    before.push_str(&value);
                }
                Some(_) => return Err(DomainError::invalid(known, "given once", "more than once")),
                None => values.push((known, value.into_owned())),
            }
        }
        let mut asked = Self { values, csv: false };
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        asked.csv = match asked.get("format") {
            "csv" => true,
            "json" => false,
            "" => accept.split(',').any(|kind| kind.trim().starts_with("text/csv")),
            other => return Err(DomainError::invalid("format", "json or csv", &format!("{other:?}"))),
        };
        Ok(asked)
    }

    fn get(&self, name: &str) -> &str {
        self.values.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }

    fn page_size(&self, (default, max): (usize, usize), range: &'static str) -> Result<usize, DomainError> {
        match self.get("page_size") {
            "" => Ok(default),
            text => text
                .parse()
                .ok()
                .filter(|n| (1..=max).contains(n))
                .ok_or_else(|| DomainError::invalid("page_size", range, &format!("{text:?}"))),
        }
    }

    fn is_paged(&self) -> bool {
        !self.get("page_size").is_empty() || !self.get("page_token").is_empty()
    }
}

async fn usage(
    State(http): State<Arc<Http>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let known = &["from", "to", "by", "consumer", "model", "route", "page_size", "page_token", "format"];
    let asked = Asked::read(query.as_deref(), &headers, known)?;
    let by = By::parse(asked.get("by")).ok_or_else(|| {
        let got = format!("{:?}", asked.get("by"));
        DomainError::invalid("by", "of day, consumer, model and route, separated by commas", &got)
    })?;
    let query = Query {
        days: http.ledger.days(asked.get("from"), asked.get("to"), ["from", "to"])?,
        by,
        consumer: asked.get("consumer").to_owned(),
        model: asked.get("model").to_owned(),
        route: asked.get("route").to_owned(),
    };
    let size = asked.page_size(ROWS, "1..10000")?;
    if asked.csv && !asked.is_paged() {
        return export(&http.ledger, query).await;
    }
    let (from, to) = (*query.days.start(), *query.days.end());
    let page = http.ledger.query(&query, size, asked.get("page_token")).await?;
    if asked.csv {
        let mut out = text::csv_usage_header(by);
        page.rows.iter().for_each(|row| text::csv_usage_row(&mut out, by, row));
        return Ok(csv("usage", Body::from(out)));
    }
    let rows: Vec<Value> = page.rows.iter().map(|row| row_json(by, row)).collect();
    let body = json!({
        "from": from.to_string(),
        "to": to.to_string(),
        "rows": rows,
        "total": usage_json(&page.total),
        "next_page_token": page.next,
    });
    Ok(Json(body).into_response())
}

/// All rows, a day's at a time where told apart by day. What fails before the first of them is told as an error; after
/// it the answer ends early, without its last chunk.
async fn export(ledger: &Arc<Ledger>, query: Query) -> Result<Response, Fault> {
    let by = query.by;
    let mut parts = Box::pin(ledger.export(query));
    let first = parts.try_next().await?.unwrap_or_default();
    let parts = futures::stream::once(std::future::ready(Ok(first))).chain(parts);
    let mut header = Some(text::csv_usage_header(by));
    let lines = parts.map_ok(move |rows| {
        let mut out = header.take().unwrap_or_default();
        rows.iter().for_each(|row| text::csv_usage_row(&mut out, by, row));
        out
    });
    let lines = lines.map_err(|error| std::io::Error::other(error.to_string()));
    Ok(csv("usage", Body::from_stream(lines)))
}

async fn sessions(
    State(http): State<Arc<Http>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let asked =
        Asked::read(query.as_deref(), &headers, &["day", "consumer", "page_size", "page_token", "format"])?;
    let days = http.ledger.days(asked.get("day"), asked.get("day"), ["day", "day"])?;
    let (day, size) = (*days.start(), asked.page_size(SESSIONS, "1..1000")?);
    let page = http.ledger.sessions(day, asked.get("consumer"), size, asked.get("page_token")).await?;
    if asked.csv {
        let mut out = text::csv_sessions_header();
        page.sessions.iter().for_each(|(key, sum)| text::csv_session_row(&mut out, key, sum));
        return Ok(csv("sessions", Body::from(out)));
    }
    let sessions: Vec<Value> = page.sessions.iter().map(|(key, sum)| session_json(key, sum)).collect();
    let body = json!({"day": day.to_string(), "sessions": sessions, "next_page_token": page.next});
    Ok(Json(body).into_response())
}

async fn session(
    State(http): State<Arc<Http>>,
    Path(session): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Fault> {
    let asked = Asked::read(query.as_deref(), &headers, &["consumer", "format"])?;
    let session = http.ledger.session(asked.get("consumer"), &session).await?;
    if asked.csv {
        let mut out = text::csv_turns_header();
        session.turns.iter().for_each(|turn| text::csv_turn_row(&mut out, turn));
        return Ok(csv("session", Body::from(out)));
    }
    let mut body = session_json(&session.key, &session.sum);
    body["turns"] = session.turns.iter().map(turn_json).collect();
    Ok(Json(body).into_response())
}

fn csv(name: &str, body: Body) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}.csv\"")),
    ];
    (headers, body).into_response()
}

fn tokens_json(t: &Tokens) -> Value {
    json!({
        "input": t.input,
        "output": t.output,
        "cached_input": t.cached_input,
        "reasoning": t.reasoning,
        "total": t.total(),
    })
}

fn usage_json(usage: &Usage) -> Value {
    json!({
        "requests": usage.requests,
        "estimated": usage.estimated,
        "tokens": tokens_json(&usage.tokens),
        "cost": usage.cost,
    })
}

/// Only what was asked to be told apart.
fn row_json(by: By, row: &Row) -> Value {
    let mut out = Map::new();
    if let Some(day) = row.day {
        out.insert("day".to_owned(), json!(day.to_string()));
    }
    let [consumer, model, route] = row.names();
    let told = [(by.consumer, "consumer", consumer), (by.model, "model", model), (by.route, "route", route)];
    for (told, name, value) in told {
        if told {
            out.insert(name.to_owned(), json!(value));
        }
    }
    if let Value::Object(usage) = usage_json(&row.usage) {
        out.extend(usage);
    }
    Value::Object(out)
}

fn session_json(key: &SessionKey, sum: &SessionSum) -> Value {
    let mut out = json!({"session": key.session(), "consumer": key.consumer(), "last_ms": sum.last_ms});
    out["usage"] = usage_json(&sum.usage);
    out
}

fn turn_json(turn: &Turn) -> Value {
    json!({
        "at_ms": turn.at_ms,
        "model": &*turn.model,
        "route": &*turn.route,
        "status": turn.status,
        "outcome": turn.outcome,
        "tokens": tokens_json(&turn.tokens),
        "estimated": turn.estimated,
        "cost": turn.cost,
        "first_token_ms": turn.first_token_ms,
        "total_ms": turn.total_ms,
    })
}
