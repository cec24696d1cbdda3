//! How much memory the process has while something runs, as the system tells it.
//!
//! It is told beside what a bench counts itself: decoded rows are in it as well, and whatever the allocator keeps.
#![allow(clippy::disallowed_methods, reason = "a bench looks at the process from a thread of its own")]

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{JoinHandle, spawn};
use std::time::Duration;

use super::Result;

/// How often it is looked at.
const EVERY: Duration = Duration::from_millis(2);

/// Looks at the memory until it is asked.
pub(crate) struct Resident {
    before: u64,
    stop: Sender<()>,
    most: JoinHandle<u64>,
}

impl Resident {
    /// Begins to look; `None` where the system does not tell.
    pub(crate) fn watch() -> Option<Self> {
        give_back();
        let before = now()?;
        let (stop, stopped) = channel();
        let most = spawn(move || {
            let mut most = before;
            while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                most = most.max(now().unwrap_or(before));
            }
            most
        });
        Some(Self { before, stop, most })
    }

    /// The most bytes that there were beyond those at the beginning.
    pub(crate) fn rise(self) -> Result<u64> {
        let Self { before, stop, most } = self;
        drop(stop);
        let most = most.join().map_err(|_| "nobody looked at the memory")?;
        Ok(most - before)
    }
}

/// The bytes that the process has in memory.
fn now() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let told = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = told.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// Gives free memory back to the system: what one side left to the allocator would hide what the next one takes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn give_back() {
    // SAFETY: glibc has this function, with these types; any thread may call it at any time.
    unsafe extern "C" {
        safe fn malloc_trim(pad: usize) -> std::ffi::c_int;
    }
    malloc_trim(0);
}

/// There is no way to say it.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_back() {}
