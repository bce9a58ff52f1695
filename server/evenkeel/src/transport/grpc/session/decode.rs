//! Decodes the messages of a worker. A message is decoded as a whole before any part of it is applied.

use std::sync::Arc;

use evenkeel_domain::{DomainError, HolderId, LEASE_MAX, LeaseId, PoolId, clean};
use evenkeel_engine::admission::keep_alive::HolderList;
use evenkeel_proto::v1::{AdmitRequest, FromWorker, Hello, Pool, SettleRequest};
use evenkeel_store::holders::{SECRET_BYTES, Secret};
use tonic::Status;

use super::super::{
    calls::{PARTS_MAX, first_tokens, given},
    keep_alive,
};
use crate::transport::memory::Charge;

/// Maximum length of a plugin's version. It bounds a line of the log.
const VERSION_BYTES_MAX: usize = 64;
/// Maximum length of a gateway's name. It bounds a line of the log; Istio's node ids have about 150 bytes.
const GATEWAY_BYTES_MAX: usize = 1024;
/// Maximum number of capabilities, more than the API will have.
const CAPABILITIES_MAX: usize = 16;

/// The first part of a stream.
pub(super) struct Introduction {
    pub(super) holder: HolderId,
    /// `None`: the holder is new.
    pub(super) secret: Option<Secret>,
    /// Version of the plugin; may be empty.
    pub(super) version: String,
    /// Name of the gateway; may be empty.
    pub(super) gateway: String,
}

/// A request that has ended.
pub(super) struct Settlement {
    /// Its number among the holder's settlements.
    pub(super) number: u64,
    pub(super) lease: LeaseId,
    pub(super) pool: Pool,
    pub(super) request: SettleRequest,
    /// Memory of its message.
    pub(super) charge: Option<Arc<Charge>>,
}

/// A request for admission.
#[derive(Debug)]
pub(super) struct Admission {
    pub(super) lease: LeaseId,
    /// `None` if the sidecar itself answers the request, or if the pool is invalid.
    pub(super) pool: Option<PoolId>,
    pub(super) request: AdmitRequest,
}

/// The parts of a message, in the order in which they apply.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) settlements: Vec<Settlement>,
    pub(super) first_tokens: Vec<(PoolId, LeaseId)>,
    pub(super) cancelled: Vec<LeaseId>,
    pub(super) admission: Option<Admission>,
    pub(super) leases: Option<HolderList>,
    pub(super) goodbye: bool,
}

/// Decodes the part `hello` of the first message.
pub(super) fn introduction(hello: Option<Hello>) -> Result<Introduction, Status> {
    let hello = hello.ok_or_else(|| invalid("hello", "given in the first message", "none"))?;
    let holder = HolderId::new(&hello.holder).map_err(within("hello"))?;
    let secret = match &*hello.secret {
        [] => None,
        bytes => Some(Secret::from_slice(bytes).ok_or_else(|| {
            invalid(
                "hello.secret",
                &format!("empty or {SECRET_BYTES} bytes"),
                &format!("{} bytes", bytes.len()),
            )
        })?),
    };
    let within_bound = |field: &str, length: usize, max: usize, unit: &str| {
        let wrong = || invalid(field, &format!("at most {max} {unit}"), &format!("{length} {unit}"));
        if length > max { Err(wrong()) } else { Ok(()) }
    };
    within_bound("hello.version", hello.version.len(), VERSION_BYTES_MAX, "bytes")?;
    within_bound("hello.capabilities", hello.capabilities.len(), CAPABILITIES_MAX, "entries")?;
    let gateway = clean(&hello.gateway, GATEWAY_BYTES_MAX).into_owned();
    Ok(Introduction { holder, secret, version: hello.version, gateway })
}

/// Decodes a message, apart from `hello`. An admission with an invalid field is not an error of the message: its answer
/// is an error.
///
/// # Errors
/// `INVALID_ARGUMENT` with the name of the wrong field.
pub(super) fn parts(message: FromWorker, holder: &HolderId) -> Result<Parts, Status> {
    for (field, count) in [
        ("settlements", message.settlements.len()),
        ("first_tokens", message.first_tokens.len()),
        ("cancelled", message.cancelled.len()),
    ] {
        if count > PARTS_MAX {
            return Err(invalid(field, "at most 256", &count.to_string()));
        }
    }
    let cancelled = message.cancelled.into_iter().map(LeaseId::new).collect::<Result<_, _>>();
    Ok(Parts {
        settlements: settlements(message.settlements, message.first_settlement)?,
        first_tokens: first_tokens(message.first_tokens).map_err(within("first_tokens"))?,
        cancelled: cancelled.map_err(within("cancelled"))?,
        admission: message.admit.map(admission).transpose()?,
        leases: message.leases.map(|list| leases(list, holder)).transpose()?,
        goodbye: message.goodbye,
    })
}

