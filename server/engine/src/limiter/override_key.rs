//! Keys of overrides: converts the key that an administrator entered into the key under which requests are counted.

use std::collections::HashMap;

use evenkeel_domain::{
    DomainError, IDENTITY_BYTES_MAX, NAME_BYTES_MAX,
    limit::{Attribute, Attributes, Key, Limit},
    shorten,
};

/// Maximum length of an override's key as an administrator enters it, in bytes. It may contain a long name or header.
const KEY_BYTES_MAX: usize = IDENTITY_BYTES_MAX;

/// Returns the form of a limit's keys, such as `consumer=…|model=…`.
#[must_use]
pub fn form_of_key(limit: &Limit) -> String {
    if limit.key.attributes().is_empty() {
        return format!("limit={}", limit.name);
    }
    let parts: Vec<String> =
        limit.key.attributes().iter().map(|attribute| format!("{attribute}=…")).collect();
    parts.join("|")
}

/// Returns the key under which requests are counted. `text` may name the attributes in any order. Reserved characters
/// are encoded unless they are already encoded, and secrets become digests.
pub(super) fn canonical_key(limit: &Limit, text: &str) -> Result<String, DomainError> {
    let wrong = || {
        let expected = format!("of the form {} (| and % as %7C and %25)", form_of_key(limit));
        DomainError::invalid("key", expected, &format!("{text:?}"))
    };
    if text.len() > KEY_BYTES_MAX {
        return Err(DomainError::invalid("key", "at most 65536 bytes", &format!("{} bytes", text.len())));
    }
    let attributes = limit.key.attributes();
    if attributes.is_empty() {
        return if text == form_of_key(limit) { Ok(text.to_owned()) } else { Err(wrong()) };
    }
    let parts: Option<HashMap<&str, &str>> = text.split('|').map(|part| part.split_once('=')).collect();
    let parts =
        parts.filter(|parts| parts.len() == attributes.len() && text.split('|').count() == parts.len());
    let parts = parts.ok_or_else(wrong)?;
    let canonical = attributes.iter().map(|attribute| {
        let value = parts.get(attribute.to_string().as_str())?;
        if is_digest(value) {
            return Some(format!("{attribute}={value}"));
        }
        let request = request_with(attribute, decode(value)?);
        Some(Key::new(vec![attribute.clone()]).bucket(&request, &limit.name)?.tag.clone())
    });
    canonical.collect::<Option<Vec<String>>>().map(|parts| parts.join("|")).ok_or_else(wrong)
}

fn is_digest(value: &str) -> bool {
    value.strip_prefix('#').is_some_and(|hex| {
        hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

/// Returns the attributes of a request in which `attribute` has this value.
fn request_with(attribute: &Attribute, value: String) -> Attributes {
    let mut request = Attributes::default();
    // A network is in CIDR notation: `address/prefix-length`.
    let address = value.split('/').next().unwrap_or_default().to_owned();
    match attribute {
        Attribute::Consumer => request.consumer = shorten(&value, NAME_BYTES_MAX).into_owned(),
        Attribute::Model => request.model = shorten(&value, NAME_BYTES_MAX).into_owned(),
        Attribute::Route => request.route = value,
        Attribute::Cluster => request.cluster = value,
        Attribute::Path => request.path = value,
        Attribute::Ip { .. } => request.source_ip = address.parse().ok(),
        Attribute::HeaderIp { header, .. } => drop(request.headers.insert(header.clone(), address)),
        Attribute::Header(name) => drop(request.headers.insert(name.clone(), value)),
        Attribute::Query(name) => {
            let mut query = form_urlencoded::Serializer::new(String::from("/?"));
            request.path = query.append_pair(name, &value).finish();
        }
        Attribute::Cookie(name) => drop(request.headers.insert("cookie".into(), format!("{name}={value}"))),
        Attribute::Descriptor(name) => drop(request.descriptors.insert(name.clone(), value)),
    }
    request
}

/// Decodes percent-encoding. A `%` without two hex digits after it remains as it is.
fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut i = 0;
    while let Some(&byte) = bytes.get(i) {
        let hex = bytes.get(i + 1..i + 3).filter(|hex| byte == b'%' && hex.iter().all(u8::is_ascii_hexdigit));
        match hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()) {
            Some(decoded) => {
                out.push(decoded);
                i += 3;
            }
            None => {
                out.push(byte);
                i += 1;
            }
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::{super::overrides::tests::limit, *};

    #[test]
    fn an_override_has_the_key_of_the_requests_it_applies_to() {
        let limit = limit("l", &["model", "consumer", "ip/24", "header:x-team", "query:api_key"]);
        let (team, key) = ("header:x-team=red team", "query:api_key=s3cret");
        let given = format!("model=m|consumer=a%7Cb|ip/24/64=10.1.2.3|{team}|{key}");
        let canonical = canonical_key(&limit, &given).unwrap();
        let request = Attributes {
            consumer: "a|b".into(),
            model: "m".into(),
            source_ip: "10.1.2.9".parse().ok(),
            headers: [("x-team".into(), "red team".into())].into(),
            path: "/x?api_key=s3cret".into(),
            ..Attributes::default()
        };
        assert_eq!(canonical, limit.key.bucket(&request, "l").unwrap().to_string());
        assert_eq!(canonical_key(&limit, &canonical).unwrap(), canonical, "a canonical key stays the same");
    }

    #[test]
    fn a_malformed_key_is_rejected_with_the_expected_form() {
        let two = limit("l", &["model", "consumer"]);
        for text in [
            "",
            "alice",
            "consumer=a",
            "consumer=a|model=",
            "consumer=a|route=r",
            "consumer=a|model=m|model=m",
        ] {
            let message = canonical_key(&two, text).unwrap_err().to_string();
            assert!(message.contains("consumer=…|model=…"), "{text:?}: {message}");
        }
        let one = limit("l", &["ip"]);
        assert!(canonical_key(&one, "ip=somewhere").is_err());
        assert_eq!(canonical_key(&limit("l", &[]), "limit=l").unwrap(), "limit=l");
    }
}
