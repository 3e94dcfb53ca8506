//! The client's end of the control socket: calls, replies, and a descriptor with a call.

use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::failure::Failure;
use crate::control::socket::{SOCKET, connect};

/// A connection to the daemon.
pub(super) struct Connection {
    stream: BufReader<UnixStream>,
    /// Where the socket is.
    runtime_dir: PathBuf,
    /// What errors name.
    place: String,
}

/// Methods that only tell, and at once, so that they can be asked twice. Not `NetnsWait`: who waits while the service is stopped
/// is not to start it again by its socket.
const READING: [&str; 12] = [
    "Status",
    "NetnsList",
    "NetnsGet",
    "PluginList",
    "DevList",
    "DevShow",
    "Boot",
    "SockList",
    "FilesystemList",
    "MountList",
    "SysctlRead",
    "Why",
];

/// One reply to a call.
pub(super) struct Received<T> {
    /// Its parameters.
    pub(super) reply: T,
    /// Whether more follow.
    pub(super) continues: bool,
}

impl Connection {
    /// Connects to the daemon of a runtime folder.
    pub(super) fn open(runtime_dir: &Path) -> Result<Connection, Failure> {
        let place = runtime_dir.join(SOCKET).display().to_string();
        match connect(runtime_dir) {
            Ok(stream) => Ok(Connection { stream: BufReader::new(stream), runtime_dir: runtime_dir.to_owned(), place }),
            Err(e) => Err(Failure::unreachable(&place, &format!("cannot reach pernetd: {e}"))),
        }
    }

    /// A handle that can end a wait from another thread.
    pub(super) fn handle(&self) -> io::Result<UnixStream> {
        self.stream.get_ref().try_clone()
    }

    /// Calls a method that has one reply. A daemon that ends may have taken the connection and never read the call: then the
    /// next one is asked, once, where the service manager holds the socket for it.
    pub(super) fn call<T: DeserializeOwned>(&mut self, method: &str, arguments: &impl Serialize) -> Result<T, Failure> {
        match self.call_once(method, arguments) {
            Err(gone) if gone.is_final() && READING.contains(&method) => {
                *self = Connection::open(&self.runtime_dir)?;
                self.call_once(method, arguments)
            }
            answered => answered,
        }
    }

    fn call_once<T: DeserializeOwned>(&mut self, method: &str, arguments: &impl Serialize) -> Result<T, Failure> {
        self.send(method, arguments, false, None)?;
        Ok(self.receive()?.reply)
    }

    /// Sends a call; with `more`, several replies may be received for it.
    pub(super) fn send(
        &mut self,
        method: &str,
        arguments: &impl Serialize,
        more: bool,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<(), Failure> {
        let parameters = serde_json::to_value(arguments).map_err(|e| Failure::new(method, e, "report this mistake"))?;
        let mut call = varlink::Request::create(format!("io.pernetd.{method}"), Some(parameters));
        call.more = more.then_some(true);
        let mut text = serde_json::to_vec(&call).map_err(|e| Failure::new(method, e, "report this mistake"))?;
        text.push(0);
        self.transmit(&text, descriptor)
            .map_err(|e| Failure::unreachable(&self.place, &format!("cannot be asked: {e}")))
    }

    /// The descriptor goes with the first bytes, whatever part of the message those are.
    fn transmit(&self, text: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let mut stream = self.stream.get_ref();
        let Some(descriptor) = descriptor else {
            return stream.write_all(text);
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let rights = [descriptor];
        control.push(SendAncillaryMessage::ScmRights(&rights));
        let sent = sendmsg(stream, &[IoSlice::new(text)], &mut control, SendFlags::NOSIGNAL)?;
        stream.write_all(&text[sent..])
    }

    /// The next reply to the call that was sent.
    pub(super) fn receive<T: DeserializeOwned>(&mut self) -> Result<Received<T>, Failure> {
        let mut text = Vec::new();
        let read = self.stream.read_until(0, &mut text);
        if text.pop() != Some(0) {
            let what = read.map_or_else(|e| e.to_string(), |_| "pernetd closed the connection".to_owned());
            return Err(Failure::unreachable(&self.place, &what));
        }
        let broken = |e| Failure::new(&self.place, format!("this reply is not understood: {e}"), VERSIONS);
        let reply: varlink::Reply = serde_json::from_slice(&text).map_err(broken)?;
        let parameters = reply.parameters.unwrap_or_else(|| Value::Object(serde_json::Map::default()));
        match reply.error {
            Some(error) => Err(Failure::refused(&error, &parameters)),
            None => {
                let continues = reply.continues == Some(true);
                Ok(Received { reply: serde_json::from_value(parameters).map_err(broken)?, continues })
            }
        }
    }
}

const VERSIONS: &str = "compare `pernetctl --version` with the daemon's, and restart it after an upgrade";
