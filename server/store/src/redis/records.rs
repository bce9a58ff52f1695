//! Records in Redis: consumers' records in quotas, and an index of these consumers.
//!
//! The index of a quota is in another slot than the records of the quota's consumers. A change writes the index before
//! and after the record, and a read removes an index entry that has no record. So the index lacks a record only if a
//! sidecar dies during a change, until someone reads the record.

use std::sync::Arc;

use async_trait::async_trait;
use evenkeel_domain::{
    StoreError,
    limit::{AMOUNT_MAX, CounterRule},
};
use futures::{StreamExt as _, TryStreamExt as _};
use redis::Value;

use super::{
    RedisStore,
    call::Call,
    encode::{Doubles, rule_numbers},
    link::Way,
    script::QUOTA,
};
use crate::records::{Account, Action, Change, Edit, Edited, Found, Range, Record, RecordStore};

/// Maximum number of records read concurrently for one list.
const CONCURRENCY: usize = 6;
/// Maximum number of rounds of reads for one list. Each round compares `ROUND` index entries; the first reads fewer if
/// every entry is wanted. A further round replaces entries that have no record or are not wanted.
const ROUNDS_MAX: usize = 20;
const ROUND: usize = 1000;

impl RedisStore {
    /// Reads or changes one account. Returns the status, as lua/quota.lua describes it, and the account.
    async fn account(&self, account: &Account, edit: Option<&Edit>) -> Result<(i64, Edited), StoreError> {
        let rule = &account.rule;
        let (what, value) = match edit.map(|edit| edit.action) {
            None => ("read", 0),
            Some(action @ Action::Set(amount)) => (action.name(), amount.min(AMOUNT_MAX) as i64),
            Some(action @ Action::Adjust(delta)) => (action.name(), delta),
            Some(action @ Action::Delete) => (action.name(), 0),
        };
        let Account { bucket, quota, .. } = account;
        let mut numbers = Doubles::default();
        // A rule of a limit has no record. It is sent as a prepaid quota without a default.
        let (kind, of_rule) =
            rule_numbers(if rule.is_quota() { rule } else { &CounterRule::Prepaid { default: None } });
        numbers.push([kind]);
        numbers.push_signed(of_rule);
        let (record, changes) =
            (self.keys().counters(&bucket.tag, ""), self.keys().quota_changes(bucket, quota));
        let mut call = Call::new(&QUOTA, &[&record, &changes]);
        call.arg(what).arg(quota).bytes(&numbers.0).number(value).number(AMOUNT_MAX);
        let text = |f: fn(&Edit) -> &str| edit.map_or("", f);
        call.arg(text(|e| &e.id)).arg(text(|e| &e.who)).arg(text(|e| &e.note));
        let mut reply = self.shared.client.run(&call, Way::Beside).await?;
        let (status, now) = (reply.integer()?, reply.count()?);
        let (before, after, recorded) = (reply.count()?, reply.count()?, reply.count()? == 1);
        let (used, reserved, overrun) = (reply.count()?, reply.count()?, reply.count()?);
        let level = u64::try_from(reply.integer()?).ok();
        let record = match rule {
            CounterRule::Budget { .. } => Record::of_budget(rule, level, used, reserved, now),
            _ => Record { recorded, balance: after, reserved, used, overrun, ..Record::default() },
        };
        Ok((status, Edited { applied: status == 1, before, after, record }))
    }

    async fn index(&self, account: &Account) -> Result<(), StoreError> {
        let mut add = redis::cmd("ZADD");
        add.arg(self.keys().quota_index(&account.quota)).arg(0).arg(&*account.consumer);
        self.command("quota_index", &add).await.map(drop)
    }

    /// Removes an account that has no record from the index. Adds it again if a record has been created in the
    /// meantime.
    async fn forget(&self, account: &Account) -> Result<(), StoreError> {
        let mut remove = redis::cmd("ZREM");
        remove.arg(self.keys().quota_index(&account.quota)).arg(&*account.consumer);
        self.command("quota_index", &remove).await?;
        let (_, now) = self.account(account, None).await?;
        if now.record.recorded { self.index(account).await } else { Ok(()) }
    }

