//! How the daemon and the engine act in one namespace: the one descriptor that pins it, its links, its sockets; and what has
//! happened there.
//!
//! It decides nothing. Whoever enters is a thread with a seat; the loop only makes one and, after the exits, closes it.

use std::any::Any;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};

use pernet_plugin_api::{Error, NetCookie};

use crate::discovery::links::LinkSource;
use crate::discovery::nsid;
use crate::engine::{
    Created, Failure, Holder, HookError, Link, LinkChange, LinkSpec, Links, Namespace, Net, NetdevEvent, Queues, Sock,
    SockSpec, Socket, Wanted, sock_type_name,
};
use crate::linux::ns::{self, Pin};
use crate::linux::{device, rtnetlink};
use crate::logging::catalog;
use crate::plugin::running::current_hook;

use super::devices_past::DevicesPast;
use super::namespaces::complain;
use super::past::Past;
use super::sockets::Sockets;

/// How the engine acts in one namespace: the one descriptor that pins it, its links, its sockets.
pub(super) struct Place {
    cookie: NetCookie,
    /// Taken out by the loop when the exits are done. The lock is held to reach it only: the loop must not wait for
    /// what runs inside.
    pin: RwLock<Option<Arc<Pin>>>,
    links: Arc<LinkSource>,
    sockets: Arc<Sockets>,
    /// Whose place it is, for its name.
    net: OnceLock<Weak<Net>>,
    /// What has happened to the namespace. Held for moments.
    past: Mutex<Past>,
    /// And to its devices.
    pub(super) devices: DevicesPast,
}

/// The engine owns its handle; the loop keeps another to close the pin.
pub(super) struct Handle(pub(super) Arc<Place>);

impl Place {
    pub(super) fn new(cookie: NetCookie, pin: Pin, links: &Arc<LinkSource>, sockets: &Arc<Sockets>) -> Arc<Place> {
        let (pin, links, sockets) = (RwLock::new(Some(Arc::new(pin))), Arc::clone(links), Arc::clone(sockets));
        let (past, devices, net) = (Mutex::default(), DevicesPast::default(), OnceLock::new());
        Arc::new(Place { cookie, pin, links, sockets, past, devices, net })
    }

    /// Whose it is.
    pub(super) fn belongs_to(&self, net: &Arc<Net>) {
        let _ = self.net.set(Arc::downgrade(net));
    }

    fn name(&self) -> Option<Arc<str>> {
        Some(self.net.get()?.upgrade()?.name())
    }

    /// What has happened to it.
    pub(super) fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pin(&self) -> std::io::Result<Arc<Pin>> {
        let pin = self.pin.read().unwrap_or_else(PoisonError::into_inner).clone();
        pin.ok_or_else(|| std::io::Error::from_raw_os_error(libc::ESTALE))
    }

    fn with_pin<T>(&self, act: impl FnOnce(&Pin) -> std::io::Result<T>) -> std::io::Result<T> {
        act(&*self.pin()?)
    }

    /// The devices there now, and the last fence before they were listed: all that was changed before it is in the list.
    pub(super) fn dump_at(&self) -> std::io::Result<(u64, Vec<Link>)> {
        let fence = self.links.last_fence();
        Ok((fence, self.dump()?))
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

    /// Which of these namespaces the kernel means by `nsid` inside this one. `None` for one that is not among them.
    pub(super) fn cookie_of(&self, nsid: i32, nets: &[Arc<Net>]) -> Option<NetCookie> {
        let pins: Vec<_> = nets.iter().filter_map(|net| Some((net.cookie, place_of(net)?.pin().ok()?))).collect();
        let asked = self.visit(|| nsid::whose(nsid, pins.iter().map(|(cookie, pin)| (*cookie, pin))));
        let found = asked.and_then(|answer| Ok(answer?));
        found.unwrap_or_else(|failure| {
            tracing::warn!(
                message_id = catalog::DEVICE_ASTRAY,
                netns = self.name().as_deref(),
                errno = failure.errno,
                "a plugin's device was moved away, and it is not known where to: {failure}"
            );
            None
        })
    }

    /// Stops listening once no plugin wants device events here: every listener costs the senders.
    pub(super) fn unwatch_if_idle(&self, net: &Net) {
        if !net.watched() {
            self.links.unsubscribe(self.cookie);
        }
    }

    /// Lets the namespace go: nothing else of ours keeps it.
    pub(super) fn release(&self) {
        self.links.unsubscribe(self.cookie);
        self.pin.write().unwrap_or_else(PoisonError::into_inner).take();
    }
}

fn failure(what: &str, e: &std::io::Error) -> Failure {
    let errno = e.raw_os_error();
    let why =
        errno.map_or_else(|| e.to_string(), |errno| Error::from(std::io::Error::from_raw_os_error(errno)).to_string());
    Failure::new(errno.unwrap_or(libc::EIO), format!("{what}: {why}"))
}

impl Namespace for Handle {
    fn enter(&self) -> Result<(), Failure> {
        self.0.with_pin(ns::enter).map_err(|e| failure("cannot enter the namespace", &e))
    }

    fn home(&self) -> Result<(), Failure> {
        ns::home().map_err(|e| failure("cannot come home from the namespace", &e))
    }

    fn socket(&self, spec: &SockSpec) -> Result<Box<dyn Sock>, Failure> {
        let pin = self.0.pin().map_err(|e| failure("cannot reach the namespace", &e))?;
        let inside = current_hook().is_some_and(|hook| hook.cookie == Some(self.0.cookie));
        Ok(Box::new(self.0.sockets.parts()?.world.create(spec, (self.0.cookie, pin), inside)?))
    }

