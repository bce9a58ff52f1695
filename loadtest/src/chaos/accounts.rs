//! What consumers were charged, compared with what their requests have used.

use super::{
    gateway::{OUTPUT_TOKENS_MAX, consumer_name},
    truth::{Account, Doubt},
};

/// More than a request of the gateways can reserve: twice its prompt and its largest output.
const RESERVED_MAX: u64 = 2 * (100 + OUTPUT_TOKENS_MAX);

/// What one consumer was charged, by the sidecars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Charged {
    /// What the balance lacks: used and reserved.
    pub(super) spent: u64,
    pub(super) used: u64,
    pub(super) reserved: u64,
    /// Requests in the ledger.
    pub(super) entries: u64,
}

/// A figure that does not agree with what the gateways know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) what: &'static str,
    pub(super) expected: String,
    pub(super) found: String,
}

/// Bounds that every right figure is within. They are equal if nothing is in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    least: u64,
    most: u64,
}

impl Bounds {
    fn check(self, what: &'static str, unit: &str, found: u64) -> Option<Wrong> {
        let Self { least, most } = self;
        let fault = if found < least {
            format!("{found}: {} lost", least - found)
        } else if found > most {
            format!("{found}: {} too many", found - most)
        } else {
            return None;
        };
        let expected = if least == most { format!("{least}") } else { format!("{least} to {most}") };
        Some(Wrong { what, expected: format!("{expected} {unit}"), found: fault })
    }
}

/// Returns what is wrong with the charges of a consumer.
///
/// `at_end`: whether no request is in flight, so that nothing is reserved.
pub(super) fn check(
    index: usize,
    account: &Account,
    doubts: &[Doubt],
    charged: Charged,
    at_end: bool,
) -> Vec<Wrong> {
    let name = consumer_name(index);
    let Account { settled, abandoned, repeated } = account;
    let (mut spent, mut entries) = (Bounds { least: 0, most: 0 }, Bounds { least: 0, most: 0 });
    let mut reserved = Bounds { least: 0, most: (abandoned + repeated) * RESERVED_MAX };
    for request in settled {
        if doubts.iter().any(|doubt| doubt.charge(request)) {
            // Its reservation may remain, or nothing at all.
            spent.most += request.tokens.max(RESERVED_MAX);
            reserved.most += RESERVED_MAX;
        } else {
            spent = Bounds { least: spent.least + request.tokens, most: spent.most + request.tokens };
        }
        // What is in doubt may be missing, but never counts twice.
        entries.least += u64::from(!doubts.iter().any(|doubt| doubt.entry(request)));
        entries.most += 1;
    }
    spent.most += abandoned * RESERVED_MAX;
    entries.most += abandoned;
    let tokens = format!("tokens of {name}, {} requests", settled.len());
    let mut wrong = vec![
        spent.check("charge", &format!("used {tokens}"), charged.used),
        entries.check("ledger", &format!("requests of {name}"), charged.entries),
    ];
    if at_end {
        spent.most += repeated * RESERVED_MAX;
        wrong.push(spent.check("balance", &format!("spent {tokens}"), charged.spent));
        wrong.push(reserved.check(
            "reservation",
            &format!("tokens of {name} still reserved"),
            charged.reserved,
        ));
    }
    wrong.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{
        super::truth::{About, Settled},
        *,
    };

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    /// Returns an account with three requests of 150 tokens that take a second each.
    fn account(start: Instant) -> Account {
        let settled = |i: u64| Settled {
            consumer: 0,
            tokens: 150,
            asked_at: at(start, i * 1000),
            ended_at: at(start, i * 1000 + 890),
            acknowledged_at: at(start, i * 1000 + 900),
            sidecar: 0,
            sent_to: 1,
        };
        Account { settled: (0..3).map(settled).collect(), ..Account::default() }
    }

    fn wrong(account: &Account, doubts: &[Doubt], charged: Charged) -> Vec<&'static str> {
        check(0, account, doubts, charged, true).iter().map(|wrong| wrong.what).collect()
    }

    fn charged(used: u64, entries: u64) -> Charged {
        Charged { spent: used, used, reserved: 0, entries }
    }

    #[test]
    fn a_lost_and_a_doubled_settlement_are_found() {
        let account = account(Instant::now());
        assert_eq!(wrong(&account, &[], charged(450, 3)), [""; 0]);
        for tokens in [300, 600, 449, 451] {
            assert_eq!(wrong(&account, &[], charged(tokens, 3)), ["charge", "balance"], "{tokens}");
        }
        for entries in [2, 4] {
            assert_eq!(wrong(&account, &[], charged(450, entries)), ["ledger"], "{entries}");
        }
        let report = &check(0, &account, &[], charged(300, 3), true)[0];
        assert_eq!(report.expected, "450 used tokens of consumer-0, 3 requests");
        assert_eq!(report.found, "300: 150 lost");
    }

    #[test]
    fn a_reservation_that_nobody_settles_is_found_at_the_end() {
        let account = account(Instant::now());
        let leaked = Charged { spent: 650, reserved: 200, ..charged(450, 3) };
        assert_eq!(wrong(&account, &[], leaked), ["balance", "reservation"]);
        // Before the end, a request in flight has reserved it.
        assert_eq!(check(0, &account, &[], leaked, false), []);
    }

    #[test]
    fn a_doubt_excuses_only_the_requests_that_it_covers() {
        let start = Instant::now();
        let account = account(start);
        // The second request was acknowledged after the last synchronised write.
        let lost = Doubt { from: at(start, 1500), to: at(start, 1950), about: About::StoreLoss };
        assert_eq!(wrong(&account, &[lost], charged(300, 2)), [""; 0]);
        assert_eq!(wrong(&account, &[lost], charged(450, 3)), [""; 0]);
        assert_eq!(wrong(&account, &[lost], charged(150, 1)), ["charge", "ledger", "balance"]);

        let late = Doubt { about: About::LateUsage, ..lost };
        assert_eq!(wrong(&account, &[late], charged(450, 2)), [""; 0]);
        assert_eq!(wrong(&account, &[late], charged(300, 2)), ["charge", "balance"]);
        let killed = Doubt { about: About::LedgerLoss { sidecar: 0 }, ..lost };
        assert_eq!(wrong(&account, &[killed], charged(450, 2)), [""; 0]);
        assert_eq!(wrong(&account, &[killed], charged(300, 2)), ["charge", "balance"]);
        let other = Doubt { about: About::LedgerLoss { sidecar: 1 }, ..lost };
        assert_eq!(wrong(&account, &[other], charged(450, 2)), ["ledger"]);
        // The gateway sent the second settlement to the other sidecar first.
        let mut repeated = account.clone();
        repeated.settled[1].sent_to = 0b11;
        assert_eq!(wrong(&repeated, &[other], charged(450, 2)), [""; 0]);
        for doubt in [lost, killed, other] {
            assert_eq!(wrong(&repeated, &[doubt], charged(450, 4)), ["ledger"], "a doubled entry");
        }
    }

    #[test]
    fn the_requests_of_a_killed_gateway_may_stay_reserved() {
        let account = Account { abandoned: 1, ..account(Instant::now()) };
        let reserved = Charged { spent: 650, reserved: 200, ..charged(450, 3) };
        assert_eq!(wrong(&account, &[], reserved), [""; 0]);
        assert_eq!(wrong(&account, &[], Charged { spent: 1000, ..reserved }), ["balance"]);
    }
}
