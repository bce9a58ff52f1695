//! Overrides of limits: another amount for one key, set while running. Each sidecar has all of them in memory, looks
//! four times a [`keep_alive_interval`](evenkeel_config::Config::keep_alive_interval) whether they changed, and keeps
//! the last it saw while the store is away.

use std::{collections::HashMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use evenkeel_domain::{
    DomainError, StoreError,
    clock::unix_ms,
    limit::{AMOUNT_MAX, Attribute, Facts, Key, Limit, LimitRules},
    page::{cut, page_size_of},
};
use evenkeel_store::{
    changes::AdminChange,
    records::{OVERRIDES_MAX, Override, OverrideList, Records},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{audit::Audit, follow::follow};

/// Longest key of an override, in bytes.
const KEY_BYTES_MAX: usize = 1024;

/// What applies to one key instead of a limit's amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exemption {
    /// The amount; `None`: not limited.
    pub amount: Option<u64>,
    /// When it ends, ms of the Unix epoch.
    expires_at_ms: Option<u64>,
}

/// All overrides at one moment.
#[derive(Debug, Default)]
pub struct Overrides {
    version: Option<u64>,
    of: HashMap<Box<str>, HashMap<Box<str>, Exemption>>,
}

impl Overrides {
    fn new(list: OverrideList) -> Self {
        let mut of: HashMap<Box<str>, HashMap<Box<str>, Exemption>> = HashMap::new();
        for Override { limit, key, amount, expires_at_ms, .. } in
            list.overrides.into_iter().take(OVERRIDES_MAX)
        {
            of.entry(limit.into()).or_default().insert(key.into(), Exemption { amount, expires_at_ms });
        }
        Self { version: Some(list.version), of }
    }

    /// What applies to a key, as its [`Bucket`](evenkeel_domain::limit::Bucket) is displayed, unless it has ended.
    #[must_use]
    pub fn get(&self, limit: &str, key: &str) -> Option<&Exemption> {
        let exemption = self.of.get(limit)?.get(key)?;
        exemption.expires_at_ms.is_none_or(|at| unix_ms() < at).then_some(exemption)
    }

    /// Whether a limit has any: if not, no key needs to be put together.
    #[must_use]
    pub fn any_of(&self, limit: &str) -> bool {
        self.of.contains_key(limit)
    }

    /// How many, those that have ended included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.of.values().map(HashMap::len).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }
}

/// Overrides as administrators set them, and as this sidecar knows them.
pub struct OverrideBook {
    records: Arc<dyn Records>,
    rules: Arc<ArcSwap<LimitRules>>,
    current: Arc<ArcSwap<Overrides>>,
    audit: Arc<Audit>,
    changed: Arc<Notify>,
}

impl OverrideBook {
    /// Knowing none until [`Self::run`] has read them.
    #[must_use]
    pub fn new(records: Arc<dyn Records>, rules: Arc<ArcSwap<LimitRules>>, audit: Arc<Audit>) -> Self {
        let (current, changed) = (Arc::default(), Arc::default());
        Self { records, rules, current, audit, changed }
    }

    /// Those in force.
    #[must_use]
    pub fn current(&self) -> Arc<ArcSwap<Overrides>> {
        Arc::clone(&self.current)
    }

    /// The limits they may be set for.
    #[must_use]
    pub fn limits(&self) -> Vec<Arc<Limit>> {
        self.rules.load().limits.clone()
    }

    /// Sets one; `amount` none: not limited.
    ///
    /// # Errors
    /// Where there is no such limit, the key is not one of its, or the store is away or has too many.
    pub async fn set(&self, mut new: Override) -> Result<Override, DomainError> {
        let limit = self.limit(&new.limit)?;
        new.key = canonical_key(&limit, &new.key)?;
        if let Some(amount) = new.amount.filter(|amount| *amount > AMOUNT_MAX) {
            return Err(DomainError::invalid("amount", "at most 10^15", &amount.to_string()));
        }
        if let Some(at) = new.expires_at_ms.filter(|at| *at <= unix_ms()) {
            let expected = "in the future (ms of the Unix epoch), or 0 for never";
            return Err(DomainError::invalid("expires_at_ms", expected, &at.to_string()));
        }
        let before = self.in_force(&limit.name, &new.key).await;
        let (records, audit, changed) = self.parts();
        let done = async move {
            let set = records.set_override(&new).await.map_err(DomainError::store("setting an override"))?;
            new.at_ms = set.ok_or_else(|| DomainError::Full {
                what: format!("there are {OVERRIDES_MAX} overrides already"),
                hint: "delete some, or change the limit in the configuration",
            })?;
            changed.notify_one();
            let mut after = shown(new.amount);
            if let Some(ends) = new.expires_at_ms.and_then(time) {
                after = format!("{after} until {ends}");
            }
            audit.record(change("override.set", &new.who, &new.limit, &new.key, before, after)).await;
            Ok(new)
        };
        self.audit.whole(done).await
    }

    /// Takes one away. Also of a limit that is no longer configured.
    ///
    /// # Errors
    /// Where there is none, or the store is away.
    pub async fn delete(&self, limit: &str, key: &str, who: &str) -> Result<(), DomainError> {
        let key = match self.limit(limit) {
            Ok(limit) => canonical_key(&limit, key)?,
            Err(_) => key.to_owned(),
        };
        let before = self.in_force(limit, &key).await;
        let (records, audit, changed) = self.parts();
        let (limit, who) = (limit.to_owned(), who.to_owned());
        let done = async move {
            let deleted = records.delete_override(&limit, &key).await;
            if !deleted.map_err(DomainError::store("deleting an override"))? {
                return Err(DomainError::NotFound {
                    what: format!("override of limit {limit:?} for {key:?}"),
                    hint: "ListOverrides names those there are",
                });
            }
            changed.notify_one();
            audit.record(change("override.delete", &who, &limit, &key, before, "none".to_owned())).await;
            Ok(())
        };
        self.audit.whole(done).await
    }

    /// What a change needs that goes on by itself.
    fn parts(&self) -> (Arc<dyn Records>, Arc<Audit>, Arc<Notify>) {
        (Arc::clone(&self.records), Arc::clone(&self.audit), Arc::clone(&self.changed))
    }

    /// One page of those that have not ended, by limit, then key; and the token of the next.
    ///
    /// # Errors
    /// Where the page is wrong, or the store is away.
    pub async fn list(
        &self,
        limit: &str,
        page_size: u32,
        page_token: &str,
    ) -> Result<(Vec<Override>, String), DomainError> {
        let size = page_size_of(page_size)?;
        let after = match page_token.split_once('|') {
            None if page_token.is_empty() => None,
            None => {
                let got = format!("{page_token:?}");
                return Err(DomainError::invalid("page_token", "one from the previous page", &got));
            }
            after => after,
        };
        let list = self.records.overrides().await.map_err(DomainError::store("reading overrides"))?;
        let now = unix_ms();
        let mut page = list.overrides;
        page.retain(|o| {
            (limit.is_empty() || o.limit == limit)
                && o.expires_at_ms.is_none_or(|at| now < at)
                && after.is_none_or(|after| (o.limit.as_str(), o.key.as_str()) > after)
        });
        let next = cut(&mut page, size, |last| format!("{}|{}", last.limit, last.key));
        Ok((page, next))
    }

    /// The override on record, in words; where the store is away, the one this sidecar knows.
    async fn in_force(&self, limit: &str, key: &str) -> String {
        // The change that asks will say what is wrong with the store.
        let _ = self.refresh().await;
        let current = self.current.load();
        current.get(limit, key).map_or_else(|| "none".to_owned(), |exemption| shown(exemption.amount))
    }

    fn limit(&self, name: &str) -> Result<Arc<Limit>, DomainError> {
        let rules = self.rules.load();
        let found = rules.limits.iter().find(|limit| *limit.name == *name);
        found.cloned().ok_or_else(|| DomainError::NotFound {
            what: format!("limit {name:?}"),
            hint: "the configuration has no limit of this name",
        })
    }

    /// Follows what is on record until `end`.
    pub async fn run(self: Arc<Self>, keep_alive_interval: Duration, end: CancellationToken) {
        follow("overrides", keep_alive_interval, &self.changed, &end, || self.refresh()).await;
    }

    /// Reads them where they have changed.
    ///
    /// # Errors
    /// Where the store is away: those known stay in force.
    pub async fn refresh(&self) -> Result<(), StoreError> {
        let version = self.records.overrides_version().await?;
        if self.current.load().version != Some(version) {
            self.current.store(Arc::new(Overrides::new(self.records.overrides().await?)));
        }
        Ok(())
    }
}

fn change(what: &str, who: &str, limit: &str, key: &str, before: String, after: String) -> AdminChange {
    let (who, what, target) = (who.to_owned(), what.to_owned(), format!("{limit}/{key}"));
    AdminChange { who, what, target, before, after, ..AdminChange::default() }
}

/// A time in words, by UTC.
fn time(ms: u64) -> Option<String> {
    Some(jiff::Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?.to_string())
}

fn shown(amount: Option<u64>) -> String {
    amount.map_or_else(|| "unlimited".to_owned(), |amount| amount.to_string())
}

/// How a limit's keys look: `consumer=…|model=…`.
#[must_use]
pub fn form_of_key(limit: &Limit) -> String {
    if limit.key.attributes().is_empty() {
        return format!("limit={}", limit.name);
    }
    let parts: Vec<String> =
        limit.key.attributes().iter().map(|attribute| format!("{attribute}=…")).collect();
    parts.join("|")
}

/// A key as requests are counted under it. Attributes may come in any order; what a key must not hold is encoded,
/// unless it is already, and secrets become digests.
fn canonical_key(limit: &Limit, text: &str) -> Result<String, DomainError> {
    let wrong = || {
        let expected = format!("of the form {} (| and % as %7C and %25)", form_of_key(limit));
        DomainError::invalid("key", expected, &format!("{text:?}"))
    };
    if text.len() > KEY_BYTES_MAX {
        return Err(DomainError::invalid("key", "at most 1024 bytes", &format!("{} bytes", text.len())));
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
        let facts = facts_with(attribute, decode(value)?);
        Some(Key::new(vec![attribute.clone()]).bucket(&facts, &limit.name)?.tag.clone())
    });
    canonical.collect::<Option<Vec<String>>>().map(|parts| parts.join("|")).ok_or_else(wrong)
}

