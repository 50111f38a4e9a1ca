//! The embeddable Tenure lease engine: cores, log, recovery, handles.

pub mod log;
