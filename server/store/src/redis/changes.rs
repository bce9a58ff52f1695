//! Administrators' changes in Redis, in a list.

use async_trait::async_trait;
use evenkeel_domain::StoreError;

use super::{RedisStore, call::Call, link::Way, script::CHANGE};
use crate::changes::{AdminChange, CHANGES_MAX, ChangeStore};

#[async_trait]
impl ChangeStore for RedisStore {
    async fn add_change(&self, id: &str, change: &AdminChange) -> Result<(), StoreError> {
        let AdminChange { who, what, target, before, after, note, .. } = change;
        let mut call = Call::new(&CHANGE, &[&self.keys().changes()]);
        for text in [id, what, who, target, before, after, note] {
            call.arg(text);
        }
        call.number(CHANGES_MAX);
        self.shared.client.run(&call, Way::Beside).await.map(drop)
    }

    async fn changes(&self, most: usize) -> Result<Vec<AdminChange>, StoreError> {
        let Some(last) = most.checked_sub(1) else { return Ok(Vec::new()) };
        let range =
            self.command("changes", redis::cmd("LRANGE").arg(self.keys().changes()).arg(0).arg(last)).await?;
        let entries: Vec<String> =
            redis::from_redis_value(range).map_err(|e| corrupt("changes", e.to_string()))?;
        // Skips changes that another version of Evenkeel wrote in another layout.
        Ok(entries.iter().filter_map(|entry| parse_change(entry)).collect())
    }
}

fn corrupt(script: &'static str, detail: String) -> StoreError {
    StoreError::Corrupt { script, detail }
}

fn parse_change(entry: &str) -> Option<AdminChange> {
    let mut lines = entry.splitn(8, '\n').skip(1);
    let at_ms = lines.next()?.parse().ok()?;
    let mut next = || lines.next().map(str::to_owned);
    let (what, who, target) = (next()?, next()?, next()?);
    Some(AdminChange { at_ms, who, what, target, before: next()?, after: next()?, note: next()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read() {
        let change = parse_change("id\n5\nquota.set\nops\ndaily/alice\n1\n2\na note").unwrap();
        assert_eq!((change.at_ms, &*change.what, &*change.who), (5, "quota.set", "ops"));
        assert_eq!((&*change.target, &*change.before, &*change.after), ("daily/alice", "1", "2"));
        assert_eq!(change.note, "a note");
        assert_eq!(parse_change("id\n5\nquota.set\nops\ndaily/alice\n1\n2"), None);
    }
}
