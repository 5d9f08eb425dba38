//! Descriptors that a process was started with, by whoever started it, do not go on to its children.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use rustix::io::{Errno, FdFlags, fcntl_setfd};

/// Standard input, output and error are replaced for a child, and stay.
const STANDARD: RawFd = 2;

/// Marks every open descriptor to be closed in children. What Rust opens is marked from the start; this is for what was
/// inherited.
pub(super) fn keep_from_children() -> io::Result<()> {
    let listed = fs::read_dir("/proc/self/fd")?;
    // Taken together before any is touched: the list has a descriptor itself, which is closed by then.
    let open: Vec<RawFd> = listed.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for descriptor in open.into_iter().filter(|descriptor| *descriptor > STANDARD) {
        // SAFETY: the descriptor must stay open while it is borrowed. This process has one thread yet, which closes
        // nothing in between; the one that was the list's is closed already, which the system call below says, and
        // nothing else has taken its number.
        let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
        match fcntl_setfd(borrowed, FdFlags::CLOEXEC) {
            Ok(()) | Err(Errno::BADF) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