fn settlements(requests: Vec<SettleRequest>, first: u64) -> Result<Vec<Settlement>, Status> {
    if !requests.is_empty() && !(1..=LEASE_MAX).contains(&first) {
        return Err(invalid("first_settlement", "1..2^53-1", &first.to_string()));
    }
    let decode = |(mut request, number): (SettleRequest, u64)| {
        no_holder("settlements.holder", &request.holder)?;
        let lease = LeaseId::new(request.lease).map_err(within("settlements"))?;
        let pool = given(request.pool.take()).map_err(within("settlements"))?;
        Ok(Settlement { number, lease, pool, request, charge: None })
    };
    requests.into_iter().zip(first..).map(decode).collect()
}

fn admission(request: AdmitRequest) -> Result<Admission, Status> {
    no_holder("admit.holder", &request.holder)?;
    let lease = LeaseId::new(request.lease).map_err(within("admit"))?;
    let named = request.pool.as_ref().filter(|_| request.admin_call.is_none());
    let pool = named.and_then(|pool| PoolId::new(&pool.route, &pool.cluster).ok());
    Ok(Admission { lease, pool, request })
}

fn leases(list: evenkeel_proto::v1::KeepAliveRequest, holder: &HolderId) -> Result<HolderList, Status> {
    no_holder("leases.holder", &list.holder)?;
    keep_alive::decode(holder.clone(), list).map_err(within("leases"))
}

fn no_holder(field: &'static str, holder: &str) -> Result<(), Status> {
    if holder.is_empty() { Ok(()) } else { Err(invalid(field, "empty on a stream", &format!("{holder:?}"))) }
}

/// Returns a function that adds the part of the message to an error about a field.
fn within(part: &'static str) -> impl Fn(DomainError) -> Status {
    move |error| Status::invalid_argument(format!("{part}.{error}"))
}

pub(super) fn invalid(field: &str, expected: &str, got: &str) -> Status {
    Status::invalid_argument(format!("{field}: must be {expected}, got {got}"))
}

#[cfg(test)]
mod tests {
    use evenkeel_proto::v1::{FirstToken, HeldPool, KeepAliveRequest, Unanswered, UnansweredCounts};
    use proptest::prelude::*;
    use prost::Message as _;
    use tonic::Code;

    use super::*;

    const PARTS: [&str; 7] =
        ["hello", "settlements", "first_settlement", "first_tokens", "cancelled", "admit", "leases"];

    /// Decodes a message as the first and as a later message. An error must name a field of the message.
    fn decode(message: &FromWorker) -> Result<(), TestCaseError> {
        let holder = HolderId::new("h").unwrap();
        let first = introduction(message.hello.clone()).map(drop);
        let later = parts(message.clone(), &holder).map(drop);
        for error in [first, later].into_iter().filter_map(Result::err) {
            prop_assert_eq!(error.code(), Code::InvalidArgument);
            let field = error.message().split(": must be ").next().unwrap_or_default();
            prop_assert!(
                PARTS.contains(&field.split('.').next().unwrap_or_default()) && field.len() < 40,
                "{}",
                error.message()
            );
        }
        Ok(())
    }

    fn pool() -> impl Strategy<Value = Option<Pool>> {
        let name = || prop_oneof![Just(String::new()), Just("llm".to_owned()), any::<String>()];
        proptest::option::of((name(), name()).prop_map(|(route, cluster)| Pool { route, cluster }))
    }

