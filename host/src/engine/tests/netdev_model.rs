//! Random lives of plugins' own devices against a small reference model.
//!
//! The model knows of each device where it is, what it is called, whether it is up, and its MTU. While nothing is on the
//! way it predicts what each call answers and does; with messages on the way, or something failing, it takes what the
//! kernel has and asks for what must hold all the same. Once quiet, the model, the engine, the kernel, the ledger of the
//! ops and what the listeners were told agree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use pernet_plugin_api::{EventKind, ExitReason, RegState};
use proptest::prelude::*;

use super::kernel::Descriptors;
use super::lab::*;
use super::ndo::*;
use super::recorder::*;
use crate::engine::*;

const SLOTS: usize = 5;
const NETS: u64 = 3;
/// A namespace that nobody manages.
const ELSEWHERE: u64 = 9;
const NAMES: [&str; 5] = ["d0", "d1", "d2", "d%d", "e%d"];

#[derive(Clone, Debug)]
enum Action {
    Register(usize, u64, usize, bool),
    Pair(usize, usize, u64, u64),
    Unregister(usize),
    Rename(usize, usize),
    Mtu(usize, u32),
    Up(usize),
    Down(usize),
    Move(usize, u64),
    /// Another program's.
    Deletes(usize),
    Renames(usize, usize),
    Ups(usize),
    Downs(usize),
    Mtus(usize, u32),
    Moves(usize, u64),
    Adds(u64, usize),
    Removes(u64),
    /// The n-th call of what comes next fails; or is a veto.
    Fail(usize, bool),
    Deliver(usize),
    Settle,
    Lose,
    RemovePlugin,
    Die(u64),
}

fn action() -> impl Strategy<Value = Action> {
    let slot = || 0..SLOTS;
    let net = || 1..=NETS;
    let name = || 0..NAMES.len();
    let mtu = || prop_oneof![Just(60u32), Just(1400), Just(1500), Just(9000), Just(70000)];
    prop_oneof![
        8 => (slot(), net(), name(), any::<bool>()).prop_map(|(s, n, m, b)| Action::Register(s, n, m, b)),
        3 => (slot(), slot(), net(), net()).prop_map(|(a, b, n, m)| Action::Pair(a, b, n, m)),
        3 => slot().prop_map(Action::Unregister),
        3 => (slot(), name()).prop_map(|(s, n)| Action::Rename(s, n)),
        2 => (slot(), mtu()).prop_map(|(s, m)| Action::Mtu(s, m)),
        5 => slot().prop_map(Action::Up),
        2 => slot().prop_map(Action::Down),
        4 => (slot(), net()).prop_map(|(s, n)| Action::Move(s, n)),
        2 => slot().prop_map(Action::Deletes),
        2 => (slot(), 0..3usize).prop_map(|(s, n)| Action::Renames(s, n)),
        2 => slot().prop_map(Action::Ups),
        2 => slot().prop_map(Action::Downs),
        1 => (slot(), Just(1300u32)).prop_map(|(s, m)| Action::Mtus(s, m)),
        2 => (slot(), prop_oneof![net(), Just(ELSEWHERE)]).prop_map(|(s, n)| Action::Moves(s, n)),
        2 => (net(), 0..3usize).prop_map(|(n, name)| Action::Adds(n, name)),
        1 => net().prop_map(Action::Removes),
        4 => (1..14usize, any::<bool>()).prop_map(|(n, veto)| Action::Fail(n, veto)),
        4 => (1..4usize).prop_map(Action::Deliver),
        8 => Just(Action::Settle),
        2 => Just(Action::Lose),
        1 => Just(Action::RemovePlugin),
        1 => net().prop_map(Action::Die),
    ]
}

/// A device as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Expected {
    net: u64,
    name: String,
    up: bool,
    mtu: u32,
}

struct Slot {
    dev: Arc<OwnDevice>,
    label: String,
    /// Its mark in the kernel, which nobody changes.
    address: Vec<u8>,
    kind: &'static str,
    /// The slot of a veth's other end.
    peer: Option<usize>,
    is: Expected,
    /// Another program moved it, and that was not read yet.
    away: bool,
}

/// What a listener knows, by serial: the name, and whether it is up.
type View = BTreeMap<u64, (String, bool)>;

