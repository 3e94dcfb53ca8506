//! The interface between pernetd and its plugins.
//!
//! Two halves. The safe layer is what an author writes against: [`Plugin`], [`PernetOps`], [`Notifier`], [`Host`],
//! [`NetDeviceOps`] with the [`datapath`], [`FileSystem`], and the [`export_plugin!`] macro; it shows neither `unsafe` nor the ABI. The ABI half ([`abi`], [`note`]) is what
//! the daemon's loader speaks: plain data, opaque handles and descriptors, in both directions, under frozen rules.
//!
//! Not here: how the daemon loads, orders or calls plugins.
//!
//! # The smallest useful plugin
//!
//! A crate with `crate-type = ["cdylib"]`, this crate as its only dependency, and:
//!
//! ```
#![doc = include_str!("../examples/smallest.rs")]
//! ```
//!
//! # Logs
//!
//! A plugin logs with [`tracing`], from any thread. The daemon adds plugin, instance, and, inside a hook, namespace, hook and
//! device; a text need not say these. Fields are shown behind the text unless it says them, and in the journal each is a
//! field of its own: `address` becomes `PERNET_ADDRESS`. On a thread of the plugin's own nobody but the plugin knows where
//! it acts: there its fields `netns` and `device` become `PERNET_NETNS` and `PERNET_DEVICE`. A field `errno` with a number
//! becomes `ERRNO`, and `message_id` with 32 hexadecimal digits becomes `MESSAGE_ID`, for a catalog of the plugin's own.

pub mod abi;
pub mod note;
mod errno;
mod error;
mod net;
mod netdev;
mod field;
mod figures;
mod plugin;
mod pernet;
mod notifier;
mod host;
mod work;
mod log;
mod guard;
mod attribute;
mod spec;
mod netdev_ops;
mod ndo;
mod own;
mod chain;
mod dev;
pub mod datapath;
mod knob;
mod ctl_table;
mod sysctl;
mod filesystem;
mod super_block;
mod socket;
mod packet;
mod lent;
mod area;
mod export;

pub use chain::NotifierId;
pub use ctl_table::CtlTable;
pub use datapath::{Batch, Datapath, Frame, Framing, Queue, VnetHeader};
pub use errno::name as errno_name;
pub use error::{Error, Result};
pub use field::{FieldStep, field_key, field_steps};
pub use figures::{Figure, Figures, HookFigures};
pub use filesystem::{DirEntry, FileAttr, FileCaller, FileSystem, KernMount, MountRequest, OpenFile};
pub use host::{Host, Registrar};
pub use knob::{BoolKnob, IntKnob, TextKnob, UintKnob, UlongKnob};
pub use net::{ExitReason, NetCookie};
pub use netdev::{DeviceInfo, EventKind, RegState, Verdict};
pub use netdev_ops::{NdoDevice, NetDeviceOps, Stats};
pub use notifier::{Device, Event, Notifier};
pub use own::{Netdev, NetdevInfo, NetdevRef};
pub use pernet::{Net, PernetId, PernetOps};
pub use plugin::{ConfigError, NoConfig, Plugin};
pub use socket::{Connection, Socket, SocketFamily};
pub use spec::{MacvlanMode, NetdevSpec, Vxlan};
pub use sysctl::CtlHeader;
pub use tracing;

/// What a plugin's file usually needs: `use pernet_plugin_api::prelude::*;`.
pub mod prelude {
    pub use crate::{
        Batch, BoolKnob, ConfigError, Connection, CtlHeader, CtlTable, Datapath, Device, DirEntry, Error, Event,
        EventKind, ExitReason, FileAttr, FileCaller, FileSystem, Frame, Host, IntKnob, KernMount, MountRequest,
        NdoDevice, Net, NetCookie, NetDeviceOps, Netdev, NetdevInfo, NetdevRef, NetdevSpec, NoConfig, Notifier,
        NotifierId, OpenFile, PernetId, PernetOps, Plugin, Queue, RegState, Registrar, Result, Socket, SocketFamily,
        Stats, TextKnob, UintKnob, UlongKnob, Verdict, export_plugin, tracing,
    };
}

/// What [`export_plugin!`] expands to; not for use by hand.
#[doc(hidden)]
pub mod __private {
    pub use crate::export::{header, module};
    pub use abi_stable::library::LibHeader;
}
