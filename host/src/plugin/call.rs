//! The call edge: the engine's traits over the ABI. Every call into an instance goes through [`Inner::ask`].
//!
//! A call is admitted (the instance is there, and not poisoned unless it is an exit), shown as running on its thread,
//! timed, and reported. The plugin catches its own panics and says so; a first panic poisons the instance.
//!
//! Not here: entering the namespace and holding its lock, which the caller has done.

use super::fs::FileOp;
use super::inner::Inner;
use super::ndo::Ndo;
use super::running::Guard;
use super::status::failure_of;
use crate::engine::{Area, At, Failure, NetdevEvent, NotifierBlock, Operations};
use abi_stable::std_types::RSlice;
use pernet_plugin_api::abi::{AreaHandle, DeviceEvent, InstanceHandle, NetInfo, PluginModRef, Status};
use pernet_plugin_api::{EventKind, ExitReason, NetCookie, Verdict};
use std::sync::Arc;

/// What can be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    Load,
    Check,
    Init,
    Drop,
    PernetInit,
    PernetPreExit,
    PernetExit,
    PernetExitBatch,
    PernetFree,
    Netdev(EventKind),
    Ndo(Ndo),
    NetdevFree,
    EthtoolStats,
    CtlRead,
    CtlWrite,
    CtlFree,
    Work,
    DropWork,
    SockConnected,
    FsMount,
    FsKillSb,
    File(FileOp),
}

impl Hook {
    /// As the operator sees it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Hook::Load => "plugin.load",
            Hook::Check => "plugin.check",
            Hook::Init => "plugin.init",
            Hook::Drop => "plugin.drop",
            Hook::PernetInit => "pernet.init",
            Hook::PernetPreExit => "pernet.pre_exit",
            Hook::PernetExit => "pernet.exit",
            Hook::PernetExitBatch => "pernet.exit_batch",
            Hook::PernetFree => "pernet.free",
            Hook::Work => "work.run",
            Hook::DropWork => "work.drop",
            Hook::Netdev(kind) => kind.hook_name(),
            Hook::Ndo(ndo) => ndo.as_str(),
            Hook::NetdevFree => "netdev.free",
            Hook::EthtoolStats => "netdev.get_ethtool_stats",
            Hook::FsMount => "fs.mount",
            Hook::FsKillSb => "fs.kill_sb",
            Hook::File(op) => op.as_str(),
            Hook::SockConnected => "sock.connected",
            Hook::CtlRead => "sysctl.read",
            Hook::CtlWrite => "sysctl.write",
            Hook::CtlFree => "sysctl.free",
        }
    }

    /// So many of them have an [`index`](Self::index) below this, with room for more events.
    pub(super) const INDICES: usize = 72;

    /// A number of its own.
    pub(super) fn index(self) -> usize {
        match self {
            Hook::Load => 0,
            Hook::Check => 1,
            Hook::Init => 2,
            Hook::Drop => 3,
            Hook::PernetInit => 4,
            Hook::PernetPreExit => 5,
            Hook::PernetExit => 6,
            Hook::PernetExitBatch => 7,
            Hook::PernetFree => 8,
            Hook::Work => 9,
            Hook::DropWork => 10,
            Hook::NetdevFree => 11,
            Hook::EthtoolStats => 12,
            Hook::FsMount => 13,
            Hook::FsKillSb => 14,
            Hook::SockConnected => 15,
            Hook::CtlRead => 16,
            Hook::CtlWrite => 17,
            Hook::CtlFree => 18,
            Hook::File(op) => 20 + op as usize,
            Hook::Ndo(ndo) => 30 + ndo as usize,
            Hook::Netdev(kind) => 40 + kind as usize,
        }
    }

    /// Whether a panicked instance is still asked for it.
    fn is_exit(self) -> bool {
        use Hook::{CtlFree, DropWork, FsKillSb, NetdevFree, PernetExit, PernetExitBatch, PernetFree, PernetPreExit};
        match self {
            PernetPreExit | PernetExit | PernetExitBatch | PernetFree | DropWork | NetdevFree | CtlFree | FsKillSb => {
                true
            }
            Hook::Ndo(ndo) => ndo.is_exit(),
            Hook::File(op) => op == FileOp::Release,
            _ => false,
        }
    }

    /// Whether its calls are told even when all went well; freeing memory is nobody's event, and neither is a look.
    fn is_told(self) -> bool {
        match self {
            Hook::PernetFree | Hook::DropWork | Hook::NetdevFree | Hook::EthtoolStats | Hook::CtlFree => false,
            Hook::CtlRead | Hook::File(_) => false,
            Hook::Ndo(ndo) => ndo.is_told(),
            _ => true,
        }
    }

    /// Whether an error of it is an answer to somebody outside, rather than something that went wrong.
    fn errors_are_answers(self) -> bool {
        matches!(self, Hook::File(_))
    }
}

