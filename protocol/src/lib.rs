//! Tenure's binary wire protocol: bytes to frames and back, without I/O.
