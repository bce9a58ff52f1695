//! Schemas of values that serde reads as text.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// Pattern of a duration in the format of the crate `humantime`.
const SPAN: &str = concat!(
    r"^([0-9]+(\.[0-9]+)? ?",
    "(nanos|nsec|ns|usec|us|µs|millis|msec|ms|seconds|second|secs|sec|s|minutes|minute|min|mins|m|hours|hour|hr|hrs|h|",
    r"days|day|d|weeks|week|wk|wks|w|months|month|M|years|year|yr|yrs|y) ?)+$|^0$",
);

/// Pattern of an IP address and port.
const SOCKET: &str = r"^([0-9]{1,3}(\.[0-9]{1,3}){3}|\[[0-9A-Fa-f:.%]+\]):[0-9]{1,5}$";

macro_rules! values {
    ($($(#[doc = $doc:literal])+ $name:ident => $schema:expr;)*) => {$(
        $(#[doc = $doc])+
        pub(crate) struct $name;

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    )*};
}

values! {
    /// A duration.
    Span => json_schema!({
        "type": "string",
        "pattern": SPAN,
        "examples": ["25ms", "2s", "1m 30s"],
        "x-type": "time"
    });

    /// An amount of a limit or quota.
    Amount => json_schema!({
        "type": ["string", "number"],
        "pattern": r"^[0-9]{1,18}(\.[0-9]*)?[kMG]?$",
        "minimum": 0,
        "maximum": 1_000_000_000_000_000_u64,
        "examples": [10000, "10k", "1.5M", 2.5],
        "x-type": "amount",
        "x-range": "whole number up to 10^15, optionally with `k`, `M` or `G`"
    });

    /// The period of a limit or quota.
    Period => json_schema!({
        "type": "string",
        "pattern": format!("^(day|week|month)$|{SPAN}"),
        "examples": ["1m", "1h", "day", "month"],
        "x-type": "period",
        "x-range": "1s..31d in whole seconds, or `day`, `week`, `month`"
    });

    /// A number, with or without quotes.
    Decimal => json_schema!({"type": ["number", "string"], "pattern": r"^[0-9]+(\.[0-9]+)?$", "x-type": "number"});

    /// A whole number, with or without quotes.
    Whole => json_schema!({"type": ["integer", "string"], "pattern": "^[0-9]+$", "x-type": "whole number"});

    /// Text, which needs no quotes even if it looks like a number.
    Text => json_schema!({"type": ["string", "number", "boolean"], "minLength": 1, "maxLength": 1024, "x-type": "text"});

    /// An address to listen on, or `off`.
    SocketOrOff => json_schema!({
        "type": "string",
        "pattern": format!("^off$|{SOCKET}"),
        "x-type": "address",
        "x-range": "IP address and port, or `off`"
    });

    /// An address to listen on or to connect to.
    Socket => json_schema!({
        "type": "string",
        "pattern": SOCKET,
        "x-type": "address",
        "x-range": "IP address and port"
    });

    /// The name of a Kubernetes service or namespace.
    Label => json_schema!({
        "type": "string",
        "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        "x-range": "1..63 characters of `a-z 0-9 -`"
    });

    /// A port of a service, by number or name.
    ServicePortText => json_schema!({
        "type": ["integer", "string"],
        "pattern": "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        "minimum": 1,
        "maximum": 65535,
        "x-type": "number or text",
        "x-range": "1..65535, or a name"
    });

    /// An attribute of a request.
    AttributeName => json_schema!({
        "type": "string",
        "pattern": r"^(consumer|model|route|cluster|path|ip(/[0-9]+){0,2}(:.+)?|(header|query|cookie|descriptor):.+)$",
        "examples": ["consumer", "model", "ip/24:x-forwarded-for", "header:x-tier"],
        "x-type": "attribute"
    });

    /// What limits and quotas count.
    Counted => json_schema!({
        "type": "string",
        "enum": ["requests", "tokens", "input_tokens", "output_tokens", "cost"]
    });

    /// Headers of the rate limit service.
    RateLimitHeaders => json_schema!({
        "anyOf": [
            {"type": "string", "enum": ["none", "ratelimit", "x", "ietf"]},
            {"type": "array", "items": {"type": "string", "enum": ["ratelimit", "x", "ietf"]}}
        ],
        "x-type": "text, or list of texts",
        "x-range": "`none`, or one or a list of `ratelimit`, `x`, `ietf`"
    });

    /// The policy while Redis is unavailable.
    Outage => json_schema!({"type": "string", "enum": ["local", "open", "closed"]});

    /// How a pool chooses among its endpoints.
    Choosing => json_schema!({"type": "string", "enum": ["least_work", "least_request"]});
}
