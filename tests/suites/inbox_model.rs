//! Every interleaving of the flags by which cores wake each other: the engine's own file under loom's atomics.
//!
//! Lost wakes and messages left in a closed inbox happen once in a billion runs, so they are not waited for: loom
//! tries all orders in which two or three threads can go through `engine/runtime/src/inbox/signals.rs`, and all values
//! that the memory model lets them see. A core that goes to sleep waits here until all senders are done: if its bell has
//! not been rung by then, although there is something, it would sleep for ever. Each model is run with planted mistakes,
//! too, and must find them.
//!
//! The queue is a locked one here; the engine's is crossbeam's, which has checks of its own.

use loom::sync::{Arc, Mutex};
use loom::thread;

#[path = "../../engine/runtime/src/inbox/signals.rs"]
mod signals;

mod atomic {
    pub(super) use loom::sync::atomic::{AtomicBool, Ordering, fence};
}

use signals::Signals;

/// What a sender or a core does wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Planted {
    Nothing,
    /// The core looks before it says that it sleeps.
    LooksFirst,
    /// The sender looks before it puts its message in.
    RingsFirst,
    /// The sender does not look again whether the inbox was closed.
    NoSecondLook,
    /// Closing throws away what is in before it says so.
    DiscardsFirst,
}

struct Inbox {
    signals: Signals,
    messages: Mutex<Vec<u32>>,
    rung: atomic::AtomicBool,
    planted: Planted,
}

impl Inbox {
    fn new(planted: Planted) -> Arc<Inbox> {
        let (signals, messages) = (Signals::new(), Mutex::new(Vec::new()));
        Arc::new(Inbox { signals, messages, rung: atomic::AtomicBool::new(false), planted })
    }

    /// As the engine's.
    fn push(&self, message: u32) -> bool {
        if self.signals.is_closed() {
            return false;
        }
        if self.planted == Planted::RingsFirst {
            self.signals.wake(|| self.ring());
        }
        self.messages.lock().unwrap().push(message);
        if self.planted != Planted::NoSecondLook && self.signals.is_closed() {
            self.messages.lock().unwrap().clear();
        } else if self.planted != Planted::RingsFirst {
            self.signals.wake(|| self.ring());
        }
        true
    }

    fn close(&self) {
        if self.planted == Planted::DiscardsFirst {
            self.messages.lock().unwrap().clear();
            self.signals.close();
        } else {
            self.signals.close();
            self.messages.lock().unwrap().clear();
        }
    }

    fn is_empty(&self) -> bool {
        self.messages.lock().unwrap().is_empty()
    }

    fn ring(&self) {
        self.rung.store(true, atomic::Ordering::SeqCst);
    }

    fn was_rung(&self) -> bool {
        self.rung.load(atomic::Ordering::SeqCst)
    }

    /// Whether the core may sleep.
    fn prepare_sleep(&self) -> bool {
        if self.planted == Planted::LooksFirst {
            let empty = self.is_empty();
            return self.signals.prepare_sleep(|| empty);
        }
        self.signals.prepare_sleep(|| self.is_empty())
    }
}

/// A core that takes what `senders` send, and goes to sleep when there is nothing.
fn no_wake_is_lost(senders: u32, planted: Planted) {
    loom::model(move || {
        let inbox = Inbox::new(planted);
        let send = |message| {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || assert!(inbox.push(message)))
        };
        let threads: Vec<_> = (0..senders).map(send).collect();
        inbox.messages.lock().unwrap().clear();
        let sleeps = inbox.prepare_sleep();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert!(!sleeps || inbox.is_empty() || inbox.was_rung(), "a wake was lost");
        inbox.signals.woke();
    });
}

/// A core that is called while it goes to sleep: it looks again.
fn no_call_is_lost() {
    loom::model(|| {
        let inbox = Inbox::new(Planted::Nothing);
        let news = Arc::new(atomic::AtomicBool::new(false));
        let caller = {
            let (inbox, news) = (Arc::clone(&inbox), Arc::clone(&news));
            thread::spawn(move || {
                news.store(true, atomic::Ordering::SeqCst);
                inbox.signals.call(|| inbox.ring());
            })
        };
        let seen = news.load(atomic::Ordering::SeqCst);
        let sleeps = inbox.prepare_sleep();
        caller.join().unwrap();
        assert!(seen || !sleeps || inbox.was_rung(), "a call was lost");
    });
}

/// A core ends while somebody sends: nothing stays in its inbox, whose sender would wait for ever.
fn nothing_stays_in_a_closed_inbox(planted: Planted) {
    loom::model(move || {
        let inbox = Inbox::new(planted);
        let sender = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || inbox.push(1))
        };
        inbox.close();
        sender.join().unwrap();
        assert!(inbox.is_empty(), "L2 one-reply: a message that nobody will read");
    });
}

#[test]
fn one_sender_and_a_core_never_miss_each_other() {
    no_wake_is_lost(1, Planted::Nothing);
}

#[test]
fn two_senders_and_a_core_never_miss_each_other() {
    no_wake_is_lost(2, Planted::Nothing);
}

#[test]
fn a_call_is_heard() {
    no_call_is_lost();
}

#[test]
fn a_closed_inbox_is_empty() {
    nothing_stays_in_a_closed_inbox(Planted::Nothing);
}

#[test]
#[should_panic(expected = "a wake was lost")]
fn a_core_that_looks_before_it_says_that_it_sleeps_is_found_out() {
    no_wake_is_lost(1, Planted::LooksFirst);
}

#[test]
#[should_panic(expected = "a wake was lost")]
fn a_sender_that_rings_before_it_puts_in_is_found_out() {
    no_wake_is_lost(1, Planted::RingsFirst);
}

#[test]
#[should_panic(expected = "L2 one-reply")]
fn a_sender_that_does_not_look_again_is_found_out() {
    nothing_stays_in_a_closed_inbox(Planted::NoSecondLook);
}

#[test]
#[should_panic(expected = "L2 one-reply")]
fn closing_in_the_wrong_order_is_found_out() {
    nothing_stays_in_a_closed_inbox(Planted::DiscardsFirst);
}
