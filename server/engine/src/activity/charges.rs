//! The quota charges that this sidecar made in the last hour. Burn rates are computed from them.

use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use evenkeel_domain::activity::{QuotaCharges, Resolution};

use super::eviction::Eviction;

/// Maximum number of accounts. Beyond it, the half whose balances last longest is evicted.
const ACCOUNTS_MAX: usize = 10_000;
/// Maximum number of consumers in a report, divided evenly among the quotas.
const REPORTED_MAX: usize = 500;
/// How long charges are retained.
pub(super) const KEPT_MS: u64 = 3_600_000;

/// The state of a consumer's quota at the consumer's last request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Standing {
    pub(super) balance: u64,
    pub(super) amount: u64,
    pub(super) reset_at_ms: u64,
    pub(super) at_ms: u64,
}

/// One consumer's use of one quota.
#[derive(Default)]
struct Account {
    standing: Standing,
    /// Starts of time steps ([`Resolution::Coarse`]) and the amounts charged in them, oldest first.
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

    /// Returns how many times the balance covers the charges of the last hour. The accounts with the lowest values are
    /// reported.
    fn lasts(&self) -> f64 {
        match (self.standing.at_ms, self.standing.balance, self.sum()) {
            (0, _, sum) => 1.0 / (1.0 + sum as f64),
            (_, 0, _) => 0.0,
            (_, _, 0) => f64::MAX,
            (_, balance, sum) => balance as f64 / sum as f64,
        }
    }
}

/// Charges of the last hour, by quota and consumer.
#[derive(Default)]
pub(super) struct Charges {
    accounts: HashMap<Arc<str>, HashMap<Box<str>, Account>>,
    count: usize,
    changed: bool,
}

impl Charges {
    /// Records the state of a quota against which a request was checked.
    pub(super) fn see(&mut self, quota: &Arc<str>, consumer: &str, standing: Standing) {
        self.change(quota, consumer, standing.at_ms, |account| account.standing = standing);
    }

    pub(super) fn charge(&mut self, quota: &Arc<str>, consumer: &str, amount: u64, now_ms: u64) {
        if amount == 0 {
            return;
        }
        let step = now_ms - now_ms % Resolution::Coarse.step_ms();
        self.change(quota, consumer, now_ms, |account| match account.charged.back_mut() {
            Some((last, sum)) if *last >= step => *sum += amount,
            _ => account.charged.push_back((step, amount)),
        });
    }

    fn change(&mut self, quota: &Arc<str>, consumer: &str, now_ms: u64, change: impl FnOnce(&mut Account)) {
        self.changed = true;
        if let Some(account) = self.accounts.get_mut(quota).and_then(|accounts| accounts.get_mut(consumer)) {
            return change(account);
        }
        if self.count >= ACCOUNTS_MAX {
            self.make_room(now_ms);
        }
        let mut account = Account::default();
        change(&mut account);
        self.accounts.entry(Arc::clone(quota)).or_default().insert(consumer.into(), account);
        self.count += 1;
    }

    fn make_room(&mut self, now_ms: u64) {
        self.forget_old(now_ms);
        if self.count < ACCOUNTS_MAX / 2 {
            return;
        }
        let all = self.accounts.values().flat_map(|of| of.values().map(Account::lasts)).collect();
        let mut eviction = Eviction::new(all, ACCOUNTS_MAX / 2);
        self.retain(|account| eviction.keeps(account.lasts()));
    }

    /// Makes the next report complete, because the store has lost the last report.
    pub(super) fn mark_changed(&mut self) {
        self.changed = true;
    }

    fn forget_old(&mut self, now_ms: u64) {
        let from = now_ms.saturating_sub(KEPT_MS);
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
        self.count = self.accounts.values().map(HashMap::len).sum();
    }

