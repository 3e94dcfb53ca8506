//! Random lives of plugins' own devices (`netdev_turns.rs`) against a small reference model.
//!
//! The model knows of each device where it is and what it is like. While nothing is on the way it predicts what each call
//! answers, by its errno, and does (`netdev_predict.rs`); with messages on the way, or something failing, it takes what the
//! kernel has and asks for what must hold all the same. Once quiet, the model, the engine, the kernel, the ledger of the ops
//! and what the listeners were told agree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use pernet_plugin_api::{EventKind, ExitReason, RegState};
use proptest::prelude::*;

use super::kernel::Descriptors;
use super::lab::*;
use super::ndo::*;
use super::netdev_predict::*;
use super::netdev_turns::*;
use super::recorder::*;
use crate::engine::*;

const EPERM: i32 = 1;

/// What a listener knows, by serial: the name, and whether it is up.
type View = BTreeMap<u64, (String, bool)>;

struct Model {
    lab: Lab,
    slots: BTreeMap<usize, Slot>,
    last: u16,
    /// Nothing is on the way.
    quiet: bool,
    /// The first listener failed since everything was read: the second may have missed something.
    harmed: bool,
    armed: bool,
    /// Messages were lost since everything was read, or what had to be seen was not, or somebody's end was first.
    lost: bool,
    /// The kernel was made to refuse a deletion since then, or to say whose a device is.
    undeleted: bool,
    lives: u32,
    views: BTreeMap<(char, u64), View>,
}

/// An address that no change gives, for what was just made.
fn fresh(n: u16) -> Vec<u8> {
    let [high, low] = n.to_be_bytes();
    vec![2, 7, 7, 7, high, low]
}

