//! The plugin's counters. The gateway exports them with its own statistics.

/// Declares the counters, each with its doc comment and its name in the gateway's statistics.
macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Counter { $($(#[$doc])* $variant,)* }

        impl Counter {
            /// All counters, in the order of their discriminants.
            pub const ALL: &[Counter] = &[$(Counter::$variant,)*];

            /// Returns the name in the gateway's statistics.
            pub fn name(self) -> &'static str {
                match self { $(Counter::$variant => $name,)* }
            }
        }
    };
}

counters! {
    /// Admits answered with an endpoint from the shared table.
    AdmitsShared = "evenkeel_admits_shared",
    /// Admits answered with an endpoint from the sidecar's own view, because its store was unavailable.
    AdmitsLocal = "evenkeel_admits_local",
    /// Admits that left the choice of the endpoint to the gateway.
    AdmitsOpen = "evenkeel_admits_open",
    /// Admits that were denied.
    AdmitsDenied = "evenkeel_admits_denied",
    /// Admits without an answer within the deadline.
    AdmitsTimeout = "evenkeel_admits_timeout",
    /// Admits that failed for another reason: sidecar unreachable, error status, unreadable answer.
    AdmitsFailed = "evenkeel_admits_failed",
    /// Admits that the sidecar rejected as invalid; the request was refused with 400.
    AdmitsInvalid = "evenkeel_admits_invalid",
    /// Requests refused with 401 because their consumer header has several values.
    ConsumerAmbiguous = "evenkeel_consumer_ambiguous",
    /// Requests that proceeded without an answer to Admit (`on_error` open).
    FailOpen = "evenkeel_fail_open",
    /// Requests refused because the sidecar did not answer Admit (`on_error` closed).
    FailClosed = "evenkeel_fail_closed",
    /// Requests that went to an endpoint that the sidecar did not choose.
    EndpointMismatches = "evenkeel_endpoint_mismatches",
    /// Requests whose body was not complete in time.
    BodyTimeouts = "evenkeel_body_timeouts",
    /// Requests whose body is too large to buffer.
    BodyTooLarge = "evenkeel_body_too_large",
    /// Requests whose body could not be read, for any reason.
    BodyUnread = "evenkeel_body_unread",
    /// Requests for `admin_paths` that the sidecar answered.
    DirectResponses = "evenkeel_direct_responses",
    /// Requests for `admin_paths` that the plugin refused with 503, 413, 408 or 400.
    DirectResponsesFailed = "evenkeel_direct_responses_failed",
    /// Responses that reported their final usage.
    UsageFinal = "evenkeel_usage_final",
    /// Responses that were cut off after reporting some usage.
    UsagePartial = "evenkeel_usage_partial",
    /// Responses that were read but reported no usage.
    UsageAbsent = "evenkeel_usage_absent",
    /// Responses that were not read because they are compressed.
    UsageCompressed = "evenkeel_usage_compressed",
    /// Events, lines or bodies of responses that were skipped because they are not JSON.
    UsageFaults = "evenkeel_usage_faults",
    /// Streams for which the plugin requested usage that the client did not request.
    UsageRequested = "evenkeel_usage_requested",
    /// Events that passed unchanged because they were too long for the plugin to strip the usage that it requested.
    UsageNotStripped = "evenkeel_usage_not_stripped",
    /// Header names that the sidecar requested and the plugin rejected: invalid names, and names beyond the maximum.
    WantedHeadersRejected = "evenkeel_wanted_headers_rejected",
    /// Tickets that were too large to store for Settle.
    TicketsDropped = "evenkeel_tickets_dropped",
    /// Settles sent.
    SettlesSent = "evenkeel_settles_sent",
    /// Settles sent a second time because a KeepAlive was pending when they were first sent.
    SettlesRepeated = "evenkeel_settles_repeated",
    /// Settles that could not be sent; the next KeepAlive drops their leases.
    SettlesFailed = "evenkeel_settles_failed",
    /// KeepAlives answered.
    KeepAlivesOk = "evenkeel_keepalives_ok",
    /// KeepAlives that failed.
    KeepAlivesFailed = "evenkeel_keepalives_failed",
    /// Leases that the store had lost and a KeepAlive restored.
    LeasesRestored = "evenkeel_leases_restored",
    /// Leases that this worker no longer had and a KeepAlive dropped.
    LeasesDropped = "evenkeel_leases_dropped",
    /// Leases that a KeepAlive moved to the endpoint in use.
    LeasesMoved = "evenkeel_leases_moved",
}

#[cfg(test)]
mod tests {
    use super::Counter;

    #[test]
    fn names_are_unique_and_discriminants_are_indexes_of_all() {
        let mut names: Vec<_> = Counter::ALL.iter().map(|c| c.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Counter::ALL.len());
        assert!(Counter::ALL.iter().enumerate().all(|(i, c)| *c as usize == i));
    }
}
