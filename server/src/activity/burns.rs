//! How fast quotas are used, as this sidecar charges them.

use std::{collections::VecDeque, sync::Arc};

use rustc_hash::FxHashMap;

use crate::domain::activity::{Burn, Resolution};

/// Most quotas of consumers kept; when there are more, the half that was charged least goes.
const KEPT_MAX: usize = 10_000;
/// Quotas of consumers told of.
const TOLD_MAX: usize = 500;
/// How far back charges are kept.
pub(super) const BACK_MS: u64 = 3_600_000;

/// How a quota was last seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Standing {
    pub(super) balance: u64,
    pub(super) amount: u64,
    pub(super) reset_at_ms: u64,
    pub(super) at_ms: u64,
}

#[derive(Default)]
struct Account {
    standing: Standing,
    /// Steps of [`Resolution::Coarse`] with what was charged, oldest first.
    charged: VecDeque<(u64, u64)>,
}

impl Account {
    fn forget_before(&mut self, at_ms: u64) {
        while self.charged.front().is_some_and(|(step, _)| step + Resolution::Coarse.step_ms() <= at_ms) {
            self.charged.pop_front();
        }
    }

    fn sum(&self) -> u64 {
        self.charged.iter().map(|(_, amount)| amount).sum()
    }
}

/// Charges of the last hour by quota and consumer.
#[derive(Default)]
pub(super) struct Table {
    accounts: FxHashMap<Arc<str>, FxHashMap<Box<str>, Account>>,
    count: usize,
    changed: bool,
}

impl Table {
    /// A request was held against the quota.
    pub(super) fn see(&mut self, quota: &Arc<str>, consumer: &str, standing: Standing) {
        self.account(quota, consumer, standing.at_ms).standing = standing;
    }

    /// A request was charged.
    pub(super) fn charge(&mut self, quota: &Arc<str>, consumer: &str, amount: u64, now_ms: u64) {
        if amount == 0 {
            return;
        }
        let step = now_ms - now_ms % Resolution::Coarse.step_ms();
        let charged = &mut self.account(quota, consumer, now_ms).charged;
        match charged.back_mut() {
            Some((last, sum)) if *last >= step => *sum += amount,
            _ => charged.push_back((step, amount)),
        }
    }

    fn account(&mut self, quota: &Arc<str>, consumer: &str, now_ms: u64) -> &mut Account {
        self.changed = true;
        if !self.accounts.get(quota).is_some_and(|accounts| accounts.contains_key(consumer)) {
            if self.count >= KEPT_MAX {
                self.make_room(now_ms);
            }
            self.count += 1;
        }
        self.accounts.entry(Arc::clone(quota)).or_default().entry(consumer.into()).or_default()
    }

    fn make_room(&mut self, now_ms: u64) {
        self.forget_old(now_ms);
        if self.count < KEPT_MAX / 2 {
            return;
        }
        let mut sums: Vec<u64> =
            self.accounts.values().flat_map(|of| of.values().map(Account::sum)).collect();
        let middle = sums.len() / 2;
        let (_, median, _) = sums.select_nth_unstable(middle);
        let (median, mut left) = (*median, KEPT_MAX / 2);
        self.retain(|account| {
            let stays = account.sum() >= median && left > 0;
            left -= usize::from(stays);
            stays
        });
    }

    fn forget_old(&mut self, now_ms: u64) {
        let from = now_ms.saturating_sub(BACK_MS);
        self.retain(|account| {
            account.forget_before(from);
            !account.charged.is_empty() || account.standing.at_ms >= from
        });
    }

    fn retain(&mut self, mut stays: impl FnMut(&mut Account) -> bool) {
        for accounts in self.accounts.values_mut() {
            accounts.retain(|_, account| stays(account));
        }
        self.accounts.retain(|_, accounts| !accounts.is_empty());
        self.count = self.accounts.values().map(FxHashMap::len).sum();
    }

    /// Those charged most, where anything has changed since this was last asked.
    pub(super) fn take_changed(&mut self, now_ms: u64) -> Option<Vec<Burn>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        self.forget_old(now_ms);
        let mut all: Vec<_> = self
            .accounts
            .iter()
            .flat_map(|(quota, of)| of.iter().map(move |(consumer, account)| (quota, consumer, account)))
            .collect();
        if all.len() > TOLD_MAX {
            all.select_nth_unstable_by_key(TOLD_MAX, |(_, _, account)| std::cmp::Reverse(account.sum()));
            all.truncate(TOLD_MAX);
        }
        let told = all.into_iter().map(|(quota, consumer, account)| Burn {
            quota: quota.to_string(),
            consumer: consumer.to_string(),
            balance: account.standing.balance,
            amount: account.standing.amount,
            reset_at_ms: account.standing.reset_at_ms,
            seen_at_ms: account.standing.at_ms,
            charged: account.charged.iter().copied().collect(),
        });
        Some(told.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_are_kept_by_step_for_an_hour() {
        let (mut table, quota) = (Table::default(), Arc::from("q"));
        table.see(&quota, "a", Standing { balance: 100, at_ms: 1000, ..Standing::default() });
        table.charge(&quota, "a", 5, 1000);
        table.charge(&quota, "a", 6, 299_999);
        table.charge(&quota, "a", 7, 300_000);
        let told = table.take_changed(300_000).unwrap();
        assert_eq!(told[0].charged, [(0, 11), (300_000, 7)]);
        assert_eq!((told[0].balance, &*told[0].consumer), (100, "a"));
        assert!(table.take_changed(300_000).is_none());
        table.charge(&quota, "b", 1, 3_900_000);
        let told = table.take_changed(3_900_000).unwrap();
        assert_eq!(told.iter().find(|burn| burn.consumer == "a").map(|burn| burn.charged.len()), Some(1));
        table.charge(&quota, "b", 1, 4_300_000);
        assert_eq!(table.take_changed(4_300_000).unwrap().len(), 1, "what is not charged any more goes");
    }

    #[test]
    fn what_is_charged_most_stays() {
        let (mut table, quota) = (Table::default(), Arc::from("q"));
        for i in 0..25_000_u64 {
            table.charge(&quota, &format!("c{i}"), 1 + i % 100, 1000);
            assert!(table.count <= KEPT_MAX);
        }
        let told = table.take_changed(1000).unwrap();
        assert_eq!(told.len(), TOLD_MAX);
        assert!(told.iter().all(|burn| burn.charged[0].1 > 90));
    }
}
