//! `netns add` and `netns del`: what must appear on the host is done here, in the caller's mount namespace.
//!
//! The daemon has a mount namespace of its own, where a mount that it made would be invisible to everybody else. So the
//! names are this side's, and the daemon is asked to act before a name appears and to be done after it is gone.

use std::ffi::OsString;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::connection::Connection;
use super::failure::Failure;
use crate::control::wire::generated::{
    NetnsAdd_Args, NetnsAdd_Reply, NetnsGet_Args, NetnsGet_Reply, NetnsWaitGone_Args, NetnsWaitGone_Reply, Status_Args,
    Status_Reply,
};
use crate::control::wire::{Netns, NetnsState};
use crate::linux::netns;

/// Makes the folder ready for names, so that they reach mount namespaces that were there before them.
pub(super) fn prepare(folder: &Path) -> Result<(), Failure> {
    let failed = |e| Failure::new(folder.display(), format!("cannot be made ready for names: {e}"), AS_ROOT);
    netns::prepare_folder(folder).map_err(failed)
}

/// Makes a namespace whose name appears when the inits are done.
pub(super) fn add(daemon: &mut Connection, name: &str) -> Result<Netns, Failure> {
    let file_name = unescape(name).filter(|n| is_file_name(n)).ok_or_else(|| bad_name(name))?;
    let folders = folders(daemon)?;
    let folder = folders.first().ok_or_else(|| {
        Failure::new("discovery.folders", "no folder is configured", "name one, /run/netns for example, and reload")
    })?;
    let reserved = Reserved::take(folder, &file_name)?;
    let failed = |e| Failure::new(reserved.path.display(), format!("cannot make the namespace: {e}"), AS_ROOT);
    let namespace = netns::create().map_err(failed)?;
    let path = reserved.path.display().to_string();
    let arguments = NetnsAdd_Args { name: name.to_owned(), path };
    daemon.send("NetnsAdd", &arguments, true, Some(namespace.as_fd()))?;
    let inits = daemon.receive::<NetnsAdd_Reply>()?;
    if inits.reply.namespace.state == NetnsState::failed || !inits.continues {
        return Ok(inits.reply.namespace);
    }
    netns::bind(namespace.as_fd(), &reserved.path).map_err(failed)?;
    // From here on the name holds the namespace, and the daemon shall be the only other one.
    drop(namespace);
    let seen = daemon.receive::<NetnsAdd_Reply>()?.reply.namespace;
    reserved.keep();
    Ok(seen)
}

const AS_ROOT: &str = "run this as root, in the host's mount namespace";

/// A name that is taken, and given back unless it is kept.
struct Reserved {
    path: PathBuf,
    kept: bool,
}

impl Reserved {
    /// Takes the name before any work is done: of two callers one is told at once.
    fn take(folder: &Path, name: &OsString) -> Result<Reserved, Failure> {
        prepare(folder)?;
        let path = folder.join(name);
        match netns::take_name(&path) {
            Ok(()) => Ok(Reserved { path, kept: false }),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                // One that is being made looks the same as what is left of an add that was killed.
                let (what, remedy) = if netns::is_bound(&path) {
                    ("the name is taken", "choose another, or remove it with `pernetctl netns del`")
                } else {
                    ("the name is taken, and is no namespace", "if nobody is just adding it, remove the file")
                };
                Err(Failure::new(path.display(), what, remedy))
            }
            Err(e) => Err(Failure::new(path.display(), format!("the name cannot be taken: {e}"), AS_ROOT)),
        }
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.kept {
            // Also after the bind: an add that failed leaves nothing behind.
            let _ = netns::remove(&self.path);
        }
    }
}

/// Removes a name and waits until the daemon is done with what it named.
pub(super) fn del(daemon: &mut Connection, name: &str) -> Result<Netns, Failure> {
    let place = format!("namespace {name}");
    let known: NetnsGet_Reply = daemon.call("NetnsGet", &NetnsGet_Args { name: name.to_owned() })?;
    if name == HOST || known.namespace.name == HOST {
        let what = "this is the host's own namespace, which has no name to remove";
        return Err(Failure::new(place, what, "name another (pernetctl netns list)"));
    }
    let path = find(&folders(daemon)?, name).ok_or_else(|| {
        let remedy = "run this in the host's mount namespace, or remove the name where it was made";
        Failure::new(&place, "its name is not to be seen from here", remedy)
    })?;
    let cookie = known.namespace.cookie;
    let arguments = NetnsWaitGone_Args { name: name.to_owned(), cookie, timeout: None };
    daemon.send("NetnsWaitGone", &arguments, true, None)?;
    let watching = daemon.receive::<NetnsWaitGone_Reply>()?;
    netns::remove(&path).map_err(|e| Failure::new(path.display(), format!("cannot be removed: {e}"), AS_ROOT))?;
    if !watching.continues {
        return Ok(watching.reply.namespace);
    }
    Ok(daemon.receive::<NetnsWaitGone_Reply>()?.reply.namespace)
}

/// What the host's own namespace is called.
const HOST: &str = "@host";

fn folders(daemon: &mut Connection) -> Result<Vec<PathBuf>, Failure> {
    let status: Status_Reply = daemon.call("Status", &Status_Args {})?;
    Ok(status.status.folders.into_iter().map(PathBuf::from).collect())
}

/// The file that a name in the operator's form means: a full path, or a name in the first folder that has it.
fn find(folders: &[PathBuf], name: &str) -> Option<PathBuf> {
    let file = PathBuf::from(unescape(name)?);
    if file.is_absolute() {
        return folders.iter().any(|f| file.parent() == Some(f)).then_some(file);
    }
    let named = folders.iter().filter(|_| is_file_name(file.as_os_str())).map(|folder| folder.join(&file));
    named.into_iter().find(|path| fs::symlink_metadata(path).is_ok())
}

fn bad_name(name: &str) -> Failure {
    let remedy = "use a file name of at most 255 bytes, without /; write a leading @ or # as \\x40 or \\x23";
    Failure::new(format!("namespace {name}"), "this cannot be a namespace's name", remedy)
}

fn is_file_name(name: &std::ffi::OsStr) -> bool {
    let bytes = name.as_bytes();
    !matches!(bytes, b"" | b"." | b"..") && bytes.len() <= 255 && !bytes.iter().any(|b| matches!(b, b'/' | 0))
}

/// The bytes behind the operator's form, in which special ones are written `\xNN`; `None` if it is not in that form.
fn unescape(name: &str) -> Option<OsString> {
    if name.starts_with(['@', '#']) {
        return None;
    }
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        bytes.extend_from_slice(plain.as_bytes());
        let digits = escaped.strip_prefix('x')?.get(..2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &escaped[3..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Some(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_form_is_taken_back_to_bytes() {
        let bytes = |name: &str| unescape(name).map(OsString::into_vec);
        assert_eq!(bytes("blue"), Some(b"blue".to_vec()));
        assert_eq!(bytes(r"\x40a\xff b\x5c"), Some(b"@a\xff b\\".to_vec()));
        for wrong in ["@host", "#1", r"a\", r"a\x4", r"a\n", r"a\xgg", "a\\x\u{e9}1"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_names_in_the_folders_are_found() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join("a"), "")?;
        let folders = [dir.path().join("none"), dir.path().to_owned()];
        assert_eq!(find(&folders, "a"), Some(dir.path().join("a")));
        assert_eq!(find(&folders, "../a"), None);
        assert_eq!(find(&folders, "/etc/passwd"), None);
        let full = dir.path().join("b");
        assert_eq!(find(&folders, &full.display().to_string()), Some(full));
        Ok(())
    }
}