    fn first_token(lease: u64) -> FirstToken {
        let pool = Some(Pool { route: String::new(), cluster: "llm".into() });
        FirstToken { lease, after_ms: 1, pool }
    }

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![0..4_u64, Just(LEASE_MAX), Just(LEASE_MAX + 1), any::<u64>()]
    }

    fn holder() -> impl Strategy<Value = String> {
        prop_oneof![8 => Just(String::new()), 1 => any::<String>()]
    }

    fn list() -> impl Strategy<Value = KeepAliveRequest> {
        let numbers = || prop::collection::vec(number(), 0..4);
        let texts = || prop::collection::vec(any::<String>(), 0..3);
        let indices = || prop::collection::vec(0..5_u32, 0..4);
        let tickets = || prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 0..4);
        let held = (pool(), texts(), numbers(), indices(), tickets(), numbers()).prop_map(
            |(pool, endpoints, leases, endpoint_of, tickets, unread_tokens)| HeldPool {
                pool,
                endpoints,
                leases,
                endpoint_of,
                tickets,
                unread_tokens,
            },
        );
        let unanswered = proptest::option::of((number(), number(), number())).prop_map(|numbers| {
            numbers.map(|(late, since_ms, period)| {
                let requests = Some(UnansweredCounts { late, ..UnansweredCounts::default() });
                Unanswered { period, since_ms, requests, ..Unanswered::default() }
            })
        });
        (holder(), number(), prop::collection::vec(held, 0..3), unanswered).prop_map(
            |(holder, issued_through, pools, unanswered)| KeepAliveRequest {
                holder,
                issued_through,
                pools,
                unanswered,
            },
        )
    }

    fn message() -> impl Strategy<Value = FromWorker> {
        let settle = (pool(), holder(), number(), any::<i32>()).prop_map(|(pool, holder, lease, outcome)| {
            SettleRequest { pool, holder, lease, outcome, ..SettleRequest::default() }
        });
        let admit = (pool(), holder(), number()).prop_map(|(pool, holder, lease)| AdmitRequest {
            pool,
            holder,
            lease,
            ..AdmitRequest::default()
        });
        let hello = (holder(), prop::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(holder, secret)| Hello { holder, secret, ..Hello::default() });
        (
            proptest::option::of(hello),
            prop::collection::vec(settle, 0..3),
            number(),
            prop::collection::vec(number(), 0..3),
            proptest::option::of(admit),
            proptest::option::of(list()),
        )
            .prop_map(|(hello, settlements, first_settlement, cancelled, admit, leases)| {
                FromWorker {
                    hello,
                    settlements,
                    first_settlement,
                    first_tokens: cancelled.iter().map(|&lease| first_token(lease)).collect(),
                    cancelled,
                    admit,
                    leases,
                    ..FromWorker::default()
                }
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..Default::default() })]

        #[test]
        fn any_message_is_decoded_or_its_error_names_the_field(message in message()) {
            decode(&message)?;
        }

        /// Changed bytes of a valid encoding reach deeper than random bytes.
        #[test]
        fn any_bytes_are_decoded_or_refused(
            message in message(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            random in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut bytes = message.encode_to_vec();
            for (at, byte) in changes.iter().filter(|_| !bytes.is_empty()).collect::<Vec<_>>() {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            for bytes in [&bytes, &random] {
                if let Ok(message) = FromWorker::decode(&**bytes) {
                    decode(&message)?;
                }
            }
        }
    }

    #[test]
    fn an_error_names_the_part_and_the_field() {
        let holder = HolderId::new("h").unwrap();
        let settle = |lease, pool| SettleRequest { lease, pool, ..SettleRequest::default() };
        let pool = || Some(Pool { route: String::new(), cluster: "llm".into() });
        let message = |settlements, first_settlement| FromWorker {
            settlements,
            first_settlement,
            ..FromWorker::default()
        };
        let admit = |lease, holder: &str| FromWorker {
            admit: Some(AdmitRequest { lease, holder: holder.into(), ..AdmitRequest::default() }),
            ..FromWorker::default()
        };
        let wrong = [
            (message(vec![settle(1, pool())], 0), "first_settlement: must be 1..2^53-1, got 0"),
            (message(vec![settle(0, pool())], 1), "settlements.lease: must be 1..2^53-1, got 0"),
            (message(vec![settle(1, None)], 1), "settlements.pool: must be given, got none"),
            (message(vec![settle(1, pool()); 257], 1), "settlements: must be at most 256, got 257"),
            (admit(0, ""), "admit.lease: must be 1..2^53-1, got 0"),
            (admit(1, "x"), "admit.holder: must be empty on a stream, got \"x\""),
            (
                FromWorker { first_tokens: vec![first_token(0)], ..FromWorker::default() },
                "first_tokens.lease: must be 1..2^53-1, got 0",
            ),
            (
                FromWorker {
                    first_tokens: vec![FirstToken { pool: None, ..first_token(1) }],
                    ..FromWorker::default()
                },
                "first_tokens.pool: must be given, got none",
            ),
            (FromWorker { cancelled: vec![0], ..FromWorker::default() }, "cancelled.lease: must be"),
            (
                FromWorker { cancelled: vec![1; 257], ..FromWorker::default() },
                "cancelled: must be at most 256",
            ),
        ];
        for (message, expected) in wrong {
            let error = parts(message, &holder).err().unwrap();
            assert!(error.message().starts_with(expected), "{}", error.message());
        }
        // The answer to an admission states what is wrong with it, and the stream continues.
        assert!(parts(admit(1, ""), &holder).unwrap().admission.unwrap().pool.is_none());
        let hello = |version: &str, capabilities| {
            let capabilities = vec![1; capabilities];
            Some(Hello { holder: "h".into(), version: version.into(), capabilities, ..Hello::default() })
        };
        let wrong = [
            (None, "hello: must be given in the first message, got none"),
            (hello(&"1".repeat(65), 0), "hello.version: must be at most 64 bytes, got 65 bytes"),
            (hello("1", 17), "hello.capabilities: must be at most 16 entries, got 17 entries"),
        ];
        for (hello, expected) in wrong {
            assert_eq!(introduction(hello).err().unwrap().message(), expected);
        }
        assert_eq!(introduction(hello("0.1.0", 16)).unwrap().version, "0.1.0");
    }
}
