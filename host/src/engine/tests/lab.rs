//! A list and some namespaces, ready for devices of plugins' own.
//!
//! Plugin `a` owns devices and listens to nothing; `w` and `x` listen, `w` before `x`. Every net has `lo` and all three.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pernet_plugin_api::{ExitReason, RegState};

use super::ndo::*;
use super::recorder::*;
use crate::engine::*;

const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Lab {
    pub(super) world: Arc<World>,
    pub(super) list: PernetList,
    pub(super) nets: Vec<Arc<Net>>,
    pub(super) a: Arc<Owner>,
    /// What the ops of a device record under, by its id.
    labels: HashMap<u64, String>,
}

pub(super) type Answer = Result<(), Failure>;

/// With so many namespaces: 1, 2, …
pub(super) fn lab(nets: u64) -> Lab {
    let (world, list) = (World::new(), PernetList::new());
    let a = add(&list, world.plugin("a", 0).subsys(), &[]).owner.clone();
    add(&list, world.plugin("w", 1).notifier(0), &[]);
    add(&list, world.plugin("x", 2).notifier(0), &[]);
    let nets: Vec<_> = (1..=nets).map(|cookie| world.net(cookie, &["lo"])).collect();
    nets.iter().for_each(|net| assert_eq!(set_up(&list, net).state, NetState::Live));
    world.take();
    Lab { world, list, nets, a, labels: HashMap::new() }
}

impl Lab {
    /// The namespace with this cookie.
    pub(super) fn net(&self, cookie: u64) -> &Arc<Net> {
        self.nets.iter().find(|net| net.cookie.0 == cookie).unwrap()
    }

    /// Recorded under its name as wanted; or, where another one is, under that and a number.
    pub(super) fn own(&self, spec: LinkSpec) -> Arc<OwnDevice> {
        self.try_own(spec).unwrap()
    }

    pub(super) fn try_own(&self, spec: LinkSpec) -> Result<Arc<OwnDevice>, Failure> {
        let known = |label: &String| self.world.ledger.knows(&format!("a.{label}"));
        let numbered = (2..).map(|n| format!("{}#{n}", spec.name));
        let label = std::iter::once(spec.name.clone()).chain(numbered).find(|label| !known(label)).unwrap();
        alloc_netdev(&self.a, spec, self.world.ops(&self.a, &label), None)
    }

    /// A pair of veth ends; the second names the first as its other end.
    pub(super) fn pair(&self, first: &str, second: &str) -> (Arc<OwnDevice>, Arc<OwnDevice>) {
        let one = self.own(spec("veth", first));
        let label = if first == second { format!("{second}#2") } else { second.to_owned() };
        let other = self.world.own_peered(&self.a, &label, spec("veth", second), Some(one.clone()));
        (one, other)
    }

    /// As a plugin's work: inside, under the locks. What was left for after the unlock has run when it returns.
    pub(super) fn inside<R>(&self, cookies: &[u64], f: impl FnOnce() -> Result<R, Failure>) -> Result<R, Failure> {
        let nets: Vec<_> = cookies.iter().map(|cookie| self.net(*cookie).clone()).collect();
        let mut answer = None;
        let token = self.list.read().unwrap();
        let worked = work_in(&self.list, Some(&token), &nets, &self.a, PATIENCE, |_| {
            answer = Some(f()?);
            Ok(())
        });
        assert_home();
        worked.map(|()| answer.unwrap())
    }