struct Model {
    lab: Lab,
    slots: BTreeMap<usize, Slot>,
    last: u8,
    /// Nothing is on the way.
    quiet: bool,
    /// Something failed, or vetoed: who comes later in the chain may have missed something.
    harmed: bool,
    armed: bool,
    /// Messages were lost since everything was read, or somebody's end was first.
    lost: bool,
    /// The kernel was made to refuse a deletion since then.
    undeleted: bool,
    lives: u32,
    views: BTreeMap<(char, u64), View>,
}

impl Model {
    fn new() -> Self {
        let lab = lab(NETS);
        let (slots, quiet, harmed, armed) = (BTreeMap::new(), true, false, false);
        let mut model = Model {
            lab,
            slots,
            last: 0,
            quiet,
            harmed,
            armed,
            lost: false,
            undeleted: false,
            lives: 1,
            views: BTreeMap::new(),
        };
        model.read();
        model
    }

    fn kernel(&self) -> &super::kernel::Kernel {
        &self.lab.world.kernel
    }

    /// Where the kernel has the device, and as what.
    fn real(&self, slot: &Slot) -> Option<(Expected, u32)> {
        let nets = (1..=NETS).chain([ELSEWHERE]);
        nets.flat_map(|net| self.kernel().links(net).into_iter().map(move |link| (net, link)))
            .find(|(_, link)| link.address == slot.address)
            .map(|(net, l)| (Expected { net, name: l.name.clone(), up: l.is_up(), mtu: l.mtu }, l.ifindex))
    }

    /// What the name is there, or that it cannot be had.
    fn resolve(&self, net: u64, pattern: &str) -> Option<String> {
        let taken = |name: &str| self.kernel().find(net, name).is_some();
        match pattern.split_once("%d") {
            None => Some(pattern.to_owned()).filter(|name| !taken(name)),
            Some((stem, _)) => (0..).map(|unit| format!("{stem}{unit}")).find(|name| !taken(name)),
        }
    }

    fn act(&mut self, action: &Action) {
        let armed = std::mem::take(&mut self.armed);
        if let Action::Fail(nth, veto) = action {
            self.lab.fail_nth(*nth);
            self.lab.world.nth_is_a_veto.store(*veto, Ordering::SeqCst);
            self.armed = true;
            return;
        }
        self.harmed |= armed;
        self.step(action, armed);
        // One that was moved away, unread, and whose index went to another device, is taken for gone when something is
        // done there: what would tell where it went is older than that.
        use Action::{Down, Move, Mtu, Pair, Register, Rename, Up};
        let acts = matches!(action, Register(..) | Pair(..) | Move(..) | Rename(..) | Mtu(..) | Up(..) | Down(..));
        let ended = |slot: &Slot| slot.away && slot.dev.reg_state() == RegState::Unregistered;
        self.lost |= acts && self.slots.values().any(ended);
        self.lab.world.heal();
        if armed {
            // Whatever could not be looked at is found by the next list.
            self.lose();
            self.undeleted |= self.lab.world.failed().starts_with("k.delete");
        }
        self.sweep();
        self.read();
        if matches!(action, Action::Settle) {
            self.settle();
        }
        if self.quiet {
            self.check(action);
        }
    }

