//! The shells that run a core: they own the thread, move its bytes and call the station's turn.
//!
//! Two of them, chosen by [`Driver`](crate::config::Driver): [`ring`] (a raw io_uring per core) and
//! [`glommio`] (an executor per core). Both drive the same sans-I/O [`Station`](crate::station::Station), and
//! both give room to a *service*: what shares the core with the shard, such as a network front.

pub mod glommio;
pub mod ring;

use crate::journal::LogFault;

/// Ends the process after a failed log write: nothing truthful can be promised any more, and the
/// kernel may have dropped the pages, so neither a retry nor going on is safe (S3).
pub(crate) fn end_process(fault: &LogFault) -> ! {
    tracing::error!(%fault, "the log cannot be written; ending the process rather than lie");
    eprintln!("tenure: {fault}; ending the process, because what was not acknowledged may be lost");
    std::process::exit(crate::EXIT_LOG_FAULT);
}
