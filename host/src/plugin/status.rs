//! What a call's answer means, in both directions: [`Status`] of the ABI and [`Failure`] of the engine.
//!
//! A Rust plugin cannot answer nonsense, a C plugin can: whatever is no errno becomes `EIO`, and the message says so.

use crate::engine::Failure;
use pernet_plugin_api::abi::Status;

/// The kernel's own limit (`MAX_ERRNO`).
const MAX_ERRNO: i32 = 4095;
/// A message is a sentence for the operator, not a dump.
const MAX_MESSAGE: usize = 4096;

/// What failed, if anything did.
pub(super) fn failure_of(status: &Status) -> Option<Failure> {
    let panicked = status.panicked != 0;
    if status.errno == 0 && !panicked {
        return None;
    }
    let mut message = shortened(status.message.as_str());
    let mut errno = status.errno;
    if !(0..=MAX_ERRNO).contains(&errno) {
        message = format!("{message} (it answered {errno}, which is no errno: taken as EIO)");
        errno = libc::EIO;
    }
    let errno = if errno == 0 { libc::EIO } else { errno };
    Some(Failure { errno, message, panicked })
}

/// The answer to a plugin's own call.
pub(super) fn status_of(result: Result<(), Failure>) -> Status {
    match result {
        Ok(()) => Status { errno: 0, panicked: 0, message: "".into() },
        Err(failure) => Status { errno: failure.errno, panicked: 0, message: failure.message.into() },
    }
}

fn shortened(message: &str) -> String {
    match message.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{} …", &message[..end]),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(errno: i32, panicked: u8) -> Status {
        Status { errno, panicked, message: "told".into() }
    }

    #[test]
    fn nonsense_becomes_eio_and_says_so() {
        assert_eq!(failure_of(&status(0, 0)), None);
        assert_eq!(failure_of(&status(17, 0)), Some(Failure { errno: 17, message: "told".into(), panicked: false }));
        for nonsense in [-1, i32::MIN, 4096, i32::MAX] {
            let failure = failure_of(&status(nonsense, 0)).expect("a failure");
            assert_eq!(failure.errno, libc::EIO);
            assert!(failure.message.contains(&nonsense.to_string()), "{}", failure.message);
        }
        let panicked = failure_of(&status(0, 1)).expect("a panic is a failure whatever its errno");
        assert_eq!((panicked.errno, panicked.panicked), (libc::EIO, true));
    }

    #[test]
    fn messages_are_bounded() {
        let long = Status { errno: 5, panicked: 0, message: "ä".repeat(10_000).into() };
        assert!(failure_of(&long).expect("a failure").message.chars().count() < 5_000);
    }
}
