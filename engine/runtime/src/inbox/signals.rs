//! The three flags of an inbox: how a sender and a core that goes to sleep never miss each other.
//!
//! ```text
//!   sender                          core
//!   puts something in               says that it sleeps
//!   ── fence ──                     ── fence ──
//!   does the core sleep? ring       is there something? stay awake
//! ```
//! Each does first what the other looks at second, and the fences keep the two steps in that order: so at least one of
//! the two sees the other. `closed` is the same game: a sender looks again after it has put its message in.
//!
//! It knows neither queue nor bell, and takes its atomics from the module around it: `tests/suites/inbox_model.rs` compiles
//! this very file with loom's, and tries every interleaving.

use super::atomic::{AtomicBool, Ordering, fence};

/// See the module's header.
pub(crate) struct Signals {
    sleeping: AtomicBool,
    closed: AtomicBool,
    called: AtomicBool,
}

impl Signals {
    pub(crate) fn new() -> Signals {
        Signals {
            sleeping: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            called: AtomicBool::new(false),
        }
    }

    /// After something was put in: rings the bell if the core sleeps.
    pub(crate) fn wake(&self, ring: impl FnOnce()) {
        fence(Ordering::SeqCst);
        if self.sleeping.swap(false, Ordering::SeqCst) {
            ring();
        }
    }

    /// Asks for a turn although nothing was put in.
    pub(crate) fn call(&self, ring: impl FnOnce()) {
        self.called.store(true, Ordering::SeqCst);
        self.wake(ring);
    }

    /// Announces sleep. False: there is something, or the core was called: stay awake.
    pub(crate) fn prepare_sleep(&self, is_empty: impl FnOnce() -> bool) -> bool {
        // A swap where a store would do (and is the same instruction on x86): loom knows the order of swaps.
        self.sleeping.swap(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        if is_empty() && !self.called.swap(false, Ordering::SeqCst) {
            return true;
        }
        self.sleeping.store(false, Ordering::SeqCst);
        false
    }

    /// Takes the announcement back after waking for another reason.
    pub(crate) fn woke(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }

    /// Nothing is to be taken from now on. What is in must be thrown away after this.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Whether nobody will read what is put in.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }
}
