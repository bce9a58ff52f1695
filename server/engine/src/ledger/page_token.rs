//! Page tokens. A token contains the sort key of the last row of a page.

use evenkeel_domain::{
    DomainError,
    usage::{Day, RowKey, SessionKey, SessionSum},
};

/// The sort key of a row of usage: the day (if grouped by day), then tokens, then names.
pub(super) type RowPlace = (Option<Day>, u64, RowKey);

pub(super) fn encode_row(day: Option<Day>, tokens: u64, key: &str) -> String {
    let day = day.map(|day| day.to_string()).unwrap_or_default();
    format!("{day}.{tokens}.{}", hex(key))
}

pub(super) fn decode_row(token: &str, by_day: bool) -> Result<RowPlace, DomainError> {
    let read = || {
        let mut parts = token.splitn(3, '.');
        let day = parts.next()?;
        let tokens = parts.next()?.parse().ok()?;
        let key = RowKey::from_text(&unhex(parts.next()?)?)?;
        let day = if by_day { Some(Day::parse(day)?) } else { day.is_empty().then_some(None)? };
        Some((day, tokens, key))
    };
    read().ok_or_else(|| wrong_token(token))
}

pub(super) fn encode_session((key, sum): &(SessionKey, SessionSum)) -> String {
    format!("{}.{}", sum.usage.tokens.total(), hex(key.as_str()))
}

pub(super) fn decode_session(token: &str) -> Result<(u64, SessionKey), DomainError> {
    let read = || {
        let (tokens, key) = token.split_once('.')?;
        Some((tokens.parse().ok()?, SessionKey::from_text(&unhex(key)?)?))
    };
    read().ok_or_else(|| wrong_token(token))
}

fn wrong_token(token: &str) -> DomainError {
    let shown: String = token.chars().take(100).collect();
    DomainError::invalid("page_token", "the next_page_token of the same query", &format!("{shown:?}"))
}

fn hex(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::with_capacity(2 * text.len()), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

fn unhex(text: &str) -> Option<String> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pair = |pair: &[u8]| Some((digit(pair[0])? * 16 + digit(*pair.get(1)?)?) as u8);
    String::from_utf8(text.as_bytes().chunks(2).map(pair).collect::<Option<_>>()?).ok()
}

#[cfg(test)]
mod tests {
    use evenkeel_domain::usage::Usage;

    use super::*;

    #[test]
    fn a_token_decodes_to_its_sort_key_and_invalid_tokens_are_rejected() {
        let (day, key) = (Day::parse("2026-11-21"), RowKey::new("ä.b", "", "r"));
        let token = encode_row(day, 7, key.as_str());
        assert_eq!(decode_row(&token, true).unwrap(), (day, 7, key));
        assert!(decode_row(&token, false).is_err());
        for wrong in ["x", "..", "2026-11-21.1.zz", "2026-11-21.-1.", "2026-11-21.1.1f1"] {
            assert!(decode_row(wrong, true).is_err(), "{wrong}");
        }
        let mut usage = Usage::default();
        usage.tokens.output = 7;
        let session = (SessionKey::new("c", "s"), SessionSum { last_ms: 1, usage });
        assert_eq!(decode_session(&encode_session(&session)).unwrap(), (7, session.0));
        assert!(decode_session("7.00").is_err());
    }
}
