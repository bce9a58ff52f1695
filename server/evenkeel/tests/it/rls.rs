//! Envoy's rate limit service over gRPC: every feature of the files, over each store; reloads; the command line.

use std::{fs, path::Path, process::Command, time::Duration};

use envoy_types::pb::{
    envoy::{
        extensions::common::ratelimit::v3::{
            RateLimitDescriptor,
            rate_limit_descriptor::{Entry, RateLimitOverride},
        },
        service::ratelimit::v3::{
            RateLimitRequest, RateLimitResponse,
            rate_limit_response::{Code, rate_limit::Unit},
            rate_limit_service_client::RateLimitServiceClient,
        },
        r#type::v3::RateLimitUnit,
    },
    google::protobuf::UInt64Value,
};
use prost::Message as _;
use tonic::{
    Code as GrpcCode,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

use crate::support::{
    eventually,
    proxy::{Mode, Proxy},
    redis::{Cluster, Redis},
    sidecar::Sidecar,
};

/// Long units, so that none ends in a test.
const LIMITS: &str = "
domain: d
descriptors:
- {key: two, rate_limit: {name: two, unit: year, requests_per_unit: 2}}
- {key: ten, rate_limit: {unit: year, requests_per_unit: 10}}
- {key: ten, value: one, rate_limit: {unit: month, requests_per_unit: 1}}
- {key: none, rate_limit: {unit: second, requests_per_unit: 0}}
- {key: none, value: allowed}
- {key: free, rate_limit: {unlimited: true}}
- {key: shadow, shadow_mode: true, rate_limit: {unit: year, requests_per_unit: 1}}
- {key: small, quota_mode: true, rate_limit: {unit: year, requests_per_unit: 1}}
- {key: large, quota_mode: true, rate_limit: {unit: year, requests_per_unit: 2}}
- {key: instead, rate_limit: {unit: year, requests_per_unit: 5, replaces: [{name: two}]}}
- key: path
  value: /v1/*
  share_threshold: true
  value_to_metric: true
  descriptors:
  - {key: user, detailed_metric: true, rate_limit: {name: per-user, unit: year, requests_per_unit: 2}}
";

struct Rls {
    sidecar: Sidecar,
    client: RateLimitServiceClient<Channel>,
    dir: tempfile::TempDir,
    _redis: Option<Redis>,
}

impl Rls {
    /// `more`: further lines of the section.
    async fn start(limits: &str, more: &str, redis: Option<Redis>) -> Self {
        let store = redis.as_ref().map_or("{type: memory}".to_owned(), |redis| {
            format!("{{type: redis, url: '{}', timeout: 2s}}", redis.url())
        });
        Self { _redis: redis, ..Self::start_on(limits, more, &store).await }
    }

    async fn start_on(limits: &str, more: &str, store: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("limits.yaml"), limits).unwrap();
        let config = dir.path().display();
        let yaml = format!("store: {store}\nrate_limit_service: {{config: '{config}'{more}}}\n");
        let sidecar = Sidecar::start(&yaml).await;
        let client = client(&sidecar).await;
        Self { sidecar, client, dir, _redis: None }
    }

    fn write(&self, text: &str) {
        fs::write(self.dir.path().join("limits.yaml"), text).unwrap();
    }

    async fn ask(&self, hits: u32, descriptors: &[RateLimitDescriptor]) -> RateLimitResponse {
        self.ask_in("d", hits, descriptors).await.unwrap()
    }

    async fn ask_in(
        &self,
        domain: &str,
        hits_addend: u32,
        descriptors: &[RateLimitDescriptor],
    ) -> Result<RateLimitResponse, tonic::Status> {
        let descriptors = descriptors.to_vec();
        let request = RateLimitRequest { domain: domain.to_owned(), descriptors, hits_addend };
        self.client.clone().should_rate_limit(request).await.map(tonic::Response::into_inner)
    }

    /// The overall code, and code and remainder of each descriptor.
    async fn codes(&self, hits: u32, descriptors: &[RateLimitDescriptor]) -> (Code, Vec<(Code, u32)>) {
        let response = self.ask(hits, descriptors).await;
        let statuses = response.statuses.iter().map(|status| (status.code(), status.limit_remaining));
        (response.overall_code(), statuses.collect())
    }

    /// Lines of the metrics that begin so.
    async fn metrics(&self, start: &str) -> Vec<String> {
        let (_, text) = self.sidecar.get("/metrics").await;
        text.lines()
            .filter(|line| line.starts_with(start) && !line.ends_with(" 0"))
            .map(str::to_owned)
            .collect()
    }
}

async fn client(sidecar: &Sidecar) -> RateLimitServiceClient<Channel> {
    RateLimitServiceClient::connect(url(sidecar)).await.unwrap()
}

fn url(sidecar: &Sidecar) -> String {
    format!("http://{}", sidecar.addresses.grpc.as_ref().unwrap())
}

fn by(entries: &[(&str, &str)]) -> RateLimitDescriptor {
    let entry = |(key, value): &(&str, &str)| Entry { key: (*key).to_owned(), value: (*value).to_owned() };
    RateLimitDescriptor { entries: entries.iter().map(entry).collect(), ..RateLimitDescriptor::default() }
}

fn hits(value: u64, descriptor: RateLimitDescriptor) -> RateLimitDescriptor {
    RateLimitDescriptor { hits_addend: Some(UInt64Value { value }), ..descriptor }
}

/// Both stores; the file's limits are the same.
async fn stores(more: &str) -> [Rls; 2] {
    [Rls::start(LIMITS, more, None).await, Rls::start(LIMITS, more, Some(Redis::start())).await]
}

const OK: Code = Code::Ok;
const OVER: Code = Code::OverLimit;

#[tokio::test]
async fn limits_are_found_and_counted() {
    for rls in stores("").await {
        let a = by(&[("two", "a")]);
        assert_eq!(rls.codes(0, std::slice::from_ref(&a)).await, (OK, vec![(OK, 1)]));
        assert_eq!(rls.codes(1, &[by(&[("two", "b")])]).await, (OK, vec![(OK, 1)]), "each value apart");
        assert_eq!(rls.codes(1, std::slice::from_ref(&a)).await, (OK, vec![(OK, 0)]));
        let refused = rls.ask(1, &[a]).await;
        assert_eq!((refused.overall_code(), refused.statuses[0].code()), (OVER, OVER));
        let limit = refused.statuses[0].current_limit.clone().unwrap();
        assert_eq!((limit.name.as_str(), limit.requests_per_unit, limit.unit()), ("two", 2, Unit::Year));
        let reset = refused.statuses[0].duration_until_reset.unwrap();
        assert!((1..=365 * 86_400).contains(&reset.seconds), "{reset:?}");
        assert!(refused.response_headers_to_add.is_empty());

        assert_eq!(
            rls.codes(1, &[by(&[("ten", "one")])]).await,
            (OK, vec![(OK, 0)]),
            "the exact value first"
        );
        assert_eq!(rls.codes(1, &[by(&[("none", "x")])]).await, (OVER, vec![(OVER, 0)]));
        for unlisted in
            [by(&[("none", "allowed")]), by(&[("x", "y")]), by(&[("two", "a"), ("x", "y")]), by(&[])]
        {
            assert_eq!(rls.codes(1, &[unlisted]).await, (OK, vec![(OK, 0)]));
        }
        assert_eq!(rls.codes(1, &[by(&[("free", "x")])]).await, (OK, vec![(OK, u32::MAX)]));

        // One counter for all paths, and one for each user in them.
        let user = |path, user| by(&[("path", path), ("user", user)]);
        assert_eq!(rls.codes(1, &[user("/v1/a", "u")]).await, (OK, vec![(OK, 1)]));
        assert_eq!(rls.codes(1, &[user("/v1/b", "u")]).await, (OK, vec![(OK, 0)]));
        assert_eq!(rls.codes(1, &[user("/v1/c", "u")]).await, (OVER, vec![(OVER, 0)]));
        assert_eq!(rls.codes(1, &[user("/v1/c", "v")]).await, (OK, vec![(OK, 1)]));
        assert_eq!(rls.codes(1, &[user("/v2/c", "v")]).await, (OK, vec![(OK, 0)]));
        let values = rls.metrics("evenkeel_rls_values_total{").await;
        let line = "evenkeel_rls_values_total{domain=\"d\",limit=\"per-user\",result=\"ok\",value=\"path_/v1/.user_u\"} 2";
        assert!(values.iter().any(|value| value == line), "{values:?}");
        let requests = rls.metrics("evenkeel_rls_requests_total{").await.join("\n");
        for line in [
            "{domain=\"d\",limit=\"two\",result=\"ok\"} 3",
            "{domain=\"d\",limit=\"two\",result=\"over\"} 1",
            "{domain=\"d\",limit=\"ten_one\",result=\"ok\"} 1",
            "{domain=\"d\",limit=\"free\",result=\"unlimited\"} 1",
            "{domain=\"d\",limit=\"\",result=\"no_limit\"} 5",
        ] {
            assert!(requests.contains(line), "{line} in\n{requests}");
        }
    }
}

#[tokio::test]
async fn all_or_none_of_a_request_is_charged() {
    for rls in stores("").await {
        let both = [by(&[("two", "a")]), by(&[("ten", "a")])];
        assert_eq!(rls.codes(1, &both).await, (OK, vec![(OK, 1), (OK, 9)]));
        assert_eq!(rls.codes(2, &both).await, (OVER, vec![(OVER, 0), (OK, 9)]));
        assert_eq!(rls.codes(1, &both).await, (OK, vec![(OK, 0), (OK, 8)]));
        assert_eq!(rls.codes(1, &both).await, (OVER, vec![(OVER, 0), (OK, 8)]));
        assert_eq!(rls.codes(1, &both[1..]).await, (OK, vec![(OK, 7)]));
    }
}

#[tokio::test]
async fn descriptors_have_hits_and_limits_of_their_own() {
    for rls in stores("").await {
        let ten = || by(&[("ten", "a")]);
        assert_eq!(rls.codes(1, &[hits(0, ten())]).await, (OK, vec![(OK, 10)]), "it only looks");
        assert_eq!(rls.codes(5, &[hits(4, ten()), by(&[("ten", "b")])]).await, (OK, vec![(OK, 6), (OK, 5)]));
        let back = RateLimitDescriptor { is_negative_hits: true, ..hits(3, ten()) };
        assert_eq!(rls.codes(1, &[back]).await, (OK, vec![(OK, 9)]));
        // Tokens of a response, more than are left: they are charged, and the next look refuses.
        assert_eq!(rls.codes(1, &[hits(50, ten())]).await, (OVER, vec![(OVER, 0)]));
        assert_eq!(rls.codes(1, &[hits(0, ten())]).await, (OVER, vec![(OVER, 0)]));

        let unit = RateLimitUnit::Year.into();
        let own = |requests_per_unit| RateLimitDescriptor {
            limit: Some(RateLimitOverride { requests_per_unit, unit }),
            ..by(&[("free", "x")])
        };
        assert_eq!(rls.codes(1, &[own(1)]).await, (OK, vec![(OK, 0)]));
        assert_eq!(rls.codes(1, &[own(1)]).await, (OVER, vec![(OVER, 0)]));
        // Without a unit that is known, the file's limit holds.
        let mut wrong = own(1);
        wrong.limit.as_mut().unwrap().unit = 0;
        assert_eq!(rls.codes(1, &[wrong]).await, (OK, vec![(OK, u32::MAX)]));
        // Each unit has a counter.
        let day = || {
            let unit = RateLimitUnit::Month.into();
            RateLimitDescriptor { limit: Some(RateLimitOverride { requests_per_unit: 3, unit }), ..own(0) }
        };
        assert_eq!(rls.codes(1, &[day(), own(9)]).await, (OK, vec![(OK, 2), (OK, 7)]));
        assert_eq!(rls.codes(1, &[own(9), day()]).await, (OK, vec![(OK, 6), (OK, 1)]));
        // What is used is charged, whichever limit refuses.
        let refused = [hits(3, by(&[("ten", "c")])), by(&[("none", "x")]), hits(2, by(&[("ten", "c")]))];
        assert_eq!(rls.codes(1, &refused).await, (OVER, vec![(OK, 5), (OVER, 0), (OK, 5)]));
        assert_eq!(rls.codes(1, &[by(&[("ten", "c")])]).await, (OK, vec![(OK, 4)]));
    }
}

/// An error would let the request pass, as Envoy is configured by default.
#[tokio::test]
async fn no_request_passes_by_an_error() {
    for rls in stores("").await {
        let values: Vec<String> = (0..=256).map(|i| i.to_string()).collect();
        let many: Vec<_> = values.iter().map(|value| by(&[("ten", value)])).collect();
        assert_eq!(rls.codes(4, &many[..256]).await, (OK, vec![(OK, 6); 256]));
        assert_eq!(rls.codes(7, &many[..256]).await.0, OVER);
        assert_eq!(rls.codes(6, &many[..256]).await, (OK, vec![(OK, 0); 256]), "all or none");
        assert_eq!(rls.codes(1, &many).await.0, OVER);

        // A client's header need not be UTF-8, and Envoy passes it on.
        let descriptors = vec![by(&[("two", "odd ZZ")])];
        let mut bytes =
            RateLimitRequest { domain: "d".to_owned(), descriptors, hits_addend: 1 }.encode_to_vec();
        let at = bytes.windows(2).position(|two| two == b"ZZ").unwrap();
        bytes[at..at + 2].copy_from_slice(b"\xff\xfe");
        assert!(RateLimitRequest::decode(&*bytes).is_err());
        let channel = Channel::from_shared(url(&rls.sidecar)).unwrap().connect().await.unwrap();
        for expected in [OK, OK, OVER] {
            let mut grpc = Grpc::new(channel.clone());
            grpc.ready().await.unwrap();
            let method = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit".parse().unwrap();
            let answer = grpc.unary(tonic::Request::new(bytes.clone()), method, Plain).await.unwrap();
            assert_eq!(answer.get_ref().overall_code(), expected);
        }
    }
}

/// Sends bytes as they are.
#[derive(Clone, Copy)]
struct Plain;

impl Codec for Plain {
    type Encode = Vec<u8>;
    type Decode = RateLimitResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Plain {
    type Item = Vec<u8>;
    type Error = tonic::Status;

    fn encode(&mut self, bytes: Vec<u8>, to: &mut EncodeBuf<'_>) -> Result<(), tonic::Status> {
        prost::bytes::BufMut::put_slice(to, &bytes);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = RateLimitResponse;
    type Error = tonic::Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<RateLimitResponse>, tonic::Status> {
        Ok(Some(RateLimitResponse::decode(from).unwrap()))
    }
}

#[tokio::test]
async fn shadow_quota_and_replacing_limits() {
    for rls in stores("").await {
        let shadow = [by(&[("shadow", "a")])];
        for _ in 0..3 {
            assert_eq!(rls.codes(1, &shadow).await, (OK, vec![(OK, 0)]));
        }
        let quotas = [by(&[("small", "a")]), by(&[("large", "a")])];
        assert_eq!(rls.codes(1, &quotas).await, (OK, vec![(OK, 0), (OK, 1)]));
        assert_eq!(rls.codes(1, &quotas).await, (OK, vec![(OVER, 0), (OK, 0)]));
        assert_eq!(rls.codes(1, &quotas).await, (OVER, vec![(OVER, 0), (OVER, 0)]));
        let replaced = [by(&[("two", "a")]), by(&[("instead", "a")])];
        assert_eq!(rls.codes(1, &replaced).await, (OK, vec![(OK, 0), (OK, 4)]));
        assert_eq!(rls.codes(1, &replaced[..1]).await, (OK, vec![(OK, 1)]));
        let requests = rls.metrics("evenkeel_rls_requests_total{").await.join("\n");
        assert!(requests.contains("limit=\"shadow\",result=\"shadow_over\"} 2"), "{requests}");
        assert!(requests.contains("limit=\"two\",result=\"replaced\"} 1"), "{requests}");
    }
}

#[tokio::test]
async fn all_domains_in_shadow_mode_with_headers() {
    for rls in stores(", shadow_mode: true, headers: [ratelimit, ietf]").await {
        let response = rls.ask(1, &[by(&[("none", "a")]), by(&[("ten", "a")])]).await;
        assert_eq!((response.overall_code(), response.statuses[0].code()), (OK, OVER));
        let headers: Vec<_> =
            response.response_headers_to_add.iter().map(|h| (h.key.as_str(), h.value.as_str())).collect();
        assert_eq!(
            headers[..3],
            [("RateLimit-Limit", "0"), ("RateLimit-Remaining", "0"), ("RateLimit-Reset", "1")]
        );
        assert_eq!(headers[3], ("RateLimit-Policy", "\"limit\";q=0;w=1, \"limit\";q=10;w=31536000"));
        assert_eq!((headers[4].0, headers.len()), ("RateLimit", 5));
    }
}

/// Counters of one request lie on different nodes: each is asked, and given back where another refuses.
#[tokio::test]
async fn all_or_none_holds_on_a_cluster() {
    let cluster = Cluster::start();
    let urls: Vec<String> = cluster.urls().iter().map(|url| format!("'{url}'")).collect();
    let store = format!("{{type: redis, cluster: true, urls: [{}], timeout: 2s}}", urls.join(", "));
    let rls = Rls::start_on(LIMITS, "", &store).await;
    let values: Vec<String> = (0..8).map(|i| i.to_string()).collect();
    let mut descriptors: Vec<_> = values.iter().map(|value| by(&[("ten", value)])).collect();
    for left in [9, 8] {
        assert_eq!(rls.codes(1, &descriptors).await, (OK, vec![(OK, left); 8]));
    }
    descriptors.push(by(&[("none", "a")]));
    assert_eq!(rls.codes(1, &descriptors).await.0, OVER);
    descriptors.pop();
    eventually(Duration::from_secs(10), "all is given back", || async {
        let looks: Vec<_> = descriptors.iter().map(|descriptor| hits(0, descriptor.clone())).collect();
        let codes = rls.codes(1, &looks).await;
        if codes == (OK, vec![(OK, 8); 8]) { Ok(()) } else { Err(format!("{codes:?}")) }
    })
    .await;
}

#[tokio::test]
async fn an_outage_is_answered_as_configured() {
    let redis = Redis::start();
    for (on_outage, expected) in
        [("local", [OK, OK, OVER]), ("open", [OK, OK, OK]), ("closed", [OVER, OVER, OVER])]
    {
        let proxy = Proxy::start(redis.port).await;
        let store = format!("{{type: redis, url: '{}', key_prefix: {on_outage}, timeout: 1s}}", proxy.url());
        let rls = Rls::start_on(LIMITS, &format!(", on_outage: {on_outage}"), &store).await;
        let two = [by(&[("two", "a")])];
        assert_eq!(rls.codes(1, &two).await, (OK, vec![(OK, 1)]));
        proxy.set(Mode::Refuse);
        for code in expected {
            assert_eq!(rls.codes(1, &two).await.0, code, "{on_outage}");
        }
        // A look is answered by the same policy.
        assert_eq!(rls.codes(1, &[hits(0, by(&[("ten", "a")]))]).await.0, expected[0], "{on_outage}");
        proxy.set(Mode::Pass);
        eventually(Duration::from_secs(10), "the shared counter counts again", || async {
            let codes = rls.codes(1, &[hits(0, by(&[("two", "a")]))]).await;
            if codes == (OK, vec![(OK, 1)]) { Ok(()) } else { Err(format!("{codes:?}")) }
        })
        .await;
    }
}

#[tokio::test]
async fn wrong_requests_and_unknown_domains() {
    let rls = Rls::start(LIMITS, "", None).await;
    let none = [by(&[("none", "a")])];
    assert_eq!(rls.ask_in("", 1, &none).await.unwrap_err().code(), GrpcCode::InvalidArgument);
    assert_eq!(rls.ask_in("d", 1, &[]).await.unwrap_err().code(), GrpcCode::InvalidArgument);
    let elsewhere = rls.ask_in("elsewhere", 1, &none).await.unwrap();
    assert_eq!((elsewhere.overall_code(), elsewhere.statuses.len()), (OK, 1));
    let requests = rls.metrics("evenkeel_rls_requests_total{domain=\"\"").await;
    assert_eq!(requests.len(), 2, "{requests:?}");
    assert!(rls.metrics("evenkeel_rls_duration_seconds_count").await[0].ends_with(" 3"));
}

#[tokio::test]
async fn without_a_section_it_is_not_served() {
    let sidecar = Sidecar::start("").await;
    let request = RateLimitRequest { domain: "d".to_owned(), ..RateLimitRequest::default() };
    let error = client(&sidecar).await.should_rate_limit(request).await.unwrap_err();
    assert_eq!(error.code(), GrpcCode::Unimplemented);
}

async fn limit_of(rls: &Rls, key: &str) -> Option<u32> {
    let response = rls.ask(1, &[hits(0, by(&[(key, "a")]))]).await;
    response.statuses[0].current_limit.as_ref().map(|limit| limit.requests_per_unit)
}

async fn takes(rls: &Rls, key: &str, expected: Option<u32>) {
    eventually(Duration::from_secs(10), "the file is taken", || async {
        let limit = limit_of(rls, key).await;
        if limit == expected { Ok(()) } else { Err(format!("{limit:?}")) }
    })
    .await;
}

async fn config_valid(rls: &Rls, expected: &str) {
    eventually(Duration::from_secs(10), "the gauge follows", || async {
        let (_, text) = rls.sidecar.get("/metrics").await;
        let valid = text.lines().find_map(|line| line.strip_prefix("evenkeel_rls_config_valid ")).unwrap();
        if valid == expected { Ok(()) } else { Err(valid.to_owned()) }
    })
    .await;
}

#[tokio::test]
async fn changed_files_are_taken_and_wrong_ones_are_not() {
    let rls = Rls::start(LIMITS, "", None).await;
    assert_eq!(limit_of(&rls, "two").await, Some(2));
    rls.write(&LIMITS.replace("requests_per_unit: 2", "requests_per_unit: 20"));
    takes(&rls, "two", Some(20)).await;
    rls.write("domain: d\ndescriptors: [{key: two, rate_limit: {unit: fortnight}}]");
    config_valid(&rls, "0").await;
    assert_eq!(limit_of(&rls, "two").await, Some(20), "the last good one stays");
    // A second file, and the first one mended.
    fs::write(rls.dir.path().join("more.yaml"), LIMITS.replace("domain: d", "domain: e")).unwrap();
    rls.write(LIMITS);
    config_valid(&rls, "1").await;
    assert_eq!(limit_of(&rls, "two").await, Some(2));
    assert_eq!(rls.ask_in("e", 1, &[by(&[("none", "a")])]).await.unwrap().overall_code(), OVER);
    fs::remove_file(rls.dir.path().join("limits.yaml")).unwrap();
    takes(&rls, "two", None).await;
}

fn link(to: &str, at: &Path) {
    let partial = at.with_file_name("partial");
    std::os::unix::fs::symlink(to, &partial).unwrap();
    fs::rename(&partial, at).unwrap();
}

/// Kubernetes puts a ConfigMap's files in a directory of its own and swaps the link to it.
#[tokio::test]
async fn a_config_map_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let put = |version: &str, requests: u32| {
        let version_dir = dir.path().join(version);
        fs::create_dir(&version_dir).unwrap();
        let limits = LIMITS.replace("requests_per_unit: 2", &format!("requests_per_unit: {requests}"));
        fs::write(version_dir.join("limits.yaml"), limits).unwrap();
        link(version, &dir.path().join("..data"));
    };
    put("..1", 3);
    std::os::unix::fs::symlink("..data/limits.yaml", dir.path().join("limits.yaml")).unwrap();
    for path in [dir.path().to_owned(), dir.path().join("limits.yaml")] {
        let sidecar = Sidecar::start(&format!("rate_limit_service: {{config: '{}'}}", path.display())).await;
        let client = client(&sidecar).await;
        let rls = Rls { sidecar, client, dir: tempfile::tempdir().unwrap(), _redis: None };
        let before = limit_of(&rls, "two").await.unwrap();
        put(&format!("..{}", before + 1), before + 1);
        takes(&rls, "two", Some(before + 1)).await;
    }
}

/// As `runtime` of envoyproxy/ratelimit has it: a link on the way to the files is swapped.
#[tokio::test]
async fn a_swapped_link_on_the_way_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    for (version, requests) in [("1", 3), ("2", 4)] {
        let config = dir.path().join(version).join("ratelimit/config");
        fs::create_dir_all(&config).unwrap();
        let limits = LIMITS.replace("requests_per_unit: 2", &format!("requests_per_unit: {requests}"));
        fs::write(config.join("limits.yaml"), limits).unwrap();
    }
    link("1", &dir.path().join("current"));
    let path = dir.path().join("current/ratelimit/config");
    let sidecar = Sidecar::start(&format!("rate_limit_service: {{config: '{}'}}", path.display())).await;
    let client = client(&sidecar).await;
    let rls = Rls { sidecar, client, dir: tempfile::tempdir().unwrap(), _redis: None };
    takes(&rls, "two", Some(3)).await;
    link("2", &dir.path().join("current"));
    takes(&rls, "two", Some(4)).await;
    // The new directory is watched too.
    fs::write(path.join("limits.yaml"), LIMITS).unwrap();
    takes(&rls, "two", Some(2)).await;
}

#[test]
fn the_command_line_checks_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let check = |arguments: &[&Path]| {
        let output = Command::new(env!("CARGO_BIN_EXE_evenkeel"))
            .arg("check-config")
            .args(arguments)
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    };
    fs::write(path("good.yaml"), LIMITS).unwrap();
    fs::write(
        path("evenkeel.yaml"),
        format!("rate_limit_service: {{config: '{}'}}", path("good.yaml").display()),
    )
    .unwrap();
    let (ok, text) = check(&[Path::new("--rate-limit"), &path("good.yaml")]);
    assert!(ok && text.contains("good.yaml: ok (10 limits of 1 domains)"), "{text}");
    let (ok, text) = check(&[&path("evenkeel.yaml")]);
    assert!(ok && text.contains("good.yaml: ok") && text.contains("evenkeel.yaml: ok"), "{text}");
    fs::write(path("good.yaml"), "descriptors: [{value: a}]").unwrap();
    for arguments in [vec![Path::new("--rate-limit"), &path("good.yaml")], vec![&*path("evenkeel.yaml")]] {
        let (ok, text) = check(&arguments);
        assert!(!ok, "{text}");
        assert!(text.contains("good.yaml: domain: must be a name, got none"), "{text}");
        assert!(text.contains("good.yaml: descriptors[0].key: must be a name, got none"), "{text}");
    }
    // What is wrong with the configuration hides nothing of the files it names.
    let section =
        format!("xyz: 1\nrate_limit_service: {{config: '{}', hedders: x}}", path("good.yaml").display());
    fs::write(path("evenkeel.yaml"), section).unwrap();
    let (ok, text) = check(&[&path("evenkeel.yaml")]);
    let lines = [
        "  xyz: must be one of ",
        "  rate_limit_service.hedders: must be ",
        "  good.yaml: domain: must be a name",
    ];
    assert!(!ok && lines.iter().all(|line| text.contains(line)), "{text}");
    assert!(!check(&[]).0);
}