/// Where a hook is called, for attribution.
pub(super) struct Place<'a> {
    /// The namespace's name; empty at home and for several.
    pub(super) netns: Arc<str>,
    /// The last in lock order of the namespaces that it is in.
    pub(super) last: Option<NetCookie>,
    /// The other one, where it is in two.
    pub(super) other: Option<NetCookie>,
    pub(super) device: Option<&'a str>,
    /// The caller holds nothing for it: it is on any thread, in no namespace and under no lock.
    pub(super) is_free: bool,
}

impl Place<'static> {
    pub(super) fn home() -> Self {
        Place { netns: Arc::from(""), last: None, other: None, device: None, is_free: false }
    }

    /// For what concerns a namespace and is called from anywhere.
    pub(super) fn nowhere(netns: Arc<str>) -> Self {
        Place { netns, is_free: true, ..Place::home() }
    }
}

/// The ops of a plugin's pernet registration.
pub(super) struct PernetCaller {
    pub(super) instance: Arc<Inner>,
    pub(super) op: u32,
}

/// A plugin's notifier.
pub(super) struct NotifierCaller {
    pub(super) instance: Arc<Inner>,
    pub(super) number: u32,
}

impl Inner {
    /// Calls into the instance. `call` gives the status and what else was answered.
    pub(super) fn ask<T>(
        &self,
        hook: Hook,
        place: &Place<'_>,
        call: impl FnOnce(PluginModRef, InstanceHandle) -> (Status, T),
    ) -> Result<T, Failure> {
        let gone =
            || Failure::new(libc::ESTALE, format!("plugin `{}` is gone; {} was not called", self.name, hook.as_str()));
        let _pass = self.gate.enter().ok_or_else(gone)?;
        let handle = self.handle().ok_or_else(gone)?;
        if self.is_poisoned() && !hook.is_exit() {
            let why =
                format!("plugin `{}` panicked earlier; only its exits are called until it is reloaded", self.name);
            return Err(Failure::new(libc::EIO, why));
        }
        let guard = Guard::enter(self.running(hook, place));
        let (status, value) = call(self.code.module, handle);
        let called = (guard.since, guard.since.elapsed());
        drop(guard);
        let failure = failure_of(&status);
        let is_wrong = failure.as_ref().is_some_and(|failure| failure.panicked || !hook.errors_are_answers());
        self.figures.count(hook, called.1, is_wrong);
        if hook.is_told() || is_wrong {
            self.report(hook, place, failure.as_ref(), called);
        }
        match failure {
            None => Ok(value),
            Some(failure) => {
                if failure.panicked {
                    self.poison(&failure);
                }
                Err(failure)
            }
        }
    }

    pub(super) fn run_work(&self, work: u64, nets: &[At<'_>]) -> Result<(), Failure> {
        let netns = nets.first().map_or_else(|| Arc::from(""), |at| at.net.name());
        let last = nets.iter().map(|at| at.net.cookie).max();
        let other = nets.iter().map(|at| at.net.cookie).find(|cookie| Some(*cookie) != last);
        let place = Place { netns, last, other, device: None, is_free: false };
        with_infos(nets, |infos| {
            self.ask(Hook::Work, &place, |table, instance| (table.run_work()(instance, work, infos), ()))
        })
    }

    pub(super) fn drop_work(&self, work: u64) -> Result<(), Failure> {
        self.ask(Hook::DropWork, &Place::home(), |table, instance| (table.drop_work()(instance, work), ()))
    }
}

impl Operations for PernetCaller {
    fn init(&self, at: &At<'_>) -> Result<Area, Failure> {
        with_info(at, None, |place, net| {
            self.instance.ask(Hook::PernetInit, place, |table, instance| {
                let answer = table.pernet_init()(instance, self.op, net);
                (answer.status, Area(answer.area.0))
            })
        })
    }

    fn pre_exit(&self, at: &At<'_>, reason: ExitReason) -> Result<(), Failure> {
        with_info(at, None, |place, net| {
            self.instance.ask(Hook::PernetPreExit, place, |table, instance| {
                (table.pernet_pre_exit()(instance, self.op, net, reason as u8), ())
            })
        })
    }

