//! Counters of the gateways' calls: Admit, Settle and KeepAlive, and of the repairs that KeepAlives cause.

use prometheus::IntCounter;

use super::catalogue::{Catalogue, counters};

/// Children of `evenkeel_admits_total`.
pub struct Admits {
    /// Admitted from the shared table.
    pub shared: IntCounter,
    /// Admitted from local knowledge, while the store was unavailable.
    pub local: IntCounter,
    /// Admitted without an endpoint, while the store was unavailable.
    pub open: IntCounter,
    /// Refused: every endpoint is at its cap.
    pub pool_full: IntCounter,
    pub no_endpoints: IntCounter,
    /// Refused: the store is unavailable and the pool's policy is closed.
    pub store_unavailable: IntCounter,
    pub limit: IntCounter,
    pub quota: IntCounter,
    /// Answered by the sidecar itself, without an endpoint.
    pub direct_response: IntCounter,
    /// Rejected because the call itself is invalid.
    pub invalid: IntCounter,
}

impl Admits {
    pub(super) fn new(r: &Catalogue) -> prometheus::Result<Self> {
        let admits = counters(r, "evenkeel_admits_total", "Admit calls answered, by result.", &["result"])?;
        Ok(Self {
            shared: admits.with_label_values(&["admitted"]),
            local: admits.with_label_values(&["admitted_local"]),
            open: admits.with_label_values(&["admitted_open"]),
            pool_full: admits.with_label_values(&["pool_full"]),
            no_endpoints: admits.with_label_values(&["no_endpoints"]),
            store_unavailable: admits.with_label_values(&["store_unavailable"]),
            limit: admits.with_label_values(&["limit"]),
            quota: admits.with_label_values(&["quota"]),
            direct_response: admits.with_label_values(&["direct_response"]),
            invalid: admits.with_label_values(&["invalid"]),
        })
    }
}

/// Children of `evenkeel_settles_total`.
pub struct Settles {
    pub released: IntCounter,
    /// The lease no longer existed.
    pub unknown: IntCounter,
    pub error: IntCounter,
}

impl Settles {
    pub(super) fn new(r: &Catalogue) -> prometheus::Result<Self> {
        let settles =
            counters(r, "evenkeel_settles_total", "Settlements of leases, by result.", &["result"])?;
        Ok(Self {
            released: settles.with_label_values(&["released"]),
            unknown: settles.with_label_values(&["unknown"]),
            error: settles.with_label_values(&["error"]),
        })
    }
}

/// Children of `evenkeel_first_tokens_total`.
pub struct FirstTokens {
    pub ok: IntCounter,
    pub error: IntCounter,
    /// Not recorded, because too many were in progress.
    pub dropped: IntCounter,
}

impl FirstTokens {
    pub(super) fn new(r: &Catalogue) -> prometheus::Result<Self> {
        let first_tokens = counters(
            r,
            "evenkeel_first_tokens_total",
            "First tokens that gateways reported, in pools that choose by work, by result.",
            &["result"],
        )?;
        Ok(Self {
            ok: first_tokens.with_label_values(&["ok"]),
            error: first_tokens.with_label_values(&["error"]),
            dropped: first_tokens.with_label_values(&["dropped"]),
        })
    }
}

/// Children of `evenkeel_keep_alives_total`.
pub struct KeepAlives {
    pub ok: IntCounter,
    /// Applied to local knowledge only, because the shared store was unavailable.
    pub unapplied: IntCounter,
}

impl KeepAlives {
    pub(super) fn new(r: &Catalogue) -> prometheus::Result<Self> {
        let keep_alives = counters(
            r,
            "evenkeel_keep_alives_total",
            "Lease lists received in KeepAlives, one for each pool, by result.",
            &["result"],
        )?;
        Ok(Self {
            ok: keep_alives.with_label_values(&["ok"]),
            unapplied: keep_alives.with_label_values(&["unapplied"]),
        })
    }
}

/// Children of `evenkeel_repairs_total`.
pub struct Repairs {
    /// Leases that the table lacked, restored from the holder's list.
    pub restored: IntCounter,
    /// Leases removed because their holder no longer had them.
    pub dropped: IntCounter,
    /// Leases moved to the endpoint that serves them according to the holder's list.
    pub moved: IntCounter,
    /// Leases that a list named and that were not restored: far above the caps, or too many at once.
    pub refused: IntCounter,
    /// Settlements that found a count of 0, which stays 0.
    pub clamped: IntCounter,
    /// Counts that differed from the number of leases.
    pub recounted: IntCounter,
}

impl Repairs {
    pub(super) fn new(r: &Catalogue) -> prometheus::Result<Self> {
        let repairs = counters(
            r,
            "evenkeel_repairs_total",
            "Leases and counts repaired in the shared table, by kind.",
            &["kind"],
        )?;
        Ok(Self {
            restored: repairs.with_label_values(&["restored"]),
            dropped: repairs.with_label_values(&["dropped"]),
            moved: repairs.with_label_values(&["moved"]),
            refused: repairs.with_label_values(&["refused"]),
            clamped: repairs.with_label_values(&["clamped"]),
            recounted: repairs.with_label_values(&["recounted"]),
        })
    }
}