    fn step(&mut self, action: &Action, armed: bool) {
        match *action {
            Action::Register(slot, net, name, tap) => self.register(slot, net, NAMES[name], tap, armed),
            Action::Pair(a, b, here, there) => self.pair(a, b, here, there, armed),
            Action::Unregister(slot) => self.unregister(slot, armed),
            Action::Rename(slot, name) => self.rename(slot, NAMES[name], armed),
            Action::Mtu(slot, mtu) => {
                let fits = (68..=65535).contains(&mtu);
                self.change(slot, armed, fits, |is| is.mtu = mtu, |held, dev| dev_set_mtu(held, dev, mtu));
            }
            Action::Up(slot) => self.change(slot, armed, true, |is| is.up = true, dev_open),
            Action::Down(slot) => self.change(slot, armed, true, |is| is.up = false, dev_close),
            Action::Move(slot, net) => self.travel(slot, net, armed),
            Action::Deletes(slot) => self.other(slot, |kernel, net, ifindex| kernel.other_deletes(net, ifindex)),
            Action::Renames(slot, name) => self.other(slot, |kernel, net, ifindex| {
                let _ = kernel.state().change(net, ifindex, &LinkChange::Name(NAMES[name]));
            }),
            Action::Ups(slot) => self.other(slot, |kernel, net, ifindex| kernel.other(net, ifindex, &LinkChange::Up)),
            Action::Downs(slot) => {
                self.other(slot, |kernel, net, ifindex| kernel.other(net, ifindex, &LinkChange::Down));
            }
            Action::Mtus(slot, mtu) => {
                self.other(slot, |kernel, net, ifindex| kernel.other(net, ifindex, &LinkChange::Mtu(mtu)));
            }
            Action::Moves(slot, to) => {
                let mut went = false;
                self.other(slot, |kernel, net, ifindex| {
                    went = net != to && kernel.state().travel(net, ifindex, to, 0, None).is_ok();
                });
                if let Some(slot) = self.slots.get_mut(&slot) {
                    // Moved on before it was looked for where it went first: nobody knows where it is.
                    self.lost |= went && slot.away;
                    slot.away |= went;
                }
            }
            Action::Adds(net, name) => {
                let _ = self.kernel().other_adds(net, NAMES[name], "ifb");
                self.quiet = false;
            }
            Action::Removes(net) => {
                let foreign = self.kernel().links(net).into_iter().find(|link| link.kind == "ifb" && !self.ours(link));
                if let Some(link) = foreign {
                    self.kernel().other_deletes(net, link.ifindex);
                    self.quiet = false;
                }
            }
            Action::Deliver(most) => drop(self.lab.world.deliver(&self.lab.list, most)),
            Action::Lose => self.lose(),
            Action::RemovePlugin => self.remove_plugin(),
            Action::Die(net) => self.die(net),
            Action::Settle if armed => drop(self.lab.settle()),
            Action::Settle | Action::Fail(..) => {}
        }
    }

    fn lose(&mut self) {
        self.kernel().state().stream.lose();
        (self.quiet, self.lost) = (false, true);
    }

    /// What was moved while messages were lost, or before its end, has ended, since nobody knows where it went; and what the kernel did not
    /// delete is there. Such a link is nobody's, and is taken away here, so that it confuses nobody.
    fn sweep(&mut self) -> bool {
        let left = |slot: &Slot| self.undeleted || self.lost && slot.away;
        let gone = |slot: &Slot| left(slot) && slot.dev.reg_state() == RegState::Unregistered;
        let gone: Vec<usize> = self.slots.iter().filter(|(_, slot)| gone(slot)).map(|(key, _)| *key).collect();
        let any = !gone.is_empty();
        for key in gone {
            if let Some((real, ifindex)) = self.real(&self.slots[&key]) {
                self.kernel().other_deletes(real.net, ifindex);
                self.quiet = false;
            }
            self.ended(key);
        }
        any
    }

    fn ours(&self, link: &Link) -> bool {
        self.slots.values().any(|slot| slot.address == link.address)
    }

    /// Another program does something to a device. What it is now is read once everybody knows.
    fn other(&mut self, slot: usize, act: impl FnOnce(&super::kernel::Kernel, u64, u32)) {
        let Some((real, ifindex)) = self.slots.get(&slot).and_then(|slot| self.real(slot)) else { return };
        if real.net != ELSEWHERE {
            act(self.kernel(), real.net, ifindex);
            self.quiet = false;
        }
    }

    fn alloc(&mut self, kind: &'static str, name: &str, peer: Option<usize>) -> Slot {
        self.last += 1;
        let (label, address) = (format!("s{}", self.last), vec![2, 7, 7, 7, 7, self.last]);
        let spec = LinkSpec { address: address.clone(), ..spec(kind, name) };
        let other = peer.map(|peer| self.slots[&peer].dev.clone());
        let dev = self.lab.world.own_peered(&self.lab.a, &label, spec, other);
        let is = Expected { net: 0, name: name.to_owned(), up: false, mtu: 1500 };
        Slot { dev, label, address, kind, peer, is, away: false }
    }

    fn register(&mut self, slot: usize, net: u64, name: &str, tap: bool, armed: bool) {
        if self.slots.contains_key(&slot) {
            return;
        }
        let mut new = self.alloc(if tap { "tap" } else { "ifb" }, name, None);
        let resolved = self.resolve(net, name);
        let answer = self.lab.register_in(net, &new.dev);
        if self.quiet && !armed {
            assert_eq!(answer.is_ok(), resolved.is_some(), "register {name} in {net}: {answer:?}");
        }
        if answer.is_err() {
            assert_eq!(self.real(&new), None, "a failed registration leaves nothing: {answer:?}");
            assert_ne!(new.dev.reg_state(), RegState::Registered);
            return self.free(&new);
        }
        new.is = Expected { net, name: new.dev.device().unwrap().link.name.clone(), up: false, mtu: 1500 };
        if self.quiet && !armed {
            assert_eq!(Some(&new.is.name), resolved.as_ref());
        }
        self.slots.insert(slot, new);
    }

