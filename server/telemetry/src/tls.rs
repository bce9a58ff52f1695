//! Metrics of TLS on the listeners.

use prometheus::{Gauge, IntCounter, IntCounterVec};

use super::catalogue::{Catalogue, counters, gauge};

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    Accepted,
    /// The peer does not speak TLS.
    PlainText,
    /// The client has no certificate, and needs one.
    NoCertificate,
    /// No authority in `tls.client_ca_file` has signed the client's certificate.
    UnknownIssuer,
    Expired,
    NotYetValid,
    /// The client's certificate is wrong for another reason.
    BadCertificate,
    /// The client supports no version or algorithm that the sidecar accepts.
    Incompatible,
    /// The client does not trust the sidecar's certificate.
    PeerRejected,
    /// The handshake took too long, or others needed its place.
    TimedOut,
    /// The connection ended during the handshake.
    Closed,
    Malformed,
}

impl Handshake {
    /// Every result, with its label.
    pub const TABLE: [(Self, &'static str); 12] = [
        (Self::Accepted, "accepted"),
        (Self::PlainText, "plain_text"),
        (Self::NoCertificate, "no_certificate"),
        (Self::UnknownIssuer, "unknown_issuer"),
        (Self::Expired, "expired"),
        (Self::NotYetValid, "not_yet_valid"),
        (Self::BadCertificate, "bad_certificate"),
        (Self::Incompatible, "incompatible"),
        (Self::PeerRejected, "peer_rejected"),
        (Self::TimedOut, "timed_out"),
        (Self::Closed, "closed"),
        (Self::Malformed, "malformed"),
    ];
}

pub struct TlsMetrics {
    /// Labels: `listener`, `result`.
    handshakes: IntCounterVec,
    /// Unix time at which the sidecar's certificate expires, in seconds; 0 without TLS.
    pub not_after: Gauge,
    /// Changed certificate files that were applied.
    pub applied: IntCounter,
    /// Changed certificate files that were rejected.
    pub rejected: IntCounter,
}

impl TlsMetrics {
    pub(super) fn new(r: &Catalogue) -> prometheus::Result<Self> {
        let reloads = counters(
            r,
            "evenkeel_tls_reloads_total",
            "Loads of changed certificate files, by result.",
            &["result"],
        )?;
        Ok(Self {
            handshakes: counters(
                r,
                "evenkeel_tls_handshakes_total",
                "TLS handshakes, by listener and result.",
                &["listener", "result"],
            )?,
            not_after: gauge(
                r,
                "evenkeel_tls_certificate_expiry_timestamp_seconds",
                "Unix time at which the sidecar's certificate expires, in seconds.",
            )?,
            applied: reloads.with_label_values(&["applied"]),
            rejected: reloads.with_label_values(&["rejected"]),
        })
    }

    /// Counts a handshake on the listener `grpc` or `http`.
    pub fn count(&self, listener: &'static str, result: Handshake) {
        let label = Handshake::TABLE[result as usize].1;
        self.handshakes.with_label_values(&[listener, label]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_results() {
        for (place, (result, _)) in Handshake::TABLE.into_iter().enumerate() {
            assert_eq!(result as usize, place);
        }
    }
}
