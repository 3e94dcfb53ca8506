//! The limit of open descriptors: as high as it may be, and a rest of it that namespaces do not get.
//!
//! One descriptor pins each namespace. Were they to take the last one, nobody could ask any more what is wrong: so the last
//! few are for everything else. The kernel gives the lowest number that is free, hence a high number says that all below it
//! are in use, and nothing has to be counted. The limit is asked each time, so that `prlimit` counts at once.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// So many are kept back; a quarter where the limit is very low.
const REST: u64 = 128;

/// The limit of descriptors; nothing is too much where there is none.
#[must_use]
pub fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Raises the limit to what is allowed without asking anybody. Where that fails the old one stays.
pub fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// Passes on a descriptor that is going to be kept for long.
///
/// # Errors
/// `EMFILE` when only the rest is left; the descriptor is closed then.
pub fn keep(descriptor: OwnedFd) -> io::Result<OwnedFd> {
    let limit = limit();
    let ours = limit - REST.min(limit / 4);
    match u64::try_from(descriptor.as_raw_fd()) {
        Ok(number) if number < ours => Ok(descriptor),
        _ => Err(Errno::MFILE.into()),
    }
}

/// Whether an error says that something has run out that comes again.
#[must_use]
pub fn is_exhaustion(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
}
