//! SIGINT and SIGTERM, as a flag that the run looks at. Whoever started it sees by the exit code which one it was.
//!
//! The child server stands in a process group of its own, so that a Ctrl-C at the terminal reaches
//! only this process, which then ends the run in order: load stopped, child stopped, directory
//! removed. A second signal ends the process at once; the child dies with it (see `child`).

use std::process::ExitCode;
use std::sync::atomic::{AtomicI32, Ordering};

/// The signal that came; 0 for none.
static INTERRUPTED_BY: AtomicI32 = AtomicI32::new(0);

extern "C" fn on_signal(signal: libc::c_int) {
    if INTERRUPTED_BY.swap(signal, Ordering::Relaxed) != 0 {
        // SAFETY: _exit is async-signal-safe.
        unsafe { libc::_exit(128 + signal) };
    }
}

/// Whether a signal has come.
pub(crate) fn is_interrupted() -> bool {
    INTERRUPTED_BY.load(Ordering::Relaxed) != 0
}

/// The exit code of a run that a signal ended, as shells have it: 130 for SIGINT, 143 for SIGTERM.
pub(crate) fn exit_code() -> ExitCode {
    let signal = INTERRUPTED_BY.load(Ordering::Relaxed);
    ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX))
}

/// The handlers that were in force before; they are again when this is dropped.
pub(crate) struct Watch {
    before: [(libc::c_int, libc::sigaction); 2],
}

impl Watch {
    /// Starts to watch.
    pub(crate) fn start() -> Watch {
        INTERRUPTED_BY.store(0, Ordering::Relaxed);
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
