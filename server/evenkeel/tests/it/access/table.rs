//! Tries every call and every route as everybody, and compares the outcome with the table in SECURITY.md. `UPDATE=1`
//! writes the table.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use axum::{body::Body, http::Request};
use evenkeel::transport::http::ROUTES;
use evenkeel_proto::FILE_DESCRIPTOR_SET;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::{
    Code,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint},
};

use super::{CERTIFICATES, TLS, endpoint, write};
use crate::support::{
    sidecar::{Running, run},
    tls::{Authority, Pair},
};

/// Everybody, in the order of the columns.
const CALLERS: [&str; 6] =
    ["stranger, loopback", "stranger, `0.0.0.0`", "stranger, mutual TLS", "`reader`", "`gateway`", "`admin`"];
const TOKENS: &str = "gateway: {tokens: [{name: gw, token: gggggggggggggggg}]}\n\
    reader: {tokens: [{name: grafana, token: rrrrrrrrrrrrrrrr}]}\n\
    admin: {tokens: [{name: ops, token: 0123456789abcdef}]}\n";
/// The rate limit service needs a file.
const RATE_LIMITS: &str = "rate_limit_service: {config: limits.yaml}\n";

/// Paths of the HTTP server that are no operation of the API.
const PATHS: [&str; 5] = ["/", "/assets/main.js", "/healthz", "/readyz", "/metrics"];

/// Sends and receives bytes.
#[derive(Clone, Copy, Default)]
struct Bytes;

impl Codec for Bytes {
    type Encode = ();
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bytes {
    type Item = ();
    type Error = tonic::Status;

    fn encode(&mut self, (): (), _: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = ();
    type Error = tonic::Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<()>, tonic::Status> {
        bytes::Buf::advance(buf, bytes::Buf::remaining(buf));
        Ok(Some(()))
    }
}

/// Returns every call of every service, as `service/method`.
fn calls() -> Vec<String> {
    let sets = [FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET];
    let files = sets.iter().flat_map(|set| FileDescriptorSet::decode(*set).unwrap().file);
    // The descriptors of these services are not embedded.
    let mut calls = vec![
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo".to_owned(),
        "envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit".to_owned(),
    ];
    for file in files {
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            calls.extend(service.method.iter().map(|method| format!("{name}/{}", method.name())));
        }
    }
    calls
}

/// Makes a call with an empty message. Returns whether the caller's role lets it through.
async fn may_call(channel: &Channel, token: Option<&str>, call: &str) -> bool {
    let mut client = Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let mut request = tonic::Request::new(tokio_stream::once(()));
    if let Some(token) = token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let path = format!("/{call}").parse().unwrap();
    match client.streaming(request, path, Bytes).await {
        Ok(_) => true,
        Err(status) => {
            assert!(
                status.code() != Code::Unimplemented && status.code() != Code::Internal,
                "{call}: {status}"
            );
            ![Code::Unauthenticated, Code::PermissionDenied].contains(&status.code())
        }
    }
}

/// How somebody calls the HTTP server.
struct Http<'a> {
    sidecar: &'a Running,
    token: Option<&'a str>,
    tls: Option<(&'a Authority, Option<&'a Pair>)>,
}

impl Http<'_> {
    /// Makes a request with an empty JSON body. Returns whether the caller's role lets it through.
    async fn may_request(&self, method: &str, path: &str) -> bool {
        let status = match self.tls {
            Some((authority, pair)) => self.status_over_tls(authority, pair, method, path).await,
            None => {
                let port = self.sidecar.addresses.http.rsplit(':').next().unwrap();
                let request = Request::builder().method(&*method.to_uppercase());
                let mut request = request.uri(format!("http://127.0.0.1:{port}{path}"));
                request = request.header("content-type", "application/json");
                if let Some(token) = self.token {
                    request = request.header("x-evenkeel-token", token);
                }
                let client = Client::builder(TokioExecutor::new()).build_http();
                client.request(request.body(Body::from("{}")).unwrap()).await.unwrap().status().as_u16()
            }
        };
        assert!(status != 405 && status < 500, "{method} {path}: {status}");
        status != 401 && status != 403
    }

    async fn status_over_tls(
        &self,
        authority: &Authority,
        pair: Option<&Pair>,
        method: &str,
        path: &str,
    ) -> u16 {
        let method = method.to_uppercase();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}"
        );
        let answer = super::https(&self.sidecar.addresses.http, authority, pair, &request).await;
        answer.split(' ').nth(1).unwrap().parse().unwrap()
    }
}

/// One caller of one sidecar.
struct Caller<'a> {
    channel: Channel,
    http: Http<'a>,
}