    /// Returns the consumers in the index after one of them, sorted by name.
    async fn indexed(&self, quota: &str, after: &str, most: usize) -> Result<Vec<String>, StoreError> {
        let from = if after.is_empty() { "-".to_owned() } else { format!("({after}") };
        let mut list = redis::cmd("ZRANGE");
        list.arg(self.keys().quota_index(quota)).arg(from).arg("+").arg("BYLEX");
        list.arg("LIMIT").arg(0).arg(most);
        texts("quota_index", self.command("quota_index", &list).await?)
    }
}

fn texts(operation: &'static str, value: Value) -> Result<Vec<String>, StoreError> {
    let texts: Result<Vec<String>, _> = redis::from_redis_value(value);
    texts.map_err(|e| StoreError::Corrupt { script: operation, detail: e.to_string() })
}

#[async_trait]
impl RecordStore for RedisStore {
    async fn quota(&self, account: &Account) -> Result<Record, StoreError> {
        let (_, Edited { record, .. }) = self.account(account, None).await?;
        if record.recorded {
            self.index(account).await?;
        }
        Ok(record)
    }

    async fn edit_quota(&self, account: &Account, edit: &Edit) -> Result<Option<Edited>, StoreError> {
        let keeps = edit.action != Action::Delete;
        if keeps {
            self.index(account).await?;
        }
        let (status, edited) = self.account(account, Some(edit)).await?;
        if status < 0 {
            return Ok(None);
        }
        // The change is made, and its answer does not depend on the index.
        let _ = if keeps { self.index(account).await } else { self.forget(account).await };
        Ok(Some(edited))
    }

    async fn quota_changes(&self, account: &Account) -> Result<Vec<Change>, StoreError> {
        let mut list = redis::cmd("LRANGE");
        list.arg(self.keys().quota_changes(&account.bucket, &account.quota)).arg(0).arg(-1);
        let entries = texts("quota_changes", self.command("quota_changes", &list).await?)?;
        let parsed: Option<Vec<Change>> = entries.iter().map(|entry| parse_change(entry)).collect();
        parsed.ok_or_else(|| StoreError::Corrupt {
            script: "quota_changes",
            detail: "a change of another layout".to_owned(),
        })
    }

    async fn quotas(
        &self,
        quota: &Arc<str>,
        rule: &CounterRule,
        range: Range<'_>,
    ) -> Result<Found, StoreError> {
        let (mut found, mut after) = (Vec::new(), range.after.to_owned());
        for round in 0..ROUNDS_MAX {
            let most = if round > 0 || !range.search.is_empty() { ROUND } else { range.most };
            let names = self.indexed(quota, &after, most).await?;
            let mut end = names.len() < most;
            after = names.last().cloned().unwrap_or_default();
            let wanted = names.iter().filter(|name| name.contains(range.search));
            let accounts = wanted.filter_map(|name| Account::new(name, Arc::clone(quota), *rule));
            let mut accounts: Vec<Account> = accounts.collect();
            let missing = range.most - found.len();
            if accounts.len() > missing {
                accounts.truncate(missing);
                // The next round continues after the last account that this round reads.
                (after, end) = (accounts[missing - 1].consumer.to_string(), false);
            }
            let mut read = futures::stream::iter(accounts)
                .map(|account| async move {
                    let (_, Edited { record, .. }) = self.account(&account, None).await?;
                    if !record.recorded {
                        self.forget(&account).await?;
                    }
                    Ok::<_, StoreError>((account.consumer, record))
                })
                .buffered(CONCURRENCY);
            while let Some((consumer, record)) = read.try_next().await? {
                if record.recorded {
                    found.push((consumer, record));
                }
            }
            if end || found.len() >= range.most {
                return Ok(Found { records: found, stopped_at: None });
            }
        }
        Ok(Found { records: found, stopped_at: Some(after) })
    }
}

fn parse_change(entry: &str) -> Option<Change> {
    let mut lines = entry.splitn(7, '\n').skip(1);
    let mut next = || lines.next();
    let (at_ms, what) = (next()?.parse().ok()?, next()?.to_owned());
    let (before, after) = (next()?.parse().ok()?, next()?.parse().ok()?);
    Some(Change { at_ms, what, before, after, who: next()?.to_owned(), note: next()?.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read() {
        let change = parse_change("id\n5\nset\n1\n2\nops\na note").unwrap();
        assert_eq!((change.at_ms, change.before, change.after), (5, 1, 2));
        assert_eq!((&*change.what, &*change.who, &*change.note), ("set", "ops", "a note"));
        assert_eq!(parse_change("id\n5\nset\n1\n2\nops"), None);
    }
}
