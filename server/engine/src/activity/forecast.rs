//! When quotas run out, if they are used on as they were within the last hour.

use std::collections::BTreeMap;

use evenkeel_domain::activity::Burn;

use super::burns::BACK_MS;

/// A forecast needs so much of a past, in ms: a burst is not an hour.
const BACK_MIN_MS: u64 = 300_000;
/// Quotas that would last for longer than this are not told to run out, in ms.
const RUNS_OUT_MAX_MS: f64 = 366.0 * 86_400_000.0;

/// How fast one consumer's quota is used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuotaBurn {
    /// Name of the quota.
    pub quota: String,
    /// Whose.
    pub consumer: String,
    /// What is left, as last seen.
    pub balance: u64,
    /// Amount per period of a budget; 0 where prepaid.
    pub amount: u64,
    /// Used per hour, over the last hour or since it was first used within it.
    pub burn_per_hour: f64,
    /// When it runs out at that rate, ms of the Unix epoch; 0 where it does not.
    pub runs_out_at_ms: u64,
    /// When a budget's period ends, ms of the Unix epoch; 0 where prepaid.
    pub reset_at_ms: u64,
    /// When it was seen so, ms of the Unix epoch.
    pub seen_at_ms: u64,
}

#[derive(Default)]
struct Joined {
    last: Burn,
    charged: u64,
    /// First step in which anything was charged.
    since_ms: Option<u64>,
}

/// Joins what sidecars tell: those that run out soonest first, then by what is left.
pub(super) fn join(told: Vec<Vec<Burn>>, now_ms: u64) -> Vec<QuotaBurn> {
    let from = now_ms.saturating_sub(BACK_MS);
    let mut all: BTreeMap<(String, String), Joined> = BTreeMap::new();
    for burn in told.into_iter().flatten() {
        let joined = all.entry((burn.quota.clone(), burn.consumer.clone())).or_default();
        for &(step, amount) in burn.charged.iter().filter(|(step, _)| *step >= from) {
            joined.charged += amount;
            joined.since_ms = Some(joined.since_ms.map_or(step, |since| since.min(step)));
        }
        if burn.seen_at_ms >= joined.last.seen_at_ms {
            joined.last = burn;
        }
    }
    // Of one that no sidecar has seen lately, only charged, it is not known what is left.
    let seen = all.into_values().filter(|joined| joined.last.seen_at_ms > 0);
    let mut burns: Vec<QuotaBurn> = seen.map(|joined| joined.forecast(now_ms)).collect();
    burns.sort_by_key(|burn| (burn.runs_out_at_ms.wrapping_sub(1), burn.balance));
    burns
}

impl Joined {
    fn forecast(self, now_ms: u64) -> QuotaBurn {
        let Burn { quota, consumer, mut balance, amount, mut reset_at_ms, seen_at_ms, .. } = self.last;
        if reset_at_ms > 0 && reset_at_ms <= now_ms {
            // Another period since; nothing has been asked of it.
            (balance, reset_at_ms) = (amount, 0);
        }
        let past_ms = now_ms.saturating_sub(self.since_ms.unwrap_or(now_ms)).clamp(BACK_MIN_MS, BACK_MS);
        let burn_per_ms = self.charged as f64 / past_ms as f64;
        let lasts_ms = if balance == 0 { 0.0 } else { balance as f64 / burn_per_ms };
        // A budget's period of which nothing is known yet ends before it would run out.
        let left_ms = if amount > 0 { reset_at_ms.saturating_sub(now_ms) as f64 } else { RUNS_OUT_MAX_MS };
        let runs_out = lasts_ms < left_ms.min(RUNS_OUT_MAX_MS);
        QuotaBurn {
            quota,
            consumer,
            balance,
            amount,
            burn_per_hour: burn_per_ms * 3_600_000.0,
            runs_out_at_ms: if runs_out { now_ms + lasts_ms as u64 } else { 0 },
            reset_at_ms,
            seen_at_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 36_000_000;

    fn burn(consumer: &str, balance: u64, reset_at_ms: u64, charged: &[(u64, u64)]) -> Burn {
        Burn {
            quota: "q".into(),
            consumer: consumer.into(),
            balance,
            amount: if reset_at_ms > 0 { 1000 } else { 0 },
            reset_at_ms,
            seen_at_ms: NOW - 1,
            charged: charged.to_vec(),
        }
    }

    #[test]
    fn what_two_sidecars_charged_is_one_rate() {
        let hour_ago = NOW - BACK_MS;
        let mut older = burn("a", 900, 0, &[(hour_ago - 1, 500), (hour_ago, 30)]);
        older.seen_at_ms = 1;
        let burns = join(vec![vec![older], vec![burn("a", 120, 0, &[(NOW - 600_000, 30)])]], NOW);
        assert_eq!(burns.len(), 1);
        assert_eq!((burns[0].balance, burns[0].burn_per_hour), (120, 60.0));
        assert_eq!(burns[0].runs_out_at_ms, NOW + 2 * 3_600_000);
    }

    #[test]
    fn what_is_left_is_told_by_who_saw_it() {
        let unseen = || Burn { seen_at_ms: 0, ..burn("a", 0, 0, &[(NOW - 600_000, 30)]) };
        assert_eq!(join(vec![vec![unseen()]], NOW), []);
        let burns = join(vec![vec![unseen()], vec![burn("a", 120, 0, &[])]], NOW);
        assert_eq!((burns[0].balance, burns[0].burn_per_hour), (120, 180.0));
    }

    #[test]
    fn those_that_run_out_first_come_first() {
        let recent = NOW - 600_000;
        let told = vec![
            burn("idle", 10, 0, &[]),
            burn("slow", 1000, 0, &[(recent, 10)]),
            burn("fast", 10, 0, &[(recent, 100)]),
            burn("gone", 0, 0, &[(recent, 1)]),
            burn("reset comes first", 500, NOW + 1000, &[(recent, 10)]),
            burn("another period", 0, NOW - 1, &[(recent, 10)]),
        ];
        let burns = join(vec![told], NOW);
        let order: Vec<&str> = burns.iter().map(|burn| &*burn.consumer).collect();
        assert_eq!(
            order,
            ["gone", "fast", "slow", "idle", "reset comes first", "another period"][..],
            "{burns:?}"
        );
        assert_eq!(burns[0].runs_out_at_ms, NOW);
        assert_eq!((burns[3].runs_out_at_ms, burns[4].runs_out_at_ms), (0, 0));
        let other = burns.iter().find(|burn| burn.consumer == "another period").unwrap();
        assert_eq!((other.balance, other.reset_at_ms), (1000, 0));
    }
}
