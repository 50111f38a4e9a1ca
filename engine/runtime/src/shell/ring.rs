//! The default shell: one loop, one raw io_uring, everything a completion.
//!
//! The ring is made with SINGLE_ISSUER and DEFER_TASKRUN: completions are delivered only when the
//! loop asks for them, so other threads never interrupt it, and polling the ring while traffic is
//! fresh costs one cheap `enter`. When traffic pauses for longer than `spin`, the core announces
//! sleep and waits in the kernel for a completion, the bell of its inbox, or the next deadline.
//!
//! Order within a turn matters: completions are taken out of the ring *before* the clock is read,
//! so that the time of a turn is never before the arrival of what the turn applies (S2). A turn that has spent on
//! requests what it may leaves the rest of the completions to the next one; the log's own are taken at once.

use std::io;
use std::time::{Duration, Instant};

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, opcode, squeue};

use crate::error::OpenError;
use crate::journal::LogWrite;
use crate::limits;
use crate::station::{Sleep, Station};

/// Submission entries of a core's ring. A turn that queues more submits in between.
const SUBMISSIONS: u32 = 1_024;
/// Completion entries: four times as many, so that a burst does not overflow into kernel memory.
const COMPLETIONS: u32 = 4 * SUBMISSIONS;

/// What a completion counts for beside the bytes that it brought, when a turn weighs what it has taken.
const COMPLETION_BYTES: usize = 64;

/// The top byte of `user_data` that the shell keeps for itself; a service uses any other.
pub const SHELL_TAG: u64 = 0xff << 56;
const BELL: u64 = SHELL_TAG | 1 << 48;
const WRITE: u64 = SHELL_TAG | 2 << 48;
const KIND: u64 = SHELL_TAG | 0xff << 48;

/// What completed.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    /// What the submission carried.
    pub user_data: u64,
    /// Bytes or a negated errno, as the operation defines.
    pub result: i32,
    /// `IORING_CQE_F_*`.
    pub flags: u32,
}

/// What shares a ring core with the shard.
pub trait RingService {
    /// Called once on the core's thread before the first turn.
    fn start(&mut self, ring: &mut Ring, station: &mut Station);
    /// One of the service's submissions completed.
    fn completion(&mut self, completion: Completion, ring: &mut Ring, station: &mut Station);
    /// Once a turn, after its completions: apply what arrived, take ready replies and parcels.
    fn turn(&mut self, ring: &mut Ring, station: &mut Station);
    /// Before the station works for itself for long: take ready replies, submit what answers requests, and nothing else.
    fn answer(&mut self, _ring: &mut Ring, _station: &mut Station) {}
    /// After the station's end of turn: take ready replies, submit what there is to send.
    fn flush(&mut self, ring: &mut Ring, station: &mut Station);
    /// Whether nothing is left to say to anyone; asked once the station is stopping.
    fn is_drained(&self) -> bool;
    /// When the service wants a turn although nothing arrived, such as for idle timeouts.
    fn next_wake(&self) -> Option<Duration> {
        None
    }
}

/// A core without a service.
pub(crate) struct NoService;

impl RingService for NoService {
    fn start(&mut self, _: &mut Ring, _: &mut Station) {}
    fn completion(&mut self, _: Completion, _: &mut Ring, _: &mut Station) {}
    fn turn(&mut self, _: &mut Ring, _: &mut Station) {}
    fn flush(&mut self, _: &mut Ring, _: &mut Station) {}
    fn is_drained(&self) -> bool {
        true
    }
}

/// A core's ring.
pub struct Ring {
    uring: IoUring,
    /// Completions that the last turn left.
    left: Vec<Completion>,
    /// Empty between turns.
    arrived: Vec<Completion>,
}

