//! A protocol family of a plugin: the engine's [`NetProtoFamily`] over the ABI.
//!
//! The plugin's end of a connection crosses as a number: the descriptor stays the host's, as that of every socket which a
//! plugin has. What becomes of it when the call fails is the engine's.

use super::call::{Hook, with_info};
use super::inner::Inner;
use crate::engine::{At, Connection, Failure, NetProtoFamily};
use pernet_plugin_api::abi::{ConnectCall, Status};
use std::sync::Arc;

/// A family that a plugin offers, by its number in the plugin.
pub(super) struct FamilyCaller {
    pub(super) instance: Arc<Inner>,
    pub(super) number: u32,
}

impl NetProtoFamily for FamilyCaller {
    fn connected(&self, at: &At<'_>, connection: &Connection) -> Result<(), Failure> {
        let Connection { socket, peer } = connection;
        let (fd, ino) = (socket.number(), socket.ino());
        let call = ConnectCall { kind: socket.kind, uid: peer.uid, gid: peer.gid, pid: peer.pid, fd, ino };
        with_info(at, None, |place, net| {
            self.instance.ask(Hook::SockConnected, place, |table, instance| {
                let connected = table.sock_connected();
                (connected.map_or_else(no_entry, |connected| connected(instance, self.number, net, &call)), ())
            })
        })
    }
}

/// Only a plugin that is older than families, and still registered one, has no such entry.
fn no_entry() -> Status {
    let message = "the plugin is built for an API without protocol families; build it anew";
    Status { errno: libc::ENOSYS, panicked: 0, message: message.into() }
}