    fn left_open(&self, socket: &Socket) {
        let (plugin, netns, age) = (&*socket.owner.name, &*socket.netns(), socket.born.elapsed().as_secs());
        let (family, kind) = (&socket.family, sock_type_name(socket.kind));
        let generation = socket.owner.generation;
        tracing::warn!(
            message_id = catalog::SOCKET_LEFT_OPEN,
            plugin,
            netns,
            generation,
            "left {socket} open: {family} {kind}, {age} s old; it is shut"
        );
    }
}

impl Links for Handle {
    fn list(&self) -> Result<Vec<Link>, Failure> {
        // Subscribe first: what changes between the two is in the stream and in the dump, never in neither.
        let pin = self.0.pin().map_err(|e| failure("cannot subscribe to the namespace's link events", &e))?;
        self.0.links.subscribe(self.0.cookie, pin.as_fd())?;
        drop(pin);
        self.enter()?;
        Ok(rtnetlink::dump_links()?)
    }

    fn create(
        &self,
        wanted: &Wanted<'_>,
        peer: Option<(&Net, &Wanted<'_>)>,
    ) -> Result<(Created, Option<Created>), Failure> {
        let Some((net, far)) = peer else { return Ok((device::create(wanted)?, None)) };
        let (near, far) = device::create_pair(wanted, far, &*pin_of(net)?)?;
        Ok((near, Some(far)))
    }

    fn is_left(&self, wanted: &Wanted<'_>) -> Result<bool, Failure> {
        Ok(device::is_marked(wanted)?)
    }

    fn delete(&self, ifindex: u32) -> Result<(), Failure> {
        Ok(rtnetlink::delete_index(ifindex)?)
    }

    fn change(&self, ifindex: u32, change: &LinkChange<'_>) -> Result<(), Failure> {
        match *change {
            LinkChange::Up => rtnetlink::set_up(ifindex)?,
            LinkChange::Down => rtnetlink::set_down(ifindex)?,
            LinkChange::Name(name) => rtnetlink::rename(ifindex, name)?,
            LinkChange::Mtu(mtu) => rtnetlink::set_mtu(ifindex, mtu)?,
            LinkChange::Address(address) => rtnetlink::set_address(ifindex, address)?,
            LinkChange::Master(master) => rtnetlink::set_master(ifindex, master)?,
            LinkChange::AddAltName(name) => rtnetlink::add_alt_name(ifindex, name)?,
            LinkChange::DelAltName(name) => rtnetlink::del_alt_name(ifindex, name)?,
            LinkChange::MoveTo { net, ifindex: there, name } => {
                rtnetlink::move_as(ifindex, pin_of(net)?.as_fd(), there, name)?;
            }
        }
        Ok(())
    }

    fn reopen(&self, ifindex: u32, spec: &LinkSpec, queues: Queues) -> Result<Queues, Failure> {
        device::reopen(ifindex, spec, queues)
    }

    fn fence(&self) -> Result<u64, Failure> {
        // Of a namespace that nobody listens to, nothing old can come, whoever else is listened to.
        let listened = self.0.links.subscription(self.0.cookie).is_some();
        Ok(if listened { self.0.links.fence() } else { 0 })
    }

    fn look(&self, ifindex: u32) -> Result<Option<Link>, Failure> {
        Ok(rtnetlink::look(ifindex)?.map(|described| described.link))
    }

    fn waiting(&self, device: &str, holders: &[Holder]) {
        let (netns, count, holders) = (self.0.name(), holders.len(), listed(holders));
        tracing::warn!(
            message_id = catalog::DEVICE_WAITS,
            netns = netns.as_deref(),
            device,
            holders,
            "waiting for {device} to become free. Usage count = {count}: {holders}"
        );
    }

    fn leaked(&self, device: &str, holders: &[Holder]) {
        let (netns, count, holders) = (self.0.name(), holders.len(), listed(holders));
        tracing::error!(
            message_id = catalog::DEVICE_LEAKED,
            netns = netns.as_deref(),
            device,
            holders,
            "{device} did not become free and is given up. Usage count = {count}: {holders}; it stays listed \
             until these let it go"
        );
    }

    fn told(&self, event: &NetdevEvent<'_>) {
        self.0.devices.told(event);
    }

    fn refused(&self, event: &NetdevEvent<'_>, failure: &Failure) {
        self.0.devices.refused(event, failure);
    }

    fn noted(&self, error: &HookError) {
        complain(std::slice::from_ref(error));
    }
}

/// The way into another namespace, which is this daemon's as well.
pub(super) fn place_of(net: &Net) -> Option<&Place> {
    let namespace: &dyn Any = net.namespace();
    namespace.downcast_ref::<Handle>().map(|handle| &*handle.0)
}

/// The descriptor that pins another namespace.
pub(super) fn pin_of(net: &Net) -> Result<Arc<Pin>, Failure> {
    let gone = || std::io::Error::from_raw_os_error(libc::ESTALE);
    let pin = place_of(net).ok_or_else(gone).and_then(Place::pin);
    pin.map_err(|e| failure("cannot reach the other namespace", &e))
}

fn listed(holders: &[Holder]) -> String {
    let each: Vec<String> = holders.iter().map(|holder| format!("{} ({})", holder.plugin, holder.purpose)).collect();
    each.join(", ")
}
