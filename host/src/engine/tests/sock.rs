//! Two namespaces, two plugins, and descriptors in memory: each is shut at most once and closed once, and the journal says when.
//!
//! A call is written `k.socket(FAMILY,TYPE)@COOKIE`, `k.left(NUMBER)@…`, `k.shut(NUMBER)@…`, `k.close(NUMBER)@…`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::recorder::*;
use crate::engine::*;

/// All that are open, by number: which namespace each keeps.
#[derive(Default)]
pub(super) struct Drawer {
    open: Mutex<BTreeMap<i32, Option<u64>>>,
    last: Mutex<i32>,
}

impl Drawer {
    /// Open descriptors.
    pub(super) fn open(&self) -> Vec<i32> {
        self.open.lock().unwrap().keys().copied().collect()
    }

    /// Those of them that keep this namespace.
    pub(super) fn keeping(&self, cookie: u64) -> Vec<i32> {
        let open = self.open.lock().unwrap();
        open.iter().filter(|(_, keeps)| **keeps == Some(cookie)).map(|(number, _)| *number).collect()
    }
}

struct Descriptor {
    number: i32,
    cookie: u64,
    world: Arc<World>,
}

impl World {
    /// A descriptor in this namespace.
    pub(super) fn sock(self: &Arc<Self>, cookie: u64) -> Box<dyn Sock> {
        let mut last = self.socks.last.lock().unwrap();
        *last += 1;
        self.socks.open.lock().unwrap().insert(*last, Some(cookie));
        Box::new(Descriptor { number: *last, cookie, world: self.clone() })
    }
}

impl Sock for Descriptor {
    fn number(&self) -> i32 {
        self.number
    }

    fn shut(&self) -> Result<(), Failure> {
        let call = format!("k.shut({})@{}", self.number, self.cookie);
        let kept = self.world.socks.open.lock().unwrap().insert(self.number, None);
        assert_eq!(kept, Some(Some(self.cookie)), "{call}: it is open, and not shut yet");
        self.world.called_nowhere(&call)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        let open = self.world.socks.open.lock().unwrap().remove(&self.number);
        assert!(open.is_some(), "{} is closed once", self.number);
        self.world.note(format!("k.close({})@{}", self.number, self.cookie));
    }
}

pub(super) const INET: i32 = 2;
pub(super) const STREAM: i32 = 1;
pub(super) const DGRAM: i32 = 2;
pub(super) const EBADF: i32 = 9;
pub(super) const ENFILE: i32 = 23;
pub(super) const EAFNOSUPPORT: i32 = 97;
const PATIENCE: Duration = Duration::from_secs(10);

/// Two namespaces with the plugins `a` and `b` in both, and room for eight sockets.
pub(super) struct Room {
    pub(super) world: Arc<World>,
    pub(super) list: PernetList,
    pub(super) fs: Arc<SockFs>,
    pub(super) families: Families,
    pub(super) nets: Vec<Arc<Net>>,
    pub(super) a: Arc<Owner>,
    pub(super) b: Arc<Owner>,
}

pub(super) fn room() -> Room {
    let (world, list) = (World::new(), PernetList::new());
    let a = add(&list, world.plugin("a", 0).subsys(), &[]).owner.clone();
    let b = add(&list, world.plugin("b", 1).subsys().device(), &[]).owner.clone();
    let nets: Vec<_> = [1, 2].map(|cookie| world.net(cookie, &["lo"])).into();
    nets.iter().for_each(|net| assert_eq!(set_up(&list, net).state, NetState::Live));
    world.take();
    Room { world, list, fs: SockFs::new(8, (5, 6)), families: Families::default(), nets, a, b }
}

pub(super) fn udp() -> SockSpec {
    SockSpec { family: INET, kind: DGRAM, protocol: 0 }
}

impl Room {
    pub(super) fn net(&self, cookie: usize) -> &Arc<Net> {
        &self.nets[cookie - 1]
    }

    pub(super) fn create(&self, cookie: usize, owner: &Arc<Owner>, spec: SockSpec) -> Result<Arc<Socket>, Failure> {
        sock_create(&self.fs, self.net(cookie), owner, spec, Instant::now())
    }

    pub(super) fn made(&self, cookie: usize, owner: &Arc<Owner>) -> Arc<Socket> {
        self.create(cookie, owner, udp()).unwrap()
    }

    pub(super) fn release(&self, owner: &Owner, ino: u64) -> Result<(), Failure> {
        sock_release(&self.fs, owner, ino)
    }

    pub(super) fn inos(&self) -> Vec<u64> {
        self.fs.sockets().iter().map(|socket| socket.ino()).collect()
    }

    pub(super) fn register(&self, owner: &Arc<Owner>, name: &str) -> Result<(), Failure> {
        let ops = Ears { world: self.world.clone(), fs: self.fs.clone(), drops: false };
        sock_register(&self.families, owner, name, Arc::new(ops))
    }

    /// Somebody connects, as a job of the namespace.
    pub(super) fn connect(&self, cookie: usize, name: &str) -> Result<(), Failure> {
        let family = self.families.find(name).expect("it is offered");
        let token = self.list.read().unwrap();
        let peer = Ucred { uid: 5, gid: 6, pid: 7 };
        let sock = self.world.sock(self.net(cookie).cookie.0);
        let call = Call { kind: STREAM, sock, peer, born: Instant::now() };
        sock_connect(&self.list, Some(&token), &self.fs, (self.net(cookie), &family), call, PATIENCE)
    }

    /// Nothing of a socket is anywhere.
    pub(super) fn assert_empty(&self) {
        assert_eq!((self.inos(), self.fs.in_use(), self.world.socks.open()), (vec![], 0, vec![]));
    }
}

pub(super) fn errno<T>(answer: Result<T, Failure>) -> i32 {
    answer.map(drop).unwrap_err().errno
}

/// A family that records.
pub(super) struct Ears {
    pub(super) world: Arc<World>,
    pub(super) fs: Arc<SockFs>,
    /// Releases what it gets at once, as a plugin in Rust does that fails.
    pub(super) drops: bool,
}

impl NetProtoFamily for Ears {
    fn connected(&self, at: &At<'_>, connection: &Connection) -> Result<(), Failure> {
        self.world.assert_inside(at.net, "connected");
        let Connection { socket, peer } = connection;
        assert_eq!((peer.uid, peer.gid, peer.pid), (5, 6, 7));
        assert!(self.fs.find(socket.ino()).is_some(), "it is there when the plugin is told");
        if self.drops {
            sock_release(&self.fs, &socket.owner, socket.ino()).unwrap();
        }
        let call = format!("{}.connected({})@{}", socket.owner.name, socket.family, at.net.cookie.0);
        self.world.called(&call, at.net)
    }
}
