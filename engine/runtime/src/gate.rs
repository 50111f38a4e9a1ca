//! Replies held until what they reveal is durable (S3).
//!
//! Every held reply waits for the tail of the log at the time it was made, so the queue is in
//! order of position by construction and releasing is popping from the front.

use std::collections::VecDeque;

use tenure_core::Position;

use crate::request::{Reply, Ticket};

/// Held replies of one shard, oldest first.
#[derive(Default)]
pub(crate) struct Gate {
    held: VecDeque<(Position, Ticket, Reply)>,
}

impl Gate {
    /// Holds a reply until everything below `after` is durable.
    pub(crate) fn hold(&mut self, after: Position, ticket: Ticket, reply: Reply) {
        // A reply may wait for less than its predecessor (the end record that a NotFound reveals);
        // it then waits a little longer than it must, and order is kept.
        let after = self.held.back().map_or(after, |(last, _, _)| after.max(*last));
        self.held.push_back((after, ticket, reply));
    }

    /// Takes the next reply that may leave.
    pub(crate) fn release(&mut self, durable: Position) -> Option<(Ticket, Reply)> {
        if self.held.front()?.0 > durable {
            return None;
        }
        if tenure_planted::is(tenure_planted::Bug::DropsReplies) && self.held.len().is_multiple_of(5) {
            self.held.pop_front();
        }
        self.held.pop_front().map(|(_, ticket, reply)| (ticket, reply))
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::ServiceTicket;

    fn ticket(request: u64) -> Ticket {
        Ticket::Service(ServiceTicket { session: 1, request })
    }

    fn released(gate: &mut Gate, durable: u64) -> Vec<u64> {
        std::iter::from_fn(|| gate.release(Position(durable)))
            .map(|(ticket, _)| match ticket {
                Ticket::Service(ticket) => ticket.request,
                _ => unreachable!(),
            })
            .collect()
    }

    #[test]
    fn nothing_leaves_before_its_position_and_order_is_kept() {
        let mut gate = Gate::default();
        for (request, after) in [(1, 100), (2, 164), (3, 120), (4, 300)] {
            gate.hold(Position(after), ticket(request), Reply::Done);
        }
        assert_eq!(released(&mut gate, 99), [0; 0], "S3 ack-after-durable");
        assert_eq!(released(&mut gate, 100), [1]);
        assert_eq!(released(&mut gate, 163), [0; 0]);
        assert_eq!(released(&mut gate, 299), [2, 3]);
        assert_eq!(released(&mut gate, 300), [4]);
        assert!(gate.is_empty());
    }
}
