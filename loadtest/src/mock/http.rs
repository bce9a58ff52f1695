//! The HTTP face of a host: OpenAI's chat completions, vLLM's metrics, and its own `/stats`.

use std::{net::TcpListener, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;

use super::{
    CONSUMER, FAIL, Failure, HOST, OUTPUT_TOKENS, PROMPT_TOKENS, Served, ServedEnd, TOKEN_BYTES,
    body::{CREATED, Events, MockBody, Shape, Usage},
    host::{Host, Ticket},
};

const BODY_BYTES_MAX: usize = 16 << 20;
const OUTPUT_TOKENS_DEFAULT: u32 = 128;
const OUTPUT_TOKENS_MAX: u32 = 1 << 20;
const TOKEN_BYTES_DEFAULT: u32 = 4;
const TOKEN_BYTES_MAX: u32 = 64;

/// Accepts connections until the runtime ends.
pub(crate) async fn serve(host: Arc<Host>, listener: TcpListener) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, most likely: give connections time to close.
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let host = Arc::clone(&host);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&host), request));
            // An error here is a client that went away, or a failure that was asked for.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// The connection is to be closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("reset on purpose")]
struct Reset;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ChatRequest {
    stream: bool,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    stream_options: Option<StreamOptions>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StreamOptions {
    include_usage: bool,
}

async fn answer(host: Arc<Host>, request: Request<Incoming>) -> Result<Response<MockBody>, Reset> {
    let path = request.uri().path().to_owned();
    let mut response = match (request.method(), path.as_str()) {
        (&Method::POST, "/v1/chat/completions" | "/v1/completions") => chat(&host, request).await?,
        (&Method::GET, "/metrics") => text("text/plain; version=0.0.4", metrics(&host)),
        (&Method::GET, "/stats") => {
            text("application/json", serde_json::to_string(&host.stats()).unwrap_or_default())
        }
        (&Method::GET, "/health") => text("text/plain", String::new()),
        _ => plain(StatusCode::NOT_FOUND, Bytes::new()),
    };
    if let Ok(address) = HeaderValue::from_str(&host.address.to_string()) {
        response.headers_mut().insert(HOST, address);
    }
    Ok(response)
}

async fn chat(host: &Arc<Host>, request: Request<Incoming>) -> Result<Response<MockBody>, Reset> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
        return Ok(error(StatusCode::PAYLOAD_TOO_LARGE, "the request body could not be read"));
    };
    let body = body.to_bytes();
    let asked: ChatRequest = match serde_json::from_slice(&body) {
        Ok(asked) => asked,
        Err(_) if body.is_empty() => ChatRequest::default(),
        Err(fault) => return Ok(error(StatusCode::BAD_REQUEST, &format!("not a chat request: {fault}"))),
    };
    let failure = match head.headers.get(FAIL).map(|v| v.to_str().ok().and_then(Failure::parse)) {
        Some(None) => return Ok(error(StatusCode::BAD_REQUEST, "unknown x-mock-fail")),
        Some(Some(failure)) => Some(failure),
        None => None,
    };
    let usage = Usage {
        prompt: number(&head.headers, PROMPT_TOKENS).unwrap_or((body.len() / 4) as u32).max(1),
        output: number(&head.headers, OUTPUT_TOKENS)
            .or(asked.max_tokens)
            .or(asked.max_completion_tokens)
            .unwrap_or(OUTPUT_TOKENS_DEFAULT)
            .clamp(1, OUTPUT_TOKENS_MAX),
    };
    let token_bytes = number(&head.headers, TOKEN_BYTES).unwrap_or(TOKEN_BYTES_DEFAULT);
    let shape = Shape {
        usage,
        token_bytes: token_bytes.clamp(1, TOKEN_BYTES_MAX) as usize,
        tells_usage: asked.stream_options.is_some_and(|options| options.include_usage),
        failure,
    };
    match failure {
        Some(Failure::Unavailable) => {
            return Ok(error(StatusCode::SERVICE_UNAVAILABLE, "unavailable on purpose"));
        }
        Some(Failure::NotFoundEmpty) => return Ok(plain(StatusCode::NOT_FOUND, Bytes::new())),
        Some(Failure::Reset) => return Err(Reset),
        _ => {}
    }
    let consumer = head.headers.get(CONSUMER).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let ticket = host.accept(Served {
        consumer: consumer.to_owned(),
        prompt: usage.prompt,
        output: usage.output,
        ..Served::default()
    });
    if failure == Some(Failure::Hang) {
        return std::future::pending().await;
    }
    host.start(&ticket).await;
    if asked.stream || failure.is_some() {
        let mut response = Response::new(Either::Right(Events::new(ticket, shape)));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        return Ok(response);
    }
    whole(ticket, shape).await
}

/// Waits for the last token and answers in one piece.
async fn whole(mut ticket: Ticket, shape: Shape) -> Result<Response<MockBody>, Reset> {
    loop {
        match ticket.pieces.recv().await {
            Some(piece) if piece.done => break,
            Some(_) => {}
            None => return Err(Reset),
        }
    }
    ticket.tell(ticket.output, Some(ServedEnd::Complete));
    Ok(text(
        "application/json",
        format!(
            "{{\"id\":\"mock-{}\",\"object\":\"chat.completion\",\"created\":{CREATED},\"model\":\"mock\",\
             \"choices\":[{{\"index\":0,\"message\":{{\"role\":\"assistant\",\"content\":\"{}\"}},\"finish_reason\":\"stop\"}}],\"usage\":{}}}",
            ticket.id,
            shape.text(shape.usage.output),
            shape.usage.json()
        ),
    ))
}

fn metrics(host: &Host) -> String {
    let stats = host.stats();
    let totals = host.totals();
    let kv = host.kv_usage();
    let mut out = String::new();
    for (name, kind, value) in [
        ("num_requests_running", "gauge", stats.running as f64),
        ("num_requests_waiting", "gauge", stats.waiting as f64),
        ("gpu_cache_usage_perc", "gauge", kv),
        ("kv_cache_usage_perc", "gauge", kv),
        ("prompt_tokens_total", "counter", totals.prompt_tokens as f64),
        ("generation_tokens_total", "counter", totals.generated_tokens as f64),
    ] {
        out.push_str(&format!("# TYPE vllm:{name} {kind}\nvllm:{name}{{model_name=\"mock\"}} {value}\n"));
    }
    out
}

fn number(headers: &HeaderMap, name: &str) -> Option<u32> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

fn plain(status: StatusCode, body: Bytes) -> Response<MockBody> {
    let mut response = Response::new(Either::Left(Full::new(body)));
    *response.status_mut() = status;
    response
}

fn text(content_type: &'static str, body: String) -> Response<MockBody> {
    let mut response = plain(StatusCode::OK, Bytes::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn error(status: StatusCode, message: &str) -> Response<MockBody> {
    let body = serde_json::json!({"error": {"message": message, "type": "mock"}}).to_string();
    let mut response = plain(status, Bytes::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
