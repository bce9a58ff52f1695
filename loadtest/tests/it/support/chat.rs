//! Chat requests to gateways.

use bytes::Bytes;
use evenkeel_loadtest::mock::{OUTPUT_TOKENS, PROMPT_TOKENS};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

pub(crate) type HttpClient = Client<HttpConnector, Full<Bytes>>;

/// Returns an HTTP client with persistent connections.
pub(crate) fn client() -> HttpClient {
    Client::builder(TokioExecutor::new()).build_http()
}

/// Returns a chat request of the given size, without its body.
pub(crate) fn request(url: &str, prompt: u32, output: u32) -> http::request::Builder {
    Request::post(format!("{url}/v1/chat/completions"))
        .header("content-type", "application/json")
        .header(PROMPT_TOKENS, prompt)
        .header(OUTPUT_TOKENS, output)
}

/// Returns a small chat request with these headers and a streaming body.
pub(crate) fn small_request(url: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let request =
        headers.iter().fold(request(url, 1, 1), |request, (name, value)| request.header(*name, *value));
    request.body(streaming()).unwrap()
}

/// Returns the body of a streaming chat request.
pub(crate) fn streaming() -> Full<Bytes> {
    Full::from(r#"{"model":"mock","messages":[],"stream":true,"stream_options":{"include_usage":true}}"#)
}

/// Reads the whole body as text.
pub(crate) async fn text<B>(response: Response<B>) -> Result<String, B::Error>
where
    B: hyper::body::Body,
{
    Ok(String::from_utf8_lossy(&response.into_body().collect().await?.to_bytes()).into_owned())
}