impl Model {
    fn new() -> Self {
        let mut model = Model {
            lab: lab(NETS),
            slots: BTreeMap::new(),
            last: 0,
            quiet: true,
            harmed: false,
            armed: false,
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

    fn known(&self) -> Known<'_> {
        Known { kernel: self.kernel(), slots: &self.slots }
    }

    fn real(&self, slot: &Slot) -> Option<(Expected, u32)> {
        self.known().real(slot)
    }

    fn act(&mut self, action: &Action) {
        let armed = std::mem::take(&mut self.armed);
        if let Action::Fail(nth, veto) = action {
            self.lab.fail_nth(*nth);
            self.lab.world.nth_is_a_veto.store(*veto, Ordering::SeqCst);
            self.armed = true;
            return;
        }
        self.step(action, armed);
        // One that was moved away, unread, and whose index went to another device, is taken for gone when something is
        // done there: what would tell where it went is older than that.
        use Action::{Move, Own, Pair, Register};
        let acts = matches!(action, Register(..) | Pair(..) | Move(..) | Own(..));
        let ended = |slot: &Slot| slot.away && slot.dev.reg_state() == RegState::Unregistered;
        self.lost |= acts && self.slots.values().any(ended);
        if armed {
            // What was done and taken back is on the way.
            self.quiet = false;
            self.note_failed();
        }
        self.lab.world.heal();
        self.sweep();
        self.read();
        if matches!(action, Action::Settle) {
            self.settle();
        }
        if self.quiet {
            self.check(action);
        }
    }

    /// What follows from which call failed.
    fn note_failed(&mut self) {
        let failed = self.lab.world.failed_call();
        let is = |calls: &[&str]| calls.iter().any(|call| failed.starts_with(call));
        self.harmed |= is(&["w."]);
        self.undeleted |= is(&["k.delete", "k.is_left"]);
        self.lost |= is(&["k.look", "k.list"]);
    }

    fn step(&mut self, action: &Action, armed: bool) {
        match *action {
            Action::Register(slot, net, name, kind) => self.register(slot, net, NAMES[name], KINDS[kind], armed),
            Action::Pair(a, b, here, there) => self.pair(a, b, here, there, armed),
            Action::Unregister(slot) => self.unregister(slot, armed),
            Action::Own(slot, change) => self.change(slot, change, armed),
            Action::Move(slot, net, pattern, index) => self.travel(slot, net, pattern.map(|n| NAMES[n]), index, armed),
            Action::Other(slot, change) => self.other_changes(slot, change),
            Action::Deletes(slot) => self.other(slot, |kernel, net, ifindex| kernel.other_deletes(net, ifindex)),
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
                let foreign = self.kernel().links(net).into_iter().find(|link| self.is_foreign(net, link));
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

    fn is_foreign(&self, net: u64, link: &Link) -> bool {
        let id = self.kernel().id(net, link.ifindex);
        link.kind == "ifb" && self.slots.values().all(|slot| slot.id != id)
    }

    /// What was moved while messages were lost, or before its end, has ended, since nobody knows where it went; and what the
    /// kernel did not delete is there. Such a link is nobody's, and is taken away here, so that it confuses nobody.
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

    /// Another program does something to a device. What it is now is read once everybody knows.
    fn other(&mut self, slot: usize, act: impl FnOnce(&super::kernel::Kernel, u64, u32)) {
        let Some((real, ifindex)) = self.slots.get(&slot).and_then(|slot| self.real(slot)) else { return };
        if real.net != ELSEWHERE {
            act(self.kernel(), real.net, ifindex);
            self.quiet = false;
        }
    }

    fn other_changes(&mut self, slot: usize, change: Change) {
        let address;
        let change = match change {
            Change::Up => LinkChange::Up,
            Change::Down => LinkChange::Down,
            Change::Name(name) => LinkChange::Name(NAMES[name]),
            Change::Mtu(mtu) => LinkChange::Mtu(mtu),
            Change::Address(byte) => {
                // After a move that was not read, it is told by its address.
                self.lost |= self.slots.get(&slot).is_some_and(|slot| slot.away);
                address = [2, 9, 9, 9, 9, byte];
                LinkChange::Address(&address)
            }
            Change::Master(upper) => {
                let upper = upper.and_then(|upper| self.real(self.slots.get(&upper)?));
                LinkChange::Master(upper.map_or(0, |(_, ifindex)| ifindex))
            }
            Change::AddAlt(name) => LinkChange::AddAltName(NAMES[name]),
            Change::DelAlt(name) => LinkChange::DelAltName(NAMES[name]),
        };
        self.other(slot, |kernel, net, ifindex| {
            let _ = kernel.state().change(net, ifindex, &change);
        });
    }

    fn alloc(&mut self, kind: &'static str, name: &str, peer: Option<usize>) -> Slot {
        self.last += 1;
        let (label, address) = (format!("s{}", self.last), fresh(self.last));
        let spec = LinkSpec { address: address.clone(), ..spec(kind, name) };
        let other = peer.map(|peer| self.slots[&peer].dev.clone());
        let dev = self.lab.world.own_peered(&self.lab.a, &label, spec, other);
        let (name, alts) = (name.to_owned(), Vec::new());
        let is = Expected { net: 0, name, up: false, mtu: 1500, address, master: 0, alts };
        Slot { dev, label, id: 0, kind, peer, is, away: false }
    }

    /// Takes the device as it was just registered.
    fn made(&self, slot: &mut Slot) {
        let net = slot.dev.net().unwrap().cookie.0;
        slot.id = self.kernel().id(net, slot.dev.device().unwrap().link.ifindex);
        slot.is = self.real(slot).map(|(real, _)| real).expect("the kernel has it");
    }

    /// A registration that failed leaves nothing, and the device may be freed.
    fn not_made(&self, slot: &Slot, failure: &Failure) {
        let anywhere = (1..=NETS).flat_map(|net| self.kernel().links(net));
        assert!(anywhere.into_iter().all(|link| link.address != slot.is.address), "{} stays: {failure}", slot.label);
        assert_ne!(slot.dev.reg_state(), RegState::Registered);
        self.free(slot);
    }

    /// Holds an answer against what was predicted: by its errno. What was made to fail refuses with its own.
    fn judge(&self, what: &str, answer: &Answer, predicted: Result<(), i32>, armed: bool) {
        let answer = answer.as_ref().map_err(|failure| failure.errno).copied();
        if !self.quiet || answer == predicted {
            return;
        }
        let failed = self.lab.world.failed_call();
        let veto = self.lab.world.nth_is_a_veto.load(Ordering::SeqCst) && failed.contains(".n0.");
        assert!(armed && !failed.is_empty(), "{what}: {answer:?}, not {predicted:?}");
        assert_eq!(answer, Err(if veto { EPERM } else { ODD }), "{what}: the errno of {failed}");
    }

    fn register(&mut self, slot: usize, net: u64, name: &str, kind: &'static str, armed: bool) {
        if self.slots.contains_key(&slot) {
            return;
        }
        let mut new = self.alloc(kind, name, None);
        let resolved = self.known().resolve(net, name, &[]);
        let answer = self.lab.register_in(net, &new.dev);
        self.judge(&format!("register {name} in {net}"), &answer, resolved.clone().map(drop), armed);
        if let Err(failure) = &answer {
            return self.not_made(&new, failure);
        }
        let wanted = Expected { net, ..new.is.clone() };
        self.made(&mut new);
        if self.quiet && !armed {
            assert_eq!(Ok(&new.is), resolved.map(|name| Expected { name, ..wanted }).as_ref());
        }
        self.slots.insert(slot, new);
    }

    fn pair(&mut self, a: usize, b: usize, here: u64, there: u64, armed: bool) {
        if a == b || self.slots.contains_key(&a) || self.slots.contains_key(&b) {
            return;
        }
        let (first, second) = (format!("va{}", self.last), format!("vb{}", self.last));
        for (slot, name, peer) in [(a, first, None), (b, second, Some(a))] {
            let end = self.alloc("veth", &name, peer);
            self.slots.insert(slot, end);
        }
        self.slots.get_mut(&a).unwrap().peer = Some(b);
        let (one, other) = (self.slots[&a].dev.clone(), self.slots[&b].dev.clone());
        let cookies = if here == there { vec![here] } else { vec![here, there] };
        let answer = self.lab.inside(&cookies, || {
            let nets = (self.lab.net(here), self.lab.net(there));
            let held = (nets.0.rtnl().assert_rtnl()?, nets.1.rtnl().assert_rtnl()?);
            register_pair((&held.0, &held.1), nets, (&one, &other))
        });
        self.judge("pair", &answer, Ok(()), armed);
        for key in [a, b] {
            let mut slot = self.slots.remove(&key).unwrap();
            match &answer {
                Ok(()) => {
                    self.made(&mut slot);
                    self.slots.insert(key, slot);
                }
                Err(failure) => self.not_made(&slot, failure),
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

    /// The device in a slot, while it is registered, and where.
    fn registered(&self, slot: usize) -> Option<(Arc<OwnDevice>, u64)> {
        let dev = &self.slots.get(&slot)?.dev;
        let net = dev.net().filter(|_| dev.reg_state() == RegState::Registered)?;
        Some((dev.clone(), net.cookie.0))
    }

    fn unregister(&mut self, slot: usize, armed: bool) {
        self.lost |= self.slots.get(&slot).is_some_and(|slot| slot.away);
        let Some((dev, net)) = self.registered(slot) else { return };
        let answer = self.lab.unregister_in(net, std::slice::from_ref(&dev));
        self.judge("unregister", &answer, Ok(()), armed);
        assert!(armed || dev.reg_state() == RegState::Unregistered);
        let known = &self.slots[&slot];
        // Its peer, and its ports, hear of it.
        self.quiet &= known.peer.is_none() && known.kind != "bridge";
        if dev.reg_state() == RegState::Unregistered && known.peer.is_none() && self.real(known).is_none() {
            self.ended(slot);
        }
    }

    fn change(&mut self, slot: usize, change: Change, armed: bool) {
        let Some((dev, net)) = self.registered(slot) else { return };
        let predicted = self.known().predict(slot, change);
        let upper = if let Change::Master(Some(upper)) = change { self.known().upper(slot, upper) } else { 0 };
        let before = self.real(&self.slots[&slot]).map(|(real, _)| real);
        let answer = self.lab.held(net, |held| match change {
            Change::Up => dev_open(held, &dev),
            Change::Down => dev_close(held, &dev),
            Change::Name(name) => dev_change_name(held, &dev, NAMES[name]),
            Change::Mtu(mtu) => dev_set_mtu(held, &dev, mtu),
            Change::Address(byte) => dev_set_mac_address(held, &dev, &[2, 9, 9, 9, 9, byte]),
            Change::Master(_) => dev_set_master(held, &dev, upper),
            Change::AddAlt(name) => altname_add(held, &dev, NAMES[name]),
            Change::DelAlt(name) => altname_del(held, &dev, NAMES[name]),
        });
        self.judge(&format!("{change:?}"), &answer, predicted.clone().map(drop), armed);
        let now = self.real(&self.slots[&slot]).map(|(real, _)| real);
        if !self.quiet {
            return;
        }
        let wanted = if answer.is_ok() { predicted.ok() } else { before };
        assert_eq!(now, wanted, "all or nothing: {change:?}: {answer:?}");
        if let (Some(known), Some(now)) = (self.slots.get_mut(&slot), now) {
            known.is = now;
        }
    }

    fn travel(&mut self, slot: usize, to: u64, pattern: Option<&str>, wanted: u32, armed: bool) {
        let Some((dev, from)) = self.registered(slot) else { return };
        let before = self.slots[&slot].is.clone();
        let predicted =
            if from == to { Ok(before.clone()) } else { self.known().predict_move(slot, to, pattern, wanted) };
        let cookies = if from == to { vec![from] } else { vec![from, to] };
        let answer = self.lab.inside(&cookies, || {
            let held = (self.lab.net(from).rtnl().assert_rtnl()?, self.lab.net(to).rtnl().assert_rtnl()?);
            dev_change_net_namespace((&held.0, &held.1), &dev, self.lab.net(to), pattern, wanted)
        });
        self.judge(&format!("move to {to} as {pattern:?}"), &answer, predicted.clone().map(drop), armed);
        if !self.quiet {
            return;
        }
        if armed && dev.reg_state() != RegState::Registered {
            // Its queues could not be opened there.
            return self.ended(slot);
        }
        let (now, ifindex) = self.real(&self.slots[&slot]).expect("a move loses nothing");
        if answer.is_ok() {
            assert_eq!(Ok(&now), predicted.as_ref());
            assert!(from == to || wanted == 0 || ifindex == wanted);
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
        self.note_failed();
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
        self.note_failed();
        self.read();
        for who in ['w', 'x'] {
            assert!(who == 'x' && self.harmed || self.views[&(who, cookie)].is_empty(), "{who} saw everything go");
            self.views.insert((who, cookie), BTreeMap::new());
        }
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
        if std::mem::take(&mut self.harmed) {
            // What it missed it missed; what comes from here on follows.
            for net in &self.lab.nets {
                self.views.insert(('x', net.cookie.0), view_of(net));
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
            let (dev, net) = (slot.dev.device().unwrap(), slot.dev.net().unwrap());
            let is = Expected::of(net.cookie.0, &dev.link);
            assert_eq!((&is, slot.dev.reg_state()), (&slot.is, RegState::Registered), "slot {key} after {action:?}");
            assert_eq!(dev.link.kind, if slot.kind == "tap" { "tun" } else { slot.kind });
            let calls = self.lab.calls(&slot.label);
            assert_eq!((calls.init, calls.uninit, calls.destructor), (1, 0, 0), "slot {key} after {action:?}");
            assert_eq!(calls.open > calls.stop, is.up, "slot {key} after {action:?}");
            let queues = slot.dev.life().queues.clone();
            let kept = queues.map(|queues| queues.downcast_ref::<Descriptors>().unwrap().opened);
            assert_eq!(kept, (slot.kind == "tap").then_some(is.net), "slot {key} after {action:?}");
            assert!(net.own_devices().iter().any(|own| Arc::ptr_eq(own, &slot.dev)));
        }
        let known: BTreeSet<u64> = self.slots.values().map(|slot| slot.dev.id).collect();
        for net in &self.lab.nets {
            assert!(net.own_devices().iter().all(|own| known.contains(&own.id)), "nothing stays after {action:?}");
            let devices = view_of(net);
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
        self.settle();
        self.check(&Action::Settle);
        self.lose();
        self.settle();
        self.check(&Action::Lose);
        for cookie in 1..=NETS {
            assert_eq!(self.lab.die(cookie), []);
        }
        assert!(self.kernel().ours().iter().all(|(net, _)| *net == ELSEWHERE));
        self.lab.world.ledger.assert_balanced();
    }
}

/// What who was told everything knows.
fn view_of(net: &Net) -> View {
    net.devices().iter().map(|dev| (dev.serial, (dev.link.name.clone(), dev.link.is_up()))).collect()
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
    fn own_devices_do_what_the_model_says(actions in turns()) {
        let mut model = Model::new();
        actions.iter().for_each(|action| model.act(action));
        model.end();
    }
}
