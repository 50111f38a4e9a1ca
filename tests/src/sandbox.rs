//! Narrow circumstances for a child process: little memlock, no io_uring, a full disk, a read-only place.
//!
//! The limits are set between fork and exec, where only plain system calls are allowed; each is one. The
//! privileges that would let root pass them (`CAP_IPC_LOCK`, `CAP_DAC_OVERRIDE`) leave the child's bounding
//! set, so that the tests mean the same for root, in a container, and for a developer.

use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a child has to live with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sandbox {
    /// `RLIMIT_MEMLOCK`, bytes.
    pub memlock_bytes: Option<u64>,
    /// `io_uring_setup` fails with this errno: `ENOSYS` as an old kernel says, `EPERM` as a container's
    /// policy.
    pub io_uring_errno: Option<i32>,
    /// `io_uring_setup` fails with `EINVAL` for rings of this many entries. The two drivers make rings of
    /// different sizes, so this takes the newer one away, as a kernel before 6.1 does.
    pub io_uring_entries_refused: Option<u32>,
    /// `io_uring_register` fails with `ENOMEM` for this operation, as it does when memory may not be locked.
    pub io_uring_register_refused: Option<u32>,
    /// File permissions hold for root, too.
    pub obey_permissions: bool,
}

const CAP_DAC_OVERRIDE: libc::c_ulong = 1;
const CAP_IPC_LOCK: libc::c_ulong = 14;

impl Sandbox {
    /// Arranges that the child lives with it.
    pub(crate) fn apply(self, command: &mut Command) {
        // SAFETY: between fork and exec `enter` makes system calls only: no allocation, no lock.
        unsafe { command.pre_exec(move || self.enter()) };
    }

    fn enter(self) -> io::Result<()> {
        if let Some(bytes) = self.memlock_bytes {
            drop_capability(CAP_IPC_LOCK);
            let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
            // SAFETY: a plain system call with a pointer to a live value.
            checked(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) })?;
        }
        if self.obey_permissions {
            drop_capability(CAP_DAC_OVERRIDE);
        }
        if let Some(errno) = self.io_uring_errno {
            refuse(libc::SYS_io_uring_setup, None, errno)?;
        }
        if let Some(entries) = self.io_uring_entries_refused {
            refuse(libc::SYS_io_uring_setup, Some((0, entries)), libc::EINVAL)?;
        }
        if let Some(operation) = self.io_uring_register_refused {
            refuse(libc::SYS_io_uring_register, Some((1, operation)), libc::ENOMEM)?;
        }
        Ok(())
    }
}

/// Takes a capability out of the bounding set: after exec, not even root has it. A user without the
/// right to do this does not have the capability in the first place.
fn drop_capability(capability: libc::c_ulong) {
    // SAFETY: a plain system call; its failure means that there is nothing to drop.
    unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes a system call fail for this process and its children, always or when one of its arguments (counted from
/// 0) has a value: a seccomp filter of six instructions.
fn refuse(call: libc::c_long, when: Option<(u32, u32)>, errno: i32) -> io::Result<()> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    /// Where seccomp_data has the number of the system call, and the low half of its first argument of 8 bytes.
    const NUMBER: u32 = 0;
    const FIRST_ARGUMENT: u32 = 16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // Without a value, both branches of the second comparison lead to the refusal.
    let otherwise = u8::from(when.is_some());
    let (argument, value) = when.unwrap_or((0, 0));
    let mut program = [
        step(LOAD, 0, 0, NUMBER),
        step(JUMP_IF_EQUAL, 0, 3, call as u32),
        step(LOAD, 0, 0, FIRST_ARGUMENT + 8 * argument),
        step(JUMP_IF_EQUAL, 0, otherwise, value),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: a plain system call.
    checked(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: the kernel copies the program, which lives until the call returns.
    checked(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) })
}

/// A disk so small that it fills up: a tmpfs of its own, gone with the value.
#[derive(Debug)]
pub struct SmallDisk {
    mount: PathBuf,
}

impl SmallDisk {
    /// Mounts `bytes` at `place`, an existing directory.
    ///
    /// # Errors
    /// The system does not let this user mount; the test that needs it says so and passes over.
    pub fn mount(place: &Path, bytes: u64) -> Result<SmallDisk, String> {
        let size = format!("size={bytes}");
        let output =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tenure-test"]).arg(place).output();
        match output {
            Ok(output) if output.status.success() => Ok(SmallDisk { mount: place.to_owned() }),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Takes all the space that is left, but for `spare` bytes.
    ///
    /// # Errors
    /// Something else than a full disk was in the way.
    pub fn fill(&self, spare: u64) -> io::Result<()> {
        use std::io::Write;
        let ballast = std::fs::File::create(self.ballast())?;
        let block = vec![1u8; 64 * 1024];
        loop {
            match (&ballast).write(&block) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                Err(error) => return Err(error),
            }
        }
        let length = ballast.metadata()?.len();
        ballast.set_len(length.saturating_sub(spare))
    }

    /// Gives the space back.
    ///
    /// # Errors
    /// It was not taken.
    pub fn relieve(&self) -> io::Result<()> {
        std::fs::remove_file(self.ballast())
    }

    fn ballast(&self) -> PathBuf {
        self.mount.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server that still runs must not keep the mount from going.
        let _ = Command::new("umount").arg("-l").arg(&self.mount).status();
    }
}
