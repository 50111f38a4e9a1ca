//! The requests in flight on one connection: a slab of 16-byte slots under a free list.
//!
//! A request id is a slot and the slot's generation. The slot finds the request without a hash; the
//! generation tells a reply to this request from a late or repeated reply to an earlier one. The free
//! list is a stack, so that a busy connection keeps using the same few cache lines.
//!
//! L2 one-reply: [`InFlight::finish`] accepts exactly one reply for each request, and only one whose
//! opcode fits. S8: at most `window` slots answer to the window; subscriptions, which stay open, are
//! counted apart.

use tenure_protocol::RequestId;
use tenure_protocol::opcode::{REPLY, push, request};

/// Bits of a request id that are the slot; the rest is the generation.
const SLOT_BITS: u32 = 20;
const SLOT_MASK: u32 = (1 << SLOT_BITS) - 1;
/// Largest window that a slot number can serve, whatever the server offers.
pub(crate) const WINDOW_MAX: u32 = 1 << (SLOT_BITS - 1);
const NO_SLOT: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// The caller's, given back with the reply.
    token: u64,
    /// Next free slot while this one is free.
    next_free: u32,
    /// Counts the uses of this slot; only the low 12 bits go on the wire.
    generation: u16,
    /// Opcode of the request; 0: free.
    opcode: u8,
    /// An answered Subscribe, whose events are still to come.
    open: bool,
}

const _: () = assert!(size_of::<Slot>() == 16);

/// What a frame from the server belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// The reply to the request with this token; the request is done.
    Reply { token: u64, opcode: u8 },
    /// An event of the subscription with this token.
    Event { token: u64 },
    /// The end of the subscription with this token.
    SubscriptionRefused { token: u64 },
    /// Nothing that this side has asked for.
    Unknown,
}

#[derive(Debug)]
pub(crate) struct InFlight {
    slots: Vec<Slot>,
    free: u32,
    /// Requests that wait for their reply.
    waiting: u32,
}

impl InFlight {
    pub(crate) fn new() -> InFlight {
        InFlight { slots: Vec::new(), free: NO_SLOT, waiting: 0 }
    }

    /// Requests that wait for their reply.
    #[inline]
    pub(crate) fn waiting(&self) -> u32 {
        self.waiting
    }

    /// Registers a request and names it.
    ///
    /// # Panics
    /// S8: when the caller lets more than 2^20 - 1 requests and subscriptions be open at once.
    #[inline]
    pub(crate) fn start(&mut self, opcode: u8, token: u64) -> RequestId {
        self.waiting += 1;
        let slot = self.free;
        if slot == NO_SLOT {
            return self.start_on_new_slot(opcode, token);
        }
        let entry = &mut self.slots[slot as usize];
        self.free = entry.next_free;
        *entry = Slot { token, next_free: NO_SLOT, opcode, open: false, ..*entry };
        name(slot, entry.generation)
    }

    #[cold]
    fn start_on_new_slot(&mut self, opcode: u8, token: u64) -> RequestId {
        let slot = self.slots.len() as u32;
        assert!(slot < SLOT_MASK, "S8: requests in flight are bounded by the window");
        // Generation 1 first: no request ever has id 0, which is the server's own.
        self.slots.push(Slot { token, next_free: NO_SLOT, generation: 1, opcode, open: false });
        name(slot, 1)
    }

    #[inline]
    fn slot(&self, request_id: RequestId) -> Option<u32> {
        let slot = request_id.0 & SLOT_MASK;
        let entry = self.slots.get(slot as usize)?;
        let current = name(slot, entry.generation) == request_id && entry.opcode != 0;
        current.then_some(slot)
    }

    #[inline]
    fn release(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        entry.opcode = 0;
        entry.open = false;
        // 0 is skipped, so that slot 0 can never make the id 0.
        entry.generation = if entry.generation & 0xFFF == 0xFFF { 1 } else { entry.generation + 1 };
        entry.next_free = self.free;
        self.free = slot;
    }

    /// The short cut for a Renewed frame.
    #[inline]
    pub(crate) fn finish_renew(&mut self, request_id: RequestId) -> Option<u64> {
        let slot = self.slot(request_id)?;
        let Slot { token, opcode, .. } = self.slots[slot as usize];
        if opcode != request::RENEW {
            return None;
        }
        self.waiting -= 1;
        self.release(slot);
        Some(token)
    }

