//! A machine of one's own without root: user, mount and network namespaces that the process enters as a whole.
//!
//! Only for a process that still has one thread (the kernel refuses a user namespace to any other), at its very start.
#![allow(unsafe_code)] // unshare(2) of the whole process.

use std::fs;
use std::io;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{getgid, getuid};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Enters new user, mount and network namespaces, as root in them, with an empty `/run` of its own.
///
/// # Errors
/// When the machine forbids one of the steps; the process is then good for nothing but ending.
pub fn enter_own_machine() -> io::Result<()> {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    // SAFETY: unshare_unsafe asks that no other code relies on what is unshared staying shared. The process has one
    // thread (the kernel refuses otherwise), which has opened nothing in the old namespaces that it goes on using.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS | UnshareFlags::NEWNET) }
        .map_err(|e| forbidden("unshare", e.into()))?;
    fs::write("/proc/self/setgroups", "deny").map_err(|e| forbidden("/proc/self/setgroups", e))?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).map_err(|e| forbidden("/proc/self/uid_map", e))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).map_err(|e| forbidden("/proc/self/gid_map", e))?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).map_err(|e| forbidden("making mounts private", e.into()))?;
    mount("tmpfs", "/run", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=0755"))
        .map_err(|e| forbidden("an own /run", e.into()))
}

fn forbidden(what: &str, e: io::Error) -> io::Error {
    let hint = "this machine seems to forbid unprivileged user namespaces (see kernel.unprivileged_userns_clone, \
                kernel.apparmor_restrict_unprivileged_userns, user.max_user_namespaces)";
    io::Error::new(e.kind(), format!("{what}: {e}; {hint}"))
}
