//! Who may do what: the judgement of a peer's credentials.
//!
//! The socket itself is open to all, because a mode cannot tell reading from changing; so every method asks here. The
//! credentials are the kernel's word about who connected (`SO_PEERCRED`), not what the client says.

use std::io;
use std::os::unix::net::UnixStream;

use rustix::process::geteuid;

use super::request::{ControlError, ErrorKind};
use crate::config::ControlRead;
use crate::linux::peer;

/// What a method does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Only tells.
    Read,
    /// Makes something happen.
    Change,
}

/// Who connected.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// 0 where it has no number here.
    pub(super) pid: u32,
    groups: Vec<u32>,
}

/// Who may read, with the group's name resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Readers {
    Root,
    Group { name: String, id: Option<u32> },
    All,
}

impl Peer {
    /// The credentials of a connection's other end.
    pub(super) fn of(stream: &UnixStream) -> io::Result<Peer> {
        let peer::Credentials { uid, gid, pid } = peer::credentials(stream)?;
        Ok(Peer { uid, gid, pid, groups: peer::groups(stream)? })
    }

    /// Root or the daemon's own user: may do everything.
    pub(super) fn is_privileged(&self) -> bool {
        self.uid == 0 || self.uid == geteuid().as_raw()
    }

    pub(super) fn uid(&self) -> u32 {
        self.uid
    }

    pub(super) fn gid(&self) -> u32 {
        self.gid
    }

    pub(super) fn is_member(&self, group: u32) -> bool {
        self.gid == group || self.groups.contains(&group)
    }
}

impl Readers {
    /// Looks the group up. One that does not exist has no members: the caller should say so.
    pub(super) fn resolve(read: &ControlRead) -> io::Result<Readers> {
        Ok(match read {
            ControlRead::Root => Readers::Root,
            ControlRead::All => Readers::All,
            ControlRead::Group(name) => Readers::Group { name: name.clone(), id: peer::group_id(name)? },
        })
    }

    /// Lets the peer through or says why not.
    pub(super) fn judge(&self, peer: &Peer, need: Need, method: &str) -> Result<(), ControlError> {
        let refuse = |who: &str, remedy: &str| {
            let what = format!("uid {} may not call it: that is for {who}", peer.uid);
            Err(ControlError::new(ErrorKind::NotPermitted, format!("method {method}"), what, remedy))
        };
        if peer.is_privileged() {
            return Ok(());
        }
        match (need, self) {
            (Need::Change, _) => refuse("root and the daemon's own user", "call it as root"),
            (Need::Read, Readers::All) => Ok(()),
            (Need::Read, Readers::Group { id: Some(id), .. }) if peer.is_member(*id) => Ok(()),
            (Need::Read, Readers::Group { name, .. }) => {
                refuse(&format!("root and group {name}"), "call it as root or join the group (control.read)")
            }
            (Need::Read, Readers::Root) => {
                refuse("root and the daemon's own user", "call it as root, or open it with control.read")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_is_as_configured_and_changing_never_is() {
        let peer = Peer { uid: geteuid().as_raw() + 1000, gid: 100, pid: 1, groups: vec![7] };
        let group = |id| Readers::Group { name: "g".into(), id };
        for (readers, may_read) in [
            (Readers::Root, false),
            (Readers::All, true),
            (group(Some(7)), true),
            (group(Some(100)), true),
            (group(Some(8)), false),
            (group(None), false),
        ] {
            assert_eq!(readers.judge(&peer, Need::Read, "Status").is_ok(), may_read, "{readers:?}");
            let refusal = readers.judge(&peer, Need::Change, "Reload").map_err(|e| e.kind);
            assert_eq!(refusal, Err(ErrorKind::NotPermitted));
        }
    }
}
