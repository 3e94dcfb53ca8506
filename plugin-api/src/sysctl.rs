//! Sysctl tables of a plugin's own.

use crate::abi::{CtlCall, CtlHandle};
use crate::host::Shared;
use crate::{Error, Result};

/// One access to one entry, as the host asks for it.
pub(crate) fn call(_shared: &Shared, _table: CtlHandle, _call: &CtlCall<'_>) -> Result<(u64, Vec<u8>)> {
    Err(Error::new(libc::ENOSYS, "this plugin has no sysctl tables"))
}

/// Drops what stands behind a table.
pub(crate) fn free(_shared: &Shared, _table: CtlHandle) -> Result<()> {
    Err(Error::new(libc::ENOSYS, "this plugin has no sysctl tables"))
}
