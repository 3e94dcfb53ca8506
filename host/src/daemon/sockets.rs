//! Plugins' sockets and protocol families: what plugins and clients ask for, on a thread that may do it.
//!
//! A socket is made by whichever thread has a seat: the hook's that asks, else a worker's; no lock of a namespace is
//! needed for it, and the loop is not asked. To connect to a family is to call a hook, so it is a job of its namespace.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, SendError, bounded};

use super::place::pin_of;
use super::services::{RUN_IN, Services, gone, wait_for};
use super::{Daemon, Event};
use crate::control::{ControlError, ErrorKind, Reply, SockConnect, wire};
use crate::engine::{
    self, Call, Failure, Families, Family, Net, Owner, PernetList, ReadToken, SockFs, SockSpec, Socket, Ucred,
};
use crate::linux::ns;
use crate::linux::socket::{self, Descriptor};
use crate::linux::worker::Workers;
use crate::plugin::InstanceRef;
use crate::plugin::running::in_engine;

/// All sockets and families.
pub(super) struct Sockets {
    pub(super) families: Families,
    /// Between `sock_init` and its undo. Held for a look-up only.
    parts: RwLock<Option<Arc<Parts>>>,
    /// How many sockets plugins may have.
    most: AtomicUsize,
}

/// What is there when sockets can be made.
pub(super) struct Parts {
    pub(super) fs: Arc<SockFs>,
    /// How descriptors are made and shut.
    pub(super) world: Arc<socket::Sockets>,
    pub(super) workers: Arc<Workers>,
}

impl Sockets {
    /// Without what `sock_init` makes: until then nobody gets any. Half of what the process may have open is for plugins:
    /// the daemon needs descriptors of its own, one for each namespace.
    pub(super) fn new() -> Arc<Self> {
        let most = AtomicUsize::new(socket::descriptor_limit() / 2);
        Arc::new(Sockets { families: Families::default(), parts: RwLock::default(), most })
    }

    pub(super) fn parts(&self) -> Result<Arc<Parts>, Failure> {
        let parts = self.parts.read().unwrap_or_else(PoisonError::into_inner).clone();
        parts.ok_or_else(|| Failure::new(libc::ENODEV, "there are no sockets: sock_init has failed, see the log"))
    }

    /// From now on sockets can be made, or with `None` no more.
    pub(super) fn set_parts(&self, parts: Option<Arc<Parts>>) {
        let before = std::mem::replace(&mut *self.parts.write().unwrap_or_else(PoisonError::into_inner), parts);
        drop(before);
        self.set_most(self.most());
    }

    /// How many sockets plugins may have.
    pub(super) fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// Has it be so many.
    pub(super) fn set_most(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
        if let Ok(parts) = self.parts() {
            parts.fs.set_most(most);
        }
    }

    /// An instance has ended: whatever it still has is released.
    pub(super) fn take_back(&self, owner: &Owner) {
        if let Ok(parts) = self.parts() {
            engine::sock_release_all(&parts.fs, owner);
        }
    }
}

impl Sockets {
    fn create(self: &Arc<Self>, net: Arc<Net>, owner: Arc<Owner>, spec: SockSpec) -> Result<Arc<Socket>, Failure> {
        let (born, parts) = (Instant::now(), self.parts()?);
        if ns::has_seat() {
            return engine::sock_create(&parts.fs, &net, &owner, spec, born);
        }
        // Without room, so that what nobody takes any more comes back.
        let (reply, answer) = bounded(0);
        let fs = Arc::clone(&parts.fs);
        let make = move || {
            let made = engine::sock_create(&fs, &net, &owner, spec, born);
            if let Err(SendError(Ok(late))) = reply.send(made) {
                let _ = engine::sock_release(&fs, &owner, late.ino());
            }
        };
        if !parts.workers.run_anywhere(Box::new(make)) {
            return Err(Failure::new(libc::ESTALE, "the daemon is stopping"));
        }
        answer.recv_timeout(RUN_IN).unwrap_or_else(|e| {
            Err(match e {
                RecvTimeoutError::Timeout => {
                    Failure::new(libc::ETIMEDOUT, format!("no worker was free for {} s", RUN_IN.as_secs()))
                }
                RecvTimeoutError::Disconnected => Failure::new(libc::EIO, "pernetd itself panicked in this call"),
            })
        })
    }

    fn family(&self, name: &str) -> Result<Arc<Family>, Failure> {
        let none = || Failure::new(libc::EAFNOSUPPORT, format!("no plugin offers protocol family `{name}`"));
        self.families.find(name).ok_or_else(none)
    }

    /// Tells the family that somebody connects, whose end is then given. On a thread with a seat.
    fn call(&self, list: &PernetList, token: Option<&ReadToken>, to: &To, kind: i32) -> Result<Descriptor, Failure> {
        let (near, far) = self.parts()?.world.pair(kind, pin_of(&to.net)?)?;
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        self.tell(list, token, to, kind, near, Ucred { uid, gid, pid: std::process::id() })?;
        Ok(far)
    }

    fn tell(
        &self,
        list: &PernetList,
        token: Option<&ReadToken>,
        to: &To,
        kind: i32,
        near: Descriptor,
        peer: Ucred,
    ) -> Result<(), Failure> {
        let call = Call { kind, sock: Box::new(near), peer, born: Instant::now() };
        engine::sock_connect(list, token, &self.parts()?.fs, (&to.net, &to.family), call, RUN_IN)
    }
}

/// Where a connection goes.
struct To {
    net: Arc<Net>,
    family: Arc<Family>,
}

