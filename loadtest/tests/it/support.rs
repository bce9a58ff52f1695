//! What the tests share.

use bytes::Bytes;
use evenkeel_loadtest::lab::{Lab, LabBuilder, LabError};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

/// Starts a lab; `None`, said aloud, where a program is not installed.
pub(crate) async fn start(builder: LabBuilder) -> Option<Lab> {
    found(builder.start().await)
}

/// `None`, said aloud, where a program is not installed.
pub(crate) fn found<T>(result: Result<T, LabError>) -> Option<T> {
    match result {
        Ok(found) => Some(found),
        Err(LabError::Missing { what, hint, .. }) if std::env::var_os("EVENKEEL_IT_REQUIRED").is_none() => {
            eprintln!("SKIPPED: {what} not found; {hint}");
            None
        }
        Err(fault) => panic!("cannot be tested: {fault:?}"),
    }
}

/// An HTTP client that keeps connections.
pub(crate) fn client() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

/// A chat request of the given size.
pub(crate) fn chat(url: &str, prompt: u32, output: u32) -> http::request::Builder {
    Request::post(format!("{url}/v1/chat/completions"))
        .header("content-type", "application/json")
        .header(evenkeel_loadtest::mock::PROMPT_TOKENS, prompt)
        .header(evenkeel_loadtest::mock::OUTPUT_TOKENS, output)
}

/// Body of a streaming chat request.
pub(crate) fn streaming() -> Full<Bytes> {
    Full::from(r#"{"model":"mock","messages":[],"stream":true,"stream_options":{"include_usage":true}}"#)
}

/// The whole body, as text.
pub(crate) async fn text<B>(response: Response<B>) -> Result<String, B::Error>
where
    B: hyper::body::Body,
{
    Ok(String::from_utf8_lossy(&response.into_body().collect().await?.to_bytes()).into_owned())
}
