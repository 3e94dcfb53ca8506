//! Protocol families: the kernel's own by number, plugins' by name. `sock_register`, `sock_unregister`.
//!
//! Mirrors `net_families` of `net/socket.c`. A plugin offers a family by a name instead of a number, since there is no
//! authority that deals out numbers to plugins; the names of the kernel's own count as taken. Who calls a family, and
//! what a socket is, is `socket.rs`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::failure::{EEXIST, EINVAL, ENOBUFS, ENOENT, EPERM, Failure};
use super::member::{At, Owner};
use super::socket::Connection;

/// At most so many families of plugins (K6.8).
pub const NPROTO: usize = 64;

/// The longest name, in bytes.
const NAME: usize = 63;

/// What a plugin does for a family that it offers (`struct net_proto_family`). Called inside the namespace, under its
/// RTNL.
pub trait NetProtoFamily: Send + Sync {
    /// Somebody connects. The socket is the plugin's, unless this fails.
    fn connected(&self, at: &At<'_>, connection: &Connection) -> Result<(), Failure>;
}

/// A family that a plugin offers.
pub struct Family {
    /// By which others know it.
    pub name: Arc<str>,
    /// Whose it is.
    pub owner: Arc<Owner>,
    pub(super) ops: Arc<dyn NetProtoFamily>,
}

/// All families of plugins. The lock is held for a look-up only.
#[derive(Default)]
pub struct Families(Mutex<BTreeMap<Arc<str>, Arc<Family>>>);

impl Families {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Arc<Family>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The family of this name, if some plugin offers it.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<Family>> {
        self.lock().get(name).cloned()
    }

    /// All of them, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Family>> {
        self.lock().values().cloned().collect()
    }
}

/// `sock_register`: offers a family by its name, in every namespace in which the plugin acts.
///
/// # Errors
/// `EINVAL` for what is no name, `EEXIST` for a name that is taken, `ENOBUFS` if there are too many (K6.8).
pub fn sock_register(
    families: &Families,
    owner: &Arc<Owner>,
    name: &str,
    ops: Arc<dyn NetProtoFamily>,
) -> Result<(), Failure> {
    if !valid_name(name) {
        let what = "a family's name has 1 to 63 letters a-z, digits, `-` and `_`, and begins with a letter";
        return Err(Failure::new(EINVAL, format!("protocol family `{name}`: {what}")));
    }
    let taken = |by: &str| {
        Err(Failure::new(EEXIST, format!("protocol family `{name}`: {by} has it already; choose another name")))
    };
    if KERNELS.iter().any(|(_, kernels)| *kernels == name) {
        return taken("the kernel");
    }
    let mut all = families.lock();
    if let Some(family) = all.get(name) {
        return taken(&format!("plugin `{}`", family.owner.name));
    }
    if all.len() >= NPROTO {
        let what = format!("protocol family `{name}`: there are {NPROTO} already, and no more can be");
        return Err(Failure::new(ENOBUFS, what));
    }
    let name: Arc<str> = name.into();
    all.insert(name.clone(), Arc::new(Family { name, owner: owner.clone(), ops }));
    Ok(())
}

/// `sock_unregister`: one's own only, unlike the kernel's. Who is connected stays so (K6.8).
///
/// # Errors
/// `ENOENT` for one that is not there, `EPERM` for somebody else's.
pub fn sock_unregister(families: &Families, owner: &Arc<Owner>, name: &str) -> Result<(), Failure> {
    let mut all = families.lock();
    let family = all.get(name).ok_or_else(|| Failure::new(ENOENT, format!("there is no protocol family `{name}`")))?;
    if !Arc::ptr_eq(&family.owner, owner) {
        let what = format!("protocol family `{name}` is plugin `{}`'s", family.owner.name);
        return Err(Failure::new(EPERM, what));
    }
    let gone = all.remove(name);
    drop(all);
    // Its ops may hold the last of its plugin: not under the lock.
    drop(gone);
    Ok(())
}

fn valid_name(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    name.len() <= NAME && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(fits)
}

/// A socket's family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SockFamily {
    /// The kernel's, `AF_*`.
    Kernel(i32),
    /// A plugin's.
    Plugin(Arc<str>),
}

impl fmt::Display for SockFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SockFamily::Plugin(name) => f.write_str(name),
            SockFamily::Kernel(number) => match KERNELS.iter().find(|(known, _)| known == number) {
                Some((_, name)) => f.write_str(name),
                None => write!(f, "af-{number}"),
            },
        }
    }
}

/// The operator's word for a socket type, `SOCK_*`.
#[must_use]
pub fn sock_type_name(kind: i32) -> &'static str {
    let word = TYPES.iter().find(|(known, _)| *known == kind);
    word.map_or("unknown", |(_, name)| name)
}

/// The socket type of this word.
#[must_use]
pub fn sock_type(name: &str) -> Option<i32> {
    TYPES.iter().find(|(_, known)| *known == name).map(|(kind, _)| *kind)
}

const TYPES: [(i32, &str); 7] =
    [(1, "stream"), (2, "dgram"), (3, "raw"), (4, "rdm"), (5, "seqpacket"), (6, "dccp"), (10, "packet")];

/// Linux's numbers (`include/linux/socket.h`), by the names that the manual uses, in lower case.
const KERNELS: [(i32, &str); 45] = [
    (0, "unspec"),
    (1, "unix"),
    (2, "inet"),
    (3, "ax25"),
    (4, "ipx"),
    (5, "appletalk"),
    (6, "netrom"),
    (7, "bridge"),
    (8, "atmpvc"),
    (9, "x25"),
    (10, "inet6"),
    (11, "rose"),
    (12, "decnet"),
    (13, "netbeui"),
    (14, "security"),
    (15, "key"),
    (16, "netlink"),
    (17, "packet"),
    (18, "ash"),
    (19, "econet"),
    (20, "atmsvc"),
    (21, "rds"),
    (22, "sna"),
    (23, "irda"),
    (24, "pppox"),
    (25, "wanpipe"),
    (26, "llc"),
    (27, "ib"),
    (28, "mpls"),
    (29, "can"),
    (30, "tipc"),
    (31, "bluetooth"),
    (32, "iucv"),
    (33, "rxrpc"),
    (34, "isdn"),
    (35, "phonet"),
    (36, "ieee802154"),
    (37, "caif"),
    (38, "alg"),
    (39, "nfc"),
    (40, "vsock"),
    (41, "kcm"),
    (42, "qipcrtr"),
    (43, "smc"),
    (44, "xdp"),
];
