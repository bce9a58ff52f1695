//! Questions to the ledger: usage summed over what is not to be told apart, sessions of a day, one session.

use std::{cmp::Reverse, collections::HashMap, ops::RangeInclusive, sync::Arc, time::Duration};

use evenkeel_domain::{
    DomainError, NAME_BYTES_MAX, StoreError, clean,
    usage::{Day, NONE, RowKey, SEPARATOR, SessionKey, SessionSum, Turn, Usage, write_row},
};
use futures::Stream;
use tokio::sync::SemaphorePermit;

use super::{Ledger, QUERIES_MAX};

/// Most days asked about at once.
pub const DAYS_MAX: u32 = 400;
/// Most rows of an answer, where it is not told apart by day: they are put in order in memory.
const GROUPS_MAX: usize = 200_000;
/// Sessions read at once.
const SESSIONS_AT_ONCE: usize = 1000;
/// Longest wait for other queries.
const QUEUE_MAX: Duration = Duration::from_secs(5);

/// By what usage is told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct By {
    /// By day.
    pub day: bool,
    /// By consumer.
    pub consumer: bool,
    /// By model.
    pub model: bool,
    /// By route.
    pub route: bool,
}

impl By {
    /// Reads `day`, `consumer`, `model` and `route`, separated by commas; empty for none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut by = Self::default();
        for name in text.split(',').map(str::trim).filter(|_| !text.trim().is_empty()) {
            match name {
                "day" => by.day = true,
                "consumer" => by.consumer = true,
                "model" => by.model = true,
                "route" => by.route = true,
                _ => return None,
            }
        }
        Some(by)
    }
}

/// A question.
#[derive(Clone, Debug)]
pub struct Query {
    /// Which days: see [`Ledger::days`].
    pub days: RangeInclusive<Day>,
    /// By what to tell usage apart.
    pub by: By,
    /// Only this consumer's; empty for all, [`NONE`] for those without.
    pub consumer: String,
    /// Only this model's; likewise.
    pub model: String,
    /// Only this route's; likewise.
    pub route: String,
}

/// One row of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The day, where told apart by day.
    pub day: Option<Day>,
    /// Consumer, model and route, separated; those not told apart are empty.
    key: Arc<str>,
    /// How much.
    pub usage: Usage,
}

impl Row {
    /// A row of one's own: for those who have it from elsewhere.
    #[must_use]
    pub fn new(day: Option<Day>, consumer: &str, model: &str, route: &str, usage: Usage) -> Self {
        let mut key = String::new();
        write_row(&mut key, consumer, model, route);
        Self { day, key: key.into(), usage }
    }

    /// Consumer, model and route; those not told apart are empty.
    #[must_use]
    pub fn names(&self) -> [&str; 3] {
        let mut parts = self.key.splitn(3, SEPARATOR);
        std::array::from_fn(|_| parts.next().unwrap_or_default())
    }

    /// What rows are ordered by.
    fn order(&self) -> (Option<Day>, Reverse<u64>, &str) {
        (self.day, Reverse(self.usage.tokens.total()), &self.key)
    }
}

/// Part of an answer.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// By tokens, most first; where told apart by day, by day first.
    pub rows: Vec<Row>,
    /// For the next page; empty at the end.
    pub next: String,
    /// Sum over all rows of all pages.
    pub total: Usage,
}

/// Part of a day's sessions.
#[derive(Clone, Debug, Default)]
pub struct SessionPage {
    /// By tokens, most first.
    pub sessions: Vec<(SessionKey, SessionSum)>,
    /// For the next page; empty at the end.
    pub next: String,
}

/// One session.
#[derive(Clone, Debug)]
pub struct Session {
    /// Whose, and its id.
    pub key: SessionKey,
    /// Sums over all its turns.
    pub sum: SessionSum,
    /// Those still kept, oldest first.
    pub turns: Vec<Turn>,
}

/// Usage that is put in order together: of one day, or of all.
struct Section {
    day: Option<Day>,
    days: RangeInclusive<Day>,
}

/// The name to look for, as the ledger stores it; `None` for all.
fn wanted(name: &str) -> Option<String> {
    (!name.is_empty()).then(|| clean(name, NAME_BYTES_MAX).into_owned())
}

fn is_wanted(wanted: Option<&String>, name: &str) -> bool {
    wanted.is_none_or(|wanted| wanted == name || (wanted == NONE && name.is_empty()))
}