impl Ring {
    /// Makes the ring on the thread that will use it.
    ///
    /// # Errors
    /// The kernel is too old, forbids io_uring, or the memlock limit is too small; the text says
    /// what to do.
    pub(crate) fn new() -> Result<Self, OpenError> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)
            .map_err(|error| refused("io_uring_setup", &error))?;
        let completions = || Vec::with_capacity(COMPLETIONS as usize);
        Ok(Ring { uring, left: completions(), arrived: completions() })
    }

    /// Queues a submission. It reaches the kernel at the end of the turn, or when the queue is full.
    ///
    /// # Safety
    /// Memory the entry points to must stay valid, and unmoved, until its (last) completion.
    pub unsafe fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: passed on to the caller.
        while unsafe { self.uring.submission().push(entry) }.is_err() {
            self.enter(0, None);
        }
    }

    /// The ring itself, for registering buffers.
    #[must_use]
    pub fn submitter(&self) -> io_uring::Submitter<'_> {
        self.uring.submitter()
    }

    /// Submits what is queued, and does not look what has completed.
    fn submit(&mut self) {
        if !self.uring.submission().is_empty() {
            settled(self.uring.submit());
        }
    }

    /// Submits what is queued, lets the kernel deliver completions, waits for `want` of them.
    fn enter(&mut self, want: u32, timeout: Option<Duration>) {
        let result = if want == 0 {
            let queued = u32::try_from(self.uring.submission().len()).unwrap_or(u32::MAX);
            // SAFETY: no signal mask is passed; the arguments are plain numbers.
            unsafe { self.uring.submitter().enter::<()>(queued, 0, EnterFlags::GETEVENTS.bits(), None) }
        } else if let Some(timeout) = timeout {
            let timespec = Timespec::new().sec(timeout.as_secs()).nsec(timeout.subsec_nanos());
            let args = SubmitArgs::new().timespec(&timespec);
            self.uring.submitter().submit_with_args(want as usize, &args)
        } else {
            self.uring.submit_and_wait(want as usize)
        };
        settled(result);
    }

    /// Moves completions out of the ring so that the service may submit while it looks at them; first come those
    /// that the last turn left.
    fn collect(&mut self) -> Vec<Completion> {
        let mut arrived = std::mem::take(&mut self.arrived);
        arrived.append(&mut self.left);
        let room = (COMPLETIONS as usize).saturating_sub(arrived.len());
        arrived.extend(self.uring.completion().take(room).map(|entry| Completion {
            user_data: entry.user_data(),
            result: entry.result(),
            flags: entry.flags(),
        }));
        arrived
    }
}

/// Takes the outcome of an `enter`. A timeout, a signal, or a completion queue that must be emptied first: all mean "look again".
fn settled(entered: io::Result<usize>) {
    match entered.map_err(|error| (error.raw_os_error(), error)) {
        Ok(_) | Err((Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN), _)) => {}
        Err((_, error)) => panic!("io_uring_enter: {error}"),
    }
}

fn refused(what: &str, error: &io::Error) -> OpenError {
    let reason = match error.raw_os_error() {
        Some(libc::EINVAL) => {
            "the kernel is older than 6.1 (no IORING_SETUP_DEFER_TASKRUN); use `--driver glommio`".to_owned()
        }
        Some(libc::ENOSYS | libc::EPERM | libc::EACCES) => {
            "io_uring is not available: enable it (sysctl kernel.io_uring_disabled=0) or allow it in the \
             container's seccomp profile"
                .to_owned()
        }
        Some(libc::ENOMEM) => {
            "the memlock limit is too small for the rings; raise it (`ulimit -l`, LimitMEMLOCK=) to 1 MiB per core"
                .to_owned()
        }
        _ => format!("{what}: {error}"),
    };
    OpenError::Driver { driver: "ring", reason }
}

/// Whether this kernel can run the ring shell with a service that registers what `register` does.
///
/// # Errors
/// Why not, in words that say what to do.
pub(crate) fn probe(register: impl FnOnce(&Ring) -> io::Result<()>) -> Result<(), OpenError> {
    let ring = Ring::new()?;
    register(&ring).map_err(|error| refused("io_uring_register", &error))
}

/// Runs a core until it has been stopped and drained.
pub(crate) fn run<S: RingService>(mut ring: Ring, mut station: Station, mut service: S, spin: Duration) {
    arm_bell(&mut ring, &station);
    service.start(&mut ring, &mut station);
    let mut last_traffic = Instant::now();
    loop {
        let arrived = ring.collect();
        station.begin_turn();
        let traffic = !arrived.is_empty();
        take(arrived, &mut ring, &mut station, &mut service);
        service.turn(&mut ring, &mut station);
        if station.will_be_long() {
            answer_first(&mut ring, &mut station, &mut service);
        }
        station.end_turn();
        if let Err(fault) = station.mind_log() {
            super::end_process(&fault);
        }
        while let Some(write) = station.next_write() {
            submit_write(&mut ring, &write);
        }
        service.flush(&mut ring, &mut station);
        station.replies_done();
        if station.may_end(service.is_drained()) {
            return;
        }
        if traffic {
            last_traffic = Instant::now();
        }
        wait(&mut ring, &mut station, &service, traffic || last_traffic.elapsed() < spin);
    }
}

