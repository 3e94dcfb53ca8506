//! Canned sysctls: `neighbour.count` for all, `neighbour.secret` for root, and one that takes its time.

use std::sync::{Mutex, PoisonError};

use pernetd::control::sysctl::{Asker, Errno, SysctlSet};
use pernetd::control::wire::Sysctl;
use pernetd::engine::{Credentials, CtlAccess, sysctl_perm};

/// The sysctls of one namespace.
#[derive(Debug)]
pub struct Canned(pub &'static str);

/// Who asked, for the test to look at.
pub static ASKED: Mutex<Vec<Asker>> = Mutex::new(Vec::new());

const MODES: [(&str, u16); 3] = [("neighbour/count", 0o644), ("neighbour/secret", 0o640), ("neighbour/sink", 0o200)];

fn permitted(path: &str, who: &Asker, access: CtlAccess) -> Result<(), Errno> {
    ASKED.lock().unwrap_or_else(PoisonError::into_inner).push(*who);
    let (_, mode) = MODES.iter().find(|(known, _)| *known == path).ok_or_else(|| errno(libc::ENOENT, "gone"))?;
    let credentials = Credentials { uid: who.uid, gid: who.gid, privileged: who.privileged };
    if sysctl_perm(*mode, &credentials, access) {
        Ok(())
    } else {
        Err(errno(libc::EACCES, "the mode does not allow that"))
    }
}

fn errno(errno: i32, message: &str) -> Errno {
    Errno { errno, message: message.to_owned() }
}

impl SysctlSet for Canned {
    fn list(&self, path: &str) -> Vec<Sysctl> {
        let below = |known: &str| path.is_empty() || known == path || known.starts_with(&format!("{path}/"));
        let found = MODES.iter().filter(|(known, _)| below(known));
        let row = |(path, mode): &(&str, u16)| Sysctl {
            netns: self.0.into(),
            key: path.replace('/', "."),
            plugin: "neighbour".into(),
            mode: u64::from(*mode),
            kind: "int".into(),
            value: None,
            left_over: None,
            errno: None,
            error: None,
        };
        found.map(row).collect()
    }

    fn read(&self, path: &str, who: &Asker) -> Result<Vec<u8>, Errno> {
        permitted(path, who, CtlAccess::Read).map(|()| b"3\n".to_vec())
    }

    fn write(&self, path: &str, who: &Asker, bytes: &[u8]) -> Result<usize, Errno> {
        permitted(path, who, CtlAccess::Write)?;
        match bytes {
            b"nonsense\n" => Err(errno(libc::EINVAL, "`nonsense` is no number")),
            // As a single number takes it.
            _ => Ok(bytes.iter().position(|byte| *byte == b' ').map_or(bytes.len(), |blank| blank + 1)),
        }
    }
}