impl Ledger {
    /// A range of days from what was asked for: both ends today where not given. `fields` are their names in errors.
    ///
    /// # Errors
    /// Where a day cannot be read, or the range is empty, or reaches beyond what is kept.
    pub fn days(
        &self,
        from: &str,
        to: &str,
        fields: [&'static str; 2],
    ) -> Result<RangeInclusive<Day>, DomainError> {
        let today = self.today();
        let read = |field, text: &str| match text {
            "" => Ok(today),
            text => Day::parse(text)
                .ok_or_else(|| DomainError::invalid(field, "a day such as 2026-11-21", &format!("{text:?}"))),
        };
        let (from, to) = (read(fields[0], from)?, read(fields[1], to)?);
        let kept = self.options().retention.as_secs().div_ceil(86_400).min(u64::from(DAYS_MAX) - 1) as u32;
        if from < today.minus(kept) {
            let expected = "no more days ago than ledger.retention, and than 399";
            return Err(DomainError::invalid(fields[0], expected, &from.to_string()));
        }
        // Other sidecars' clocks may be ahead.
        if to > today.plus(1) {
            return Err(DomainError::invalid(fields[1], "today (UTC) at the latest", &to.to_string()));
        }
        if from > to {
            let got = format!("{to}, which is before {from}");
            return Err(DomainError::invalid(fields[1], "no day before the first", &got));
        }
        Ok(from..=to)
    }

    fn check_enabled(&self) -> Result<(), DomainError> {
        if self.options().enabled {
            return Ok(());
        }
        Err(DomainError::NotFound { what: "usage".to_owned(), hint: "ledger.enabled is false" })
    }

    async fn permit(&self) -> Result<SemaphorePermit<'_>, DomainError> {
        let permit = tokio::time::timeout(QUEUE_MAX, self.queries.acquire()).await;
        permit.ok().and_then(Result::ok).ok_or_else(|| {
            DomainError::store("waiting for other queries")(StoreError::Overloaded(QUERIES_MAX))
        })
    }

    /// One page of an answer.
    ///
    /// # Errors
    /// Where the token is not one of this query's, or the store cannot be read, or there is too much to be put in order.
    pub async fn query(&self, query: &Query, size: usize, token: &str) -> Result<Page, DomainError> {
        self.check_enabled()?;
        let after = if token.is_empty() { None } else { Some(decode_row(token, query.by)?) };
        let _permit = self.permit().await?;
        let mut page = Page::default();
        let mut more = false;
        for section in sections(query) {
            let (rows, total) = self.section(query, &section).await?;
            page.total += total;
            for row in rows {
                if after.as_ref().is_some_and(|after| row.order() <= after.order()) {
                    continue;
                }
                if page.rows.len() == size {
                    more = true;
                    break;
                }
                page.rows.push(row);
            }
        }
        if more {
            page.next = page.rows.last().map(encode_row).unwrap_or_default();
        }
        Ok(page)
    }

    /// All rows of an answer, a day's at a time where told apart by day.
    pub fn export(
        self: &Arc<Self>,
        query: Query,
    ) -> impl Stream<Item = Result<Vec<Row>, DomainError>> + Send + 'static {
        let sections = sections(&query).into_iter();
        futures::stream::try_unfold((Arc::clone(self), query, sections), |(ledger, query, mut left)| async {
            ledger.check_enabled()?;
            let Some(section) = left.next() else { return Ok(None) };
            let rows = {
                let _permit = ledger.permit().await?;
                ledger.section(&query, &section).await?.0
            };
            Ok(Some((rows, (ledger, query, left))))
        })
    }

    /// The rows of a section in order, and their sum.
    async fn section(&self, query: &Query, section: &Section) -> Result<(Vec<Row>, Usage), DomainError> {
        let mut groups: HashMap<Arc<str>, Usage> = HashMap::new();
        let mut day = *section.days.start();
        while day <= *section.days.end() {
            let rows = self.read(query, day).await?;
            groups = self.blocking(group(groups, rows, query.by)).await?;
            if groups.len() > GROUPS_MAX {
                return Err(DomainError::invalid(
                    "by",
                    "less: fewer dimensions, or also by day, or fewer days",
                    &format!("more than {GROUPS_MAX} rows"),
                ));
            }
            day = day.plus(1);
        }
        let day = section.day;
        self.blocking(move || {
            let mut total = Usage::default();
            let mut rows: Vec<Row> = groups
                .into_iter()
                .map(|(key, usage)| {
                    total += usage;
                    Row { day, key, usage }
                })
                .collect();
            rows.sort_unstable_by(|a, b| a.order().cmp(&b.order()));
            (rows, total)
        })
        .await
    }

    /// A hundred thousand rows are some ten milliseconds of work: too much for the thread that serves requests.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, DomainError> {
        tokio::task::spawn_blocking(work).await.map_err(|e| {
            DomainError::store("summing usage")(StoreError::Unavailable(format!("stopping: {e}")))
        })
    }

    /// The rows of a day that are asked about.
    async fn read(&self, query: &Query, day: Day) -> Result<HashMap<RowKey, Usage>, DomainError> {
        let wants = [wanted(&query.consumer), wanted(&query.model), wanted(&query.route)];
        // A row may be read twice, with newer sums.
        let mut rows = HashMap::new();
        let mut from = Some(0);
        while let Some(at) = from {
            let chunk = self.store.rows(day, at).await.map_err(DomainError::store("reading usage"))?;
            rows.extend(chunk.rows.into_iter().filter(|(key, _)| {
                wants.iter().zip(key.names()).all(|(wanted, name)| is_wanted(wanted.as_ref(), name))
            }));
            from = chunk.next;
        }
        Ok(rows)
    }

    /// Sessions of a day, by tokens.
    ///
    /// # Errors
    /// Where the token is not one of a session list, or the store cannot be read.
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
        // Most often one page is all that is read.
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

    /// One session with its turns.
    ///
    /// # Errors
    /// Where it is not kept, or the store cannot be read.
    pub async fn session(&self, consumer: &str, session: &str) -> Result<Session, DomainError> {
        self.check_enabled()?;
        let key = SessionKey::new(if consumer == NONE { "" } else { consumer }, session);
        let found = self.store.session(&key).await.map_err(DomainError::store("reading a session"))?;
        let Some(mut found) = found else {
            let what = format!("session {:?} of consumer {:?}", key.session(), key.consumer());
            return Err(DomainError::NotFound { what, hint: "ListSessions names those of a day" });
        };
        // Sidecars send theirs half a second after the other.
        found.turns.sort_by_key(|turn| turn.at_ms);
        Ok(Session { key, sum: found.sum, turns: found.turns })
    }
}

