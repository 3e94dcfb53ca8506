//! Devices of plugins' own: ops that record every call and fail on demand, and a ledger of what must balance.
//!
//! A call is written as the recorder's are: `a.ndo_init(t0)@1`, `a.ndo_change_mtu(t0=1400)@1`; and, where no namespace
//! is concerned, `a.destructor(t0)`, `a.free(t0)`. What must hold at every call is asserted here: inside the right
//! namespace, under its lock, never an uninit without an init, a stop without an open, or anything after the free.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::recorder::World;
use crate::engine::*;

/// What was called, and succeeded where it may fail, of one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Calls {
    pub(super) init: u32,
    pub(super) uninit: u32,
    pub(super) open: u32,
    pub(super) stop: u32,
    pub(super) destructor: u32,
    pub(super) free: u32,
}

/// By plugin and label.
#[derive(Default)]
pub(super) struct Ledger(Mutex<BTreeMap<String, Calls>>);

impl Ledger {
    fn enter(&self, who: &str, change: impl FnOnce(&mut Calls)) {
        let mut calls = self.0.lock().unwrap();
        let calls = calls.entry(who.to_owned()).or_default();
        assert_eq!(calls.free, 0, "{who} is called after its free");
        change(calls);
        assert!(calls.init >= calls.uninit && calls.init - calls.uninit <= 1, "{who}: {calls:?}");
        assert!(calls.open >= calls.stop && calls.open - calls.stop <= 1, "{who}: {calls:?}");
        assert!(calls.destructor <= calls.uninit, "{who}: one destructor for each uninit at most: {calls:?}");
    }

    pub(super) fn of(&self, who: &str) -> Calls {
        self.0.lock().unwrap().get(who).copied().unwrap_or_default()
    }

    pub(super) fn knows(&self, who: &str) -> bool {
        self.0.lock().unwrap().contains_key(who)
    }

    pub(super) fn is_open(&self, who: &str) -> bool {
        self.of(who).open > self.of(who).stop
    }

    /// Nothing is half done: every init has its uninit and its destructor, every open its stop.
    pub(super) fn assert_balanced(&self) {
        for (who, calls) in &*self.0.lock().unwrap() {
            assert_eq!((calls.init, calls.open), (calls.uninit, calls.stop), "{who}: {calls:?}");
            assert_eq!(calls.init, calls.destructor, "{who}: {calls:?}");
        }
    }

    /// And everything that was allocated is freed.
    pub(super) fn assert_all_freed(&self) {
        for (who, calls) in &*self.0.lock().unwrap() {
            assert_eq!(calls.free, 1, "{who}: {calls:?}");
        }
    }
}

struct Ndo {
    world: Arc<World>,
    plugin: String,
    label: String,
}

impl Ndo {
    fn who(&self) -> String {
        format!("{}.{}", self.plugin, self.label)
    }

    fn call(&self, hook: &str, at: &At<'_>, dev: &NetDevice, value: &str) -> Result<(), Failure> {
        self.world.assert_inside(at.net, hook);
        assert!(dev.own.is_some(), "{hook} is for a device of a plugin's own");
        let name = &dev.link.name;
        self.world.called(&format!("{}.{hook}({name}{value})@{}", self.plugin, at.net.cookie.0), at.net)
    }

    fn enter(&self, change: impl FnOnce(&mut Calls)) {
        self.world.ledger.enter(&self.who(), change);
    }
}

impl NetDeviceOps for Ndo {
    fn init(&self, at: &At<'_>, dev: &NetDevice) -> Result<(), Failure> {
        self.enter(|_| {});
        self.call("ndo_init", at, dev, "")?;
        self.enter(|calls| calls.init += 1);
        Ok(())
    }

    fn uninit(&self, at: &At<'_>, dev: &NetDevice) -> Result<(), Failure> {
        self.enter(|calls| calls.uninit += 1);
        assert!(!self.world.ledger.is_open(&self.who()), "{} is stopped before its uninit", self.label);
        self.call("ndo_uninit", at, dev, "")
    }

    fn open(&self, at: &At<'_>, dev: &NetDevice, queues: Option<&Queues>) -> Result<(), Failure> {
        assert_eq!(queues.is_some(), matches!(dev.link.kind.as_str(), "tun" | "tap"), "queues are tun's and tap's");
        self.call("ndo_open", at, dev, "")?;
        self.enter(|calls| calls.open += 1);
        Ok(())
    }

    fn stop(&self, at: &At<'_>, dev: &NetDevice) -> Result<(), Failure> {
        self.enter(|calls| calls.stop += 1);
        self.call("ndo_stop", at, dev, "")
    }

    fn change_mtu(&self, at: &At<'_>, dev: &NetDevice, mtu: u32) -> Result<(), Failure> {
        self.enter(|_| {});
        self.call("ndo_change_mtu", at, dev, &format!("={mtu}"))
    }

    fn set_mac_address(&self, at: &At<'_>, dev: &NetDevice, address: &[u8]) -> Result<(), Failure> {
        self.enter(|_| {});
        self.call("ndo_set_mac_address", at, dev, &format!("={}", address.last().copied().unwrap_or_default()))
    }

    fn get_stats(&self) -> Result<Stats, Failure> {
        Ok(Stats::default())
    }

    fn destructor(&self) -> Result<(), Failure> {
        self.enter(|calls| calls.destructor += 1);
        self.world.called_nowhere(&format!("{}.destructor({})", self.plugin, self.label))
    }

    fn free(&self) -> Result<(), Failure> {
        self.enter(|calls| calls.free += 1);
        self.world.called_nowhere(&format!("{}.free({})", self.plugin, self.label))
    }
}

/// A device of this kind by this name (or pattern), and otherwise nothing special.
pub(super) fn spec(kind: &str, name: &str) -> LinkSpec {
    LinkSpec {
        name: name.into(),
        alt_names: Vec::new(),
        kind: kind.into(),
        data: Vec::new(),
        address: Vec::new(),
        mtu: 0,
        min_mtu: 0,
        max_mtu: 0,
        ifindex: 0,
        link: 0,
        queues: u32::from(matches!(kind, "tun" | "tap")),
        offloads: false,
        needs_free: false,
        immutable: false,
    }
}

pub(super) fn tap(name: &str) -> LinkSpec {
    spec("tap", name)
}

impl World {
    /// A device with ops that record under this label. It is in the ledger from here on.
    pub(super) fn own_peered(
        self: &Arc<Self>,
        owner: &Arc<Owner>,
        label: &str,
        spec: LinkSpec,
        peer: Option<Arc<OwnDevice>>,
    ) -> Arc<OwnDevice> {
        alloc_netdev(owner, spec, self.ops(owner, label), peer).unwrap()
    }

    pub(super) fn ops(self: &Arc<Self>, owner: &Arc<Owner>, label: &str) -> Arc<dyn NetDeviceOps> {
        let ops = Ndo { world: self.clone(), plugin: owner.name.to_string(), label: label.into() };
        ops.enter(|_| {});
        Arc::new(ops)
    }

    pub(super) fn own(self: &Arc<Self>, owner: &Arc<Owner>, label: &str, spec: LinkSpec) -> Arc<OwnDevice> {
        self.own_peered(owner, label, spec, None)
    }
}
