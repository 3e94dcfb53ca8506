//! One message at a time off a connection: bounded in size and in time, with the descriptors that came with it.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::server::Limits;

/// Descriptors taken with one message; no method needs more than one, and the kernel closes what does not fit.
const DESCRIPTORS: usize = 4;

const CHUNK: usize = 4096;

/// One message.
#[derive(Debug)]
pub(super) struct Message {
    /// Its text, with the NUL at its end.
    pub(super) text: Vec<u8>,
    /// Descriptors that came with it; dropping them closes them.
    pub(super) descriptors: Vec<OwnedFd>,
}

/// Why there is no further message.
#[derive(Debug)]
pub(super) enum End {
    /// The client has closed, was idle too long, or the server is stopping.
    Closed,
    /// It sent something that cannot be a message; what to tell it.
    Refused(String),
}

/// What was received and not yet handed out.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Inbox {
    /// The next message, or why there is none.
    pub(super) fn next(&mut self, stream: &UnixStream, limits: &Limits) -> Result<Message, End> {
        // From the first byte on, the time for the whole message runs: a byte now and then does not extend it.
        let mut begun = (!self.bytes.is_empty()).then(Instant::now);
        let mut searched = 0;
        loop {
            if let Some(end) = self.bytes[searched..].iter().position(|b| *b == 0) {
                let rest = self.bytes.split_off(searched + end + 1);
                let text = std::mem::replace(&mut self.bytes, rest);
                return Ok(Message { text, descriptors: std::mem::take(&mut self.descriptors) });
            }
            searched = self.bytes.len();
            if searched > limits.message_bytes {
                return Err(End::Refused(format!("a message is at most {} bytes", limits.message_bytes)));
            }
            let patience = begun.map_or(limits.idle, |b: Instant| limits.half_message.saturating_sub(b.elapsed()));
            if !readable(stream, patience) {
                let half = || End::Refused("the rest of the message did not come in time".to_owned());
                return Err(begun.map_or(End::Closed, |_| half()));
            }
            self.receive(stream)?;
            begun.get_or_insert_with(Instant::now);
        }
    }

    fn receive(&mut self, stream: &UnixStream) -> Result<(), End> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut chunk = [0; CHUNK];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = match recvmsg(stream, &mut [IoSliceMut::new(&mut chunk)], &mut control, flags) {
            Ok(received) => received.bytes,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(_) => return Err(End::Closed),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        // A client can attach some to every byte: no more are kept than a message may have.
        self.descriptors.truncate(DESCRIPTORS);
        if received == 0 {
            return Err(End::Closed);
        }
        self.bytes.extend_from_slice(&chunk[..received]);
        Ok(())
    }
}

/// Waits until there is something to read or the client has gone; false when the time is over.
fn readable(stream: &UnixStream, patience: Duration) -> bool {
    let Ok(timeout) = Timespec::try_from(patience) else { return false };
    let mut fds = [PollFd::new(stream, PollFlags::IN)];
    loop {
        match poll(&mut fds, Some(&timeout)) {
            Err(Errno::INTR) => {}
            Ok(n) => return n > 0,
            Err(_) => return false,
        }
    }
}

/// The error that a client gets for something that is not a message.
pub(super) fn refusal(what: String) -> Vec<u8> {
    let parameters = serde_json::json!({ "parameter": what });
    let reply = varlink::Reply::error("org.varlink.service.InvalidParameter", Some(parameters));
    let mut text = serde_json::to_vec(&reply).unwrap_or_default();
    text.push(0);
    text
}

/// Whether a text is a varlink call, and whether it wants no reply.
pub(super) fn is_oneway(text: &[u8]) -> io::Result<bool> {
    let call: varlink::Request<'_> = serde_json::from_slice(text.strip_suffix(b"\0").unwrap_or(text))?;
    Ok(call.oneway == Some(true))
}
