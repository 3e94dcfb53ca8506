//! Files of a mount as programs see them.
#![allow(dead_code, unreachable_pub)] // Each test binary uses its own part of this.
#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

/// Whether nobody can mount anything here.
pub fn fuse_is_lacking() -> bool {
    fs::File::options().read(true).write(true).open("/dev/fuse").is_err()
}

/// A file's content.
#[track_caller]
pub fn text(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The errno of what must fail.
#[track_caller]
pub fn errno_of<T>(result: io::Result<T>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(error) => error.raw_os_error().unwrap(),
    }
}

/// Runs a shell's line, which must end well; what it said.
#[track_caller]
pub fn run(line: &str) -> String {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{line}: {}\n{said}{complained}", output.status);
    said.into_owned()
}

/// Whether something is mounted there.
pub fn is_mounted(at: &str) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(at))
}