    /// Returns the charges of the accounts that run out soonest. `None` if nothing has changed since the last call.
    pub(super) fn take_changed(&mut self, now_ms: u64) -> Option<Vec<QuotaCharges>> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        self.forget_old(now_ms);
        let most = (REPORTED_MAX / self.accounts.len().max(1)).max(1);
        let mut all = Vec::new();
        for (quota, accounts) in &self.accounts {
            let mut of: Vec<_> =
                accounts.iter().map(|(consumer, account)| (quota, consumer, account)).collect();
            if of.len() > most {
                let order = |(_, _, account): &(_, _, &Account)| (account.lasts(), Reverse(account.sum()));
                of.select_nth_unstable_by(most, |a, b| {
                    let ((a_lasts, a_sum), (b_lasts, b_sum)) = (order(a), order(b));
                    a_lasts.total_cmp(&b_lasts).then(a_sum.cmp(&b_sum))
                });
                of.truncate(most);
            }
            all.extend(of);
        }
        let reported = all.into_iter().map(|(quota, consumer, account)| QuotaCharges {
            quota: quota.to_string(),
            consumer: consumer.to_string(),
            balance: account.standing.balance,
            amount: account.standing.amount,
            reset_at_ms: account.standing.reset_at_ms,
            seen_at_ms: account.standing.at_ms,
            charged: account.charged.iter().copied().collect(),
        });
        Some(reported.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_are_kept_by_step_for_an_hour() {
        let (mut table, quota) = (Charges::default(), Arc::from("q"));
        table.see(&quota, "a", Standing { balance: 100, at_ms: 1000, ..Standing::default() });
        table.charge(&quota, "a", 5, 1000);
        table.charge(&quota, "a", 6, 299_999);
        table.charge(&quota, "a", 7, 300_000);
        let reported = table.take_changed(300_000).unwrap();
        assert_eq!(reported[0].charged, [(0, 11), (300_000, 7)]);
        assert_eq!((reported[0].balance, &*reported[0].consumer), (100, "a"));
        assert!(table.take_changed(300_000).is_none());
        table.charge(&quota, "b", 1, 3_900_000);
        let reported = table.take_changed(3_900_000).unwrap();
        assert_eq!(
            reported.iter().find(|account| account.consumer == "a").map(|account| account.charged.len()),
            Some(1)
        );
        table.charge(&quota, "b", 1, 4_300_000);
        assert_eq!(table.take_changed(4_300_000).unwrap().len(), 1, "an account without charges is dropped");
    }

    #[test]
    fn eviction_keeps_the_accounts_with_the_largest_charges() {
        let (mut table, quota) = (Charges::default(), Arc::from("q"));
        for i in 0..25_000_u64 {
            table.charge(&quota, &format!("c{i}"), 1 + i % 100, 1000);
            assert!(table.count <= ACCOUNTS_MAX);
        }
        let reported = table.take_changed(1000).unwrap();
        assert_eq!(reported.len(), REPORTED_MAX);
        assert!(reported.iter().all(|account| account.charged[0].1 > 90));
    }

    #[test]
    fn every_quota_is_reported_and_exhausted_ones_first() {
        let (mut table, tokens, requests) = (Charges::default(), Arc::from("tokens"), Arc::from("requests"));
        let standing = |balance| Standing { balance, at_ms: 1000, ..Standing::default() };
        for i in 0..2000_u64 {
            table.see(&tokens, &format!("c{i}"), standing(1_000_000));
            table.charge(&tokens, &format!("c{i}"), 10_000 + i, 1000);
        }
        table.see(&requests, "spent", standing(0));
        table.see(&requests, "idle", standing(5));
        let reported = table.take_changed(1000).unwrap();
        assert_eq!(reported.iter().filter(|account| account.quota == "tokens").count(), REPORTED_MAX / 2);
        assert!(reported.iter().any(|account| account.consumer == "spent"), "it is charged nothing any more");
        assert!(
            reported
                .iter()
                .filter(|account| account.quota == "tokens")
                .all(|account| account.charged[0].1 >= 11_750)
        );
    }

    #[test]
    fn a_long_tail_of_small_accounts_evicts_no_large_one() {
        let (mut table, quota) = (Charges::default(), Arc::from("q"));
        for i in 0..24_000_u64 {
            let amount = if i % 12 == 0 { 1_000_000 } else { 1 };
            table.charge(&quota, &format!("c{i}"), amount, 1000);
        }
        let heavy = table.accounts.values().flat_map(HashMap::values).filter(|a| a.sum() == 1_000_000);
        assert_eq!(heavy.count(), 2000);
    }
}