impl Services {
    pub(super) fn create_socket(
        &self,
        instance: &InstanceRef,
        cookie: u64,
        spec: SockSpec,
    ) -> Result<(u64, i32), Failure> {
        let (owner, net) = (self.owners.get(instance)?, self.net(cookie)?);
        let socket = self.sockets.create(net, owner, spec)?;
        Ok((socket.ino(), socket.number()))
    }

    pub(super) fn release_socket(&self, instance: &InstanceRef, ino: u64) -> Result<(), Failure> {
        engine::sock_release(&self.sockets.parts()?.fs, &*self.owners.get(instance)?, ino)
    }

    /// At once where this thread's hook may go there itself, else as a job of its own; waits for it.
    pub(super) fn connect_to(
        &self,
        instance: &InstanceRef,
        cookie: u64,
        family: &str,
        kind: i32,
    ) -> Result<(u64, i32), Failure> {
        let (owner, list) = (self.owners.get(instance)?, self.list.upgrade().ok_or_else(gone)?);
        let to = To { net: self.net(cookie)?, family: self.sockets.family(family)? };
        let (net, family) = (Arc::clone(&to.net), Arc::clone(&to.family));
        let far = if in_engine() {
            self.sockets.call(&list, None, &to, kind)?
        } else {
            let (reply, answer) = bounded(1);
            let sockets = Arc::clone(&self.sockets);
            let call = move |token: &ReadToken| {
                let _ = reply.send(sockets.call(&list, Some(token), &to, kind));
            };
            self.events.send(Event::Hook(net.cookie, Box::new(call))).map_err(|_| gone())?;
            wait_for(&answer, instance)?
        };
        let parts = self.sockets.parts()?;
        let fs = &parts.fs;
        let socket = engine::sock_adopt(fs, &net, &owner, (&family, kind), Box::new(far), Instant::now())?;
        // Asked again: whoever ends the instance releases what it has after it is no more an owner.
        if let Err(gone) = self.owners.get(instance) {
            let _ = engine::sock_release(fs, &owner, socket.ino());
            return Err(gone);
        }
        Ok((socket.ino(), socket.number()))
    }
}

impl Daemon {
    pub(super) fn sock_list(&self, netns: Option<&str>, reply: Reply<Vec<wire::Socket>>) {
        let cookie = match netns.map(|name| self.by_name(name).map(|net| net.cookie).ok_or(name)).transpose() {
            Ok(cookie) => cookie,
            Err(name) => return reply.send(Err(ControlError::no_such_netns(name))),
        };
        let sockets = Arc::clone(&self.shared.sockets);
        self.looks.run_anywhere(Box::new(move || {
            let all = sockets.parts().map(|parts| parts.fs.sockets()).unwrap_or_default().into_iter();
            let wanted = all.filter(|socket| cookie.is_none_or(|cookie| socket.cookie == cookie));
            reply.send(Ok(wanted.map(|socket| row(&socket)).collect()));
        }));
    }

    /// A job of the namespace: the family's hook is called there, and the answer is what it says.
    pub(super) fn sock_connect(&mut self, ask: SockConnect) {
        let SockConnect { netns, family, kind, uid, gid, pid, fd, reply } = ask;
        let peer = Ucred { uid, gid, pid };
        let place = format!("protocol family {family} in namespace {netns}");
        let Some(net) = self.by_name(&netns).cloned() else {
            return reply.send(Err(ControlError::no_such_netns(&netns)));
        };
        let sockets = Arc::clone(&self.shared.sockets);
        let to = match sockets.family(&family) {
            Ok(family) => To { net, family },
            Err(failure) => return reply.send(Err(refused(place, &failure))),
        };
        let Some(kind) = engine::sock_type(&kind) else {
            let (what, remedy) = (format!("{kind} is no socket type"), "use stream, dgram or seqpacket");
            return reply.send(Err(ControlError::new(ErrorKind::Invalid, place, what, remedy)));
        };
        let (list, cookie) = (Arc::clone(&self.shared.list), to.net.cookie);
        self.submit(
            cookie,
            Box::new(move |token| {
                // Whoever asked has gone, and so has the other end.
                if !reply.abandoned() {
                    let told = sockets.connect(&list, token, &to, kind, fd, peer);
                    reply.send(told.map_err(|failure| refused(place, &failure)));
                }
            }),
        );
    }
}

impl Sockets {
    fn connect(
        &self,
        list: &PernetList,
        token: &ReadToken,
        to: &To,
        kind: i32,
        fd: OwnedFd,
        peer: Ucred,
    ) -> Result<(), Failure> {
        let near = self.parts()?.world.adopt(fd, kind, pin_of(&to.net)?)?;
        self.tell(list, Some(token), to, kind, near, peer)
    }
}

fn refused(place: String, failure: &Failure) -> ControlError {
    let (kind, remedy) = match failure.errno {
        libc::EAFNOSUPPORT => (ErrorKind::NotFound, "see `pernetctl plugin list`, and where the plugin acts"),
        libc::EINVAL => (ErrorKind::Invalid, "connect with another socket"),
        libc::ESTALE => (ErrorKind::Unavailable, "see `pernetctl netns list`"),
        _ => (ErrorKind::Failed, "see the plugin's log, and connect again"),
    };
    ControlError::new(kind, place, failure.to_string(), remedy)
}

fn row(socket: &Socket) -> wire::Socket {
    wire::Socket {
        ino: socket.ino(),
        netns: socket.netns().to_string(),
        owner: socket.owner.name.to_string(),
        family: socket.family.to_string(),
        r#type: engine::sock_type_name(socket.kind).to_owned(),
        protocol: u64::try_from(socket.protocol).unwrap_or_default(),
        age_ms: millis(socket.born.elapsed()),
        state: if socket.is_shut() { "shut" } else { "open" }.to_owned(),
    }
}

fn millis(age: Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
}
