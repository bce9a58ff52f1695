//! Checks the host of a request. By DNS rebinding, a foreign site gives its own name the address of this server; the
//! browser of someone who may connect then calls it on behalf of the site. Such a call names the site as its host.

use std::net::IpAddr;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, Uri, Version, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use evenkeel_api::{ApiError, Code};

use super::reply::{Failure, Shared};

/// Paths that reveal nothing. Load balancers request them under any name.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];

/// Rejects a request that names its host ambiguously, or names a host that is not configured.
pub(super) async fn check(State(http): Shared, request: Request, next: Next) -> Response {
    let is_probe = PROBES.contains(&request.uri().path());
    match host(request.version(), request.uri(), request.headers()) {
        Ok(Some(host)) if !is_probe && !is_allowed(&host, &http.hosts) => {
            http.metrics.bounds.refused.host.inc();
            let expected = "an IP address, localhost, or one of listen.hosts";
            let got = format!("{:?}", host.as_str().chars().take(64).collect::<String>());
            Failure::from(ApiError::of_field(Code::Misdirected, "host", expected, &got)).into_response()
        }
        Ok(_) => next.run(request).await,
        Err(got) => {
            http.metrics.bounds.refused.host.inc();
            let expected = "given once, as in the request target";
            Failure::from(ApiError::of_field(Code::InvalidArgument, "host", expected, got)).into_response()
        }
    }
}

/// Returns the host that a request names; `None` for HTTP/1.0 without a host.
///
/// # Errors
/// What is wrong with it.
fn host(version: Version, uri: &Uri, headers: &HeaderMap) -> Result<Option<Authority>, &'static str> {
    let mut values = headers.get_all(header::HOST).iter();
    let (first, more) = (values.next(), values.next());
    if more.is_some() {
        return Err("more than one");
    }
    let Some(value) = first else {
        return match uri.authority() {
            Some(authority) if version == Version::HTTP_2 && !authority.as_str().contains('@') => {
                Ok(Some(authority.clone()))
            }
            None if version == Version::HTTP_10 => Ok(None),
            _ => Err("none"),
        };
    };
    let host = Authority::try_from(value.as_bytes()).map_err(|_| "an invalid one")?;
    if host.as_str().contains('@') {
        return Err("an invalid one");
    }
    match uri.authority() {
        Some(authority) if !authority.as_str().eq_ignore_ascii_case(host.as_str()) => Err("another one"),
        _ => Ok(Some(host)),
    }
}

/// Returns whether a page of this server may have this host. An IP address cannot be rebound.
fn is_allowed(host: &Authority, hosts: &[String]) -> bool {
    let name = host.host().trim_end_matches('.');
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    address.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(target: &str, hosts: &[&'static str]) -> Result<Option<String>, &'static str> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, host.parse().unwrap());
        }
        let found = host(Version::HTTP_11, &target.parse().unwrap(), &headers);
        found.map(|host| host.map(|host| host.to_string()))
    }

    #[test]
    fn a_request_names_one_host() {
        assert_eq!(of("/x", &["a:1"]), Ok(Some("a:1".into())));
        assert_eq!(of("http://A:1/x", &["a:1"]), Ok(Some("a:1".into())));
        assert_eq!(of("http://b:1/x", &["a:1"]), Err("another one"));
        assert_eq!(of("/x", &["a:1", "a:1"]), Err("more than one"));
        assert_eq!(of("/x", &["a:1", "b:1"]), Err("more than one"));
        assert_eq!(of("/x", &[]), Err("none"));
        for invalid in ["", "a b", "a/b", "localhost@evil", "a,b"] {
            assert!(
                of("/x", &[invalid]).is_err_and(|got| got.contains("invalid")) || invalid == "a,b",
                "{invalid}"
            );
        }
        assert_eq!(host(Version::HTTP_10, &"/x".parse().unwrap(), &HeaderMap::new()), Ok(None));
    }

    #[test]
    fn only_addresses_and_configured_names_are_allowed() {
        let hosts = ["evenkeel.example".to_owned()];
        for allowed in [
            "127.0.0.1",
            "127.0.0.1:9191",
            "[::1]:9191",
            "10.1.2.3",
            "localhost:1",
            "LocalHost.",
            "Evenkeel.Example:80",
        ] {
            assert!(is_allowed(&allowed.parse().unwrap(), &hosts), "{allowed}");
        }
        for foreign in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.nip.io",
            "evenkeel.example.evil",
            "0x7f.1",
            "2130706433",
            "a,b",
        ] {
            assert!(!is_allowed(&foreign.parse().unwrap(), &hosts), "{foreign}");
        }
    }
}
