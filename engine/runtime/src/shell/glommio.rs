//! The fallback shell: a glommio executor per core, for kernels without what the ring shell needs.
//!
//! One task runs the station's turns; connections are tasks beside it, log writes have a thread. They share
//! the station through [`Core`], borrowing it only between awaits, and *nudge* the turn task when
//! they have put something in. Readiness instead of completions costs about 1.5 times the CPU per
//! request of the ring shell (docs/decisions/0002), which is why this is not the default.
//!
//! Traps of glommio that the settings here avoid: a preemption timer that fires at a bad moment loses wakes, so there
//! is none, and a busy core lets the executor look at its rings by waiting for something that is there (`Breath`);
//! the default `io_memory` does not fit an 8 MiB memlock limit twice; `fdatasync` after a write costs nearly twice
//! the CPU of a file opened with O_DSYNC.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use event_listener::Event;
use glommio::io::PollableFd;
use glommio::timer::Timer;
use glommio::{LocalExecutorBuilder, Placement};
use rustix::event::{EventfdFlags, eventfd};

use crate::error::OpenError;
use crate::station::{Sleep, Station};

/// DMA memory of an executor, bytes: two executors fit the common memlock limit of 8 MiB.
const IO_MEMORY_BYTES: usize = 1 << 20;
/// No preemption: longer than any thread is kept from its CPU.
///
/// glommio-ng 0.12.0 arms this timer, and only then looks for tasks to run; a thread that loses its CPU in between
/// finds the timer fired, runs nothing, takes the timer's completion for no event, and parks beside tasks that are
/// ready. (Every time with 200 µs under `strace -e inject=io_uring_enter:delay_exit=300`; with it a busy machine lost
/// a core now and then, pulses and all.) The tasks here give way by themselves.
const PREEMPT_INTERVAL: Duration = Duration::from_secs(24 * 3_600);

mod writer;

use writer::Writer;

/// What shares a glommio core with the shard.
pub trait GlommioService: 'static {
    /// Called once inside the executor before the first turn: spawn listeners here.
    fn start(self: Rc<Self>, core: &Rc<Core>);
    /// Once a turn: take ready replies and parcels.
    fn turn(&self, core: &Rc<Core>, station: &mut Station);
    /// After the station's end of turn: take ready replies, wake writers.
    fn flush(&self, core: &Rc<Core>, station: &mut Station);
    /// Whether nothing is left to say to anyone; asked once the station is stopping.
    fn is_drained(&self) -> bool;
}

/// A core without a service.
pub(crate) struct NoService;

impl GlommioService for NoService {
    fn start(self: Rc<Self>, _: &Rc<Core>) {}
    fn turn(&self, _: &Rc<Core>, _: &mut Station) {}
    fn flush(&self, _: &Rc<Core>, _: &mut Station) {}
    fn is_drained(&self) -> bool {
        true
    }
}

/// A glommio core: its station and the bell by which its tasks ask for a turn.
pub struct Core {
    /// The station. Borrow it only between awaits.
    pub station: RefCell<Station>,
    nudged: Cell<bool>,
    nudge: Event,
}

impl Core {
    /// Asks for a turn soon: something was put into the station.
    pub fn nudge(&self) {
        self.nudged.set(true);
        self.nudge.notify(1);
    }
}

/// Builds the executor on this thread and runs the core in it until it has been stopped and drained.
pub(crate) fn run<S: GlommioService>(
    cpu: Option<usize>,
    spin: Duration,
    make: impl FnOnce() -> Result<Option<(Station, S)>, OpenError>,
) -> Result<(), OpenError> {
    let executor = LocalExecutorBuilder::new(cpu.map_or(Placement::Unbound, Placement::Fixed))
        .io_memory(IO_MEMORY_BYTES)
        .preempt_timer(PREEMPT_INTERVAL)
        .spin_before_park(spin)
        .make()
        .map_err(|error| OpenError::Driver {
            driver: "glommio",
            reason: format!(
                "{error}; it needs io_uring (kernel 5.8 or newer) and 512 KiB of memlock per core"
            ),
        })?;
    executor.run(async move {
        let Some((station, service)) = make()? else { return Ok(()) };
        let core =
            Rc::new(Core { station: RefCell::new(station), nudged: Cell::new(false), nudge: Event::new() });
        let bell = glommio::spawn_local(listen_to_bell(Rc::clone(&core)));
        turns(&core, Rc::new(service)).await;
        bell.cancel().await;
        Ok(())
    })
}

async fn turns<S: GlommioService>(core: &Rc<Core>, service: Rc<S>) {
    Rc::clone(&service).start(core);
    let writer = Writer::start(&core.station.borrow());
    let breath = Breath::new();
    loop {
        core.nudged.set(false);
        let (sleep, done) = {
            let mut station = core.station.borrow_mut();
            for (id, result) in writer.done() {
                if let Err(fault) = station.write_completed(id, result) {
                    super::end_process(&fault);
                }
            }
            station.begin_turn();
            service.turn(core, &mut station);
            station.end_turn();
            if let Err(fault) = station.mind_log() {
                super::end_process(&fault);
            }
            while let Some(write) = station.next_write() {
                writer.submit(write);
            }
            service.flush(core, &mut station);
            station.replies_done();
            station.turn_done();
            let done = station.may_end(service.is_drained());
            (station.sleep(), done)
        };
        if done {
            return;
        }
        match sleep {
            Sleep::No => breath.take().await,
            Sleep::For(wait) => rest(core, &breath, Some(wait)).await,
            Sleep::Forever => rest(core, &breath, None).await,
        }
    }
}

/// Sleeps until a nudge, the bell, or `wait` is over.
async fn rest(core: &Core, breath: &Breath, wait: Option<Duration>) {
    let nudge = core.nudge.listen();
    if core.nudged.get() || !core.station.borrow().prepare_sleep() {
        return breath.take().await;
    }
    match wait {
        None => nudge.await,
        Some(wait) => {
            let timer = async {
                Timer::new(wait).await;
            };
            futures_lite::future::or(nudge, timer).await;
        }
    }
    core.station.borrow().woke();
}

/// Lets the executor look at its rings. A task that merely yields is run again before anything else than tasks.
struct Breath {
    /// Always writable.
    ready: PollableFd<OwnedFd>,
}

impl Breath {
    fn new() -> Breath {
        let ready = eventfd(0, EventfdFlags::CLOEXEC).expect("a descriptor to be had");
        Breath { ready: PollableFd::new(ready).expect("an executor is running") }
    }

    async fn take(&self) {
        // It completes in the round of the rings that it forces.
        let _ = self.ready.writable().await;
    }
}

async fn listen_to_bell(core: Rc<Core>) {
    let bell = core.station.borrow().bell().try_clone_to_owned().expect("duplicating the bell's descriptor");
    let bell = PollableFd::new(bell).expect("an executor is running");
    while bell.readable().await.is_ok() {
        core.station.borrow().silence_bell();
        core.nudge();
    }
}
