//! The part of the host's table that is about file systems.

use super::host_api::{find_open, guarded};
use super::inner::InstanceRef;
use abi_stable::std_types::RStr;
use pernet_plugin_api::abi::{NumberReturn, Status};

pub(super) extern "C" fn kern_mount(token: u64, fs: RStr<'_>, cookie: u64, options: RStr<'_>) -> NumberReturn {
    let mut number = 0;
    let status = guarded(|| {
        let instance = find_open(token)?;
        let me = InstanceRef::of(&instance);
        number = instance.services.kern_mount(&me, fs.as_str(), cookie, options.as_str())?;
        Ok(())
    });
    NumberReturn { status, number }
}

pub(super) extern "C" fn kern_unmount(token: u64, mount: u64) -> Status {
    guarded(|| {
        let instance = find_open(token)?;
        instance.services.kern_unmount(&InstanceRef::of(&instance), mount)
    })
}