    fn pair(&mut self, a: usize, b: usize, here: u64, there: u64, armed: bool) {
        if a == b || self.slots.contains_key(&a) || self.slots.contains_key(&b) {
            return;
        }
        let (first, second) = (format!("va{}", self.last), format!("vb{}", self.last));
        let mut one = self.alloc("veth", &first, None);
        one.is = Expected { net: here, name: first, up: false, mtu: 1500 };
        one.peer = Some(b);
        self.slots.insert(a, one);
        let mut other = self.alloc("veth", &second, Some(a));
        other.is = Expected { net: there, name: second, up: false, mtu: 1500 };
        self.slots.insert(b, other);
        let (one, other) = (self.slots[&a].dev.clone(), self.slots[&b].dev.clone());
        let cookies = if here == there { vec![here] } else { vec![here, there] };
        let answer = self.lab.inside(&cookies, || {
            let nets = (self.lab.net(here), self.lab.net(there));
            let held = (nets.0.rtnl().assert_rtnl()?, nets.1.rtnl().assert_rtnl()?);
            register_pair((&held.0, &held.1), nets, (&one, &other))
        });
        assert!(answer.is_ok() || armed || !self.quiet, "{answer:?}");
        if answer.is_err() {
            for slot in [a, b] {
                let slot = self.slots.remove(&slot).unwrap();
                assert_eq!(self.real(&slot), None, "a failed registration leaves nothing: {answer:?}");
                assert_ne!(slot.dev.reg_state(), RegState::Registered);
                self.free(&slot);
            }
        }
    }

    fn free(&self, slot: &Slot) {
        // What dropping the ops answers is told, and it is freed all the same.
        let _ = free_netdev(&slot.dev);
        assert_eq!(slot.dev.reg_state(), RegState::Released);
        let calls = self.lab.calls(&slot.label);
        assert_eq!((calls.init, calls.open), (calls.uninit, calls.stop), "{calls:?}");
        assert_eq!(calls.free, 1);
    }

    /// Ended: nothing of it is left anywhere.
    fn ended(&mut self, slot: usize) {
        if let Some(slot) = self.slots.remove(&slot) {
            assert_eq!(slot.dev.reg_state(), RegState::Unregistered, "{} has ended", slot.label);
            self.free(&slot);
            let calls = self.lab.calls(&slot.label);
            assert_eq!((calls.init, calls.destructor), (1, 1), "{}: {calls:?}", slot.label);
        }
    }

    fn unregister(&mut self, slot: usize, armed: bool) {
        let Some(known) = self.slots.get(&slot) else { return };
        let (dev, peer) = (known.dev.clone(), known.peer);
        self.lost |= known.away;
        let Some(net) = dev.net().filter(|_| dev.reg_state() == RegState::Registered) else { return };
        let answer = self.lab.unregister_in(net.cookie.0, std::slice::from_ref(&dev));
        assert!(answer.is_ok() || armed, "{answer:?}");
        if answer.is_ok() && !armed {
            assert_eq!(dev.reg_state(), RegState::Unregistered);
        }
        self.quiet &= peer.is_none();
        if dev.reg_state() == RegState::Unregistered && peer.is_none() && self.real(&self.slots[&slot]).is_none() {
            self.ended(slot);
        }
    }

