//! Decodes path, query and JSON body into one message of the API.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts as _, RawPathParams, Request},
    http::{HeaderMap, HeaderName, Method, StatusCode, header},
};
use evenkeel_api::{Administrator, ApiError, Caller, Code};
use serde::{
    Deserializer,
    de::{
        DeserializeOwned, Error as _, IntoDeserializer, Visitor,
        value::{Error, MapDeserializer, SeqDeserializer},
    },
    forward_to_deserialize_any,
};
use serde_json::{Map, Value};

use super::{Http, reply::Failure};
use crate::transport::caller::{administrator, caller};

/// Maximum time in which a body must arrive.
const BODY_WITHIN: Duration = Duration::from_secs(10);

/// Parameter values by name. A name may occur more than once.
pub(super) type Pairs = BTreeMap<String, Vec<String>>;

/// A request that changes nothing.
pub(super) struct Read<T>(pub(super) T);

/// A request about its caller.
pub(super) struct Known<T>(pub(super) Caller, pub(super) T);

/// A request that needs an administrator.
pub(super) struct Change<T>(pub(super) Administrator, pub(super) T);

impl<T: DeserializeOwned> FromRequest<Arc<Http>> for Read<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, http: &Arc<Http>) -> Result<Self, Failure> {
        Ok(Self(read(request, http).await?))
    }
}

impl<T: DeserializeOwned> FromRequest<Arc<Http>> for Change<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, http: &Arc<Http>) -> Result<Self, Failure> {
        check_origin(request.headers())?;
        let by = administrator(request.extensions())?;
        Ok(Self(by, read(request, http).await?))
    }
}

impl<T: DeserializeOwned> FromRequest<Arc<Http>> for Known<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, http: &Arc<Http>) -> Result<Self, Failure> {
        let caller = caller(request.extensions())?;
        Ok(Self(caller, read(request, http).await?))
    }
}

async fn read<T: DeserializeOwned>(request: Request, http: &Arc<Http>) -> Result<T, ApiError> {
    let has_body = matches!(*request.method(), Method::PUT | Method::POST);
    let (request, pairs) = pairs(request, !has_body).await?;
    if !has_body {
        return from_pairs(pairs);
    }
    let media = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media = media.unwrap_or("none").to_owned();
    if !media.split(';').next().is_some_and(|media| media.trim().eq_ignore_ascii_case("application/json")) {
        let expected = "application/json";
        return Err(ApiError::of_field(Code::UnsupportedMediaType, "content-type", expected, &media));
    }
    from_body(&body(request, http).await?, pairs)
}

/// Reads the body, whose size [`super::routes`] bounds.
async fn body(request: Request, http: &Arc<Http>) -> Result<Bytes, ApiError> {
    let refused = &http.metrics.bounds.refused;
    let Ok(body) = tokio::time::timeout(BODY_WITHIN, Bytes::from_request(request, http)).await else {
        refused.late.inc();
        let message = format!("body: must arrive within {} s", BODY_WITHIN.as_secs());
        return Err(ApiError { code: Code::InvalidArgument, field: Some("body".to_owned()), message });
    };
    body.map_err(|rejection| {
        let code = match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Code::TooLarge,
            _ => Code::InvalidArgument,
        };
        if code == Code::TooLarge {
            refused.too_large.inc();
        }
        ApiError { code, field: None, message: rejection.body_text() }
    })
}

/// Returns the values in the path and, if `query` is true, in the query.
pub(super) async fn pairs(request: Request, query: bool) -> Result<(Request, Pairs), ApiError> {
    let (mut parts, body) = request.into_parts();
    let path = RawPathParams::from_request_parts(&mut parts, &()).await.map_err(|rejection| ApiError {
        code: Code::InvalidArgument,
        field: None,
        message: rejection.body_text(),
    })?;
    let mut pairs = Pairs::new();
    let query = parts.uri.query().filter(|_| query).unwrap_or_default();
    let query =
        form_urlencoded::parse(query.as_bytes()).map(|(name, value)| (name.into_owned(), value.into()));
    for (name, value) in path.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).chain(query) {
        pairs.entry(name).or_default().push(value);
    }
    Ok((Request::from_parts(parts, body), pairs))
}

/// Decodes a message from text values.
pub(super) fn from_pairs<T: DeserializeOwned>(pairs: Pairs) -> Result<T, ApiError> {
    let pairs = pairs.into_iter().map(|(name, values)| (name, Values(values)));
    serde_path_to_error::deserialize(MapDeserializer::new(pairs)).map_err(wrong)
}

/// Decodes a message from a JSON object and the values of the path.
fn from_body<T: DeserializeOwned>(body: &[u8], path: Pairs) -> Result<T, ApiError> {
    let invalid = |field: &str, message: String| ApiError {
        code: Code::InvalidArgument,
        field: Some(field.to_owned()),
        message: format!("{field}: {message}"),
    };
    let mut object: Map<String, Value> =
        serde_json::from_slice(body).map_err(|error| invalid("body", error.to_string()))?;
    for (name, values) in path {
        let value = Value::String(values.concat());
        if object.insert(name.clone(), value).is_some() {
            return Err(invalid(&name, "is part of the path and must not be in the body".to_owned()));
        }
    }
    serde_path_to_error::deserialize(Value::Object(object)).map_err(wrong)
}

