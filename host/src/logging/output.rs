//! Standard error, written so that nobody who logs is held up for long by whoever reads it.
//!
//! A pipe whose reader has stopped, a terminal that is halted, a stream of a journal that hangs: each is waited for once
//! ([`PATIENCE`]), then lines are dropped without waiting until something is read again. The descriptor itself stays as
//! it is: to make it non-blocking would do the same to everybody who shares it, such as the operator's shell.

use std::io::stderr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::journal_socket::PATIENCE;

/// What can be written without waiting where poll says that something can: a pipe's page, and less than the quarter of a
/// socket's room that has to be free.
const PIECE: usize = 4096;

/// The one who writes. The lock keeps lines whole, and is held for [`PATIENCE`] at most.
#[derive(Default)]
pub(super) struct Output(Mutex<State>);

#[derive(Default)]
struct State {
    /// Nobody read in time.
    stalled: bool,
    /// The last line lacks its end.
    cut: bool,
}

impl Output {
    /// Writes a line, with its end; false if not all of it could be.
    pub(super) fn write(&self, line: &str) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let until = Instant::now() + if state.stalled { Duration::ZERO } else { PATIENCE };
        if state.cut && write_all(b"\n", until) < 1 {
            return false;
        }
        let written = write_all(line.as_bytes(), until);
        let whole = written == line.len();
        *state = State { stalled: !whole, cut: !whole && written > 0 };
        whole
    }
}

/// How much could be written.
fn write_all(bytes: &[u8], until: Instant) -> usize {
    let mut done = 0;
    while done < bytes.len() && takes_more(until) {
        let end = bytes.len().min(done + PIECE);
        match rustix::io::write(stderr(), &bytes[done..end]) {
            Ok(n) => done += n,
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => break,
        }
    }
    done
}

/// Waits until it can be written to.
fn takes_more(until: Instant) -> bool {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let stderr = stderr();
        let mut fds = [PollFd::new(&stderr, PollFlags::OUT)];
        match poll(&mut fds, Timespec::try_from(left).ok().as_ref()) {
            Ok(0) => return false,
            // Also where its reader has gone: the write then says so.
            Ok(_) => return true,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}