fn sections(query: &Query) -> Vec<Section> {
    if !query.by.day {
        return vec![Section { day: None, days: query.days.clone() }];
    }
    let (from, to) = (*query.days.start(), *query.days.end());
    let day = |n| from.plus(n);
    (0..=from.until(to)).map(|n| Section { day: Some(day(n)), days: day(n)..=day(n) }).collect()
}

/// Adds rows to the groups they belong to.
fn group(
    mut groups: HashMap<Arc<str>, Usage>,
    rows: HashMap<RowKey, Usage>,
    by: By,
) -> impl FnOnce() -> HashMap<Arc<str>, Usage> + Send + 'static {
    move || {
        let mut text = String::new();
        for (key, usage) in rows {
            let [consumer, model, route] = key.names();
            let part = |told: bool, name| if told { name } else { "" };
            text.clear();
            write_row(&mut text, part(by.consumer, consumer), part(by.model, model), part(by.route, route));
            match groups.get_mut(text.as_str()) {
                Some(sum) => *sum += usage,
                None => drop(groups.insert(text.as_str().into(), usage)),
            }
        }
        groups
    }
}

// Page tokens: what the last row of the page is ordered by.

fn encode_row(row: &Row) -> String {
    let day = row.day.map(|day| day.to_string()).unwrap_or_default();
    format!("{day}.{}.{}", row.usage.tokens.total(), hex(&row.key))
}

fn decode_row(token: &str, by: By) -> Result<Row, DomainError> {
    let read = || {
        let mut parts = token.splitn(3, '.');
        let day = parts.next()?;
        let tokens = parts.next()?.parse().ok()?;
        let key = RowKey::from_text(&unhex(parts.next()?)?)?;
        let day = if by.day { Some(Day::parse(day)?) } else { day.is_empty().then_some(None)? };
        let mut usage = Usage::default();
        usage.tokens.input = tokens;
        Some(Row { day, key: key.as_str().into(), usage })
    };
    read().ok_or_else(|| wrong_token(token))
}

fn encode_session((key, sum): &(SessionKey, SessionSum)) -> String {
    format!("{}.{}", sum.usage.tokens.total(), hex(key.as_str()))
}

fn decode_session(token: &str) -> Result<(u64, SessionKey), DomainError> {
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
    use super::*;

    #[test]
    fn dimensions() {
        assert_eq!(By::parse(""), Some(By::default()));
        assert_eq!(By::parse("model, day"), Some(By { day: true, model: true, ..By::default() }));
        assert_eq!(By::parse("model,"), None);
        assert_eq!(By::parse("session"), None);
    }

    #[test]
    fn tokens_lead_back_and_others_are_refused() {
        let mut usage = Usage::default();
        usage.tokens.output = 7;
        let row = Row::new(Day::parse("2026-11-21"), "ä.b", "", "r", usage);
        let by = By { day: true, ..By::default() };
        let token = encode_row(&row);
        assert_eq!(decode_row(&token, by).unwrap().order(), row.order());
        assert!(decode_row(&token, By::default()).is_err());
        for wrong in ["x", "..", "2026-11-21.1.zz", "2026-11-21.-1.", "2026-11-21.1.1f1"] {
            assert!(decode_row(wrong, by).is_err(), "{wrong}");
        }
        let session = (SessionKey::new("c", "s"), SessionSum { last_ms: 1, usage });
        assert_eq!(decode_session(&encode_session(&session)).unwrap(), (7, session.0));
        assert!(decode_session("7.00").is_err());
    }
}
