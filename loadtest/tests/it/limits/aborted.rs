//! Streams that end early are charged for their prompt and for the output that was streamed.

use evenkeel_loadtest::mock::ServedEnd;
use http_body_util::BodyExt;

use super::{ChatRequest, Fixture, HOUR, LIMIT};
use crate::support::{chat, wait::within};

const LIMITS: &str =
    "limits:\n  - {name: tph, counts: tokens, amount: 100k, per: 1h, key: [consumer], reserve_margin: 1}";
/// Prompt tokens that the sidecar expects from the size of the prompt.
const EXPECTED_PROMPT: u64 = 400;
/// Number of output tokens that are generated when the stream ends.
const STREAMED: u64 = 120;

/// How a stream ends after [`STREAMED`] tokens.
#[derive(Clone, Copy, Debug)]
enum EarlyEnd {
    ClientDisconnects,
    UpstreamResets,
    TimesOut,
}

impl Fixture {
    /// Sends a stream that ends early. Returns the bytes of text that the client received.
    async fn receive_partially(&self, request: &ChatRequest, early: EarlyEnd) -> usize {
        let request = match early {
            EarlyEnd::UpstreamResets => request.clone().failing(&format!("cut:{STREAMED}")),
            EarlyEnd::TimesOut => request.clone().failing(&format!("stall:{STREAMED}")).route("/timeout"),
            EarlyEnd::ClientDisconnects => request.clone().failing(&format!("stall:{STREAMED}")),
        };
        let mut response = self.open(0, &request).await;
        let mut text = Vec::new();
        let expected = STREAMED as usize * request.token_bytes as usize;
        let generated = |text: &[u8]| {
            let text = String::from_utf8_lossy(text).into_owned();
            let pieces = text.split("\"content\":\"").skip(1).filter_map(|piece| piece.split('"').next());
            pieces.map(str::len).sum::<usize>()
        };
        let cut = loop {
            match response.body_mut().frame().await {
                Some(Ok(frame)) => text.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Some(Err(_)) => break true,
                None => break false,
            }
            if matches!(early, EarlyEnd::ClientDisconnects) && generated(&text) == expected {
                break true;
            }
        };
        assert!(cut, "{early:?}: the stream ended as if it were complete");
        generated(&text)
    }

    /// Asserts that a stream that ends early is charged `input`, and `output` in proportion to the text seen, in
    /// addition to `before`.
    async fn assert_charged(
        &self,
        request: &ChatRequest,
        early: EarlyEnd,
        before: u64,
        input: u64,
        output: u64,
    ) {
        let seen = self.receive_partially(request, early).await as u64 / u64::from(request.token_bytes);
        within(LIMIT, &format!("{} is settled", request.consumer), || async {
            let (used, reserved) = self.used(0, request, "tph").await?;
            if reserved == 0 && used > before { Ok(()) } else { Err(format!("{used}, {reserved}")) }
        })
        .await;
        let charged = self.used(0, request, "tph").await.unwrap().0 - before;
        within(LIMIT, "the host ends the request", || async {
            let end = self.served(&request.consumer).last().and_then(|served| served.end);
            if end == Some(ServedEnd::Aborted) { Ok(()) } else { Err(format!("{end:?}")) }
        })
        .await;
        let served = self.served(&request.consumer);
        let streamed = served.last().map(|served| u64::from(served.streamed)).unwrap();
        match early {
            EarlyEnd::ClientDisconnects => assert_eq!((seen, streamed), (STREAMED, STREAMED)),
            // A reset discards the text that the gateway has not yet delivered.
            _ => assert!(
                1 <= seen && seen <= streamed && streamed <= STREAMED,
                "{early:?}: {seen} of {streamed}"
            ),
        }
        let of = |tokens: u64| input + (output * tokens).div_ceil(STREAMED);
        let (least, most) = (of(seen), of(streamed));
        assert!((least..=most).contains(&charged), "{}: {least} <= {charged} <= {most}", request.consumer);
        within(LIMIT, "the ledger marks it as estimated", || async {
            let usage = self.usage(0, &request.consumer).await?;
            if (usage.requests, usage.estimated) != (served.len() as u64, 1) {
                return Err(format!("{usage:?}"));
            }
            let tokens = usage.tokens.unwrap_or_default();
            assert_eq!(tokens.input + tokens.output, before + charged, "{early:?}");
            Ok(())
        })
        .await;
    }
}

/// The prompt is charged as estimated from its size. The output is charged as estimated from the size of the text that
/// passed the gateway: at least the text that the client received, at most the text that the host streamed. The
/// estimate is 4 bytes per token until five responses have reported usage for the model, and then the observed ratio.
#[tokio::test]
async fn streams_cut_off_are_charged_for_what_was_streamed() {
    let Some(mut fixture) = Fixture::start(Fixture::builder(1, LIMITS).hosts(1)).await else { return };
    fixture.wait_window(HOUR, LIMIT).await;
    // The actual prompt has half of the estimated tokens, and a token has 6 bytes.
    let request =
        |early: &str, token_bytes| ChatRequest::of(early).actual_tokens(200, 600).token_bytes(token_bytes);
    futures::future::join_all(
        [EarlyEnd::ClientDisconnects, EarlyEnd::UpstreamResets, EarlyEnd::TimesOut].map(async |early| {
            let known = request(&format!("known-{early:?}"), 6);
            for _ in 0..5 {
                fixture.send(0, &known).await.assert_served();
            }
            let before = fixture.host_totals(&known.consumer).tokens;
            for (request, before, input, output) in [
                (request(&format!("as-usual-{early:?}"), 4), 0, EXPECTED_PROMPT, STREAMED),
                (request(&format!("unknown-{early:?}"), 6), 0, EXPECTED_PROMPT, STREAMED * 6 / 4),
                (known, before, 200, STREAMED),
            ] {
                fixture.assert_charged(&request, early, before, input, output).await;
            }
        }),
    )
    .await;
}

/// A request without any response counts as a request but is charged no tokens.
#[tokio::test]
async fn requests_without_a_response_are_charged_no_tokens() {
    let limits =
        format!("{LIMITS}\n  - {{name: rph, counts: requests, amount: 1000, per: 1h, key: [consumer]}}");
    let Some(mut fixture) = Fixture::start(Fixture::builder(1, &limits)).await else { return };
    fixture.wait_window(HOUR, LIMIT).await;
    for (how, path, statuses) in
        [("503", "", 503), ("404-empty", "", 404), ("reset", "", 503), ("hang", "/timeout", 504)]
    {
        let request = ChatRequest::of(how).failing(how).route(path);
        assert_eq!(fixture.send(0, &request).await.status, statuses, "{how}");
        fixture.wait_used(0, &request, "tph", 0, 0).await;
        assert_eq!(fixture.used(0, &request, "rph").await, Ok((1, 0)), "{how}");
    }
    let (request, leaving) = (ChatRequest::of("leaves").not_streamed(), chat::client());
    fixture.lab.fleet().hold();
    let pending = tokio::spawn(leaving.request(request.build(&fixture.url(0))));
    fixture.wait_used(0, &request, "tph", 1000, 1000).await;
    within(LIMIT, "the request reaches its host", || async {
        if fixture.served("leaves").len() == 1 { Ok(()) } else { Err(String::new()) }
    })
    .await;
    pending.abort();
    drop(leaving);
    fixture.wait_used(0, &request, "tph", 0, 0).await;
}
