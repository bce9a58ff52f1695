//! Decodes a holder's list of leases, and what it reports with the list.

use std::sync::Arc;

use evenkeel_domain::{
    DomainError, ENDPOINTS_MAX, HolderId, LEASE_MAX, LeaseId, PoolId, check_name, choice::PROMPT_TOKENS_MAX,
    gateway::GapCounts,
};
use evenkeel_engine::{activity::gateways::Unanswered, admission::keep_alive::HolderList};
use evenkeel_proto::v1::{self as pb, HeldPool, KeepAliveRequest};
use evenkeel_store::{Held, HeldLease, counters::ReservationId};

/// Maximum number of pools in one KeepAlive.
const HELD_POOLS_MAX: usize = 4096;
/// Maximum number of leases in one KeepAlive, over all its pools: far more than one gateway worker can hold.
const HELD_LEASES_MAX: usize = 262_144;

pub(super) fn decode(holder: HolderId, request: KeepAliveRequest) -> Result<HolderList, DomainError> {
    let KeepAliveRequest { issued_through, pools, unanswered, .. } = request;
    let unanswered = unanswered.map(decode_unanswered).transpose()?;
    if pools.len() > HELD_POOLS_MAX {
        return Err(DomainError::invalid("pools", "at most 4096", &pools.len().to_string()));
    }
    let leases: usize = pools.iter().map(|held| held.leases.len()).sum();
    if leases > HELD_LEASES_MAX {
        return Err(DomainError::invalid("pools.leases", "at most 262144 in one call", &leases.to_string()));
    }
    let (mut lists, mut tickets) = (Vec::with_capacity(pools.len()), Vec::new());
    for mut held in pools {
        let pool = held.pool.take().ok_or_else(|| DomainError::invalid("pools.pool", "given", "none"))?;
        let pool = PoolId::new(&pool.route, &pool.cluster)?;
        take_tickets(&holder, &mut held, &mut tickets)?;
        lists.push((pool, leases_of(held, issued_through)?));
    }
    Ok(HolderList { holder, pools: lists, tickets, unanswered })
}

/// Decodes the requests that a holder sent on without an answer. There are at most as many as lease numbers.
fn decode_unanswered(unanswered: pb::Unanswered) -> Result<Unanswered, DomainError> {
    let pb::Unanswered { period, since_ms, last_ms, requests, reported } = unanswered;
    let number = |field: &'static str, number: u64| match number {
        0..=LEASE_MAX => Ok(number),
        _ => Err(DomainError::invalid(field, "at most 2^53-1", &number.to_string())),
    };
    let counts = |field, counts: Option<pb::UnansweredCounts>| {
        let pb::UnansweredCounts { unreachable, late, failed } = counts.unwrap_or_default();
        Ok::<_, DomainError>(GapCounts {
            unreachable: number(field, unreachable)?,
            late: number(field, late)?,
            failed: number(field, failed)?,
            without_store: 0,
        })
    };
    Ok(Unanswered {
        period,
        since_ms,
        last_ms,
        requests: counts("unanswered.requests", requests)?,
        reported: counts("unanswered.reported", reported)?,
    })
}

fn take_tickets(
    holder: &HolderId,
    held: &mut HeldPool,
    shown: &mut Vec<(ReservationId, Vec<u8>)>,
) -> Result<(), DomainError> {
    let tickets = std::mem::take(&mut held.tickets);
    if !tickets.is_empty() && tickets.len() != held.leases.len() {
        let got = format!("{} and {}", held.leases.len(), tickets.len());
        return Err(DomainError::invalid("pools.tickets", "left out, or as long as pools.leases", &got));
    }
    for (lease, ticket) in held.leases.iter().zip(tickets).filter(|(_, ticket)| !ticket.is_empty()) {
        shown.push((ReservationId { holder: holder.clone(), lease: LeaseId::new(*lease)? }, ticket));
    }
    Ok(())
}

fn leases_of(held: HeldPool, issued_through: u64) -> Result<Held, DomainError> {
    let HeldPool { endpoints, leases, endpoint_of, unread_tokens, .. } = held;
    if leases.len() != endpoint_of.len() {
        let got = format!("{} and {}", leases.len(), endpoint_of.len());
        return Err(DomainError::invalid("pools.endpoint_of", "as long as pools.leases", &got));
    }
    if !unread_tokens.is_empty() && leases.len() != unread_tokens.len() {
        let got = format!("{} and {}", leases.len(), unread_tokens.len());
        return Err(DomainError::invalid(
            "pools.unread_tokens",
            "left out, or as long as pools.leases",
            &got,
        ));
    }
    if endpoints.len() > ENDPOINTS_MAX {
        return Err(DomainError::invalid("pools.endpoints", "at most 1024", &endpoints.len().to_string()));
    }
    let mut addresses: Vec<Arc<str>> = Vec::with_capacity(endpoints.len());
    for address in endpoints {
        check_name("pools.endpoints", &address)?;
        if address.is_empty() {
            return Err(DomainError::invalid("pools.endpoints", "1..256 bytes", "an empty one"));
        }
        addresses.push(address.into());
    }
    let mut list = Vec::with_capacity(leases.len());
    let unread = unread_tokens.into_iter().chain(std::iter::repeat(0));
    for ((lease, index), unread) in leases.into_iter().zip(endpoint_of).zip(unread) {
        let endpoint = match index {
            0 => None,
            i => Some(addresses.get(i as usize - 1).map(Arc::clone).ok_or_else(|| {
                DomainError::invalid("pools.endpoint_of", "an index into pools.endpoints", &i.to_string())
            })?),
        };
        list.push(HeldLease { id: LeaseId::new(lease)?, endpoint, unread: unread.min(PROMPT_TOKENS_MAX) });
    }
    Ok(Held { issued_through, leases: list, ..Held::default() })
}
