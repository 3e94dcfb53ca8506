//! How the daemon and the engine act in one namespace: the one descriptor that pins it, and its links.
//!
//! It decides nothing. Whoever enters is a thread with a seat; the loop only makes one and, after the exits, closes it.

use std::os::fd::AsFd;
use std::sync::{Arc, PoisonError, RwLock};

use pernet_plugin_api::NetCookie;

use crate::discovery::links::LinkSource;
use crate::engine::{Created, Failure, Link, LinkChange, Links, Namespace, Net, Wanted};
use crate::linux::ns::{self, Pin};
use crate::linux::rtnetlink;

/// How the engine acts in one namespace: the one descriptor that pins it, and its links.
pub(super) struct Place {
    cookie: NetCookie,
    /// Taken out by the loop when the exits are done. The lock is held to reach it only: the loop must not wait for
    /// what runs inside.
    pin: RwLock<Option<Arc<Pin>>>,
    links: Arc<LinkSource>,
}

/// The engine owns its handle; the loop keeps another to close the pin.
pub(super) struct Handle(pub(super) Arc<Place>);

impl Place {
    pub(super) fn new(cookie: NetCookie, pin: Pin, links: &Arc<LinkSource>) -> Arc<Place> {
        Arc::new(Place { cookie, pin: RwLock::new(Some(Arc::new(pin))), links: Arc::clone(links) })
    }

    fn with_pin<T>(&self, act: impl FnOnce(&Pin) -> std::io::Result<T>) -> std::io::Result<T> {
        let pin = self.pin.read().unwrap_or_else(PoisonError::into_inner).clone();
        pin.map_or_else(|| Err(std::io::Error::from_raw_os_error(libc::ESTALE)), |pin| act(&pin))
    }

    /// The devices there now, without subscribing to their events.
    pub(super) fn dump(&self) -> std::io::Result<Vec<Link>> {
        self.with_pin(ns::enter)?;
        let links = rtnetlink::dump_links();
        ns::home()?;
        links.map_err(std::io::Error::other)
    }

    /// Acts inside, wherever the thread was, and goes back there.
    pub(super) fn visit<T>(&self, act: impl FnOnce() -> T) -> Result<T, Failure> {
        let visited = self.with_pin(|pin| ns::visit(pin, act));
        visited.map_err(|e| failure("cannot enter the namespace", &e))
    }

    /// Stops listening once no plugin wants device events here: every listener costs the senders.
    pub(super) fn unwatch_if_idle(&self, net: &Net) {
        if !net.watched() {
            self.links.unsubscribe(self.cookie);
        }
    }

    /// INTERIM
    pub(super) fn cookie_of(&self, _nsid: i32, _nets: &[Arc<Net>]) -> Option<NetCookie> {
        None
    }

    /// Lets the namespace go: nothing else of ours keeps it.
    pub(super) fn release(&self) {
        self.links.unsubscribe(self.cookie);
        self.pin.write().unwrap_or_else(PoisonError::into_inner).take();
    }
}

fn failure(what: &str, e: &std::io::Error) -> Failure {
    Failure { errno: e.raw_os_error().unwrap_or(libc::EIO), message: format!("{what}: {e}"), panicked: false }
}

impl Namespace for Handle {
    fn enter(&self) -> Result<(), Failure> {
        self.0.with_pin(ns::enter).map_err(|e| failure("cannot enter the namespace", &e))
    }

    fn home(&self) -> Result<(), Failure> {
        ns::home().map_err(|e| failure("cannot come home from the namespace", &e))
    }
}

impl Links for Handle {
    fn list(&self) -> Result<Vec<Link>, Failure> {
        // Subscribe first: what changes between the two is in the stream and in the dump, never in neither.
        self.0
            .with_pin(|pin| self.0.links.subscribe(self.0.cookie, pin.as_fd()).map_err(std::io::Error::other))
            .map_err(|e| failure("cannot subscribe to the namespace's link events", &e))?;
        self.enter()?;
        rtnetlink::dump_links().map_err(|e| Failure::new(e.errno, e.to_string()))
    }

    fn create(&self, _: &Wanted<'_>, _: Option<(&Net, &Wanted<'_>)>) -> Result<(Created, Option<Created>), Failure> {
        Err(failure("make a link", &std::io::Error::from_raw_os_error(libc::ENOSYS)))
    }

    fn delete(&self, _: u32) -> Result<(), Failure> {
        Err(failure("delete a link", &std::io::Error::from_raw_os_error(libc::ENOSYS)))
    }

    fn change(&self, _: u32, _: &LinkChange<'_>) -> Result<(), Failure> {
        Err(failure("change a link", &std::io::Error::from_raw_os_error(libc::ENOSYS)))
    }

    fn fence(&self) -> Result<u64, Failure> {
        Ok(0)
    }

    fn look(&self, _: u32) -> Result<Option<Link>, Failure> {
        Err(failure("look at a link", &std::io::Error::from_raw_os_error(libc::ENOSYS)))
    }
}