fn is_digest(value: &str) -> bool {
    value.strip_prefix('#').is_some_and(|hex| {
        hex.len() == 32 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

/// A request in which an attribute has this value.
fn facts_with(attribute: &Attribute, value: String) -> Facts {
    let mut facts = Facts::default();
    // Of a network, its address.
    let address = value.split('/').next().unwrap_or_default().to_owned();
    match attribute {
        Attribute::Consumer => facts.consumer = value,
        Attribute::Model => facts.model = value,
        Attribute::Route => facts.route = value,
        Attribute::Cluster => facts.cluster = value,
        Attribute::Path => facts.path = value,
        Attribute::Ip { .. } => facts.source_ip = address.parse().ok(),
        Attribute::HeaderIp { header, .. } => drop(facts.headers.insert(header.clone(), address)),
        Attribute::Header(name) => drop(facts.headers.insert(name.clone(), value)),
        Attribute::Query(name) => {
            let mut query = form_urlencoded::Serializer::new(String::from("/?"));
            facts.path = query.append_pair(name, &value).finish();
        }
        Attribute::Cookie(name) => drop(facts.headers.insert("cookie".into(), format!("{name}={value}"))),
        Attribute::Descriptor(name) => drop(facts.descriptors.insert(name.clone(), value)),
    }
    facts
}

/// Takes back percent-encoding; a `%` that begins none stays.
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
    use evenkeel_domain::limit::{Algorithm, Counts, OnOutage, Period, Rejected};
    use evenkeel_store::memory::{MemoryCounters, MemoryRecords};

    use super::*;
    use crate::audit::tests::audit;

    fn limit(name: &str, key: &[&str]) -> Limit {
        Limit {
            name: name.into(),
            counts: Counts::Requests,
            amount: 1,
            period: Period::Length(Duration::from_secs(60)),
            algorithm: Algorithm::FixedWindow,
            key: Key::new(key.iter().map(|text| Attribute::parse(text).unwrap()).collect()),
            when: Vec::new(),
            exceptions: Vec::new(),
            shadow: false,
            rejected: Rejected::with_status(429),
            margin: 1.0,
            on_outage: OnOutage::Open,
        }
    }

    fn book() -> OverrideBook {
        let limits = vec![Arc::new(limit("rpm", &["consumer"])), Arc::new(limit("all", &[]))];
        let rules = Arc::new(ArcSwap::from_pointee(LimitRules { limits, ..LimitRules::default() }));
        OverrideBook::new(Arc::new(MemoryRecords::new(Arc::new(MemoryCounters::default()))), rules, audit())
    }

    fn of(limit: &str, key: &str) -> Override {
        Override {
            limit: limit.into(),
            key: key.into(),
            amount: Some(5),
            expires_at_ms: None,
            who: "ops".into(),
            at_ms: 0,
        }
    }

    #[test]
    fn keys_are_as_requests_are_counted() {
        let limit = limit("l", &["model", "consumer", "ip/24", "header:x-team", "query:api_key"]);
        let (team, key) = ("header:x-team=red team", "query:api_key=s3cret");
        let given = format!("model=m|consumer=a%7Cb|ip/24/64=10.1.2.3|{team}|{key}");
        let canonical = canonical_key(&limit, &given).unwrap();
        let facts = Facts {
            consumer: "a|b".into(),
            model: "m".into(),
            source_ip: "10.1.2.9".parse().ok(),
            headers: [("x-team".into(), "red team".into())].into(),
            path: "/x?api_key=s3cret".into(),
            ..Facts::default()
        };
        assert_eq!(canonical, limit.key.bucket(&facts, "l").unwrap().to_string());
        assert_eq!(canonical_key(&limit, &canonical).unwrap(), canonical, "what is canonical stays");
    }

    #[test]
    fn keys_of_another_form_are_refused_with_the_form() {
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

    #[tokio::test]
    async fn what_is_set_is_in_force_until_it_ends_or_is_deleted() {
        let book = book();
        book.refresh().await.unwrap();
        book.set(of("rpm", "consumer=alice")).await.unwrap();
        let current = book.current();
        assert!(current.load().is_empty(), "until it is read");
        let short =
            Override { amount: None, expires_at_ms: Some(unix_ms() + 50), ..of("rpm", "consumer=bob") };
        book.set(short).await.unwrap();
        book.refresh().await.unwrap();
        let now = current.load();
        assert_eq!(now.get("rpm", "consumer=alice").unwrap().amount, Some(5));
        assert!(now.any_of("rpm") && !now.any_of("all"));
        assert_eq!(now.get("rpm", "consumer=carol"), None);
        while now.get("rpm", "consumer=bob").is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(book.list("", 0, "").await.unwrap().0.len(), 1, "one that ended is not listed");
        book.delete("rpm", "consumer=alice", "ops").await.unwrap();
        assert!(matches!(
            book.delete("rpm", "consumer=alice", "ops").await,
            Err(DomainError::NotFound { .. })
        ));
        book.refresh().await.unwrap();
        assert_eq!(current.load().get("rpm", "consumer=alice"), None);
        let account = book.audit.list(0).await.unwrap();
        let told: Vec<_> = account
            .iter()
            .map(|c| [&c.who, &c.what, &c.target, &c.before].map(String::as_str))
            .zip(account.iter().map(|c| c.after.split(" until ").next().unwrap()))
            .collect();
        assert_eq!(
            told,
            [
                (["ops", "override.delete", "rpm/consumer=alice", "5"], "none"),
                (["ops", "override.set", "rpm/consumer=bob", "none"], "unlimited"),
                (["ops", "override.set", "rpm/consumer=alice", "none"], "5"),
            ]
        );
        assert!(account[1].after.ends_with('Z'), "{}", account[1].after);
    }

    #[tokio::test]
    async fn the_task_reads_at_once_what_is_set_here() {
        let (book, end) = (Arc::new(book()), CancellationToken::new());
        let task = tokio::spawn(Arc::clone(&book).run(Duration::from_secs(3600), end.clone()));
        book.set(of("all", "limit=all")).await.unwrap();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while book.current().load().get("all", "limit=all").is_none() {
            assert!(tokio::time::Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        end.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_wrong_is_told() {
        let book = book();
        let unknown = book.set(of("nope", "consumer=a")).await.unwrap_err();
        assert_eq!(
            unknown.to_string(),
            "limit \"nope\" not found: the configuration has no limit of this name"
        );
        let past = Override { expires_at_ms: Some(1), ..of("rpm", "consumer=a") };
        assert!(book.set(past).await.unwrap_err().to_string().starts_with("expires_at_ms"));
        let much = Override { amount: Some(AMOUNT_MAX + 1), ..of("rpm", "consumer=a") };
        assert!(book.set(much).await.unwrap_err().to_string().starts_with("amount"));
        assert!(book.list("", 1001, "").await.is_err());
        assert!(book.list("", 0, "x").await.is_err());
    }

    #[tokio::test]
    async fn pages() {
        let book = book();
        for i in 0..7 {
            book.set(of("rpm", &format!("consumer={i}"))).await.unwrap();
        }
        book.set(of("all", "limit=all")).await.unwrap();
        let (mut token, mut seen) = (String::new(), Vec::new());
        loop {
            let (page, next) = book.list("", 3, &token).await.unwrap();
            seen.extend(page.into_iter().map(|o| o.key));
            if next.is_empty() {
                break;
            }
            token = next;
        }
        assert_eq!(seen.len(), 8);
        assert_eq!(seen[..2], ["limit=all", "consumer=0"]);
        assert_eq!(book.list("all", 0, "").await.unwrap().0.len(), 1);
    }
}
