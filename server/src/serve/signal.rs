//! SIGTERM and SIGINT: the first drains the server, the second ends the process at once.
//!
//! The signals are blocked in every thread and taken by one that waits for nothing else, so no code
//! runs inside a signal handler. [`block`] must come before any other thread exists.

use std::mem::MaybeUninit;
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::exit;

/// Blocks the signals in this thread and all that it will start.
pub(crate) fn block() {
    let set = termination();
    // SAFETY: `set` is a valid signal set; the old one is not asked for.
    let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    assert_eq!(error, 0, "SIG_BLOCK is a valid way to change the mask");
}

/// Starts the thread that takes the signals. The first is told through the channel.
pub(crate) fn listen() -> Receiver<i32> {
    let (sender, first) = channel();
    let thread = std::thread::Builder::new().name("tenure-signals".to_owned());
    thread.spawn(move || wait(&sender)).expect("starting the signal thread");
    first
}

fn wait(first: &Sender<i32>) {
    let set = termination();
    let mut seen = false;
    loop {
        let mut signal = 0;
        // SAFETY: both point to live values of the right type.
        if unsafe { libc::sigwait(&raw const set, &raw mut signal) } != 0 {
            continue;
        }
        if seen {
            eprintln!("tenure: second signal: ending without waiting for clients");
            std::process::exit(exit::SIGNAL_BASE + signal);
        }
        seen = true;
        // The receiver has gone only when the process is ending anyway.
        let _ = first.send(signal);
    }
}

fn termination() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set; the signals' numbers are valid.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
        libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
        set.assume_init()
    }
}
