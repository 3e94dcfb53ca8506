//! A plugin's sysctl table: the engine's [`CtlData`] over the ABI.
//!
//! One call for one element, or one text. It is made on whatever thread asks, and holds nothing: so it may wait for a
//! namespace, which hooks may not. What a read and a write are is the engine's.

use super::call::{Hook, Place};
use super::inner::Inner;
use crate::engine::{CtlAt, CtlData, CtlKind, Failure, Number};
use pernet_plugin_api::abi::{CtlCall, CtlHandle, Status};
use std::sync::Arc;

/// What stands behind a plugin's table.
pub(super) struct CtlCaller {
    pub(super) instance: Arc<Inner>,
    pub(super) table: CtlHandle,
    /// Of its entries.
    pub(super) kinds: Vec<CtlKind>,
}

/// [`CtlCall::what`].
#[derive(Clone, Copy)]
enum What {
    Read = 0,
    Write = 1,
}

impl CtlCaller {
    fn ask(&self, at: &CtlAt, what: What, index: u64, number: u64, bytes: &[u8]) -> Result<(u64, Vec<u8>), Failure> {
        let entry = u32::try_from(at.entry).unwrap_or(u32::MAX);
        let call = CtlCall { what: what as u8, entry, index, number, bytes: bytes.into() };
        let netns = at.net.as_ref().map_or_else(|| Arc::from(""), |net| net.name());
        let hook = match what {
            What::Read => Hook::CtlRead,
            What::Write => Hook::CtlWrite,
        };
        self.instance.ask(hook, &Place::nowhere(netns), |table, instance| {
            let Some(entry) = table.ctl() else { return (no_entry(), (0, Vec::new())) };
            let answer = entry(instance, self.table, &call);
            (answer.status, (answer.number, answer.bytes.into_vec()))
        })
    }

    fn is_int(&self, at: &CtlAt) -> bool {
        self.kinds.get(at.entry) == Some(&CtlKind::Int)
    }
}

impl CtlData for CtlCaller {
    fn load(&self, at: &CtlAt, index: usize) -> Result<Number, Failure> {
        let (bits, _) = self.ask(at, What::Read, index as u64, 0, &[])?;
        Ok(if self.is_int(at) { bits.cast_signed().into() } else { bits.into() })
    }

    fn store(&self, at: &CtlAt, index: usize, value: Number) -> Result<(), Failure> {
        let beyond = |_| Failure::new(libc::EINVAL, format!("{value} is beyond every kind of number"));
        let bits = if self.is_int(at) {
            i64::try_from(value).map_err(beyond)?.cast_unsigned()
        } else {
            u64::try_from(value).map_err(beyond)?
        };
        self.ask(at, What::Write, index as u64, bits, &[]).map(drop)
    }

    fn text(&self, at: &CtlAt) -> Result<Vec<u8>, Failure> {
        self.ask(at, What::Read, 0, 0, &[]).map(|(_, bytes)| bytes)
    }

    fn set_text(&self, at: &CtlAt, text: &[u8]) -> Result<(), Failure> {
        self.ask(at, What::Write, 0, 0, text).map(drop)
    }

    fn read(&self, at: &CtlAt, position: u64, count: usize) -> Result<Vec<u8>, Failure> {
        self.ask(at, What::Read, position, count as u64, &[]).map(|(_, bytes)| bytes)
    }

    fn write(&self, at: &CtlAt, position: u64, bytes: &[u8]) -> Result<usize, Failure> {
        let (taken, _) = self.ask(at, What::Write, position, 0, bytes)?;
        // More than were given: the engine says so.
        Ok(usize::try_from(taken).unwrap_or(usize::MAX))
    }

    fn free(&self) -> Result<(), Failure> {
        self.instance.ask(Hook::CtlFree, &Place::nowhere("".into()), |table, instance| {
            (table.ctl_free().map_or_else(no_entry, |free| free(instance, self.table)), ())
        })
    }
}

/// Only a plugin that is not made with the macro registers a table, and has no such entry.
fn no_entry() -> Status {
    let message = "the plugin is built for an API without sysctl tables; build it anew";
    Status { errno: libc::ENOSYS, panicked: 0, message: message.into() }
}
