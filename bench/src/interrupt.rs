//! SIGINT and SIGTERM, as a flag that the run looks at.
//!
//! The child server stands in a process group of its own, so that a Ctrl-C at the terminal reaches
//! only this process, which then ends the run in order: load stopped, child stopped, directory
//! removed. A second signal ends the process at once; the child dies with it (see `child`).

use std::sync::atomic::{AtomicBool, Ordering};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(signal: libc::c_int) {
    if INTERRUPTED.swap(true, Ordering::Relaxed) {
        // SAFETY: _exit is async-signal-safe.
        unsafe { libc::_exit(128 + signal) };
    }
}

/// Whether a signal has come.
pub(crate) fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// The handlers that were in force before; they are again when this is dropped.
pub(crate) struct Watch {
    before: [(libc::c_int, libc::sigaction); 2],
}

impl Watch {
    /// Starts to watch.
    pub(crate) fn start() -> Watch {
        INTERRUPTED.store(false, Ordering::Relaxed);
        Watch { before: [libc::SIGINT, libc::SIGTERM].map(|signal| (signal, install(signal))) }
    }
}

fn install(signal: libc::c_int) -> libc::sigaction {
    // SAFETY: both structures are plain data for which zeros are valid, and outlive the call; the
    // handler only touches an atomic and calls _exit.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as usize;
        libc::sigemptyset(&raw mut action.sa_mask);
        action.sa_flags = libc::SA_RESTART;
        let mut before: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, &raw const action, &raw mut before);
        before
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for (signal, before) in &self.before {
            // SAFETY: `before` was filled in by sigaction for this very signal.
            unsafe { libc::sigaction(*signal, std::ptr::from_ref(before), std::ptr::null_mut()) };
        }
    }
}
