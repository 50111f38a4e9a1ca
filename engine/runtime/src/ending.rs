//! How the cores of an engine end: together.
//!
//! A service that still has something to say may need other cores for it: the answer to a request that it
//! forwarded, a connection that another core is handing over. So a core that has nothing left to do goes on serving
//! its peers until no service anywhere has, and only then empties its inbox and ends.
//!
//! - **L2 one-reply**: what a service forwarded before it was drained was published before it is counted as drained
//!   here, so a core that sees all of them drained finds every request in its inbox.
//!
//! Does not know what a service is, nor when the engine was asked to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::inbox::Inbox;

/// What the cores of one engine share about their end.
pub(crate) struct Ending {
    /// Services that may still want something of other cores.
    serving: AtomicUsize,
    inboxes: Arc<[Arc<Inbox>]>,
}

impl Ending {
    pub(crate) fn new(inboxes: Arc<[Arc<Inbox>]>) -> Ending {
        Ending { serving: AtomicUsize::new(inboxes.len()), inboxes }
    }

    /// One core's service has nothing left to say. Once per core.
    pub(crate) fn drained(&self) {
        let before = self.serving.fetch_sub(1, Ordering::SeqCst);
        assert!(before > 0, "L2 one-reply: a core's service is drained once");
        if before == 1 {
            for inbox in self.inboxes.iter() {
                inbox.call();
            }
        }
    }

    /// Whether no service has anything left to say.
    pub(crate) fn all_drained(&self) -> bool {
        self.serving.load(Ordering::SeqCst) == 0
    }
}
