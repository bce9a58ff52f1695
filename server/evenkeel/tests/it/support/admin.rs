//! An administrator for tests: the configuration that names the administrator, the token, and calls with the token.

use axum::{
    body::Body,
    http::{HeaderName, Method, Request},
};
use evenkeel_proto::v1::{self as pb, admin_client::AdminClient};
use serde_json::Value;
use tonic::{
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};

use super::{http, sidecar::Sidecar};

/// The token of the administrator in [`ADMIN`].
pub(crate) const TOKEN: &str = "0123456789abcdef";
/// Configuration that names the administrator `ops`. Append it to other configuration.
pub(crate) const ADMIN: &str = "\nadmin: {tokens: [{name: ops, token: 0123456789abcdef}]}\n";

/// Configuration with limits of each kind and both kinds of quota, without an administrator.
pub(crate) const LIMITS_AND_QUOTAS: &str = "
limits:
- {name: rpm, counts: requests, amount: 60, per: 1m, key: [consumer]}
- {name: tpm, counts: tokens, amount: 1000, per: 1m, algorithm: token_bucket, burst: 2000, key: [consumer, model], mode: shadow}
- {name: parallel, counts: requests, amount: 8, algorithm: concurrency, when: [{attribute: model, exact: big}]}
quotas:
- {name: credit, counts: tokens, kind: prepaid}
- {name: month, counts: tokens, kind: budget, per: month, default: 500}
";

/// Appends [`ADMIN`].
pub(crate) fn with_admin(yaml: &str) -> String {
    format!("{yaml}{ADMIN}")
}

/// Connects a gRPC client. Calls that change something also need [`by`].
pub(crate) async fn client(sidecar: &Sidecar) -> AdminClient<Channel> {
    AdminClient::new(Endpoint::from_shared(sidecar.url()).unwrap().connect().await.unwrap())
}

/// Adds a token to a gRPC request.
pub(crate) fn by<T>(token: &str, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    let value: MetadataValue<_> = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

pub(crate) fn set_quota(quota: &str, consumer: &str, amount: u64) -> pb::SetQuotaRequest {
    let (quota, consumer) = (quota.to_owned(), consumer.to_owned());
    pb::SetQuotaRequest { quota, consumer, amount: Some(amount), note: "a note".into() }
}

/// Calls the HTTP API with [`TOKEN`], and with the content type JSON if there is a body. `headers` override these
/// headers; an empty value removes a header. Returns `Null` for a body that is not JSON.
pub(crate) async fn call(
    sidecar: &Sidecar,
    method: Method,
    path: &str,
    body: Option<&str>,
    headers: &[(&str, &str)],
) -> (u16, Value) {
    let uri = format!("http://{}{path}", sidecar.addresses.http);
    let mut request = Request::builder().method(method).uri(uri).body(Body::empty()).unwrap();
    let authorization = format!("Bearer {TOKEN}");
    let mut all = vec![("authorization", authorization.as_str())];
    if let Some(body) = body {
        *request.body_mut() = Body::from(body.to_owned());
        all.push(("content-type", "application/json"));
    }
    all.extend(headers);
    for (name, value) in all {
        let name: HeaderName = name.parse().unwrap();
        if value.is_empty() {
            request.headers_mut().remove(name);
        } else {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
    }
    let (status, body) = http::text(http::send(request).await).await;
    (status, serde_json::from_str(&body).unwrap_or(Value::Null))
}
