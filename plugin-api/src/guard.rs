//! The guard around every call into an author's code: it stops panics inside the plugin.
//!
//! A plugin has its own copy of the standard library, so a panic must neither cross into the host nor be caught there,
//! and the panic hook that writes to stderr is this copy's own: it is replaced by one that logs through the host.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

use abi_stable::std_types::RString;

use crate::abi::Status;
use crate::log::{self, Caller};
use crate::{Error, Result};

thread_local! {
    /// What the hook saw of this thread's last panic: the payload that a guard catches has no place in it.
    static LAST_PANIC: Cell<Option<String>> = const { Cell::new(None) };
}

/// Runs an author's code: its errors and panics become a status. `caller` is whose logs these are, if there is an
/// instance yet.
pub(crate) fn call<T>(caller: Option<Caller>, body: impl FnOnce() -> Result<T>) -> Result<T, Status> {
    let _inside = log::enter(caller);
    // What a panic leaves half done is the author's own; the host calls a poisoned instance for its exits only.
    match panic::catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => result.map_err(Status::from),
        Err(payload) => Err(panicked(payload)),
    }
}

/// Drops an author's value.
pub(crate) fn discard<T>(caller: Caller, value: T) -> Result<(), Status> {
    call(Some(caller), || {
        drop(value);
        Ok(())
    })
}

/// Sets the panic hook and the subscriber of this mapping, at the first call into it.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::install();
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !report(info) {
                previous(info);
            }
        }));
    });
}

/// Logs a panic through the host; false if there is nobody to tell.
fn report(info: &PanicHookInfo<'_>) -> bool {
    let what = text(info.payload());
    let at = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    if log::is_inside() {
        LAST_PANIC.set(Some(format!("panicked at {at}: {what}")));
    }
    log::panicked(what, &at)
}

fn panicked(payload: Box<dyn Any + Send>) -> Status {
    // `resume_unwind` calls no hook, so there may be no place to tell.
    let message = LAST_PANIC.take().unwrap_or_else(|| format!("panicked: {}", text(&*payload)));
    // The payload is a value of the author's, whose own drop may panic.
    if let Err(second) = panic::catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
    Status { errno: libc::EIO, panicked: 1, message: message.into() }
}

fn text(payload: &(dyn Any + Send)) -> &str {
    let owned = || payload.downcast_ref::<String>().map(String::as_str);
    payload.downcast_ref::<&str>().copied().or_else(owned).unwrap_or("(the panic's payload is no text)")
}

impl Status {
    /// Success.
    pub(crate) const OK: Status = Status { errno: 0, panicked: 0, message: RString::new() };
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Status { errno: error.errno(), panicked: 0, message: error.message().into() }
    }
}

impl From<Result<(), Status>> for Status {
    fn from(result: Result<(), Status>) -> Self {
        result.err().unwrap_or(Status::OK)
    }
}
