//! Queries of sessions: the sessions of a day, or one session with its turns.

use evenkeel_domain::{
    DomainError,
    usage::{Day, NONE, SessionKey, SessionSum, Turn},
};

use super::{
    Ledger,
    page_token::{decode_session, encode_session},
    query::{is_wanted, wanted},
};

/// Number of sessions read from the store in one call.
const SESSIONS_AT_ONCE: usize = 1000;

/// One page of a day's sessions.
#[derive(Clone, Debug, Default)]
pub struct SessionPage {
    pub sessions: Vec<(SessionKey, SessionSum)>,
    /// Token of the next page. Empty on the last page.
    pub next: String,
}

/// One session with its turns.
#[derive(Clone, Debug)]
pub struct Session {
    pub key: SessionKey,
    /// Sums over all turns.
    pub sum: SessionSum,
    /// The turns that are still stored, oldest first.
    pub turns: Vec<Turn>,
}

impl Ledger {
    /// Returns one page of a day's sessions, sorted by tokens in descending order.
    ///
    /// # Errors
    /// If the token is invalid or the store fails.
    pub async fn sessions(
        &self,
        day: Day,
        consumer: &str,
        size: usize,
        token: &str,
    ) -> Result<SessionPage, DomainError> {
        self.check_enabled()?;
        let wanted = wanted(consumer);
        let after = if token.is_empty() { None } else { Some(decode_session(token)?) };
        let tokens_max = after.as_ref().map(|(tokens, _)| *tokens);
        // Without a filter, one page needs only one session more than its size.
        let at_once = if wanted.is_some() { SESSIONS_AT_ONCE } else { (size + 1).min(SESSIONS_AT_ONCE) };
        let mut page = SessionPage::default();
        let mut skip = 0;
        while skip <= self.options().sessions_max + SESSIONS_AT_ONCE {
            let chunk = self.store.top_sessions(day, tokens_max, skip, at_once).await;
            let chunk = chunk.map_err(DomainError::store("reading sessions"))?;
            skip += at_once;
            if chunk.is_empty() {
                break;
            }
            for (key, sum) in chunk {
                let order = (sum.usage.tokens.total(), &key);
                let seen = after.as_ref().is_some_and(|(tokens, after)| order >= (*tokens, after));
                if seen || !is_wanted(wanted.as_ref(), key.consumer()) {
                    continue;
                }
                if page.sessions.len() == size {
                    page.next = page.sessions.last().map(encode_session).unwrap_or_default();
                    return Ok(page);
                }
                page.sessions.push((key, sum));
            }
        }
        Ok(page)
    }

    /// Returns one session with its turns.
    ///
    /// # Errors
    /// If the session is not stored or the store fails.
    pub async fn session(&self, consumer: &str, session: &str) -> Result<Session, DomainError> {
        self.check_enabled()?;
        let key = SessionKey::new(if consumer == NONE { "" } else { consumer }, session);
        let found = self.store.session(&key).await.map_err(DomainError::store("reading a session"))?;
        let Some(mut found) = found else {
            let what = format!("session {:?} of consumer {:?}", key.session(), key.consumer());
            return Err(DomainError::NotFound { what, hint: "ListSessions names those of a day" });
        };
        // Sidecars flush at different times.
        found.turns.sort_by_key(|turn| turn.at_ms);
        Ok(Session { key, sum: found.sum, turns: found.turns })
    }
}