    /// Finds what a frame with this id and opcode belongs to, and closes it when the frame does.
    #[inline]
    pub(crate) fn finish(&mut self, request_id: RequestId, opcode: u8) -> Match {
        let Some(slot) = self.slot(request_id) else { return Match::Unknown };
        let entry = &mut self.slots[slot as usize];
        let (token, asked) = (entry.token, entry.opcode);
        if entry.open {
            return match opcode {
                push::ENDED | push::ENDED_ITEMS | push::PROGRESS | push::GAP => Match::Event { token },
                push::REFUSED => {
                    self.release(slot);
                    Match::SubscriptionRefused { token }
                }
                _ => Match::Unknown,
            };
        }
        if opcode != asked | REPLY && opcode != push::REFUSED {
            return Match::Unknown;
        }
        self.waiting -= 1;
        if asked == request::SUBSCRIBE && opcode != push::REFUSED {
            entry.open = true;
        } else {
            self.release(slot);
        }
        Match::Reply { token, opcode: asked }
    }

    /// Closes a subscription: the server has said that no event of it comes any more.
    pub(crate) fn close_subscription(&mut self, request_id: RequestId) {
        if let Some(slot) = self.slot(request_id)
            && self.slots[slot as usize].open
        {
            self.release(slot);
        }
    }

    /// Forgets everything and gives back the tokens of what was open: of requests whose outcome is
    /// unknown, and of subscriptions.
    pub(crate) fn abandon(&mut self) -> Vec<u64> {
        let tokens = self.slots.iter().filter(|slot| slot.opcode != 0).map(|slot| slot.token).collect();
        *self = InFlight::new();
        tokens
    }
}

#[inline]
fn name(slot: u32, generation: u16) -> RequestId {
    RequestId(slot | u32::from(generation) << SLOT_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l2_a_request_takes_one_reply() {
        let mut table = InFlight::new();
        let a = table.start(request::RENEW, 10);
        let b = table.start(request::GRANT, 11);
        assert_eq!(table.waiting(), 2);
        assert_eq!(
            table.finish(b, request::GRANT | REPLY),
            Match::Reply { token: 11, opcode: request::GRANT }
        );
        assert_eq!(table.finish(b, request::GRANT | REPLY), Match::Unknown);
        assert_eq!(table.finish_renew(a), Some(10));
        assert_eq!(table.finish_renew(a), None);
        assert_eq!(table.waiting(), 0);
    }

    #[test]
    fn a_late_reply_does_not_hit_the_next_request_in_the_slot() {
        let mut table = InFlight::new();
        let first = table.start(request::RENEW, 1);
        assert_eq!(table.finish_renew(first), Some(1));
        let second = table.start(request::RENEW, 2);
        assert_ne!(first, second);
        assert_eq!(table.finish_renew(first), None);
        assert_eq!(table.finish_renew(second), Some(2));
    }

    #[test]
    fn a_reply_of_another_kind_is_unknown() {
        let mut table = InFlight::new();
        let id = table.start(request::REVOKE, 1);
        assert_eq!(table.finish_renew(id), None);
        assert_eq!(table.finish(id, request::GRANT | REPLY), Match::Unknown);
        assert_eq!(table.finish(id, push::ENDED), Match::Unknown);
        assert_eq!(table.finish(id, push::REFUSED), Match::Reply { token: 1, opcode: request::REVOKE });
    }

    #[test]
    fn a_subscription_stays_open_until_it_is_refused_or_closed() {
        let mut table = InFlight::new();
        for close in [true, false] {
            let id = table.start(request::SUBSCRIBE, 5);
            assert_eq!(table.finish(id, push::ENDED), Match::Unknown);
            let reply = Match::Reply { token: 5, opcode: request::SUBSCRIBE };
            assert_eq!(table.finish(id, request::SUBSCRIBE | REPLY), reply);
            assert_eq!(table.waiting(), 0);
            assert_eq!(table.finish(id, push::ENDED), Match::Event { token: 5 });
            assert_eq!(table.finish(id, push::PROGRESS), Match::Event { token: 5 });
            if close {
                table.close_subscription(id);
            } else {
                assert_eq!(table.finish(id, push::REFUSED), Match::SubscriptionRefused { token: 5 });
            }
            assert_eq!(table.finish(id, push::ENDED), Match::Unknown);
        }
    }

    #[test]
    fn generations_wrap_without_ever_making_id_0() {
        let mut table = InFlight::new();
        for turn in 0..10_000 {
            let id = table.start(request::RENEW, turn);
            assert_ne!(id, RequestId(0));
            assert_eq!(table.finish_renew(id), Some(turn));
        }
        assert_eq!(table.slots.len(), 1);
    }

    #[test]
    fn abandon_gives_back_every_token_once() {
        let mut table = InFlight::new();
        let ids: Vec<RequestId> = (0..10).map(|token| table.start(request::RENEW, token)).collect();
        assert_eq!(table.finish_renew(ids[3]), Some(3));
        assert_eq!(table.abandon(), [0, 1, 2, 4, 5, 6, 7, 8, 9]);
        assert_eq!(table.abandon(), []);
        assert_eq!(table.finish_renew(ids[4]), None);
    }
}
