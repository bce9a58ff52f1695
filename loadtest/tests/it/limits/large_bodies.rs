//! Bodies that are longer than the plugin waits for: Admit leaves before their end, and the settlement has the rest.

use std::convert::Infallible;

use bytes::Bytes;
use evenkeel_loadtest::mock::{CONSUMER, OUTPUT_TOKENS};
use evenkeel_proto::v1 as pb;
use futures::channel::mpsc;
use http::{Request, Response};
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::task::JoinHandle;

use super::{ChatRequest, Fixture, LIMIT, Reply};
use crate::support::wait::within;

const LIMITS: &str = "limits:\n  - {name: tph, counts: tokens, amount: 1M, per: 1h, key: [consumer]}";
/// The plugin waits for at most this many bytes, or half as many of a body that may be longer.
const BODY_BYTES_MAX: usize = 60_000;
const PROMPT_BYTES: usize = 400_000;
const OUTPUT: u64 = 30;

type Parts = mpsc::UnboundedSender<Result<Frame<Bytes>, Infallible>>;

/// Starts a request whose body is sent in parts.
fn upload(
    fixture: &Fixture,
    consumer: &str,
    length: Option<usize>,
) -> (Parts, JoinHandle<Result<Response<Incoming>, hyper_util::client::legacy::Error>>) {
    let (parts, body) = mpsc::unbounded();
    let mut request = Request::post(format!("{}/v1/chat/completions", fixture.url(0)))
        .header("content-type", "application/json")
        .header(CONSUMER, consumer)
        .header(OUTPUT_TOKENS, OUTPUT);
    if let Some(length) = length {
        request = request.header("content-length", length);
    }
    let request = request.body(StreamBody::new(body)).unwrap();
    let client = Client::builder(TokioExecutor::new()).build_http();
    (parts, tokio::spawn(client.request(request)))
}

fn send(parts: &Parts, part: &str) {
    parts.unbounded_send(Ok(Frame::data(Bytes::copy_from_slice(part.as_bytes())))).unwrap();
}

impl Fixture {
    async fn wait_admitted(&self, consumer: &str) {
        let request = ChatRequest::of(consumer);
        within(LIMIT, "the request is admitted", || async {
            let (_, reserved) = self.used(0, &request, "tph").await?;
            if reserved > 0 { Ok(()) } else { Err("nothing is reserved".to_owned()) }
        })
        .await;
    }

    /// Waits until the ledger has a consumer's only request, with this model and these tokens.
    async fn wait_charged(&self, consumer: &str, model: &str, input: u64, output: u64) {
        within(LIMIT, "the ledger has the request", || async {
            let by = vec![pb::UsageDimension::Model.into()];
            let request =
                pb::QueryUsageRequest { consumer: consumer.into(), by, ..pb::QueryUsageRequest::default() };
            let usage = self.admin(0).await?.query_usage(request).await.map_err(|e| e.to_string())?;
            let row = usage.into_inner().rows.pop().ok_or("no row")?;
            let tokens = row.tokens.unwrap_or_default();
            assert_eq!(
                (row.model.as_deref(), tokens.input, tokens.output),
                (Some(model), input, output),
                "{consumer}"
            );
            Ok(())
        })
        .await;
    }
}

/// The model is at the end of the body, and the prompt passes the gateway in parts of many sizes.
#[tokio::test]
async fn a_body_is_read_to_its_end_after_admission() {
    let builder =
        Fixture::builder(1, LIMITS).plugin_config(|config| config["body_bytes_max"] = BODY_BYTES_MAX.into());
    let Some(fixture) = Fixture::start(builder).await else { return };
    let content = "x".repeat(PROMPT_BYTES);
    let body = format!(
        r#"{{"messages":[{{"role":"user","content":"{content}"}}],"stream":true,"model":"late-model"}}"#
    );
    for (consumer, length) in [("chunked", None), ("sized", Some(body.len()))] {
        let (parts, response) = upload(&fixture, consumer, length);
        let (first, rest) = body.split_at(BODY_BYTES_MAX);
        send(&parts, first);
        fixture.wait_admitted(consumer).await;
        let mut rest = rest;
        for size in [1, 100, 16_383, 70_000, 200_000].into_iter().cycle() {
            let (part, after) = rest.split_at(size.min(rest.len()));
            send(&parts, part);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        drop(parts);
        let reply = Reply::read(response.await.unwrap().unwrap()).await.unwrap();
        assert_eq!(reply.status, 200, "{}", reply.body);
        fixture.wait_charged(consumer, "late-model", (PROMPT_BYTES / 4) as u64, OUTPUT).await;
    }
}

/// A body just below Envoy's buffer limit, which is 1 MiB by default, is read before admission: limits on models count
/// it.
#[tokio::test]
async fn a_body_below_the_buffer_limit_is_read_before_admission() {
    let limits = "limits:\n  - {name: tph, counts: tokens, amount: 1M, per: 1h, key: [consumer]}\n  \
                  - {name: none, counts: requests, amount: 0, per: 1h, when: [{attribute: model, exact: dear}]}";
    let Some(fixture) = Fixture::start(Fixture::builder(1, limits)).await else { return };
    let image = "A".repeat(900_000);
    for (model, status) in [("dear", 429), ("cheap", 200)] {
        let body = format!(
            r#"{{"messages":[{{"content":[{{"type":"image_url","image_url":{{"url":"data:{image}"}}}}]}}],"model":"{model}"}}"#
        );
        let (parts, response) = upload(&fixture, "alice", Some(body.len()));
        send(&parts, &body);
        drop(parts);
        let reply = Reply::read(response.await.unwrap().unwrap()).await.unwrap();
        assert_eq!(reply.status, status, "{model} {}", reply.body);
    }
}

/// Servers use the last of several models.
#[tokio::test]
async fn a_body_that_names_another_model_after_admission_is_refused() {
    let builder =
        Fixture::builder(1, LIMITS).plugin_config(|config| config["body_bytes_max"] = BODY_BYTES_MAX.into());
    let Some(fixture) = Fixture::start(builder).await else { return };
    let (parts, response) = upload(&fixture, "alice", None);
    let content = "x".repeat(BODY_BYTES_MAX);
    send(&parts, &format!(r#"{{"model":"cheap","messages":[{{"role":"user","content":"{content}"#));
    fixture.wait_admitted("alice").await;
    send(&parts, &format!(r#"{content}"}}],"model":"dear"}}"#));
    drop(parts);
    let reply = Reply::read(response.await.unwrap().unwrap()).await.unwrap();
    assert!(reply.status == 400 && reply.body.contains("body_ambiguous"), "{} {}", reply.status, reply.body);
    assert!(fixture.served("alice").is_empty(), "the host got the end of the body");
}
