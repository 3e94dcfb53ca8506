//! A control group of its own for each machine: two booted systems in one group would each take it for theirs.
//!
//! Made and entered by the keeper, removed by who started it, after everything in it has ended. What a run that was killed
//! has left is removed by the next: its name tells whose it was.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::sandbox::wait_until;

const PREFIX: &str = "pernetd-booted-";

/// The name of the group for a machine that this process starts.
pub fn name(machine: &str) -> String {
    format!("{PREFIX}{}-{machine}", std::process::id())
}

/// Makes the group, in a mounted hierarchy, and moves the calling process there.
pub fn enter(hierarchy: &Path, name: &str) -> io::Result<()> {
    let group = hierarchy.join(name);
    fs::create_dir(&group)?;
    fs::write(group.join("cgroup.procs"), "0")
}

/// Removes the group, and those in it. What was in it is being killed.
pub fn remove(name: &str) {
    let Some(group) = hierarchy().map(|hierarchy| hierarchy.join(name)) else { return };
    if group.exists() {
        wait_until("the machine's control group is empty", Duration::from_secs(30), || remove_tree(&group).is_ok());
    }
}

/// Removes what runs that were killed have left.
pub fn sweep() {
    let Some(entries) = hierarchy().and_then(|hierarchy| fs::read_dir(hierarchy).ok()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        let owner = rest.split('-').next().unwrap_or_default();
        // One that has ended may still have its number: then it has no command line.
        let command = fs::read(Path::new("/proc").join(owner).join("cmdline")).unwrap_or_default();
        if command.is_empty() {
            // One that is still in use is nobody's to remove.
            let _ = remove_tree(&entry.path());
        }
    }
}

/// Groups are removed from below; their files go with them.
fn remove_tree(group: &Path) -> io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

/// Where the machine's host has the unified hierarchy: at its usual place, or beside the older ones.
fn hierarchy() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let unified = |line: &&str| line.split(" - ").nth(1).is_some_and(|fs| fs.starts_with("cgroup2 "));
    mounts.lines().find(unified)?.split(' ').nth(4).map(PathBuf::from)
}
