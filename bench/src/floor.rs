//! What this machine can do at all, measured beside what Tenure does, in the same run.
//!
//! A figure without its floor says how fast the machine is, not how good the engine is. Each floor is the
//! same work with everything left out that makes a lease engine of it: an echo server on the same ring
//! with frames of the same size, a bare write of the same bytes, a bare touch of the same memory, a bare
//! wake. None knows anything of Tenure.

pub(crate) mod disk;
pub(crate) mod echo;
pub(crate) mod gap;
pub(crate) mod memory;
pub(crate) mod wake;

use crate::host;

/// Runs `work` on a thread of its own, on one CPU if that is wanted.
pub(crate) fn on_cpu<T: Send>(
    cpu: Option<usize>,
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let Some(cpu) = cpu {
                host::pin_to(cpu)?;
            }
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