/// Returns an error that names the wrong field and the expected value.
#[allow(clippy::needless_pass_by_value)] // for map_err
fn wrong<E: std::fmt::Display>(error: serde_path_to_error::Error<E>) -> ApiError {
    let (path, message) = (error.path().to_string(), error.inner().to_string());
    // Name the list field, not one item of the list.
    let path = path.split('[').next().unwrap_or_default().to_owned();
    let (field, message) = match message.strip_prefix("unknown field ") {
        Some(rest) => {
            let mut names = rest.split('`').skip(1).step_by(2);
            let unknown: String = names.next().unwrap_or_default().chars().take(64).collect();
            (unknown.clone(), unknown_field(&unknown, &names.collect::<Vec<_>>()))
        }
        None if path == "." => ("body".to_owned(), message),
        None => (path, message),
    };
    ApiError { code: Code::InvalidArgument, message: format!("{field}: {message}"), field: Some(field) }
}

fn unknown_field(unknown: &str, known: &[&str]) -> String {
    if known.is_empty() {
        return "unknown field: this call takes none".to_owned();
    }
    let close = known.iter().map(|name| (strsim::damerau_levenshtein(unknown, name), *name)).min();
    match close.filter(|(distance, name)| *distance <= name.len().div_ceil(3)) {
        Some((_, name)) => format!("unknown field, did you mean `{name}`?"),
        None => format!("unknown field, must be one of {}", known.join(", ")),
    }
}

/// The text values of one field.
struct Values(Vec<String>);

impl Values {
    fn one(self) -> Result<String, Error> {
        match <[String; 1]>::try_from(self.0) {
            Ok([text]) => Ok(text),
            Err(_) => Err(Error::custom("must be given once, got more than once")),
        }
    }
}

impl IntoDeserializer<'_, Error> for Values {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $type:ty;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let text = self.one()?;
            let short: String = text.chars().take(64).collect();
            let most = <$type>::MAX;
            let wrong = |_| Error::custom(format_args!("must be a whole number up to {most}, got {short:?}"));
            visitor.$visit(text.parse().map_err(wrong)?)
        }
    )*};
}

impl<'de> Deserializer<'de> for Values {
    type Error = Error;

    numbers! {
        deserialize_u32 visit_u32 u32;
        deserialize_u64 visit_u64 u64;
        deserialize_i64 visit_i64 i64;
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_string(self.one()?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    /// Accepts both `?by=day,model` and `?by=day&by=model`.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let items =
            self.0.iter().flat_map(|text| text.split(',')).map(str::trim).filter(|item| !item.is_empty());
        let items = items.map(|item| Self(vec![item.to_owned()]));
        SeqDeserializer::new(items).deserialize_seq(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 u8 u16 f32 f64 char str string bytes byte_buf unit unit_struct newtype_struct tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

/// Rejects a change that a page of another site makes a browser send. Bodies must be JSON, for which browsers send a
/// preflight request.
fn check_origin(headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if let Some(origin) = text(header::ORIGIN) {
        let is_own =
            text(header::HOST).is_some_and(|host| origin.split_once("://").is_some_and(|(_, o)| o == host));
        if !is_own {
            let (expected, got) = ("this server's, or none", format!("{origin:?}"));
            return Err(ApiError::of_field(Code::PermissionDenied, "origin", expected, &got));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use evenkeel_proto::v1::{
        AdjustQuotaRequest, ListEndpointsRequest, ListSidecarsRequest, QueryUsageRequest,
    };

    use super::*;

    fn query<T: DeserializeOwned>(text: &str) -> Result<T, ApiError> {
        let mut pairs = Pairs::new();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            pairs.entry(name.into_owned()).or_default().push(value.into_owned());
        }
        from_pairs(pairs)
    }

    #[test]
    fn errors_name_the_field_and_what_was_expected() {
        let page: ListEndpointsRequest =
            query("cluster=a%20b&page_size=7&sort=in_flight").unwrap_or_default();
        assert_eq!((page.cluster.as_str(), page.page_size, page.sort), ("a b", 7, 2));
        let cases = [
            ("clustr=a", "clustr: unknown field, did you mean `cluster`?"),
            ("x=a", "x: unknown field, must be one of route, cluster, sort, search, page_size, page_token"),
            ("search=a&search=b", "search: must be given once, got more than once"),
            ("page_size=x", "page_size: must be a whole number up to 4294967295, got \"x\""),
            ("sort=x", "sort: must be one of load, in_flight, address, room, got \"x\""),
        ];
        for (text, message) in cases {
            let error = query::<ListEndpointsRequest>(text).unwrap_err();
            assert_eq!((error.code, error.message.as_str()), (Code::InvalidArgument, message));
            assert_eq!(error.field.as_deref(), message.split(':').next());
        }
        let error = query::<ListSidecarsRequest>("x=1").unwrap_err();
        assert_eq!(error.message, "x: unknown field: this call takes none");
        let usage: QueryUsageRequest = query("by=day,model&by=route").unwrap_or_default();
        assert_eq!(usage.by, [1, 3, 4]);
    }

    #[test]
    fn bodies_are_objects_with_the_fields_of_the_message() {
        let path = || Pairs::from([("consumer".to_owned(), vec!["a/b".to_owned()])]);
        let of = |text: &str| from_body::<AdjustQuotaRequest>(text.as_bytes(), path());
        let request = of(r#"{"delta": -7, "note": "n"}"#).unwrap();
        assert_eq!((request.consumer.as_str(), request.delta, request.note.as_str()), ("a/b", Some(-7), "n"));
        assert_eq!(of("{}").unwrap().delta, None);
        let fields = [
            ("x", "body"),
            ("[]", "body"),
            (r#"{"dleta": 1}"#, "dleta"),
            (r#"{"delta": "much"}"#, "delta"),
            (r#"{"consumer": "c"}"#, "consumer"),
        ];
        for (text, field) in fields {
            let error = of(text).unwrap_err();
            assert_eq!((error.code, error.field.as_deref()), (Code::InvalidArgument, Some(field)), "{text}");
        }
    }
}
