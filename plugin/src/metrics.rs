//! Every counter of the plugin, declared once. The gateway exports them with its own statistics.

/// Declares the counters: variant, name, meaning.
macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A counter.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Counter { $($(#[$doc])* $variant,)* }

        impl Counter {
            /// All of them, in the order of their index.
            pub const ALL: &[Counter] = &[$(Counter::$variant,)*];

            /// Name in the gateway's statistics.
            pub fn name(self) -> &'static str {
                match self { $(Counter::$variant => $name,)* }
            }
        }
    };
}

counters! {
    /// Admit answered: endpoint chosen from the shared table.
    AdmitsShared = "evenkeel_admits_shared",
    /// Admit answered: endpoint chosen by the sidecar alone, its store being unavailable.
    AdmitsLocal = "evenkeel_admits_local",
    /// Admit answered: the gateway is to choose by itself.
    AdmitsOpen = "evenkeel_admits_open",
    /// Admit answered: denied.
    AdmitsDenied = "evenkeel_admits_denied",
    /// Admit not answered within its deadline.
    AdmitsTimeout = "evenkeel_admits_timeout",
    /// Admit failed otherwise: sidecar unreachable, error status, unreadable answer.
    AdmitsFailed = "evenkeel_admits_failed",
    /// Admit refused by the sidecar as invalid, and the request with 400.
    AdmitsInvalid = "evenkeel_admits_invalid",
    /// Requests refused with 401, as their consumer's header has several values.
    ConsumerAmbiguous = "evenkeel_consumer_ambiguous",
    /// Requests let through without an answer (`on_error` open).
    FailOpen = "evenkeel_fail_open",
    /// Requests refused for want of an answer (`on_error` closed).
    FailClosed = "evenkeel_fail_closed",
    /// Requests that went to another endpoint than the sidecar chose.
    EndpointMismatches = "evenkeel_endpoint_mismatches",
    /// Requests whose body was not waited for any longer.
    BodyGivenUp = "evenkeel_body_given_up",
    /// Requests whose body is longer than is gathered.
    BodyTooLarge = "evenkeel_body_too_large",
    /// Requests whose body could not be read, for whatever reason.
    BodyUnread = "evenkeel_body_unread",
    /// Requests the sidecar answered itself.
    OwnAnswered = "evenkeel_own_answered",
    /// Requests it was to answer itself and did not, refused with 503, 413, 408 or 400.
    OwnFailed = "evenkeel_own_failed",
    /// Responses that told their usage to the end.
    UsageFinal = "evenkeel_usage_final",
    /// Responses that told some usage and were cut off.
    UsagePartial = "evenkeel_usage_partial",
    /// Responses that could be read and told no usage.
    UsageAbsent = "evenkeel_usage_absent",
    /// Responses not read, as they are compressed.
    UsageEncoded = "evenkeel_usage_encoded",
    /// Events, lines or bodies of responses that were no JSON, and were passed over.
    UsageFaults = "evenkeel_usage_faults",
    /// Streams asked for the usage their client had not asked for.
    UsageAsked = "evenkeel_usage_asked",
    /// Events of such streams too long to be looked into, passed on as they were.
    UsageUnhidden = "evenkeel_usage_unhidden",
    /// Headers the sidecar wants to see and that are no header names, or too many.
    WantedRefused = "evenkeel_wanted_headers_refused",
    /// Tickets too large to be kept for the Settle.
    TicketsDropped = "evenkeel_tickets_dropped",
    /// Settles sent.
    SettlesSent = "evenkeel_settles_sent",
    /// Settles sent once more, for a KeepAlive was under way when they were sent first.
    SettlesRepeated = "evenkeel_settles_repeated",
    /// Settles that could not be sent; the next KeepAlive makes up for them.
    SettlesFailed = "evenkeel_settles_failed",
    /// KeepAlives answered.
    KeepAlivesOk = "evenkeel_keepalives_ok",
    /// KeepAlives that failed.
    KeepAlivesFailed = "evenkeel_keepalives_failed",
    /// Leases the store had lost and this worker's KeepAlive put back.
    LeasesRestored = "evenkeel_leases_restored",
    /// Leases this worker no longer had and its KeepAlive gave back.
    LeasesDropped = "evenkeel_leases_dropped",
    /// Leases its KeepAlive moved to the endpoint really used.
    LeasesMoved = "evenkeel_leases_moved",
}

#[cfg(test)]
mod tests {
    use super::Counter;

    #[test]
    fn names_are_unique_and_indexed_by_their_order() {
        let mut names: Vec<_> = Counter::ALL.iter().map(|c| c.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Counter::ALL.len());
        assert!(Counter::ALL.iter().enumerate().all(|(i, c)| *c as usize == i));
    }
}
