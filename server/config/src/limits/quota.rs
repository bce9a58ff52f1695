//! Validates a [`RawQuota`] into a [`QuotaRule`].

use evenkeel_domain::limit::{OnStoreFailure, QuotaKind, QuotaRule};

use super::{
    conditions::conditions,
    fields::{amount, counts, margin, name, shadow},
    period::{PeriodKind, period},
    raw::{RawQuota, RawQuotaKind},
    rejected::rejected,
};
use crate::check::Check;

pub(super) fn quota(check: &mut Check, path: &str, raw: RawQuota) -> QuotaRule {
    name(check, &format!("{path}.name"), &raw.name);
    let counts = counts(check, &format!("{path}.counts"), raw.counts);
    let kind = match raw.kind {
        Some(RawQuotaKind::Prepaid) => {
            for (field, given) in [("per", raw.per.is_some()), ("time_zone", raw.time_zone.is_some())] {
                if given {
                    check.fault(&format!("{path}.{field}"), "absent if kind is prepaid", "one");
                }
            }
            QuotaKind::Prepaid
        }
        Some(RawQuotaKind::Budget) => {
            let (per, time_zone) = (raw.per.as_deref(), raw.time_zone.as_deref());
            QuotaKind::Budget(period(check, path, per, time_zone, PeriodKind::Any))
        }
        None => {
            check.required(&format!("{path}.kind"), "prepaid or budget");
            QuotaKind::Prepaid
        }
    };
    let default = raw.default.as_deref();
    let on_store_failure = raw.on_store_failure.unwrap_or_default();
    if on_store_failure == OnStoreFailure::Open {
        let warning = "is open: while Redis is unavailable, consumers with nothing left are admitted, and charged afterwards";
        check.warn(&format!("{path}.on_store_failure"), warning);
    }
    QuotaRule {
        counts,
        kind,
        default: default.and_then(|text| amount(check, &format!("{path}.default"), text, counts)),
        when: conditions(check, &format!("{path}.when"), raw.when),
        shadow: shadow(raw.mode),
        rejected: rejected(check, path, raw.rejected),
        margin: margin(check, path, raw.reserve_margin.as_deref(), counts),
        on_store_failure,
        name: raw.name.into(),
    }
}
