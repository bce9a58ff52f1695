//! Tokens are checked before a body is read, and wrong ones are slow, but only for their callers.

use super::*;
use crate::support::admin::TOKEN;

fn with_token(method: &str, token: &str) -> Request<Body> {
    let mut request = unfinished(method, message(200_000, 100));
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

#[tokio::test]
async fn a_body_is_read_only_after_its_token() {
    let fort = Fort::start(&format!("admin: {{tokens: [{{name: ops, token: {TOKEN}}}]}}\n"), None).await;
    let mut sender = connect(&fort.grpc).await;
    let unauthenticated =
        sender.send_request(unfinished("evenkeel.v1.Admin/SetQuota", message(200_000, 100)));
    let wrong = sender.send_request(with_token("evenkeel.v1.Admin/SetQuota", "wrong-wrong-wrong"));
    let (none, wrong) = tokio::join!(unauthenticated, wrong);
    // The bodies never end, so these answers came before them.
    assert_eq!((status(&none.unwrap()).0.as_str(), status(&wrong.unwrap()).0.as_str()), ("16", "16"));

    // Wrong tokens delay nobody else.
    let mut guesses = Vec::new();
    for _ in 0..100 {
        sender.ready().await.unwrap();
        guesses.push(sender.send_request(with_token("evenkeel.v1.Admin/SetQuota", "wrong-wrong-wrong")));
    }
    let mut who = Request::post("http://x/evenkeel.v1.Admin/WhoAmI").body(Body::from(vec![0; 5])).unwrap();
    who.headers_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    who.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    sender.ready().await.unwrap();
    let accepted = sender.send_request(who);
    let mut guesses = futures::future::join_all(guesses);
    tokio::select! {
        biased;
        _ = &mut guesses => panic!("wrong tokens are answered first"),
        accepted = accepted => assert_eq!(accepted.unwrap().headers().get("grpc-status"), None),
    }
    guesses.await;
    let log = std::fs::read_to_string(fort.directory.path().join("log")).unwrap();
    let rejected: Vec<_> = log.lines().filter(|line| line.contains("call rejected")).collect();
    assert_eq!(rejected.len(), 1, "{log}");
    assert!(rejected[0].contains("\"address\":\"127.0.0.1\""), "{}", rejected[0]);
}
