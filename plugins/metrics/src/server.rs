//! The listening socket, and the thread that takes connections off it.
//!
//! The socket is made in the plugin's init, which runs in the daemon's own namespace; so does the thread, and those that it
//! starts, since a thread begins where the one is that starts it. It ends with the plugin, before another one's init, so
//! that a reload finds the address free.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use pernet_plugin_api::prelude::*;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::collect::Collector;
use crate::connections::Connections;

/// When the system has no descriptor for us.
const AGAIN: Duration = Duration::from_millis(500);

/// Listens until it is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    /// Written to, it ends the thread.
    end: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    connections: Arc<Connections>,
}

impl Server {
    /// Listens at this address. Called at home.
    pub(crate) fn start(address: SocketAddr, host: &Host, collector: &Arc<Collector>) -> Result<Self> {
        is_at_home()?;
        let listener = TcpListener::bind(address).map_err(|e| refused(address, &e))?;
        listener.set_nonblocking(true)?;
        let end = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(std::io::Error::from)?;
        let end = Arc::new(end);
        let connections = Arc::new(Connections::new(host.clone(), Arc::clone(collector)));
        let (wake, host, taken) = (Arc::clone(&end), host.clone(), Arc::clone(&connections));
        let run = move || host.attribute(|| accept(&listener, &wake, &taken));
        let thread = thread::Builder::new().name("metrics".into()).spawn(run)?;
        tracing::info!("listening at http://{address}/metrics");
        Ok(Server { address, end, thread: Some(thread), connections })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A counter that is written to once has room for it.
        let _ = rustix::io::write(&*self.end, &1u64.to_ne_bytes());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that listens had panicked");
        }
        self.connections.stop();
    }
}

/// A socket is of the namespace in which its thread is, and this one shall be of the daemon's, whose main thread never
/// leaves it.
fn is_at_home() -> Result<()> {
    if fs::read_link("/proc/self/ns/net")? == fs::read_link("/proc/thread-self/ns/net")? {
        return Ok(());
    }
    let what = "this thread has not come home from a namespace, so it cannot listen; reload once more";
    Err(Error::new(rustix::io::Errno::AGAIN.raw_os_error(), what))
}

/// What to do about an address that cannot be had.
fn refused(address: SocketAddr, error: &std::io::Error) -> Error {
    let advice = match error.kind() {
        ErrorKind::AddrInUse => "another program listens there: `ss -ltnp` shows which; choose another `listen`",
        ErrorKind::AddrNotAvailable => "the host has no such address (yet): choose another `listen`",
        ErrorKind::PermissionDenied => "this port takes CAP_NET_BIND_SERVICE: choose another `listen`",
        _ => "choose another `listen`",
    };
    let errno = error.raw_os_error().unwrap_or_else(|| rustix::io::Errno::IO.raw_os_error());
    Error::new(errno, format!("cannot listen at {address}: {error}; {advice}"))
}

fn accept(listener: &TcpListener, end: &OwnedFd, connections: &Arc<Connections>) {
    let mut complained = false;
    loop {
        let mut fds = [PollFd::new(end, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
        if poll(&mut fds, None).is_ok() && !fds[0].revents().is_empty() {
            return;
        }
        match listener.accept() {
            Ok((stream, _)) => {
                complained = false;
                if stream.set_nonblocking(false).is_ok() {
                    connections.answer(stream);
                }
            }
            // It is gone already, or somebody interrupted.
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted
                ) => {}
            Err(e) => {
                if !std::mem::replace(&mut complained, true) {
                    tracing::warn!("cannot take a connection: {e}; tried again every {AGAIN:?}");
                }
                let again = Timespec::try_from(AGAIN).ok();
                let _ = poll(&mut [PollFd::new(end, PollFlags::IN)], again.as_ref());
            }
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Server").field(&self.address).finish()
    }
}
