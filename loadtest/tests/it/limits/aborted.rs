//! Streams that end early are charged for their prompt and for what was streamed: neither nothing nor everything.

use evenkeel_loadtest::mock::ServedEnd;
use http_body_util::BodyExt;

use super::{Ask, Chain, LIMIT};
use crate::gateway::within;

const LIMITS: &str =
    "limits:\n  - {name: tph, counts: tokens, amount: 100k, per: 1h, key: [consumer], reserve_margin: 1}";
/// Of all these requests: what the size of their prompt lets expect, and what they have generated when they end.
const PROMPT: u64 = 400;
const STREAMED: u64 = 120;

/// How a stream ends after [`STREAMED`] of its tokens.
#[derive(Clone, Copy, Debug)]
enum Early {
    ClientLeaves,
    UpstreamResets,
    TimesOut,
}

impl Chain {
    /// A stream that ends early; what the client saw of it, in bytes of text.
    async fn ends(&self, ask: &Ask, early: Early) -> usize {
        let ask = match early {
            Early::UpstreamResets => ask.clone().failing(&format!("cut:{STREAMED}")),
            Early::TimesOut => ask.clone().failing(&format!("stall:{STREAMED}")).by("/timeout"),
            Early::ClientLeaves => ask.clone().failing(&format!("stall:{STREAMED}")),
        };
        let mut response = self.open(0, &ask).await;
        let mut text = Vec::new();
        let all = STREAMED as usize * ask.token_bytes as usize;
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
            if matches!(early, Early::ClientLeaves) && generated(&text) == all {
                break true;
            }
        };
        assert!(cut, "{early:?}: the stream ended as if it were complete");
        generated(&text)
    }

    /// A stream that ends early is charged `input` and, were all of it seen, `output`, beside what was used `before`.
    async fn is_charged(&self, ask: &Ask, early: Early, before: u64, input: u64, output: u64) {
        let seen = self.ends(ask, early).await as u64 / u64::from(ask.token_bytes);
        within(LIMIT, &format!("{} is settled", ask.consumer), || async {
            let (used, reserved) = self.used(0, ask, "tph").await?;
            if reserved == 0 && used > before { Ok(()) } else { Err(format!("{used}, {reserved}")) }
        })
        .await;
        let charged = self.used(0, ask, "tph").await.unwrap().0 - before;
        within(LIMIT, "the host is told", || async {
            let end = self.served(&ask.consumer).last().and_then(|served| served.end);
            if end == Some(ServedEnd::Aborted) { Ok(()) } else { Err(format!("{end:?}")) }
        })
        .await;
        let served = self.served(&ask.consumer);
        let streamed = served.last().map(|served| u64::from(served.streamed)).unwrap();
        match early {
            Early::ClientLeaves => assert_eq!((seen, streamed), (STREAMED, STREAMED)),
            // What a reset connection had not delivered yet is lost on its way through the gateway.
            _ => assert!(
                1 <= seen && seen <= streamed && streamed <= STREAMED,
                "{early:?}: {seen} of {streamed}"
            ),
        }
        let of = |tokens: u64| input + (output * tokens).div_ceil(STREAMED);
        let (least, most) = (of(seen), of(streamed));
        assert!((least..=most).contains(&charged), "{}: {least} <= {charged} <= {most}", ask.consumer);
        within(LIMIT, "the ledger says that it was reckoned", || async {
            let usage = self.usage(0, &ask.consumer).await?;
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

/// Charged is the prompt as its size lets expect, and the output as the size of what came through the gateway does: at
/// least what the client saw, at most what the host streamed. Until a model has answered five times a token is taken for 4
/// bytes; then for what it was seen to be.
#[tokio::test]
async fn streams_cut_off_are_charged_for_what_was_streamed() {
    let Some(mut chain) = Chain::start(Chain::builder(1, LIMITS).hosts(1)).await else { return };
    chain.window(std::time::Duration::from_secs(3600), LIMIT).await;
    // The real prompt is half of what its size lets expect, and a token has 6 bytes.
    let ask = |early: &str, token_bytes| Ask::of(early).uses(200, 600).token_bytes(token_bytes);
    futures::future::join_all([Early::ClientLeaves, Early::UpstreamResets, Early::TimesOut].map(
        async |early| {
            let known = ask(&format!("known-{early:?}"), 6);
            for _ in 0..5 {
                chain.ask(0, &known).await.is_served();
            }
            let before = chain.truth(&known.consumer).tokens;
            for (ask, before, input, output) in [
                (ask(&format!("as-usual-{early:?}"), 4), 0, PROMPT, STREAMED),
                (ask(&format!("unknown-{early:?}"), 6), 0, PROMPT, STREAMED * 6 / 4),
                (known, before, 200, STREAMED),
            ] {
                chain.is_charged(&ask, early, before, input, output).await;
            }
        },
    ))
    .await;
}

/// What ends before anything of the answer was seen costs nothing; it counts as a request.
#[tokio::test]
async fn what_ends_before_its_answer_costs_no_tokens() {
    let limits =
        format!("{LIMITS}\n  - {{name: rph, counts: requests, amount: 1000, per: 1h, key: [consumer]}}");
    let Some(mut chain) = Chain::start(Chain::builder(1, &limits)).await else { return };
    chain.window(std::time::Duration::from_secs(3600), LIMIT).await;
    for (how, path, statuses) in
        [("503", "", 503), ("404-empty", "", 404), ("reset", "", 503), ("hang", "/timeout", 504)]
    {
        let ask = Ask::of(how).failing(how).by(path);
        assert_eq!(chain.ask(0, &ask).await.status, statuses, "{how}");
        chain.uses(0, &ask, "tph", 0, 0).await;
        assert_eq!(chain.used(0, &ask, "rph").await, Ok((1, 0)), "{how}");
    }
    let (ask, leaving) = (Ask::of("leaves").whole(), crate::support::client());
    chain.lab.fleet().hold();
    let request = tokio::spawn(leaving.request(ask.build(&chain.url(0))));
    chain.uses(0, &ask, "tph", 1000, 1000).await;
    within(LIMIT, "the request is at its host", || async {
        if chain.served("leaves").len() == 1 { Ok(()) } else { Err(String::new()) }
    })
    .await;
    request.abort();
    drop(leaving);
    chain.uses(0, &ask, "tph", 0, 0).await;
}
