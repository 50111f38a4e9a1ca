//! Touches memory that shards will need, on a thread beside the cores.
//!
//! The first touch of a huge page takes the system milliseconds, in which a core would answer nobody. Shards say what
//! they will want ([`Shard::memory_wanted`](tenure_core::Shard::memory_wanted)); one thread of the engine touches it,
//! page by page. When it falls behind, a core pays for the page itself, as it would without the thread.
//!
//! - **S8 bounded**: a shard asks for each page once, so no more wait here than the tables have pages.

use std::io;
use std::sync::mpsc::{self, Sender};

use tenure_core::{MemoryAhead, Shard};

/// The way to the thread. Clones share it; it ends with the last of them.
#[derive(Clone, Default)]
pub(crate) struct Memory {
    /// None: pages are touched when they are used, for cores without threads.
    thread: Option<Sender<MemoryAhead>>,
}

impl Memory {
    /// Starts the thread.
    pub(crate) fn beside_cores() -> io::Result<Memory> {
        let (wanted, inbox) = mpsc::channel::<MemoryAhead>();
        let run = move || inbox.into_iter().for_each(MemoryAhead::populate);
        std::thread::Builder::new().name("tenure-memory".to_owned()).spawn(run)?;
        Ok(Memory { thread: Some(wanted) })
    }

    /// Sees to what a shard will want. Whether it wanted anything: its tables grow.
    #[inline]
    pub(crate) fn mind(&self, shard: &mut Shard) -> bool {
        let Some(thread) = &self.thread else { return false };
        let mut grows = false;
        while let Some(ahead) = shard.memory_wanted() {
            grows = true;
            // A thread that is gone leaves the page to whoever touches it first.
            drop(thread.send(ahead));
        }
        grows
    }
}