    fn exit(&self, at: &At<'_>, reason: ExitReason) -> Result<(), Failure> {
        with_info(at, None, |place, net| {
            self.instance.ask(Hook::PernetExit, place, |table, instance| {
                (table.pernet_exit()(instance, self.op, net, reason as u8), ())
            })
        })
    }

    fn exit_batch(&self, nets: &[At<'_>], reason: ExitReason) -> Result<(), Failure> {
        // It runs at home, so nothing of a namespace is held; one namespace is still worth naming.
        let mut place = Place::home();
        if let [only] = nets {
            place.netns = only.net.name();
        }
        with_infos(nets, |infos| {
            self.instance.ask(Hook::PernetExitBatch, &place, |table, instance| {
                (table.pernet_exit_batch()(instance, self.op, infos, reason as u8), ())
            })
        })
    }

    fn free(&self, area: Area) -> Result<(), Failure> {
        self.instance.ask(Hook::PernetFree, &Place::home(), |table, instance| {
            (table.pernet_free()(instance, self.op, AreaHandle(area.0)), ())
        })
    }
}

impl NotifierBlock for NotifierCaller {
    fn call(&self, at: &At<'_>, event: &NetdevEvent<'_>) -> Result<Verdict, Failure> {
        let device = &event.device.link;
        let told = DeviceEvent {
            kind: event.kind as u8,
            replay: u8::from(event.replay),
            ifindex: device.ifindex,
            mtu: device.mtu,
            flags: device.flags,
            master: device.master,
            serial: event.device.serial,
            name: device.name.as_str().into(),
            old_name: event.old_name.unwrap_or_default().into(),
            link_kind: device.kind.as_str().into(),
            address: device.address.as_slice().into(),
        };
        with_info(at, Some(&device.name), |place, net| {
            self.instance.ask(Hook::Netdev(event.kind), place, |table, instance| {
                let answer = table.netdev_event()(instance, self.number, net, &told);
                match Verdict::from_u8(answer.verdict) {
                    Some(verdict) => (answer.status, verdict),
                    None if answer.status.errno != 0 => (answer.status, Verdict::Done),
                    None => (no_verdict(answer.verdict), Verdict::Done),
                }
            })
        })
    }
}

/// Only a plugin that is not made with the macro can answer this.
fn no_verdict(answered: u8) -> Status {
    let message = format!("it answered {answered}, which is no verdict");
    Status { errno: libc::EIO, panicked: 0, message: message.into() }
}

/// Most plugins have few ops: their handles are copied to the stack.
const FEW: usize = 8;

/// One namespace, for attribution and for the plugin; its name is asked for once.
pub(super) fn with_info<R>(at: &At<'_>, device: Option<&str>, f: impl FnOnce(&Place<'_>, &NetInfo<'_>) -> R) -> R {
    let place = Place { netns: at.net.name(), last: Some(at.net.cookie), other: None, device, is_free: false };
    let info = |areas: &[AreaHandle]| {
        let (name, areas) = ((&*place.netns).into(), RSlice::from_slice(areas));
        f(&place, &NetInfo { cookie: at.net.cookie.0, generation: at.net.generation, name, areas })
    };
    let mut few = [AreaHandle(0); FEW];
    match few.get_mut(..at.areas.len()) {
        Some(areas) => {
            areas.iter_mut().zip(at.areas).for_each(|(handle, area)| handle.0 = area.0);
            info(areas)
        }
        None => info(&handles(at)),
    }
}

fn with_infos<R>(nets: &[At<'_>], f: impl FnOnce(RSlice<'_, NetInfo<'_>>) -> R) -> R {
    let names: Vec<Arc<str>> = nets.iter().map(|at| at.net.name()).collect();
    let areas: Vec<Vec<AreaHandle>> = nets.iter().map(handles).collect();
    let all = nets.iter().zip(&names).zip(&areas);
    let infos: Vec<NetInfo<'_>> = all
        .map(|((at, name), areas)| NetInfo {
            cookie: at.net.cookie.0,
            generation: at.net.generation,
            name: (&**name).into(),
            areas: RSlice::from_slice(areas),
        })
        .collect();
    f(RSlice::from_slice(&infos))
}

fn handles(at: &At<'_>) -> Vec<AreaHandle> {
    at.areas.iter().map(|area| AreaHandle(area.0)).collect()
}
