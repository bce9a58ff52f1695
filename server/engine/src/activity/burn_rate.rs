//! Burn rates: how fast quotas are used, and when they run out if they are used at the rate of the last hour.

use std::collections::BTreeMap;

use evenkeel_domain::activity::QuotaCharges;

use super::charges::KEPT_MS;

/// The shortest time that a rate is averaged over, in ms. It prevents a short burst from looking like an hour of use.
const AVERAGED_MIN_MS: u64 = 300_000;
/// If a quota lasts longer than this, in ms, it is reported as not running out.
const RUNS_OUT_MAX_MS: f64 = 366.0 * 86_400_000.0;

/// How fast one consumer uses up a quota.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BurnRate {
    pub quota: String,
    pub consumer: String,
    /// The balance at the consumer's last request.
    pub balance: u64,
    /// A budget's amount per period. 0 for a prepaid quota.
    pub amount: u64,
    /// Amount used per hour: the average over the last hour, or since the first charge if that is later. The average
    /// covers at least five minutes.
    pub burn_per_hour: f64,
    /// When the quota runs out at that rate, in ms since the Unix epoch. 0: it does not run out.
    pub runs_out_at_ms: u64,
    /// When a budget's period ends, in ms since the Unix epoch. 0 for a prepaid quota.
    pub reset_at_ms: u64,
    /// When the last request was checked against the quota, in ms since the Unix epoch.
    pub seen_at_ms: u64,
}

#[derive(Default)]
struct Joined {
    last: QuotaCharges,
    charged: u64,
    /// Start of the first time step that has a charge.
    since_ms: Option<u64>,
}

/// Joins the charges that sidecars report. The quotas that run out soonest come first. Quotas that do not run out come
/// last, sorted by balance.
pub(super) fn join(reported: Vec<Vec<QuotaCharges>>, now_ms: u64) -> Vec<BurnRate> {
    let from = now_ms.saturating_sub(KEPT_MS);
    let mut all: BTreeMap<(String, String), Joined> = BTreeMap::new();
    for charges in reported.into_iter().flatten() {
        let joined = all.entry((charges.quota.clone(), charges.consumer.clone())).or_default();
        for &(step, amount) in charges.charged.iter().filter(|(step, _)| *step >= from) {
            joined.charged += amount;
            joined.since_ms = Some(joined.since_ms.map_or(step, |since| since.min(step)));
        }
        if charges.seen_at_ms >= joined.last.seen_at_ms {
            joined.last = charges;
        }
    }
    // If a quota was only charged, for requests admitted more than an hour ago, its balance is not known.
    let seen = all.into_values().filter(|joined| joined.last.seen_at_ms > 0);
    let mut rates: Vec<BurnRate> = seen.map(|joined| joined.forecast(now_ms)).collect();
    rates.sort_by_key(|rate| (rate.runs_out_at_ms.wrapping_sub(1), rate.balance));
    rates
}

impl Joined {
    fn forecast(self, now_ms: u64) -> BurnRate {
        let QuotaCharges { quota, consumer, mut balance, amount, mut reset_at_ms, seen_at_ms, .. } =
            self.last;
        if reset_at_ms > 0 && reset_at_ms <= now_ms {
            // A new period has started, and no request has used the quota in it yet.
            (balance, reset_at_ms) = (amount, 0);
        }
        let past_ms = now_ms.saturating_sub(self.since_ms.unwrap_or(now_ms)).clamp(AVERAGED_MIN_MS, KEPT_MS);
        let burn_per_ms = self.charged as f64 / past_ms as f64;
        let lasts_ms = if balance == 0 { 0.0 } else { balance as f64 / burn_per_ms };
        // If the end of the period is not known, a budget is reported as not running out.
        let left_ms = if amount > 0 { reset_at_ms.saturating_sub(now_ms) as f64 } else { RUNS_OUT_MAX_MS };
        let runs_out = lasts_ms < left_ms.min(RUNS_OUT_MAX_MS);
        BurnRate {
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

    fn charges(consumer: &str, balance: u64, reset_at_ms: u64, charged: &[(u64, u64)]) -> QuotaCharges {
        QuotaCharges {
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
    fn the_charges_of_two_sidecars_add_up_to_one_rate() {
        let hour_ago = NOW - KEPT_MS;
        let mut older = charges("a", 900, 0, &[(hour_ago - 1, 500), (hour_ago, 30)]);
        older.seen_at_ms = 1;
        let rates = join(vec![vec![older], vec![charges("a", 120, 0, &[(NOW - 600_000, 30)])]], NOW);
        assert_eq!(rates.len(), 1);
        assert_eq!((rates[0].balance, rates[0].burn_per_hour), (120, 60.0));
        assert_eq!(rates[0].runs_out_at_ms, NOW + 2 * 3_600_000);
    }

    #[test]
    fn the_balance_of_the_last_request_is_reported() {
        let unseen = || QuotaCharges { seen_at_ms: 0, ..charges("a", 0, 0, &[(NOW - 600_000, 30)]) };
        assert_eq!(join(vec![vec![unseen()]], NOW), []);
        let rates = join(vec![vec![unseen()], vec![charges("a", 120, 0, &[])]], NOW);
        assert_eq!((rates[0].balance, rates[0].burn_per_hour), (120, 180.0));
    }

    #[test]
    fn quotas_that_run_out_first_come_first() {
        let recent = NOW - 600_000;
        let reported = vec![
            charges("idle", 10, 0, &[]),
            charges("slow", 1000, 0, &[(recent, 10)]),
            charges("fast", 10, 0, &[(recent, 100)]),
            charges("gone", 0, 0, &[(recent, 1)]),
            charges("reset comes first", 500, NOW + 1000, &[(recent, 10)]),
            charges("another period", 0, NOW - 1, &[(recent, 10)]),
        ];
        let rates = join(vec![reported], NOW);
        let order: Vec<&str> = rates.iter().map(|rate| &*rate.consumer).collect();
        assert_eq!(
            order,
            ["gone", "fast", "slow", "idle", "reset comes first", "another period"][..],
            "{rates:?}"
        );
        assert_eq!(rates[0].runs_out_at_ms, NOW);
        assert_eq!((rates[3].runs_out_at_ms, rates[4].runs_out_at_ms), (0, 0));
        let other = rates.iter().find(|rate| rate.consumer == "another period").unwrap();
        assert_eq!((other.balance, other.reset_at_ms), (1000, 0));
    }
}
