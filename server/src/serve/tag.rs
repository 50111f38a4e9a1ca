//! What a session needs to know when an answer comes back, packed into the 64 bits that travel with
//! the request ([`ServiceTicket`]): which request of the client, of what kind, how large.
//!
//! So there is no table of requests in flight: nothing to allocate, look up or leak. The session half
//! of the ticket carries slot and generation, so that the answer to a connection that has gone is
//! recognised and dropped.
//!
//! ```text
//!  63    56 55            32 31             0
//!  | kind  | amount         | request id    |   a request answered by one shard
//!  | Part  | which part     | scattered slot|   one part of a request answered by several
//! ```

use tenure::request::ServiceTicket;
use tenure_protocol::{Limits, RequestId};

/// The kinds of request that leave the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    Renew = 1,
    RenewBatch = 2,
    Grant = 3,
    GrantBatch = 4,
    Revoke = 5,
    RevokeBatch = 6,
    TimeToLive = 7,
    List = 8,
    Attach = 9,
    Detach = 10,
    Part = 11,
}

const KINDS: [Kind; 11] = [
    Kind::Renew,
    Kind::RenewBatch,
    Kind::Grant,
    Kind::GrantBatch,
    Kind::Revoke,
    Kind::RevokeBatch,
    Kind::TimeToLive,
    Kind::List,
    Kind::Attach,
    Kind::Detach,
    Kind::Part,
];

/// Largest `amount`.
const AMOUNT_MAX: u32 = (1 << 24) - 1;

/// One request in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag {
    pub(crate) kind: Kind,
    /// Entries of a batch, leases of a page, or the number of a part. Below 2^24.
    pub(crate) amount: u32,
    /// The client's request id, or the slot of the scattered request.
    pub(crate) id: u32,
}

impl Tag {
    pub(crate) fn new(kind: Kind, amount: usize, request_id: RequestId) -> Tag {
        let amount = u32::try_from(amount).unwrap_or(u32::MAX);
        assert!(amount <= AMOUNT_MAX, "S8 bounded: a batch of {amount} does not fit its tag");
        Tag { kind, amount, id: request_id.0 }
    }

    pub(crate) fn ticket(self, session: u64) -> ServiceTicket {
        let request = u64::from(self.kind as u8) << 56 | u64::from(self.amount) << 32 | u64::from(self.id);
        ServiceTicket { session, request }
    }

    pub(crate) fn of(ticket: ServiceTicket) -> Tag {
        let kind = usize::from((ticket.request >> 56) as u8).wrapping_sub(1);
        let kind = *KINDS.get(kind).expect("L2 one-reply: a ticket comes back as it was given");
        Tag { kind, amount: (ticket.request >> 32) as u32 & AMOUNT_MAX, id: ticket.request as u32 }
    }

    /// The most bytes that the answer can have: what the send buffer must keep free for it (S8).
    pub(crate) fn reply_bytes_max(self) -> usize {
        let amount = self.amount as usize;
        match self.kind {
            Kind::Renew | Kind::Revoke | Kind::Attach | Kind::Detach => 32,
            Kind::Grant | Kind::TimeToLive => 48,
            Kind::RenewBatch | Kind::RevokeBatch => 24 + 8 * amount,
            Kind::GrantBatch => 24 + 40 * amount,
            Kind::List => 32 + 40 * amount,
            Kind::Part => 0,
        }
    }
}

/// Bytes of a page of items: what fits a frame beside its fields, and no more than a quarter MiB, so
/// that a page does not hold up its neighbours.
pub(crate) fn item_page_bytes(limits: &Limits) -> usize {
    let room = limits.frame_bytes_max as usize - 64 - limits.item_bytes_max as usize;
    room.min(256 << 10) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_comes_back_as_it_went() {
        for (index, kind) in KINDS.into_iter().enumerate() {
            assert_eq!(kind as usize, index + 1);
            for amount in [0, 1, 65_536, AMOUNT_MAX] {
                let tag = Tag { kind, amount, id: 0xdead_beef };
                let ticket = tag.ticket(7 << 32 | 5);
                assert_eq!(ticket.session, 7 << 32 | 5);
                assert_eq!(Tag::of(ticket), tag);
            }
        }
    }
}
