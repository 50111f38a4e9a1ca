//! The way into a core: a bounded queue of messages and a bell that wakes the core when it sleeps.
//!
//! A message carries a *batch*, so the cost of the queue (50–80 ns) and of a wake (27 µs for a
//! halted core) is paid once per turn and peer rather than once per request. The bell is rung
//! only when the core has said that it is about to sleep: `sleeping` is set *before* the last look
//! at the queue, and the sender looks at it *after* pushing (both sequentially consistent), so one
//! of the two always sees the other.

use std::any::Any;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crossbeam_queue::ArrayQueue;
use rustix::event::{EventfdFlags, eventfd};

use crate::limits::INBOX_MESSAGES_MAX;
use crate::request::{Reply, Request, ServiceTicket, Ticket};

mod signals;

/// What [`signals`] is made of; a model checker gives it others.
mod atomic {
    pub(super) use std::sync::atomic::{AtomicBool, Ordering, fence};
}

use signals::Signals;

/// One message to a core.
pub(crate) enum Message {
    /// Requests for this core's shard.
    Requests(Vec<(Ticket, Request)>),
    /// Answers to requests that this core forwarded.
    Replies(Vec<(ServiceTicket, Reply)>),
    /// Something for the service on this core, such as an accepted socket.
    Service(Box<dyn Any + Send>),
    /// Answer once everything due now is done and durable.
    Settle(oneshot::Sender<()>),
    /// Finish what is in flight, flush, end the core.
    Stop,
}

/// A core's inbox. Shared by all that talk to the core.
pub(crate) struct Inbox {
    messages: ArrayQueue<Message>,
    signals: Signals,
    bell: OwnedFd,
}

/// Why a message was handed back.
pub(crate) enum NotTaken {
    /// The inbox is full; try again.
    Full(Message),
    /// The core has ended.
    Closed(Message),
}

impl NotTaken {
    pub(crate) fn into_message(self) -> Message {
        match self {
            NotTaken::Full(message) | NotTaken::Closed(message) => message,
        }
    }
}

impl Inbox {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Inbox {
            messages: ArrayQueue::new(INBOX_MESSAGES_MAX),
            signals: Signals::new(),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Puts a message in and wakes the core if it sleeps. Full: the message comes back (S8).
    pub(crate) fn push(&self, message: Message) -> Result<(), NotTaken> {
        if self.signals.is_closed() {
            return Err(NotTaken::Closed(message));
        }
        self.messages.push(message).map_err(NotTaken::Full)?;
        if self.signals.is_closed() {
            // Closed between the two looks: nobody will read it, so its sender must not wait.
            self.discard();
        } else {
            self.signals.wake(|| self.ring());
        }
        Ok(())
    }

    /// Ends the inbox: what is in it is dropped, which tells its senders, and nothing is taken any more.
    pub(crate) fn close(&self) {
        self.signals.close();
        self.discard();
    }

    fn discard(&self) {
        while self.messages.pop().is_some() {}
    }

    /// Asks for a turn without a message: something the core looks at every turn has news.
    pub(crate) fn call(&self) {
        self.signals.call(|| self.ring());
    }

    fn ring(&self) {
        // A full counter means that it has been rung already; nothing else can fail.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    pub(crate) fn pop(&self) -> Option<Message> {
        self.messages.pop()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Announces sleep. False: something has arrived, stay awake.
    pub(crate) fn prepare_sleep(&self) -> bool {
        self.signals.prepare_sleep(|| self.is_empty())
    }

    /// Takes the announcement back after waking for another reason.
    pub(crate) fn woke(&self) {
        self.signals.woke();
    }

    /// Readable when the bell has been rung.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Silences the bell.
    pub(crate) fn silence(&self) {
        let mut count = [0u8; 8];
        let _ = rustix::io::read(&self.bell, &mut count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn full_inbox_hands_the_message_back() {
        let inbox = Inbox::new().unwrap();
        for _ in 0..INBOX_MESSAGES_MAX {
            assert!(inbox.push(Message::Stop).is_ok());
        }
        assert!(matches!(inbox.push(Message::Stop), Err(NotTaken::Full(Message::Stop))), "S8 bounded");
    }

    #[test]
    fn closing_tells_those_who_wait() {
        let inbox = Inbox::new().unwrap();
        let (sender, settled) = oneshot::channel();
        assert!(inbox.push(Message::Settle(sender)).is_ok());
        inbox.close();
        assert!(settled.recv().is_err(), "L2 one-reply: a sender must not wait for a core that has ended");
        assert!(matches!(inbox.push(Message::Stop), Err(NotTaken::Closed(_))));
    }

    #[test]
    fn no_wake_is_lost_between_two_threads() {
        let inbox = Arc::new(Inbox::new().unwrap());
        let sender = {
            let inbox = Arc::clone(&inbox);
            std::thread::spawn(move || {
                for _ in 0..20_000 {
                    while inbox.push(Message::Stop).is_err() {
                        std::thread::yield_now();
                    }
                }
            })
        };
        let mut received = 0;
        while received < 20_000 {
            while inbox.pop().is_some() {
                received += 1;
            }
            if received < 20_000 && inbox.prepare_sleep() {
                let mut fds = [rustix::event::PollFd::new(&inbox.bell, rustix::event::PollFlags::IN)];
                let limit = rustix::time::Timespec { tv_sec: 20, tv_nsec: 0 };
                assert_ne!(rustix::event::poll(&mut fds, Some(&limit)).unwrap(), 0, "a wake was lost");
                inbox.silence();
                inbox.woke();
            }
        }
        sender.join().unwrap();
    }
}