    /// The same for one call on a device in one namespace.
    pub(super) fn held<R>(
        &self,
        cookie: u64,
        f: impl FnOnce(&RtnlGuard<'_>) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        self.inside(&[cookie], || f(&*self.net(cookie).rtnl().assert_rtnl()?))
    }

    pub(super) fn register(&self, dev: &Arc<OwnDevice>) -> Answer {
        self.register_in(1, dev)
    }

    pub(super) fn register_in(&self, cookie: u64, dev: &Arc<OwnDevice>) -> Answer {
        self.held(cookie, |held| register_netdevice(held, self.net(cookie), dev))
    }

    /// `first` in 1, `second` in the other namespace (or both in 1).
    pub(super) fn register_pair(&self, first: &Arc<OwnDevice>, second: &Arc<OwnDevice>, there: u64) -> Answer {
        let cookies = if there == 1 { vec![1] } else { vec![1, there] };
        self.inside(&cookies, || {
            let (here, over) = (self.net(1), self.net(there));
            let held = (here.rtnl().assert_rtnl()?, over.rtnl().assert_rtnl()?);
            register_pair((&held.0, &held.1), (here, over), (first, second))
        })
    }

    pub(super) fn unregister(&self, dev: &Arc<OwnDevice>) -> Answer {
        self.unregister_in(1, std::slice::from_ref(dev))
    }

    pub(super) fn unregister_in(&self, cookie: u64, devs: &[Arc<OwnDevice>]) -> Answer {
        self.held(cookie, |held| unregister_many(&[held], devs))
    }

    pub(super) fn open(&self, dev: &Arc<OwnDevice>) -> Answer {
        self.held(1, |held| dev_open(held, dev))
    }

    pub(super) fn close(&self, dev: &Arc<OwnDevice>) -> Answer {
        self.held(1, |held| dev_close(held, dev))
    }

    pub(super) fn rename(&self, dev: &Arc<OwnDevice>, name: &str) -> Answer {
        self.held(1, |held| dev_change_name(held, dev, name))
    }

    pub(super) fn set_mtu(&self, dev: &Arc<OwnDevice>, mtu: u32) -> Answer {
        self.held(1, |held| dev_set_mtu(held, dev, mtu))
    }

    /// From 1 to another namespace.
    pub(super) fn travel(&self, dev: &Arc<OwnDevice>, to: u64, pattern: Option<&str>, ifindex: u32) -> Answer {
        self.inside(&[1, to], || {
            let held = (self.net(1).rtnl().assert_rtnl()?, self.net(to).rtnl().assert_rtnl()?);
            dev_change_net_namespace((&held.0, &held.1), dev, self.net(to), pattern, ifindex)
        })
    }

    /// A registered device, with an empty journal.
    pub(super) fn registered(&self, spec: LinkSpec) -> Arc<OwnDevice> {
        let dev = self.own(spec);
        self.register(&dev).unwrap();
        assert_eq!(dev.reg_state(), RegState::Registered);
        self.world.take();
        dev
    }

    pub(super) fn opened(&self, spec: LinkSpec) -> Arc<OwnDevice> {
        let dev = self.registered(spec);
        self.open(&dev).unwrap();
        self.world.take();
        dev
    }

    pub(super) fn unregister_timeout(&self, timeout: Duration) {
        self.list.set_unregister_timeout(timeout);
    }

    /// How long until UNREGISTER is told again, and until the holders are named.
    pub(super) fn unregister_pace(&self, retell: Duration, warn: Duration) {
        self.list.set_unregister_pace(retell, warn, PATIENCE);
    }

    pub(super) fn take(&self) -> Vec<String> {
        self.world.take()
    }

    pub(super) fn calls(&self, label: &str) -> Calls {
        self.world.ledger.of(&format!("a.{label}"))
    }

    pub(super) fn settle(&self) -> Vec<HookError> {
        self.world.settle(&self.list)
    }

    /// Once quiet, each mirror is what the kernel has.
    pub(super) fn assert_agrees(&self) {
        for net in self.nets.iter().filter(|net| net.watched()) {
            let mirror: Vec<Link> = net.devices().iter().map(|dev| dev.link.clone()).collect();
            assert_eq!(mirror, self.world.kernel.links(net.cookie.0), "the mirror of {net:?}");
        }
    }

    pub(super) fn die(&self, cookie: u64) -> Vec<HookError> {
        let errors = clean_up(&self.list, self.net(cookie), ExitReason::Died);
        self.world.kernel.dies(cookie);
        errors
    }

    pub(super) fn label_all(&mut self, devs: &[(&Arc<OwnDevice>, &str)]) {
        self.labels.extend(devs.iter().map(|(dev, label)| (dev.id, (*label).to_owned())));
    }

    pub(super) fn label(&self, dev: &OwnDevice) -> &str {
        &self.labels[&dev.id]
    }

    /// From here on the n-th call of anything fails: hooks, ops, and what the kernel is asked.
    pub(super) fn fail_nth(&self, nth: usize) {
        self.world.count_again();
        self.world.kernel_fails.store(true, Ordering::SeqCst);
        self.world.fail_nth.store(nth, Ordering::SeqCst);
    }
}

/// The errno of a refusal.
pub(super) fn refused<R: std::fmt::Debug>(answer: Result<R, Failure>) -> i32 {
    answer.unwrap_err().errno
}
