//! The HTTP interface of a host: OpenAI's chat completions, vLLM's metrics, and `/stats`.

use std::{net::TcpListener, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;

use super::{
    CONSUMER, FAIL, Failure, HOST, OUTPUT_TOKENS, PROMPT_TOKENS, Served, ServedEnd, TOKEN_BYTES,
    body::{CREATED, EventStream, MockBody, ResponseSpec, Usage},
    host::{Host, Sequence},
    metrics,
};
use crate::workload::prompt;

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
            // The process probably has no free file descriptors. Give connections time to close.
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let host = Arc::clone(&host);
        tokio::spawn(async move {
            let service = service_fn(move |request| handle(Arc::clone(&host), request));
            // An error means that the client disconnected or that it requested a failure.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// Error that closes the connection without a response.
#[derive(Debug, thiserror::Error)]
#[error("connection reset as requested")]
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

async fn handle(host: Arc<Host>, request: Request<Incoming>) -> Result<Response<MockBody>, Reset> {
    let path = request.uri().path().to_owned();
    let mut response = match (request.method(), path.as_str()) {
        (&Method::POST, "/v1/chat/completions" | "/v1/completions") => {
            chat_completion(&host, request).await?
        }
        (&Method::GET, "/metrics") => text("text/plain; version=0.0.4", metrics::text(&host)),
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

async fn chat_completion(host: &Arc<Host>, request: Request<Incoming>) -> Result<Response<MockBody>, Reset> {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
        return Ok(error(StatusCode::PAYLOAD_TOO_LARGE, "the request body could not be read"));
    };
    let body = body.to_bytes();
    let chat: ChatRequest = match serde_json::from_slice(&body) {
        Ok(chat) => chat,
        Err(_) if body.is_empty() => ChatRequest::default(),
        Err(invalid) => {
            return Ok(error(StatusCode::BAD_REQUEST, &format!("invalid chat request: {invalid}")));
        }
    };
    let failure = match head.headers.get(FAIL).map(|v| v.to_str().ok().and_then(Failure::parse)) {
        Some(None) => return Ok(error(StatusCode::BAD_REQUEST, "unknown value of x-mock-fail")),
        Some(Some(failure)) => Some(failure),
        None => None,
    };
    let usage = Usage {
        prompt: header_number(&head.headers, PROMPT_TOKENS).unwrap_or((body.len() / 4) as u32).max(1),
        output: header_number(&head.headers, OUTPUT_TOKENS)
            .or(chat.max_tokens)
            .or(chat.max_completion_tokens)
            .unwrap_or(OUTPUT_TOKENS_DEFAULT)
            .clamp(1, OUTPUT_TOKENS_MAX),
    };
    let token_bytes = header_number(&head.headers, TOKEN_BYTES).unwrap_or(TOKEN_BYTES_DEFAULT);
    let spec = ResponseSpec {
        usage,
        token_bytes: token_bytes.clamp(1, TOKEN_BYTES_MAX) as usize,
        include_usage: chat.stream_options.is_some_and(|options| options.include_usage),
        failure,
    };
    match failure {
        Some(Failure::Unavailable) => {
            return Ok(error(StatusCode::SERVICE_UNAVAILABLE, "unavailable as requested"));
        }
        Some(Failure::NotFoundEmpty) => return Ok(plain(StatusCode::NOT_FOUND, Bytes::new())),
        Some(Failure::Reset) => return Err(Reset),
        _ => {}
    }
    let consumer = head.headers.get(CONSUMER).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let sequence = host.accept(Served {
        consumer: consumer.to_owned(),
        prompt: usage.prompt,
        output: usage.output,
        ..Served::default()
    });
    if failure == Some(Failure::Hang) {
        return std::future::pending().await;
    }
    let blocks = if host.has_cache() { prompt_blocks(&body) } else { Vec::new() };
    host.start(&sequence, blocks).await;
    if chat.stream || failure.is_some() {
        let mut response = Response::new(Either::Right(EventStream::new(sequence, spec)));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        return Ok(response);
    }
    complete_response(sequence, spec).await
}

/// Returns a hash of each complete block of the prompt: the text of all messages, in their order. Models share no hashes.
fn prompt_blocks(body: &[u8]) -> Vec<u64> {
    #[derive(Deserialize)]
    struct Prompt {
        #[serde(default)]
        model: String,
        messages: Vec<Message>,
    }
    #[derive(Deserialize)]
    struct Message {
        content: String,
    }
    let Ok(Prompt { model, messages }) = serde_json::from_slice(body) else { return Vec::new() };
    let text: String = messages.into_iter().map(|message| message.content).collect();
    prompt::block_hashes(&model, text.as_bytes())
}

/// Waits for the last token and returns the complete response.
async fn complete_response(mut sequence: Sequence, spec: ResponseSpec) -> Result<Response<MockBody>, Reset> {
    let cached = loop {
        match sequence.progress.recv().await {
            Some(progress) if progress.done => break progress.cached,
            Some(_) => {}
            None => return Err(Reset),
        }
    };
    sequence.record(sequence.output, Some(ServedEnd::Complete));
    Ok(text(
        "application/json",
        format!(
            "{{\"id\":\"mock-{}\",\"object\":\"chat.completion\",\"created\":{CREATED},\"model\":\"mock\",\
             \"choices\":[{{\"index\":0,\"message\":{{\"role\":\"assistant\",\"content\":\"{}\"}},\"finish_reason\":\"stop\"}}],\"usage\":{}}}",
            sequence.id,
            spec.text(spec.usage.output),
            spec.usage.json(cached)
        ),
    ))
}

fn header_number(headers: &HeaderMap, name: &str) -> Option<u32> {
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
