//! One client: its messages in turn, each answered before the next is read.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, never};
use varlink::{ConnectionHandler, VarlinkService};

use super::access::Peer;
use super::inbox::{End, Inbox, Message, is_oneway, refusal};
use super::methods;
use super::server::Shared;

/// Nothing is ever sent: it is told by being disconnected.
#[derive(Debug)]
pub(super) enum Never {}

/// A client's connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: u64,
    pub(super) stream: UnixStream,
    pub(super) peer: Peer,
    /// Since when no call is being answered; `None` during one.
    idle_since: Mutex<Option<Instant>>,
    /// Held until the client hangs up.
    alive: Mutex<Option<Sender<Never>>>,
    gone: Receiver<Never>,
    /// What came with the call that is being answered.
    descriptors: Mutex<Vec<OwnedFd>>,
}

impl Connection {
    pub(super) fn new(id: u64, stream: UnixStream, peer: Peer) -> Connection {
        let (alive, gone) = crossbeam_channel::bounded(0);
        Connection {
            id,
            stream,
            peer,
            idle_since: Mutex::new(Some(Instant::now())),
            alive: Mutex::new(Some(alive)),
            gone,
            descriptors: Mutex::default(),
        }
    }

    /// Disconnected once the client has gone, for good.
    pub(super) fn gone(&self) -> &Receiver<Never> {
        &self.gone
    }

    /// The client has gone.
    pub(super) fn hung_up(&self) {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Since when it waits for a message; `None` if a call is being answered.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_idle(&self, since: Option<Instant>) {
        *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// The descriptors of the present call; whoever does not take them has them closed after it.
    pub(super) fn take_descriptors(&self) -> Vec<OwnedFd> {
        std::mem::take(&mut *self.descriptors.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Answers one message; an error ends the connection.
    fn answer(&self, service: &VarlinkService, message: Message) -> io::Result<()> {
        let oneway = match is_oneway(&message.text) {
            Ok(oneway) => oneway,
            Err(e) => {
                (&self.stream).write_all(&refusal(format!("this is not a varlink call: {e}")))?;
                return Err(e);
            }
        };
        *self.descriptors.lock().unwrap_or_else(PoisonError::into_inner) = message.descriptors;
        let handled = if oneway {
            // The crate would answer a oneway call too.
            service.handle(&mut &message.text[..], &mut io::sink(), None)
        } else {
            service.handle(&mut &message.text[..], &mut &self.stream, None)
        };
        drop(self.take_descriptors());
        handled.map(drop).map_err(io::Error::other)
    }
}

/// The life of a connection.
pub(super) fn serve(connection: &Arc<Connection>, shared: &Arc<Shared>) {
    let service = methods::service(Arc::clone(connection), Arc::clone(shared));
    let mut inbox = Inbox::default();
    loop {
        match inbox.next(&connection.stream, &shared.limits) {
            Ok(message) => {
                connection.set_idle(None);
                if connection.answer(&service, message).is_err() {
                    break;
                }
                connection.set_idle(Some(Instant::now()));
            }
            Err(End::Refused(what)) => {
                let _ = (&connection.stream).write_all(&refusal(what));
                break;
            }
            Err(End::Closed) => break,
        }
    }
    // The table may hold the stream a little longer: the client shall see the end now.
    let _ = connection.stream.shutdown(std::net::Shutdown::Both);
}

/// A channel that tells when a time has come; never if there is none.
pub(super) fn at(deadline: Option<Instant>) -> Receiver<Instant> {
    deadline.map_or_else(never, crossbeam_channel::at)
}
