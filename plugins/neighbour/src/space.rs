//! A namespace as the plugin acts in it: its knobs, and two sockets in it, for as long as something is announced there.
//!
//! The sockets are made in the hook that asks for an announcement, which is inside, or later from the announcer's thread,
//! which is not; they are closed when nothing is left to announce, so that a quiet namespace has none.

use std::sync::{Mutex, MutexGuard, PoisonError};

use pernet_plugin_api::prelude::*;
use rustix::net::{AddressFamily, SocketType};

use crate::knobs::Knobs;

/// A namespace.
pub(crate) struct Space {
    pub(crate) cookie: NetCookie,
    pub(crate) knobs: Knobs,
    /// Held while something is announced: whoever closes them waits for it.
    sockets: Mutex<State>,
}

enum State {
    Closed,
    Open(Sockets),
    /// For good: the plugin leaves the namespace.
    Left,
}

/// What announces.
pub(crate) struct Sockets {
    /// Of protocol 0: it hears nothing.
    pub(crate) packet: Socket,
    /// Where the addresses are asked for.
    pub(crate) route: Socket,
}

impl Space {
    pub(crate) fn new(cookie: NetCookie, knobs: Knobs) -> Self {
        Space { cookie, knobs, sockets: Mutex::new(State::Closed) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the sockets open. `create` makes one, of a family and a type.
    pub(crate) fn open(&self, create: impl Fn(i32, i32) -> Result<Socket>) -> Result<()> {
        if !matches!(*self.lock(), State::Closed) {
            return Ok(());
        }
        let (packet, netlink, raw) = (AddressFamily::PACKET, AddressFamily::NETLINK, SocketType::RAW);
        let create = |family: AddressFamily| create(family.as_raw().into(), raw.as_raw().cast_signed());
        // Not under the lock: they may be made by another thread, which whoever waits for the lock may keep from it.
        let made = Sockets { packet: create(packet)?, route: create(netlink)? };
        let mut state = self.lock();
        if matches!(*state, State::Closed) {
            *state = State::Open(made);
        }
        Ok(())
    }

    /// Acts with the sockets, if they are open.
    pub(crate) fn with<T>(&self, act: impl FnOnce(&Sockets) -> T) -> Option<T> {
        match &*self.lock() {
            State::Open(sockets) => Some(act(sockets)),
            State::Closed | State::Left => None,
        }
    }

    /// Closes them until they are needed again.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        let sockets = std::mem::replace(&mut *state, State::Closed);
        if matches!(sockets, State::Left) {
            *state = State::Left;
        }
        drop(state);
    }

    /// Closes them for good.
    pub(crate) fn leave(&self) {
        let sockets = std::mem::replace(&mut *self.lock(), State::Left);
        drop(sockets);
    }
}
