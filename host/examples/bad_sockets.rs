//! A plugin with a protocol family that goes wrong as its configuration says, and sockets that it keeps. For tests of the
//! host.

use std::os::fd::AsRawFd;
use std::sync::{Mutex, PoisonError};

use pernet_plugin_api::prelude::*;
use serde::Deserialize;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// What `connected` does: `fail`, `panic`, or `keep` until the plugin's end; else it drops the socket.
    connected: String,
    /// Calls back from `pernet.init`: makes a socket in this namespace.
    create_in: Option<u64>,
    /// Calls back from `pernet.init`: connects to a family in this namespace.
    connect_in: Option<u64>,
}

struct Plug {
    config: Config,
    host: Host,
}

/// Of the instance that keeps them: others of this mapping may be there at the same time.
static KEPT: Mutex<Vec<Socket>> = Mutex::new(Vec::new());

impl Plugin for Plug {
    type Config = Config;

    fn init(reg: &mut Registrar, host: Host, config: Config) -> Result<Self> {
        reg.pernet_subsys("subsys", Plug { config: config.clone(), host: host.clone() })?;
        reg.sock_family("one", Plug { config: config.clone(), host: host.clone() })?;
        reg.sock_family("two", Plug { config: config.clone(), host: host.clone() })?;
        Ok(Plug { config, host })
    }
}

impl Drop for Plug {
    fn drop(&mut self) {
        if self.config.connected != "keep" {
            return;
        }
        let kept = std::mem::take(&mut *KEPT.lock().unwrap_or_else(PoisonError::into_inner));
        drop(kept);
    }
}

impl PernetOps for Plug {
    type State = ();

    fn init(&self, net: &Net<'_>) -> Result<()> {
        if let Some(cookie) = self.config.create_in {
            let there = self.host.sock_create(NetCookie(cookie), libc::AF_INET, libc::SOCK_DGRAM, 17)?;
            let here = net.sock_create(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
            tracing::debug!("{there:?} {} {here:?}", there.as_raw_fd());
        }
        if let Some(cookie) = self.config.connect_in {
            self.host.sock_connect(NetCookie(cookie), "other", libc::SOCK_SEQPACKET)?;
        }
        Ok(())
    }
}

impl SocketFamily for Plug {
    fn connected(&self, net: &Net<'_>, connection: Connection) -> Result<()> {
        let Connection { kind, uid, gid, pid, ref socket, .. } = connection;
        tracing::debug!("{} {kind} {uid} {gid} {pid} {socket:?} {}", net.name(), socket.as_raw_fd());
        match &*self.config.connected {
            "fail" => return Err(Error::new(libc::EBUSY, "as asked")),
            "panic" => panic!("as asked"),
            "keep" => KEPT.lock().unwrap_or_else(PoisonError::into_inner).push(connection.socket),
            _ => {}
        }
        Ok(())
    }
}

export_plugin!(Plug, name = "bad-sockets", description = "has sockets that go wrong where its configuration says");
