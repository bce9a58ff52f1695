//! Queries of usage, grouped by any combination of day, consumer, model and route.

use std::{cmp::Reverse, collections::HashMap, ops::RangeInclusive, sync::Arc, time::Duration};

use evenkeel_domain::{
    DomainError, NAME_BYTES_MAX, StoreError, shorten,
    usage::{Day, NONE, RowKey, SEPARATOR, Usage, write_row},
};
use futures::Stream;
use tokio::sync::SemaphorePermit;

use super::{
    Ledger, QUERIES_MAX,
    page_token::{decode_row, encode_row},
};

/// Maximum number of days in one query.
pub const DAYS_MAX: u32 = 400;
/// Maximum number of rows sorted together in memory: the rows of one day if grouped by day, else all rows.
const GROUPS_MAX: usize = 200_000;
/// Maximum time that a query waits for other queries.
const QUEUE_MAX: Duration = Duration::from_secs(5);

/// The dimensions that usage is grouped by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct By {
    pub day: bool,
    pub consumer: bool,
    pub model: bool,
    pub route: bool,
}

impl By {
    /// Parses a comma-separated list of `day`, `consumer`, `model` and `route`. The text may be empty.
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

/// A query of usage.
#[derive(Clone, Debug)]
pub struct Query {
    /// A range of days from [`Ledger::days`].
    pub days: RangeInclusive<Day>,
    pub by: By,
    /// Only usage of this consumer. Empty: all consumers. [`NONE`]: only usage without a consumer.
    pub consumer: String,
    pub model: String,
    pub route: String,
}

/// The usage of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// `None` if not grouped by day.
    pub day: Option<Day>,
    /// Consumer, model and route, separated. A name is empty if the rows are not grouped by it.
    key: Arc<str>,
    pub usage: Usage,
}

impl Row {
    #[must_use]
    pub fn new(day: Option<Day>, consumer: &str, model: &str, route: &str, usage: Usage) -> Self {
        let mut key = String::new();
        write_row(&mut key, consumer, model, route);
        Self { day, key: key.into(), usage }
    }

    /// Returns consumer, model and route. A name is empty if the rows are not grouped by it.
    #[must_use]
    pub fn names(&self) -> [&str; 3] {
        let mut parts = self.key.splitn(3, SEPARATOR);
        std::array::from_fn(|_| parts.next().unwrap_or_default())
    }

    /// Returns the token of a page that ends with this row.
    fn token(&self) -> String {
        encode_row(self.day, self.usage.tokens.total(), &self.key)
    }

    /// Returns the sort key.
    fn order(&self) -> (Option<Day>, Reverse<u64>, &str) {
        (self.day, Reverse(self.usage.tokens.total()), &self.key)
    }
}

/// One page of the result of a query.
#[derive(Clone, Debug, Default)]
pub struct UsagePage {
    /// Rows sorted by tokens, descending. If grouped by day, rows are sorted by day, and by tokens within a day.
    pub rows: Vec<Row>,
    /// Token of the next page. Empty on the last page.
    pub next: String,
    /// Sum over the rows of all pages.
    pub total: Usage,
}

/// Rows that are sorted together: the rows of one day, or of all days.
struct Section {
    day: Option<Day>,
    days: RangeInclusive<Day>,
}

/// Returns the name to filter by, in the form in which the ledger stores names. `None`: all names.
pub(super) fn wanted(name: &str) -> Option<String> {
    (!name.is_empty()).then(|| shorten(name, NAME_BYTES_MAX).into_owned())
}

pub(super) fn is_wanted(wanted: Option<&String>, name: &str) -> bool {
    wanted.is_none_or(|wanted| wanted == name || (wanted == NONE && name.is_empty()))
}

impl Ledger {
    /// Parses a range of days. An empty `from` or `to` means today. Errors name the parameters in `fields`.
    ///
    /// # Errors
    /// If a day is invalid, the range is empty, or it reaches beyond the retention.
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
        // The clocks of other sidecars may be ahead.
        if to > today.plus(1) {
            return Err(DomainError::invalid(fields[1], "today (UTC) at the latest", &to.to_string()));
        }
        if from > to {
            let got = format!("{to}, which is before {from}");
            return Err(DomainError::invalid(fields[1], "no day before the first", &got));
        }
        Ok(from..=to)
    }

    pub(super) fn check_enabled(&self) -> Result<(), DomainError> {
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

    /// Returns one page of the result of a query.
    ///
    /// # Errors
    /// If the token is not from this query, the store fails, or there are too many rows.
    pub async fn query(&self, query: &Query, size: usize, token: &str) -> Result<UsagePage, DomainError> {
        self.check_enabled()?;
        let after = if token.is_empty() { None } else { Some(decode_row(token, query.by.day)?) };
        let after = after.as_ref().map(|(day, tokens, key)| (*day, Reverse(*tokens), key.as_str()));
        let _permit = self.permit().await?;
        let mut page = UsagePage::default();
        let mut more = false;
        for section in sections(query) {
            let (rows, total) = self.section(query, &section).await?;
            page.total += total;
            for row in rows {
                if after.is_some_and(|after| row.order() <= after) {
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
            page.next = page.rows.last().map(Row::token).unwrap_or_default();
        }
        Ok(page)
    }

    /// Streams all rows of the result of a query. If grouped by day, each item is one day.
    pub fn export(
        self: &Arc<Self>,
        query: Query,
    ) -> impl Stream<Item = Result<Vec<Row>, DomainError>> + Send + use<> {
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

    /// Returns the sorted rows of a section and their sum.
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

    /// Runs `work` outside the threads that serve requests: 100,000 rows take some ten milliseconds.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, DomainError> {
        tokio::task::spawn_blocking(work).await.map_err(|e| {
            DomainError::store("summing usage")(StoreError::Unavailable(format!("stopping: {e}")))
        })
    }

    /// Reads the rows of a day that the query selects.
    async fn read(&self, query: &Query, day: Day) -> Result<HashMap<RowKey, Usage>, DomainError> {
        let wants = [wanted(&query.consumer), wanted(&query.model), wanted(&query.route)];
        // The store may return a row twice, the second time with newer sums.
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
}

fn sections(query: &Query) -> Vec<Section> {
    if !query.by.day {
        return vec![Section { day: None, days: query.days.clone() }];
    }
    let (from, to) = (*query.days.start(), *query.days.end());
    let day = |n| from.plus(n);
    (0..=from.until(to)).map(|n| Section { day: Some(day(n)), days: day(n)..=day(n) }).collect()
}

/// Adds rows to their groups.
fn group(
    mut groups: HashMap<Arc<str>, Usage>,
    rows: HashMap<RowKey, Usage>,
    by: By,
) -> impl FnOnce() -> HashMap<Arc<str>, Usage> + Send + 'static {
    move || {
        let mut text = String::new();
        for (key, usage) in rows {
            let [consumer, model, route] = key.names();
            let part = |grouped: bool, name| if grouped { name } else { "" };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dimensions_are_parsed() {
        assert_eq!(By::parse(""), Some(By::default()));
        assert_eq!(By::parse("model, day"), Some(By { day: true, model: true, ..By::default() }));
        assert_eq!(By::parse("model,"), None);
        assert_eq!(By::parse("session"), None);
    }
}
