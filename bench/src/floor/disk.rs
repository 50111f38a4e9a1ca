//! The floor of a durable answer: bare writes with O_DIRECT and O_DSYNC into a file of zeros.
//!
//! It is what a log must do per commit, at one write in flight and at several, and nothing else: no
//! records, no checksum, no one who waits. Writing into a file that is zeroed first is the fastest kind of
//! durable write here; growing one costs twice as much.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use io_uring::types::Fd;
use io_uring::{IoUring, opcode};
use serde::{Deserialize, Serialize};

use crate::latency::Latency;

/// The file: larger than the caches of a disk that lies.
const FILE_BYTES: u64 = 64 << 20;
const ALIGN: usize = 4_096;

/// What commits took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Commits {
    /// Bytes of each.
    pub bytes: usize,
    /// In flight at a time.
    pub depth: usize,
    /// Half of them took at most this, ns.
    pub p50_ns: u64,
    /// 99 of 100 at most this, ns.
    #[serde(default)]
    pub p99_ns: u64,
    /// Per second.
    pub per_second: f64,
}

/// Writes for a while in `place`.
///
/// # Errors
/// When the file system does not do direct writes, or a write fails.
pub(crate) fn commit(place: &Path, bytes: usize, depth: usize, span: Duration) -> anyhow::Result<Commits> {
    let file = tempfile::NamedTempFile::new_in(place).context("cannot make a file to write into")?;
    zero(file.as_file()).context("cannot fill the file")?;
    let direct = File::options()
        .write(true)
        .custom_flags(libc::O_DIRECT | libc::O_DSYNC)
        .open(file.path())
        .context("cannot write directly to the disk: choose another place with --data-dir")?;
    let buffer = Buffer::new(bytes);
    let mut ring = IoUring::new(64).context("cannot make an io_uring")?;
    let mut latency = Latency::new();
    let mut sent = vec![Instant::now(); depth];
    let (began, mut next, mut in_flight, mut count) = (Instant::now(), 0u64, 0, 0u64);
    let places = FILE_BYTES / bytes as u64;
    for slot in 0..depth {
        next = submit(&mut ring, &direct, &buffer, next % places, slot)?;
        in_flight += 1;
    }
    while in_flight > 0 {
        ring.submit_and_wait(1)?;
        let done: Vec<(usize, i32)> =
            ring.completion().map(|entry| (entry.user_data() as usize, entry.result())).collect();
        for (slot, result) in done {
            ensure!(result == bytes as i32, "a write of {bytes} bytes ended with {result}");
            latency.record(u64::try_from(sent[slot].elapsed().as_nanos()).unwrap_or(u64::MAX));
            in_flight -= 1;
            count += 1;
            if began.elapsed() < span {
                sent[slot] = Instant::now();
                next = submit(&mut ring, &direct, &buffer, next % places, slot)?;
                in_flight += 1;
            }
        }
    }
    let (p50_ns, p99_ns) = latency.quantiles().map_or((0, 0), |found| (found.p50_ns, found.p99_ns));
    Ok(Commits { bytes, depth, p50_ns, p99_ns, per_second: count as f64 / began.elapsed().as_secs_f64() })
}

/// Queues a write at a place; the next place.
fn submit(ring: &mut IoUring, file: &File, buffer: &Buffer, place: u64, slot: usize) -> anyhow::Result<u64> {
    let bytes = buffer.layout.size();
    let entry = opcode::Write::new(Fd(file.as_raw_fd()), buffer.memory.as_ptr(), bytes as u32)
        .offset(place * bytes as u64)
        .build()
        .user_data(slot as u64);
    // SAFETY: file and buffer outlive the ring's writes: `commit` returns when none is in flight. After an
    // error the kernel only reads what it may still read, and its pages are pinned until it has.
    unsafe { ring.submission().push(&entry) }.context("the submission queue is full")?;
    Ok(place + 1)
}

fn zero(mut file: &File) -> std::io::Result<()> {
    let chunk = vec![0; 1 << 20];
    for _ in 0..FILE_BYTES >> 20 {
        file.write_all(&chunk)?;
    }
    file.sync_all()
}

/// Aligned as direct writes want it.
struct Buffer {
    memory: NonNull<u8>,
    layout: Layout,
}

impl Buffer {
    fn new(bytes: usize) -> Buffer {
        assert!(bytes > 0 && bytes.is_multiple_of(ALIGN), "direct writes are of whole blocks");
        let layout = Layout::from_size_align(bytes, ALIGN).expect("a block size");
        // SAFETY: the size is not zero.
        let memory = unsafe { alloc_zeroed(layout) };
        Buffer { memory: NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout)), layout }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout; the ring that used it is dropped before (declared after).
        unsafe { dealloc(self.memory.as_ptr(), self.layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_are_counted_and_timed() {
        let place = crate::host::disk_directory();
        if crate::host::in_memory(&place) {
            eprintln!("no disk here: not checked");
            return;
        }
        for depth in [1, 4] {
            let found = commit(&place, 4_096, depth, Duration::from_millis(50)).unwrap();
            assert!(found.p50_ns > 0 && found.p99_ns >= found.p50_ns && found.per_second > 1.0, "{found:?}");
        }
    }
}
