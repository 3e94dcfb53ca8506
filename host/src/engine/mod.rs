//! The registration model: what an observation means, and who is called because of it.
//!
//! Mirrors the kernel's `net_namespace.c` (pernet operations), the notifier chains of `dev.c`, the RTNL with its todo
//! list, and the initcalls. Straight-line blocking code over traits ([`Namespace`], [`Operations`], [`NotifierBlock`]):
//! no descriptor, no file, no clock beyond bounded waits, no loading. So all of it runs in a test without root.
//!
//! Not here: finding namespaces (`discovery`), acting in them (`linux`), calling plugins (`plugin`), deciding when
//! (`daemon`). Hooks of one [`Net`] must be asked for by one job at a time; jobs of different nets run in parallel.

mod change;
mod ctl_file;
mod ctl_kind;
mod ctl_header;
mod ctl_table;
mod ctl_value;
mod destination;
mod external;
mod failure;
mod family;
mod fence;
mod filesystem;
mod gate;
mod generic;
mod initcall;
mod links;
mod make;
mod member;
mod mirror;
mod mount;
mod name;
mod names;
mod net;
mod net_chain;
mod netdev;
mod notifier;
mod order;
mod pernet;
mod refs;
mod register;
mod relocate;
mod rtnl;
mod setup;
mod socket;
mod sockfs;
mod superblock;
mod sysctl;
mod todo;
mod undo;
mod unregister;
mod upper;
mod unwind;
mod walk;

pub use change::{altname_add, altname_del, dev_change_name, dev_close, dev_open, dev_set_mac_address, dev_set_mtu};
pub use ctl_file::{Credentials, CtlAccess, CtlFile, sysctl_perm};
pub use ctl_header::{CtlHeader, in_unregistered_table};
pub use ctl_table::{CtlAt, CtlData, CtlEntry, CtlKind, CtlTable};
pub use ctl_value::Number;
pub use failure::{Failure, HookError};
pub use family::{
    Families, Family, NPROTO, NetProtoFamily, SockFamily, sock_register, sock_type, sock_type_name, sock_unregister,
};
pub use filesystem::{FileSystemType, FileSystems, Unmounted};
pub use gate::Blocked;
pub use generic::Area;
pub use initcall::{Blacklist, Called, Initcall, Level, Outcome, Run, Watch, do_initcalls, do_one_initcall, obstacle};
pub use links::{Created, EthtoolStat, Holder, Link, LinkChange, LinkSpec, Links, Queues, Stats, Wanted};
pub use member::{At, Class, Member, NotifierBlock, OnInitFailure, Operations, Owner, Registration, Selects};
pub use mirror::{LinkObservation, NetDevice, Observed, Seen, links_seen};
pub use mount::{Carrier, Mount, MountRef, in_ended_mount};
pub use name::dev_valid_name;
pub use names::{HOST, Names, NetChange, Observation, escape};
pub use net::{Namespace, Net, NetState};
pub use net_chain::{register_notifier_net, unregister_notifier_net};
pub use netdev::{NetDeviceOps, OwnDevice, alloc_netdev, free_netdev};
pub use notifier::NetdevEvent;
pub use order::{Item, OrderError, order};
pub use pernet::{PernetList, ReadToken, WriteToken, register, renumber, unregister};
pub use pernet_plugin_api::RegState;
pub use refs::{NetdevRef, dev_hold};
pub use register::{register_netdev, register_netdevice, register_pair};
pub use relocate::{Departed, arrived, dev_change_net_namespace, lost};
pub use rtnl::{HeldRtnl, LockError, Rtnl, RtnlGuard, RtnlPair, lock_two};
pub use setup::{Setup, cleanup_all, cleanup_net, rejudge_net, setup_net};
pub use socket::{
    Call, Connection, Sock, SockSpec, Socket, Ucred, sock_adopt, sock_connect, sock_create, sock_release,
    sock_release_all,
};
pub use sockfs::{SOCK_MODE, SockFs, sock_fs_type};
pub use superblock::{FileSystem, MountRequest, ROOT_INO, SuperBlock};
pub use sysctl::{CtlFound, CtlNode, CtlSet, register_net_sysctl};
pub use todo::{NotDeferred, Work};
pub use unregister::{unregister_many, unregister_netdev};
pub use unwind::{Step, Undo, do_steps};
pub use upper::dev_set_master;
pub use walk::work_in;

#[cfg(test)]
mod tests;
