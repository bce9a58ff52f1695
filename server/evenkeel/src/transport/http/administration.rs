//! What the JSON of administration has in common: who may, what is asked, and errors.

use std::collections::HashMap;

use axum::{
    Json,
    http::{HeaderMap, HeaderName, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use evenkeel_domain::DomainError;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::transport::{
    auth::{Admins, NoAdmin},
    status::to_status,
};

/// The token alone: what is behind a login of its own has `authorization` for that.
const TOKEN_HEADER: &str = "x-evenkeel-token";

/// Largest body of a change, in bytes.
pub(super) const BODY_BYTES_MAX: usize = 16 * 1024;

/// An error, as it is answered.
pub(super) struct Failure {
    status: StatusCode,
    /// The field, parameter or header that is wrong.
    field: Option<String>,
    message: String,
}

pub(super) type Answer = Result<Response, Failure>;

impl Failure {
    pub(super) fn of_field(status: StatusCode, field: &str, expected: &str, got: &str) -> Self {
        let message = format!("{field}: must be {expected}, got {got}");
        Self { status, field: Some(field.to_owned()), message }
    }
}

impl From<DomainError> for Failure {
    fn from(error: DomainError) -> Self {
        let status = to_status(&error);
        let code = match status.code() {
            tonic::Code::InvalidArgument => StatusCode::BAD_REQUEST,
            tonic::Code::NotFound => StatusCode::NOT_FOUND,
            tonic::Code::ResourceExhausted if matches!(error, DomainError::Full { .. }) => {
                StatusCode::CONFLICT
            }
            tonic::Code::ResourceExhausted | tonic::Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        // Of a nested field the part a client gave.
        let field = if let DomainError::Invalid { field, .. } = &error {
            Some(field.trim_start_matches("override.").to_owned())
        } else {
            None
        };
        Self { status: code, field, message: status.message().to_owned() }
    }
}

impl From<NoAdmin> for Failure {
    fn from(error: NoAdmin) -> Self {
        let status = match error {
            NoAdmin::NoneConfigured => StatusCode::FORBIDDEN,
            NoAdmin::NoToken | NoAdmin::WrongToken => StatusCode::UNAUTHORIZED,
        };
        Self { status, field: Some("authorization".to_owned()), message: error.to_string() }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self { status, field, message } = self;
        let mut error = json!({"status": status.as_u16(), "message": message});
        if let Some(field) = field {
            error["field"] = field.into();
        }
        let mut response = (status, Json(json!({"error": error}))).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Who makes a changing call, by `x-evenkeel-token` or, without that, by `authorization`. A page of another site must not
/// make a browser call: whatever names a foreign origin is refused, and bodies have to be JSON, which browsers ask about
/// first.
pub(super) fn who(admins: &Admins, headers: &HeaderMap) -> Result<String, Failure> {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if let Some(origin) = text(header::ORIGIN) {
        let own =
            text(header::HOST).is_some_and(|host| origin.split_once("://").is_some_and(|(_, o)| o == host));
        if !own {
            let got = format!("{origin:?}");
            return Err(Failure::of_field(StatusCode::FORBIDDEN, "origin", "this server's, or none", &got));
        }
    }
    let own = text(HeaderName::from_static(TOKEN_HEADER)).map(|token| format!("Bearer {token}"));
    Ok(admins.who(own.as_deref().or_else(|| text(header::AUTHORIZATION)))?)
}

/// A JSON body; the error names the field.
pub(super) fn body<T: DeserializeOwned>(headers: &HeaderMap, body: &[u8]) -> Result<T, Failure> {
    let media = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("none");
    if !media.split(';').next().is_some_and(|media| media.trim().eq_ignore_ascii_case("application/json")) {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        return Err(Failure::of_field(status, "content-type", "application/json", media));
    }
    serde_json::from_slice(body).map_err(|error| {
        let message = error.to_string();
        // serde tells the field in its own words: unknown field `x`, missing field `x`.
        let field =
            message.contains("field `").then(|| message.split('`').nth(1).map(str::to_owned)).flatten();
        Failure {
            status: StatusCode::BAD_REQUEST,
            message: format!("body: {message}"),
            field: field.or_else(|| Some("body".to_owned())),
        }
    })
}

/// The query's parameters, each of which has to be one of these, given once.
pub(super) fn query(uri: &Uri, known: &[&'static str]) -> Result<HashMap<&'static str, String>, Failure> {
    let mut found = HashMap::new();
    for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        let wrong = |expected: &str, got: &str| {
            let (name, status) = (name.chars().take(64).collect::<String>(), StatusCode::BAD_REQUEST);
            Failure::of_field(status, &name, expected, got)
        };
        let Some(known) = known.iter().find(|known| **known == name) else {
            return Err(wrong(&format!("one of {}", known.join(", ")), "an unknown parameter"));
        };
        if found.insert(*known, value.into_owned()).is_some() {
            return Err(wrong("given once", "two"));
        }
    }
    Ok(found)
}

/// The parameter `page_size`.
pub(super) fn page_size(parameters: &HashMap<&'static str, String>) -> Result<u32, Failure> {
    let Some(text) = parameters.get("page_size") else { return Ok(0) };
    text.parse().map_err(|_| {
        let got = format!("{:?}", text.chars().take(64).collect::<String>());
        Failure::of_field(StatusCode::BAD_REQUEST, "page_size", "1..1000", &got)
    })
}

/// A parameter, or nothing.
pub(super) fn text<'a>(parameters: &'a HashMap<&'static str, String>, name: &str) -> &'a str {
    parameters.get(name).map_or("", String::as_str)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use evenkeel_config::Config;
    use evenkeel_telemetry::Metrics;
    use tokio::sync::watch;

    use super::*;

    #[test]
    fn a_token_of_its_own_goes_before_the_login_of_a_proxy() {
        let yaml = "admin: {tokens: [{name: ops, token: an-administrators-token}]}";
        let (_held, tokens) = watch::channel(Arc::clone(&Config::parse(yaml).unwrap().admin));
        let admins = Admins::new(tokens, Metrics::new().unwrap());
        let of = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, value.parse().unwrap());
            }
            who(&admins, &headers).map_err(|failure| failure.status)
        };
        let (login, token) = (("authorization", "Basic dTpw"), "an-administrators-token");
        assert_eq!(of(&[login, (TOKEN_HEADER, token)]), Ok("ops".to_owned()));
        assert_eq!(of(&[("authorization", "Bearer an-administrators-token")]), Ok("ops".to_owned()));
        let wrong = Err(StatusCode::UNAUTHORIZED);
        assert_eq!(of(&[login]), wrong);
        // A wrong one is wrong, whatever else is shown.
        assert_eq!(of(&[("authorization", "Bearer an-administrators-token"), (TOKEN_HEADER, "x")]), wrong);
        assert_eq!(of(&[(TOKEN_HEADER, "")]), wrong);
        let foreign = ("origin", "http://elsewhere.example");
        assert_eq!(of(&[foreign, (TOKEN_HEADER, token)]), Err(StatusCode::FORBIDDEN));
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        #[allow(dead_code)]
        amount: u64,
    }

    #[test]
    fn bodies_are_json_and_errors_name_the_field() {
        let mut headers = HeaderMap::new();
        let of = |headers: &HeaderMap, text: &str| body::<Body>(headers, text.as_bytes()).unwrap_err();
        assert_eq!(of(&headers, "{}").status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        headers.insert(header::CONTENT_TYPE, "text/plain".parse().unwrap());
        assert_eq!(of(&headers, "{}").status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        headers.insert(header::CONTENT_TYPE, "application/json; charset=utf-8".parse().unwrap());
        for (text, field) in
            [("{}", "amount"), (r#"{"amont": 1}"#, "amont"), ("x", "body"), (r#"{"amount": -1}"#, "body")]
        {
            let failure = of(&headers, text);
            assert_eq!(
                (failure.status, failure.field.as_deref()),
                (StatusCode::BAD_REQUEST, Some(field)),
                "{text}"
            );
        }
    }

    #[test]
    fn parameters_are_known_and_given_once() {
        let of = |text: &str| query(&text.parse().unwrap(), &["prefix", "page_size"]);
        let parameters = of("/x?prefix=a%20b&page_size=7").unwrap_or_default();
        assert_eq!((text(&parameters, "prefix"), page_size(&parameters).ok()), ("a b", Some(7)));
        assert_eq!(of("/x?prefx=a").unwrap_err().field.as_deref(), Some("prefx"));
        assert!(of("/x?prefix=a&prefix=b").is_err());
        assert!(page_size(&of("/x?page_size=x").unwrap_or_default()).is_err());
    }
}
