//! The other cores as seen from one: what is gathered for them in a turn, published as one message
//! each with one wake.
//!
//! No deadlock by construction: a core never waits for a peer. Requests that find the peer's inbox
//! full stay here up to a bound and are refused with `Busy` beyond it; replies stay here until they
//! fit, and their number is bounded by the requests that the peer may have in flight (S8).

use std::any::Any;
use std::sync::Arc;

use tenure_core::{LeaseId, Refusal, ShardIndex};

use crate::inbox::{Inbox, Message, NotTaken};
use crate::limits;
use crate::request::{Reply, Request, ServiceTicket, Ticket};

/// One core's view of all cores.
pub(crate) struct Peers {
    own: ShardIndex,
    inboxes: Arc<[Arc<Inbox>]>,
    outboxes: Vec<Outbox>,
    in_flight: usize,
}

#[derive(Default)]
struct Outbox {
    requests: Vec<(Ticket, Request)>,
    replies: Vec<(ServiceTicket, Reply)>,
}

impl Peers {
    pub(crate) fn new(own: ShardIndex, inboxes: Arc<[Arc<Inbox>]>) -> Self {
        let outboxes = inboxes.iter().map(|_| Outbox::default()).collect();
        Peers { own, inboxes, outboxes, in_flight: 0 }
    }

    pub(crate) fn shard_count(&self) -> u16 {
        u16::try_from(self.inboxes.len()).expect("S8: shard count is at most SHARD_COUNT_MAX")
    }

    pub(crate) fn shard_of(&self, id: LeaseId) -> ShardIndex {
        tenure_core::shard_of(id, self.shard_count())
    }

    /// Gathers a request for another core. Refused when too many are unanswered.
    pub(crate) fn forward(
        &mut self,
        shard: ShardIndex,
        ticket: ServiceTicket,
        request: Request,
    ) -> Result<(), Reply> {
        if shard.0 >= self.shard_count() {
            return Err(Reply::Refused(Refusal::NotThisShard));
        }
        if self.in_flight >= limits::FORWARDS_IN_FLIGHT_MAX {
            return Err(Reply::Refused(Refusal::Busy));
        }
        self.in_flight += 1;
        let ticket = Ticket::Forwarded { core: self.own.0, ticket };
        let outbox = &mut self.outboxes[usize::from(shard.0)];
        outbox.requests.push((ticket, request));
        if outbox.requests.len() >= limits::FORWARD_BATCH_MAX {
            outbox.publish(&self.inboxes[usize::from(shard.0)]);
        }
        Ok(())
    }

    /// Gathers the answer to a forwarded request.
    pub(crate) fn reply(&mut self, core: u16, ticket: ServiceTicket, reply: Reply) {
        self.outboxes[usize::from(core)].replies.push((ticket, reply));
    }

    /// Notes that forwarded requests were answered.
    pub(crate) fn answered(&mut self, count: usize) {
        assert!(count <= self.in_flight, "L2 one-reply: more answers than requests");
        self.in_flight -= count;
    }

    /// Publishes what was gathered, one message and one wake per peer.
    pub(crate) fn flush(&mut self) {
        for (outbox, inbox) in self.outboxes.iter_mut().zip(self.inboxes.iter()) {
            outbox.publish(inbox);
        }
    }

    /// Whether a full peer still has something to come.
    pub(crate) fn waiting(&self) -> bool {
        self.outboxes.iter().any(|outbox| !outbox.requests.is_empty() || !outbox.replies.is_empty())
    }

    pub(crate) fn send_parcel(
        &self,
        core: ShardIndex,
        parcel: Box<dyn Any + Send>,
    ) -> Result<(), Box<dyn Any + Send>> {
        let Some(inbox) = self.inboxes.get(usize::from(core.0)) else { return Err(parcel) };
        inbox.push(Message::Service(parcel)).map_err(|back| match back.into_message() {
            Message::Service(parcel) => parcel,
            _ => unreachable!("an inbox hands back what it was given"),
        })
    }
}

impl Outbox {
    fn publish(&mut self, inbox: &Inbox) {
        // A core that has ended takes nothing: the engine is stopping, and so is this one.
        if !self.replies.is_empty()
            && let Err(NotTaken::Full(Message::Replies(back))) =
                inbox.push(Message::Replies(std::mem::take(&mut self.replies)))
        {
            self.replies = back;
        }
        if !self.requests.is_empty()
            && let Err(NotTaken::Full(Message::Requests(back))) =
                inbox.push(Message::Requests(std::mem::take(&mut self.requests)))
        {
            self.requests = back;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_cores() -> (Peers, Arc<[Arc<Inbox>]>) {
        let inboxes: Arc<[Arc<Inbox>]> = (0..2).map(|_| Arc::new(Inbox::new().unwrap())).collect();
        (Peers::new(ShardIndex(0), Arc::clone(&inboxes)), inboxes)
    }

    fn ticket(request: u64) -> ServiceTicket {
        ServiceTicket { session: 7, request }
    }

    #[test]
    fn a_turn_publishes_one_message_per_peer() {
        let (mut peers, inboxes) = two_cores();
        for n in 0..10 {
            peers.forward(ShardIndex(1), ticket(n), Request::Stats).unwrap();
        }
        assert!(inboxes[1].is_empty());
        peers.flush();
        match inboxes[1].pop() {
            Some(Message::Requests(requests)) => assert_eq!(requests.len(), 10),
            _ => panic!("one message with all requests"),
        }
        assert!(inboxes[1].is_empty());
    }

    #[test]
    fn a_full_peer_keeps_everything_here_and_nothing_is_lost() {
        let (mut peers, inboxes) = two_cores();
        while inboxes[1].push(Message::Stop).is_ok() {}
        peers.forward(ShardIndex(1), ticket(1), Request::Stats).unwrap();
        peers.reply(1, ticket(2), Reply::Done);
        peers.flush();
        assert!(peers.waiting());
        while inboxes[1].pop().is_some() {}
        peers.flush();
        assert!(!peers.waiting());
        assert!(matches!(inboxes[1].pop(), Some(Message::Replies(replies)) if replies.len() == 1));
        assert!(matches!(inboxes[1].pop(), Some(Message::Requests(requests)) if requests.len() == 1));
    }

    #[test]
    fn too_many_unanswered_forwards_are_refused() {
        let (mut peers, _inboxes) = two_cores();
        for n in 0..limits::FORWARDS_IN_FLIGHT_MAX as u64 {
            peers.forward(ShardIndex(1), ticket(n), Request::Stats).unwrap();
        }
        assert!(matches!(
            peers.forward(ShardIndex(1), ticket(0), Request::Stats),
            Err(Reply::Refused(Refusal::Busy))
        ));
        peers.answered(1);
        assert!(peers.forward(ShardIndex(1), ticket(0), Request::Stats).is_ok());
    }
}
