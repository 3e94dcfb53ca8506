//! The interface between pernetd and its plugins.
//!
//! Two halves. The safe layer is what an author writes against: [`Plugin`], [`PernetOps`], [`Notifier`], [`Host`]
//! and the [`export_plugin!`] macro; it shows neither `unsafe` nor the ABI. The ABI half ([`abi`], [`note`]) is what
//! the daemon's loader speaks: plain data, opaque handles and descriptors, in both directions, under frozen rules.
//!
//! Not here: how the daemon loads, orders or calls plugins.

pub mod abi;
mod error;
mod net;
mod netdev;

pub use error::{Error, Result};
pub use net::{ExitReason, NetCookie};
pub use netdev::{DeviceInfo, EventKind, Verdict};