impl Caller<'_> {
    /// Returns what the caller may do, by call or route.
    async fn tries(&self) -> BTreeMap<String, bool> {
        let mut outcomes = BTreeMap::new();
        for call in calls() {
            let may = may_call(&self.channel, self.http.token, &call).await;
            outcomes.insert(format!("`{call}`"), may);
        }
        for (method, route, _) in ROUTES {
            let path: Vec<&str> =
                route.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect();
            let may = self.http.may_request(method, &path.join("/")).await;
            outcomes.insert(format!("`{} {route}`", method.to_uppercase()), may);
        }
        for path in PATHS {
            outcomes.insert(format!("`GET {path}`"), self.http.may_request("get", path).await);
        }
        outcomes
    }
}

async fn plain(sidecar: &Running) -> Channel {
    let port = sidecar.addresses.grpc.as_ref().unwrap().rsplit(':').next().unwrap();
    Endpoint::from_shared(format!("http://127.0.0.1:{port}")).unwrap().connect().await.unwrap()
}

/// Returns what each of [`CALLERS`] may do.
async fn outcomes() -> Vec<BTreeMap<String, bool>> {
    let authority = Authority::new();
    // Each sidecar watches its own files.
    let directories = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let config = |at: usize, listen: &str, more: &str| {
        let directory = directories[at].path();
        fs::write(directory.join("limits.yaml"), "domain: d\n").unwrap();
        write(directory, &authority, "");
        let path = directory.join("evenkeel.yaml");
        fs::write(&path, format!("{listen}{RATE_LIMITS}{more}")).unwrap();
        evenkeel_config::Config::load(&path).unwrap()
    };
    let (loopback, any) = (
        "listen: {grpc: '127.0.0.1:0', http: '127.0.0.1:0'}\n",
        "listen: {grpc: '0.0.0.0:0', http: '0.0.0.0:0'}\n",
    );
    let on_loopback = run(config(0, loopback, TOKENS)).await;
    let on_any = run(config(1, any, TOKENS)).await;
    let with_tls = run(config(2, any, &format!("{TLS}{CERTIFICATES}"))).await;

    let mut found = Vec::new();
    let mut by_token = Vec::new();
    for sidecar in [&on_loopback, &on_any] {
        let http = Http { sidecar, token: None, tls: None };
        found.push(Caller { channel: plain(sidecar).await, http }.tries().await);
    }
    for token in ["rrrrrrrrrrrrrrrr", "gggggggggggggggg", "0123456789abcdef"] {
        let http = Http { sidecar: &on_any, token: Some(token), tls: None };
        by_token.push(Caller { channel: plain(&on_any).await, http }.tries().await);
    }
    let port = |address: &str| format!("127.0.0.1:{}", address.rsplit(':').next().unwrap());
    let mut with_tls = with_tls;
    with_tls.addresses.grpc = with_tls.addresses.grpc.as_deref().map(port);
    with_tls.addresses.http = port(&with_tls.addresses.http);
    let sign = |name: &str| Some(authority.sign(&[name]));
    for pair in [None, sign("reader.example"), sign(super::GATEWAY), sign("ops.example")] {
        let channel = endpoint(&with_tls, &authority.pem, pair.as_ref()).connect().await.unwrap();
        let http = Http { sidecar: &with_tls, token: None, tls: Some((&authority, pair.as_ref())) };
        found.push(Caller { channel, http }.tries().await);
    }
    assert_eq!(found[3..], by_token, "a role is the same by certificate and by token");
    found
}

/// Returns the table: one row for each group of calls that the same callers may make.
fn table(outcomes: &[BTreeMap<String, bool>]) -> String {
    let mut groups: Vec<(Vec<bool>, Vec<&str>)> = Vec::new();
    for call in outcomes[0].keys() {
        let row: Vec<bool> = outcomes.iter().map(|of_caller| of_caller[call]).collect();
        match groups.iter_mut().find(|(of_group, _)| *of_group == row) {
            Some((_, calls)) => calls.push(call),
            None => groups.push((row, vec![call])),
        }
    }
    groups.sort_by_key(|(row, _)| row.iter().filter(|may| !**may).count());
    let mut text = format!("| calls | {} |\n|---|{}\n", CALLERS.join(" | "), "---|".repeat(CALLERS.len()));
    for (row, calls) in groups {
        let cells: Vec<&str> = row.iter().map(|may| if *may { "yes" } else { "–" }).collect();
        writeln!(text, "| {} | {} |", calls.join(", "), cells.join(" | ")).unwrap();
    }
    text
}

#[tokio::test]
async fn the_document_says_what_everybody_may_do() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../SECURITY.md");
    let document = fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- access -->\n\n", "\n<!-- end of access -->");
    let (head, rest) = document.split_once(begin).unwrap();
    let (present, tail) = rest.split_once(end).unwrap();
    let table = table(&outcomes().await);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, format!("{head}{begin}{table}{end}{tail}")).unwrap();
    } else {
        assert_eq!(present, table, "run the test again with UPDATE=1");
    }
}