    fn change(
        &mut self,
        slot: usize,
        armed: bool,
        possible: bool,
        apply: impl FnOnce(&mut Expected),
        act: impl FnOnce(&RtnlGuard<'_>, &Arc<OwnDevice>) -> Answer,
    ) {
        let Some(known) = self.slots.get(&slot) else { return };
        let (dev, mut after) = (known.dev.clone(), known.is.clone());
        let Some(net) = dev.net().filter(|_| dev.reg_state() == RegState::Registered) else { return };
        apply(&mut after);
        let possible = possible || after == known.is;
        let before = self.real(known).map(|(real, _)| real);
        let answer = self.lab.held(net.cookie.0, |held| act(held, &dev));
        let now = self.real(&self.slots[&slot]).map(|(real, _)| real);
        if !self.quiet {
            return;
        }
        assert!(armed || answer.is_ok() == possible, "{answer:?}");
        let wanted = if answer.is_ok() { Some(after) } else { before };
        assert_eq!(now, wanted, "all or nothing: {answer:?}");
        if let (Some(known), Some(now)) = (self.slots.get_mut(&slot), now) {
            known.is = now;
        }
    }

    fn rename(&mut self, slot: usize, pattern: &str, armed: bool) {
        let Some(known) = self.slots.get(&slot) else { return };
        let resolved = self.resolve(known.is.net, pattern).or((known.is.name == pattern).then(|| pattern.to_owned()));
        let name = resolved.clone().unwrap_or_default();
        self.change(
            slot,
            armed,
            resolved.is_some(),
            |is| is.name = name,
            |held, dev| dev_change_name(held, dev, pattern),
        );
    }

    fn travel(&mut self, slot: usize, to: u64, armed: bool) {
        let Some(known) = self.slots.get(&slot) else { return };
        let dev = known.dev.clone();
        let Some(from) = dev.net().filter(|_| dev.reg_state() == RegState::Registered) else { return };
        let from = from.cookie.0;
        let before = known.is.clone();
        let clash = from != to && self.kernel().find(to, &before.name).is_some();
        let cookies = if from == to { vec![from] } else { vec![from, to] };
        let answer = self.lab.inside(&cookies, || {
            let held = (self.lab.net(from).rtnl().assert_rtnl()?, self.lab.net(to).rtnl().assert_rtnl()?);
            dev_change_net_namespace((&held.0, &held.1), &dev, self.lab.net(to), None, 0)
        });
        if !self.quiet {
            return;
        }
        assert!(armed || answer.is_ok() != clash, "{answer:?}");
        if armed && dev.reg_state() != RegState::Registered {
            // Its queues could not be opened there.
            return self.ended(slot);
        }
        let now = self.real(&self.slots[&slot]).map(|(real, _)| real).expect("a move loses nothing");
        if answer.is_ok() {
            let up = before.up && from == to;
            assert_eq!(now, Expected { net: to, up, ..before });
        } else {
            // It may have been closed before the kernel refused.
            assert_eq!(now, Expected { up: now.up && before.up, ..before }, "{answer:?}");
        }
        if let Some(known) = self.slots.get_mut(&slot) {
            known.is = now;
        }
    }

    fn remove_plugin(&mut self) {
        self.lost = true;
        unregister(&write(&self.lab.list), "a", &self.lab.nets, ExitReason::Removed);
        assert_home();
        for slot in self.slots.values() {
            assert_ne!(slot.dev.reg_state(), RegState::Registered, "its plugin is gone");
        }
        self.undeleted |= self.lab.world.failed().starts_with("k.delete");
        self.lab.world.heal();
        self.quiet = false;
        self.settle();
        assert!(self.slots.is_empty());
        self.lab.a = add(&self.lab.list, self.lab.world.plugin("a", 0).subsys(), &self.lab.nets).owner.clone();
    }

    fn die(&mut self, cookie: u64) {
        self.lost = true;
        self.lab.die(cookie);
        self.lives += 1;
        *self.lab.world.links_of(cookie).lock().unwrap() = vec![link(1, "lo")];
        let net = self.lab.world.life(cookie, self.lives);
        let at = self.lab.nets.iter().position(|net| net.cookie.0 == cookie).unwrap();
        self.lab.nets[at] = net.clone();
        self.read();
        for who in ['w', 'x'] {
            assert!(self.harmed || self.views[&(who, cookie)].is_empty(), "{who} saw everything go");
            self.views.insert((who, cookie), BTreeMap::new());
        }
        self.undeleted |= self.lab.world.failed().starts_with("k.delete");
        self.lab.world.heal();
        assert_eq!(set_up(&self.lab.list, &net).state, NetState::Live);
        self.quiet = false;
    }

    /// Everything is read, and the model takes what other programs did.
    fn settle(&mut self) {
        self.lab.settle();
        // Of two of ours that were moved meanwhile one may have been taken for the other.
        while self.sweep() {
            self.lab.settle();
        }
        self.read();
        (self.quiet, self.lost, self.undeleted) = (true, false, false);
        self.slots.values_mut().for_each(|slot| slot.away = false);
        let gone: Vec<usize> = self.slots.keys().copied().filter(|slot| self.here(*slot).is_none()).collect();
        gone.into_iter().for_each(|slot| self.ended(slot));
        for key in self.slots.keys().copied().collect::<Vec<_>>() {
            let is = self.here(key);
            if let (Some(slot), Some(is)) = (self.slots.get_mut(&key), is) {
                slot.is = is;
            }
        }
    }

    /// As the kernel has it in a namespace that somebody manages.
    fn here(&self, slot: usize) -> Option<Expected> {
        self.slots.get(&slot).and_then(|slot| self.real(slot)).map(|(is, _)| is).filter(|is| is.net != ELSEWHERE)
    }

    fn check(&mut self, action: &Action) {
        self.lab.assert_agrees();
        for (key, slot) in &self.slots {
            let dev = slot.dev.device().unwrap();
            let is = Expected {
                net: slot.dev.net().unwrap().cookie.0,
                name: dev.link.name.clone(),
                up: dev.link.is_up(),
                mtu: dev.link.mtu,
            };
            assert_eq!((&is, slot.dev.reg_state()), (&slot.is, RegState::Registered), "slot {key} after {action:?}");
            assert_eq!(dev.link.kind, if slot.kind == "tap" { "tun" } else { slot.kind });
            let calls = self.lab.calls(&slot.label);
            assert_eq!((calls.init, calls.uninit, calls.destructor), (1, 0, 0), "slot {key} after {action:?}");
            assert_eq!(calls.open > calls.stop, is.up, "slot {key} after {action:?}");
            let queues = slot.dev.life().queues.clone();
            let kept = queues.map(|queues| queues.downcast_ref::<Descriptors>().unwrap().opened);
            assert_eq!(kept, (slot.kind == "tap").then_some(is.net), "slot {key} after {action:?}");
            assert!(slot.dev.net().unwrap().own_devices().iter().any(|own| Arc::ptr_eq(own, &slot.dev)));
        }
        let known: BTreeSet<u64> = self.slots.values().map(|slot| slot.dev.id).collect();
        for net in &self.lab.nets {
            assert!(net.own_devices().iter().all(|own| known.contains(&own.id)), "nothing stays after {action:?}");
            let known = |dev: &Arc<NetDevice>| (dev.serial, (dev.link.name.clone(), dev.link.is_up()));
            let devices: View = net.devices().iter().map(known).collect();
            for who in if self.harmed { "w" } else { "wx" }.chars() {
                assert_eq!(self.views[&(who, net.cookie.0)], devices, "{who}'s view of {net:?} after {action:?}");
            }
        }
    }

    /// Holds what the listeners were told against what may follow what.
    fn read(&mut self) {
        self.lab.take();
        for told in std::mem::take(&mut *self.lab.world.told.lock().unwrap()) {
            let who = told.who.chars().next().unwrap();
            let view = self.views.entry((who, told.cookie)).or_default();
            let before = view.clone();
            let strict = who == 'w' || !self.harmed;
            let Told { kind, name, .. } = &told;
            assert!(follows(view, &told) || !strict, "{who} is told {kind:?} of {name} after {before:?}");
        }
    }

    fn end(&mut self) {
        self.lab.world.heal();
        self.lose();
        self.settle();
        self.check(&Action::Settle);
        for cookie in 1..=NETS {
            assert_eq!(self.lab.die(cookie), []);
        }
        assert!(self.kernel().ours().iter().all(|(net, _)| *net == ELSEWHERE));
        self.lab.world.ledger.assert_balanced();
    }
}

/// Whether an event may come now; and what the listener knows then: of each device its name, and whether it is up.
fn follows(view: &mut View, told: &Told) -> bool {
    let Told { kind, serial, name, .. } = told;
    let known = view.get(serial).cloned();
    let is_called = |known: &(String, bool)| known.0 == *name;
    match kind {
        EventKind::PostInit | EventKind::PreUninit => true,
        EventKind::Register => view.insert(*serial, (name.clone(), false)).is_none(),
        EventKind::Unregister => view.remove(serial) == Some((name.clone(), false)),
        EventKind::ChangeName => {
            let up = known.as_ref().is_some_and(|known| known.1);
            view.insert(*serial, (name.clone(), up));
            known.is_some_and(|known| Some(known.0) == told.old_name)
        }
        EventKind::Up => view.insert(*serial, (name.clone(), true)) == Some((name.clone(), false)),
        EventKind::Down => view.insert(*serial, (name.clone(), false)) == Some((name.clone(), true)),
        EventKind::GoingDown => known == Some((name.clone(), true)),
        _ => known.as_ref().is_some_and(is_called),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn own_devices_do_what_the_model_says(actions in prop::collection::vec(action(), 1..60)) {
        let mut model = Model::new();
        actions.iter().for_each(|action| model.act(action));
        model.end();
    }
}
