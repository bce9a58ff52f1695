//! Metrics of the streams of gateway workers.

use prometheus::{IntCounter, IntGauge};

use super::catalogue::{Catalogue, counter, counters, int_gauge};

pub struct StreamMetrics {
    pub open: IntGauge,
    pub opened: StreamsOpened,
    pub ended: StreamsEnded,
    /// Admissions without an answer.
    pub admits_pending: IntGauge,
    pub cancels: IntCounter,
    pub settlements_acknowledged: IntCounter,
    /// Streams and calls in the name of a holder without its secret.
    pub holders_refused: IntCounter,
}

/// Children of `evenkeel_streams_opened_total`.
pub struct StreamsOpened {
    /// The worker sent no secret.
    pub new: IntCounter,
    pub resumed: IntCounter,
    /// Refused: the secret is wrong.
    pub refused: IntCounter,
    /// Refused: the first message is invalid.
    pub invalid: IntCounter,
    /// Refused: the sidecar shuts down.
    pub shutdown: IntCounter,
}

/// Children of `evenkeel_streams_ended_total`.
pub struct StreamsEnded {
    pub goodbye: IntCounter,
    /// The connection broke, or the worker closed the stream without a goodbye.
    pub lost: IntCounter,
    /// The holder has connected on another stream.
    pub replaced: IntCounter,
    /// The store has another secret for the holder.
    pub refused: IntCounter,
    pub invalid: IntCounter,
    /// The worker exceeded a bound.
    pub exceeded: IntCounter,
    /// The worker sent nothing, or read nothing.
    pub silent: IntCounter,
    pub shutdown: IntCounter,
}

impl StreamMetrics {
    pub(super) fn new(r: &Catalogue) -> prometheus::Result<Self> {
        let opened = counters(
            r,
            "evenkeel_streams_opened_total",
            "Streams that gateway workers opened, by result.",
            &["result"],
        )?;
        let ended = counters(
            r,
            "evenkeel_streams_ended_total",
            "Streams of gateway workers that ended, by reason.",
            &["reason"],
        )?;
        Ok(Self {
            open: int_gauge(r, "evenkeel_streams", "Open streams of gateway workers.")?,
            opened: StreamsOpened {
                new: opened.with_label_values(&["new"]),
                resumed: opened.with_label_values(&["resumed"]),
                refused: opened.with_label_values(&["refused"]),
                invalid: opened.with_label_values(&["invalid"]),
                shutdown: opened.with_label_values(&["shutdown"]),
            },
            ended: StreamsEnded {
                goodbye: ended.with_label_values(&["goodbye"]),
                lost: ended.with_label_values(&["lost"]),
                replaced: ended.with_label_values(&["replaced"]),
                refused: ended.with_label_values(&["refused"]),
                invalid: ended.with_label_values(&["invalid"]),
                exceeded: ended.with_label_values(&["exceeded"]),
                silent: ended.with_label_values(&["silent"]),
                shutdown: ended.with_label_values(&["shutdown"]),
            },
            admits_pending: int_gauge(
                r,
                "evenkeel_stream_admits_pending",
                "Admissions on streams that have no answer yet.",
            )?,
            cancels: counter(
                r,
                "evenkeel_stream_cancels_total",
                "Admissions that gateway workers cancelled.",
            )?,
            settlements_acknowledged: counter(
                r,
                "evenkeel_stream_settlements_acknowledged_total",
                "Settlements on streams that this sidecar acknowledged.",
            )?,
            holders_refused: counter(
                r,
                "evenkeel_holders_refused_total",
                "Streams and calls refused because they lacked the holder's secret.",
            )?,
        })
    }
}
