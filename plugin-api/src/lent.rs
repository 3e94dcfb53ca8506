//! A descriptor that is the host's: the plugin uses its number, and closes nothing.
//!
//! The host keeps the number open from the answer that names it until it is released, or the instance has ended; what
//! it leads to may change meanwhile, as [`crate::abi::SockReturn`] states.

// Only that promise says that the number is open: no type can.
#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, RawFd};

use crate::abi::{ConnectCall, SockReturn};

/// A number that stays open until it is released.
#[derive(Debug)]
pub(crate) struct Lent(RawFd);

impl Lent {
    /// `None` if the answer names none.
    pub(crate) fn answered(answer: &SockReturn) -> Option<Self> {
        (answer.fd >= 0).then_some(Lent(answer.fd))
    }

    /// `None` if the call brings none.
    pub(crate) fn brought(call: &ConnectCall) -> Option<Self> {
        (call.fd >= 0).then_some(Lent(call.fd))
    }

    /// To be called before it is released.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `borrow_raw` asks for a descriptor that is not -1 and stays open for the borrow: it is one that the host
        // named, which stays open until it is released. [`crate::Socket`], the only one who has a `Lent`, releases it when
        // it is dropped, which it cannot be while it is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}
