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
    /// Answers to Admits that came after the deadline, for requests that had gone on.
    AdmitsLate = "evenkeel_admits_late",
    /// Admits that failed for another reason: sidecar unreachable, error status, unreadable answer.
    AdmitsFailed = "evenkeel_admits_failed",
    /// Admits that the sidecar rejected as invalid; the request was refused with 400.
    AdmitsInvalid = "evenkeel_admits_invalid",
    /// Requests refused with 401 because their consumer header has several values.
    ConsumerAmbiguous = "evenkeel_consumer_ambiguous",
    /// Requests refused with 431 because their path or cookies are too long.
    HeadersTooLong = "evenkeel_headers_too_long",
    /// Requests that proceeded without an answer to Admit (`on_error` open).
    FailOpen = "evenkeel_fail_open",
    /// Requests without an answer to Admit that were refused because a refusal of the same key stands.
    FailRefused = "evenkeel_fail_refused",
    /// Requests without an answer to Admit that were refused because of `open_per_second`. Also counted as fail_closed.
    FailOpenLimited = "evenkeel_fail_open_limited",
    /// Requests refused because the sidecar did not answer Admit (`on_error` closed, or `open_per_second`).
    FailClosed = "evenkeel_fail_closed",
    /// Requests that went to an endpoint that the sidecar did not choose.
    EndpointMismatches = "evenkeel_endpoint_mismatches",
    /// Requests whose body was not complete in time.
    BodyTimeouts = "evenkeel_body_timeouts",
    /// Requests whose body is too large to buffer.
    BodyTooLarge = "evenkeel_body_too_large",
    /// Requests whose body could not be read, for any reason.
    BodyUnread = "evenkeel_body_unread",
    /// Requests refused with 400 because their body named another model after Admit.
    BodyChanged = "evenkeel_body_changed",
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
    /// Header names that the sidecar requested and the plugin rejected: invalid names, and names beyond the maximum
    /// number.
    WantedHeadersRejected = "evenkeel_wanted_headers_rejected",
    /// Tickets that were too large to store for Settle.
    TicketsDropped = "evenkeel_tickets_dropped",
    /// Admissions that were asked again on another stream.
    AdmitsResent = "evenkeel_admits_resent",
    /// Admissions that the plugin cancelled, because their deadline passed or their request ended.
    AdmitsCancelled = "evenkeel_admits_cancelled",
    /// Settlements sent.
    SettlesSent = "evenkeel_settles_sent",
    /// Settlements sent again on another stream.
    SettlesResent = "evenkeel_settles_resent",
    /// Settlements that the sidecar acknowledged.
    SettlesAcknowledged = "evenkeel_settles_acknowledged",
    /// Settlements dropped because too many had no acknowledgement; the next list releases their leases.
    SettlesDropped = "evenkeel_settles_dropped",
    /// Attempts to open a stream to the sidecar.
    StreamsOpened = "evenkeel_streams_opened",
    /// Streams that the sidecar accepted.
    StreamsReady = "evenkeel_streams_ready",
    /// Streams that failed: the sidecar or the connection ended them with an error.
    StreamsClosed = "evenkeel_streams_closed",
    /// Streams that the plugin gave up because the sidecar was silent.
    StreamsSilent = "evenkeel_streams_silent",
    /// Streams that the plugin left because the sidecar shut down.
    StreamsLeft = "evenkeel_streams_left",
    /// Streams that the sidecar refused because the holder belongs to another client.
    StreamsRefused = "evenkeel_streams_refused",
    /// Lists of leases that the sidecar applied.
    ListsApplied = "evenkeel_lists_applied",
    /// Leases that the store had lost and a list restored.
    LeasesRestored = "evenkeel_leases_restored",
    /// Leases that this worker no longer had and a list dropped.
    LeasesDropped = "evenkeel_leases_dropped",
    /// Leases that a list moved to the endpoint in use.
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