/// Sends what answers the requests of this turn, so that it does not wait for what the station does next (L3).
fn answer_first<S: RingService>(ring: &mut Ring, station: &mut Station, service: &mut S) {
    station.requests_done();
    service.answer(ring, station);
    station.replies_done();
    ring.submit();
    station.kernel_done();
}

/// Takes completions until the turn has spent its time on them, and leaves the rest for the next one.
fn take<S: RingService>(
    mut arrived: Vec<Completion>,
    ring: &mut Ring,
    station: &mut Station,
    service: &mut S,
) {
    let (mut bytes, mut spent) = (0, false);
    for completion in arrived.drain(..) {
        if completion.user_data & SHELL_TAG == SHELL_TAG {
            complete(completion, ring, station);
        } else if spent {
            ring.left.push(completion);
        } else {
            service.completion(completion, ring, station);
            bytes += COMPLETION_BYTES + usize::try_from(completion.result).unwrap_or(0);
            if bytes >= limits::TURN_LOOK_BYTES {
                bytes = 0;
                spent = station.is_turn_spent();
            }
        }
    }
    ring.arrived = arrived;
}

/// Ends the turn: polls while traffic is fresh, else sleeps until something is due or arrives.
fn wait<S: RingService>(ring: &mut Ring, station: &mut Station, service: &S, awake: bool) {
    let sleep = if awake { Sleep::No } else { station.sleep() };
    let timeout = match (sleep, service.next_wake()) {
        (Sleep::No, _) => {
            ring.enter(0, None);
            // What the kernel does meanwhile, sending and receiving, keeps the core from everything else.
            return station.turn_done();
        }
        (Sleep::For(wait), Some(other)) => Some(wait.min(other)),
        (Sleep::For(wait), None) => Some(wait),
        (Sleep::Forever, other) => other,
    };
    station.turn_done();
    if !station.prepare_sleep() {
        return ring.enter(0, None);
    }
    ring.enter(1, timeout);
    station.woke();
}

/// Handles a completion of the shell's own.
fn complete(completion: Completion, ring: &mut Ring, station: &mut Station) {
    match completion.user_data & KIND {
        BELL => {
            station.silence_bell();
            arm_bell(ring, station);
        }
        WRITE => {
            let id = completion.user_data & !KIND;
            let result = match completion.result {
                bytes if bytes >= 0 => Ok(bytes.unsigned_abs() as usize),
                errno => Err(io::Error::from_raw_os_error(-errno)),
            };
            if let Err(fault) = station.write_completed(id, result) {
                super::end_process(&fault);
            }
        }
        other => unreachable!("a completion of the shell with tag {other:#x}"),
    }
}

fn arm_bell(ring: &mut Ring, station: &Station) {
    use std::os::fd::AsRawFd;
    let entry = opcode::PollAdd::new(Fd(station.bell().as_raw_fd()), libc::POLLIN as u32).build();
    // SAFETY: a poll points to no memory; the bell lives as long as the station, which outlives the ring's use.
    unsafe { ring.push(&entry.user_data(BELL)) };
}

fn submit_write(ring: &mut Ring, write: &LogWrite) {
    assert!(write.id & KIND == 0, "a log write's number must leave room for the tag");
    let length = u32::try_from(write.length).expect("S8: a batch is at most 1 MiB");
    let entry = opcode::Write::new(Fd(write.file.raw_fd()), write.address, length).offset(write.offset);
    // A core that is held up in handing over a write answers no renewals (L3) and expires nothing (L1).
    let held_up = write.file.holds_up_submitters();
    let flags = if held_up { squeue::Flags::ASYNC } else { squeue::Flags::empty() };
    // SAFETY: the journal owns the buffer and the file until `write_completed` is told of this write.
    unsafe { ring.push(&entry.build().flags(flags).user_data(WRITE | write.id)) };
}
