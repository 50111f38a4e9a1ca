//! A glommio core's log writes, on a thread of their own.
//!
//! Not through `DmaFile`: glommio-ng 0.12.0 may park an executor beside a task that was woken, and a
//! log write that nobody hears of is a shard that answers nobody. Here outcomes wait in a channel that
//! the core looks at every turn, whoever woke it.
//!
//! **S3**: a write is reported done only after it returned. One write at a time, in order.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use crate::inbox::Inbox;
use crate::journal::LogWrite;
use crate::log::SegmentFile;
use crate::station::Station;

type Outcome = (u64, io::Result<usize>);

/// The core's end of the thread, which ends with it.
pub(super) struct Writer {
    jobs: Sender<Job>,
    outcomes: Receiver<Outcome>,
}

struct Job {
    id: u64,
    file: Arc<SegmentFile>,
    offset: u64,
    address: usize,
    length: usize,
}

impl Writer {
    pub(super) fn start(station: &Station) -> Writer {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (outbox, outcomes) = mpsc::channel();
        let core = station.inbox();
        std::thread::Builder::new()
            .name(format!("log-writer-{}", station.shard_index()))
            .spawn(move || run(&inbox, &outbox, &core))
            .expect("a thread can be started");
        Writer { jobs, outcomes }
    }

    /// Hands over a write.
    pub(super) fn submit(&self, write: LogWrite) {
        let address = write.address.expose_provenance();
        let LogWrite { id, file, offset, length, .. } = write;
        self.jobs.send(Job { id, file, offset, address, length }).expect("the writer thread lives as long");
    }

    /// Writes that are done.
    pub(super) fn done(&self) -> impl Iterator<Item = Outcome> + '_ {
        self.outcomes.try_iter()
    }
}

fn run(jobs: &Receiver<Job>, outcomes: &Sender<Outcome>, core: &Inbox) {
    while let Ok(job) = jobs.recv() {
        let start = std::ptr::with_exposed_provenance::<u8>(job.address);
        // SAFETY: the journal owns these bytes and leaves them alone until it is told of the write,
        // which happens after this; a core does not end before its writes.
        let bytes = unsafe { std::slice::from_raw_parts(start, job.length) };
        let result = job.file.write_all_at(bytes, job.offset).map(|()| job.length);
        if outcomes.send((job.id, result)).is_err() {
            return;
        }
        core.call();
    }
}
