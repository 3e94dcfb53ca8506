//! Random registrations, failures, skips, births, deaths, renames and devices against a small reference model.
//!
//! The model predicts who is where and in which state; the journal is held against the invariants: exits in reverse
//! list order (1), per life no exit without an init and exactly one with it (2), each device told once (3), nothing
//! after the exit (4), work run once after the unlock (6), and nobody harmed by another's error (7).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use pernet_plugin_api::ExitReason;
use proptest::prelude::*;

use super::recorder::*;
use crate::engine::*;

const PLUGINS: usize = 5;
const NETS: u64 = 4;

/// A plugin as drawn. It may require one that stands before it.
#[derive(Clone, Debug)]
struct Spec {
    /// 0 subsystem, 1 device, 2 notifier.
    shape: Vec<u8>,
    skip: bool,
    requires: Option<usize>,
    only_blue: bool,
}

#[derive(Clone, Debug)]
enum Action {
    Register(usize),
    Unregister(usize),
    Appear(u64),
    Die(u64),
    Retry(u64),
    Paint(u64, bool),
    Fail(usize, usize, u64),
    Heal,
    Device(u64, u32, u8),
    Resync(u64),
}

fn spec(place: usize) -> impl Strategy<Value = Spec> {
    let shape = prop::collection::vec(0..3u8, 1..4);
    let requires = prop::option::weighted(0.4, 0..PLUGINS).prop_map(move |r| r.filter(|r| *r < place));
    let parts = (shape, any::<bool>(), requires, prop::bool::weighted(0.2));
    parts.prop_map(|(shape, skip, requires, only_blue)| Spec { shape, skip, requires, only_blue })
}

fn action() -> impl Strategy<Value = Action> {
    let net = || 1..=NETS;
    prop_oneof![
        4 => (0..PLUGINS).prop_map(Action::Register),
        2 => (0..PLUGINS).prop_map(Action::Unregister),
        4 => net().prop_map(Action::Appear),
        2 => net().prop_map(Action::Die),
        3 => net().prop_map(Action::Retry),
        2 => (net(), any::<bool>()).prop_map(|(n, blue)| Action::Paint(n, blue)),
        3 => (0..PLUGINS, 0..3usize, net()).prop_map(|(p, op, n)| Action::Fail(p, op, n)),
        1 => Just(Action::Heal),
        6 => (net(), 1..5u32, 0..4u8).prop_map(|(n, i, what)| Action::Device(n, i, what)),
        2 => net().prop_map(Action::Resync),
    ]
}

/// What the model expects of one life.
struct Expected {
    net: Arc<Net>,
    state: NetState,
    present: BTreeSet<usize>,
    absent: BTreeSet<usize>,
    blue: bool,
}

struct Model {
    specs: Vec<Spec>,
    registered: BTreeSet<usize>,
    failing: HashSet<(usize, usize, u64)>,
    nets: BTreeMap<u64, Expected>,
    lives: HashMap<u64, u32>,
    world: Arc<World>,
    list: PernetList,
    journal: Journal,
}

fn name(plugin: usize) -> String {
    format!("p{plugin}")
}

impl Model {
    fn new(specs: Vec<Spec>) -> Self {
        let (world, list) = (World::new(), PernetList::new());
        world.notes_success.store(true, Ordering::SeqCst);
        for cookie in 1..=NETS {
            world.net(cookie, &["lo+", "eth2"]);
        }
        let journal = Journal { shapes: specs.iter().map(|s| s.shape.clone()).collect(), ..Journal::default() };
        let (registered, failing) = (BTreeSet::new(), HashSet::new());
        Model { specs, registered, failing, nets: BTreeMap::new(), lives: HashMap::new(), world, list, journal }
    }

    /// Registered plugins in list order of their ops: (plugin, op).
    fn ops(&self, class: u8) -> Vec<(usize, usize)> {
        let pernet =
            |p: &usize| self.specs[*p].shape.iter().filter(|s| **s < 2).copied().enumerate().collect::<Vec<_>>();
        let of =
            |p: &usize| pernet(p).into_iter().filter(|(_, c)| *c == class).map(|(op, _)| (*p, op)).collect::<Vec<_>>();
        self.registered.iter().flat_map(of).collect()
    }

    fn selected(&self, p: usize, blue: bool) -> bool {
        let spec = &self.specs[p];
        (blue || !spec.only_blue)
            && spec.requires.is_none_or(|r| !self.registered.contains(&r) || self.selected(r, blue))
    }

    fn dependents(&self, p: usize) -> BTreeSet<usize> {
        let mut found = BTreeSet::from([p]);
        for other in &self.registered {
            if self.specs[*other].requires.is_some_and(|r| found.contains(&r)) {
                found.insert(*other);
            }
        }
        found
    }

    /// Brings plugins up in a net, as the rules say.
    fn bring_up(&mut self, cookie: u64, joining: &BTreeSet<usize>, fresh: bool) {
        let Some(mut net) = self.nets.remove(&cookie) else { return };
        for p in joining {
            let there = self.specs[*p].requires.is_none_or(|r| net.present.contains(&r));
            net.absent.remove(p);
            if there {
                net.present.insert(*p)
            } else {
                net.absent.insert(*p)
            };
        }
        net.state = NetState::Live;
        for (p, op) in [self.ops(0), self.ops(1)].concat() {
            if !joining.contains(&p) || !net.present.contains(&p) || !self.failing.contains(&(p, op, cookie)) {
                continue;
            }
            if fresh && !self.specs[p].skip {
                (net.state, net.present, net.absent) = (NetState::Failed, BTreeSet::new(), BTreeSet::new());
                break;
            }
            for gone in self.dependents(p) {
                if net.present.remove(&gone) {
                    net.absent.insert(gone);
                }
            }
        }
        if net.state == NetState::Live && !net.absent.is_empty() {
            net.state = NetState::Degraded;
        }
        self.nets.insert(cookie, net);
    }

    fn wanted(&self, blue: bool) -> BTreeSet<usize> {
        self.registered.iter().copied().filter(|p| self.selected(*p, blue)).collect()
    }

    fn act(&mut self, action: &Action) {
        match *action {
            Action::Register(p) if !self.registered.contains(&p) => self.register(p),
            Action::Unregister(p) => self.unregister(p),
            Action::Appear(cookie) if !self.nets.contains_key(&cookie) => self.appear(cookie),
            Action::Die(cookie) => self.die(cookie),
            Action::Retry(cookie) => self.retry(cookie),
            Action::Paint(cookie, blue) => self.paint(cookie, blue),
            Action::Fail(p, op, cookie) => {
                self.failing.insert((p, op, cookie));
                self.world.fail(&format!("{}.init{op}@{cookie}", name(p)));
            }
            Action::Heal => {
                self.failing.clear();
                self.world.heal();
            }
            Action::Device(cookie, ifindex, what) => self.device(cookie, ifindex, what),
            Action::Resync(cookie) => self.resync(cookie),
            Action::Register(_) | Action::Appear(_) => {}
        }
        self.check(action);
    }

    fn register(&mut self, p: usize) {
        let spec = self.specs[p].clone();
        let mut plugin = self.world.plugin(&name(p), p).only(move |net| !spec.only_blue || &*net.name() == "blue");
        for kind in &spec.shape {
            plugin = match kind {
                0 => plugin.subsys(),
                1 => plugin.device(),
                _ => plugin.notifier(0),
            };
        }
        plugin = if spec.skip { plugin.skip() } else { plugin };
        plugin = spec.requires.iter().fold(plugin, |plugin, r| plugin.requires(&name(*r)));
        let nets: Vec<_> = self.nets.values().map(|e| e.net.clone()).collect();
        let answer = register(&write(&self.list), plugin.build(), &nets);
        self.registered.insert(p);
        let open: Vec<u64> = self.nets.iter().filter(|(_, e)| e.running()).map(|(c, _)| *c).collect();
        let here = |cookie: &u64| {
            let net = &self.nets[cookie];
            self.selected(p, net.blue) && spec.requires.is_none_or(|r| net.present.contains(&r))
        };
        let ops = spec.shape.iter().filter(|s| **s < 2).count();
        let fails = |cookie: &u64| here(cookie) && (0..ops).any(|op| self.failing.contains(&(p, op, *cookie)));
        let missing = spec.requires.is_some_and(|r| !self.registered.contains(&r));
        let refused = missing || !spec.skip && open.iter().any(fails);
        assert_eq!(answer.is_err(), refused, "{answer:?}");
        if refused {
            self.registered.remove(&p);
            return;
        }
        for cookie in open {
            if self.selected(p, self.nets[&cookie].blue) {
                let others = self.nets[&cookie].absent.clone();
                self.bring_up(cookie, &BTreeSet::from([p]), false);
                assert!(others.is_subset(&self.nets[&cookie].absent));
            }
        }
    }

    fn unregister(&mut self, p: usize) {
        if !self.registered.contains(&p) {
            return;
        }
        let nets: Vec<_> = self.nets.values().map(|e| e.net.clone()).collect();
        let token = write(&self.list);
        let mut going: Vec<_> = self.list.dependents(&name(p)).iter().map(ToString::to_string).collect();
        going.insert(0, name(p));
        for name in going.iter().rev() {
            let (member, errors) = unregister(&token, name, &nets, ExitReason::Removed);
            assert!(member.is_some() && errors.is_empty());
            self.journal.read(self.world.take());
        }
        drop(token);
        for gone in self.dependents(p) {
            self.registered.remove(&gone);
            for net in self.nets.values_mut() {
                net.present.remove(&gone);
                net.absent.remove(&gone);
                if net.running() {
                    net.state = if net.absent.is_empty() { NetState::Live } else { NetState::Degraded };
                }
            }
        }
    }

    fn appear(&mut self, cookie: u64) {
        let life = self.lives.entry(cookie).and_modify(|l| *l += 1).or_insert(1);
        let net = self.world.life(cookie, *life);
        set_up(&self.list, &net);
        let (present, absent) = (BTreeSet::new(), BTreeSet::new());
        self.nets.insert(cookie, Expected { net, state: NetState::Setup, present, absent, blue: false });
        self.bring_up(cookie, &self.wanted(false), true);
    }

    fn die(&mut self, cookie: u64) {
        if let Some(gone) = self.nets.remove(&cookie) {
            assert_eq!(clean_up(&self.list, &gone.net, ExitReason::Died), []);
            assert_eq!((gone.net.state(), names(&gone.net).len()), (NetState::Dying, 0));
        }
    }

    fn retry(&mut self, cookie: u64) {
        let Some(expected) = self.nets.get(&cookie) else { return };
        set_up(&self.list, &expected.net);
        let missing = self.wanted(expected.blue).difference(&expected.present).copied().collect();
        self.bring_up(cookie, &missing, !self.nets[&cookie].running());
    }

    fn paint(&mut self, cookie: u64, blue: bool) {
        let Some(expected) = self.nets.get_mut(&cookie) else { return };
        expected.blue = blue;
        expected.net.set_names(vec![if blue { "blue".into() } else { "plain".into() }]);
        rejudge_net(&self.list.read().unwrap(), &expected.net);
        if !expected.running() {
            return;
        }
        let wanted = self.wanted(blue);
        let expected = self.nets.get_mut(&cookie).unwrap();
        expected.present.retain(|p| wanted.contains(p));
        expected.absent.retain(|p| wanted.contains(p));
        let new = wanted.iter().filter(|p| !expected.present.contains(p) && !expected.absent.contains(p));
        let new = new.copied().collect();
        self.bring_up(cookie, &new, false);
    }

    /// Changes a device in the world, and (except for the last kind of change, a lost event) says so.
    fn device(&mut self, cookie: u64, ifindex: u32, what: u8) {
        let links = self.world.links_of(cookie);
        let mut links = links.lock().unwrap();
        let at = links.iter().position(|l| l.ifindex == ifindex);
        let seen = match (at, what) {
            (Some(at), 0) if ifindex != 1 => {
                links.remove(at);
                LinkObservation::Gone { ifindex, moved: None }
            }
            (Some(at), 1) => {
                links[at].name.push('x');
                LinkObservation::Seen(links[at].clone())
            }
            (Some(at), _) => {
                links[at].flags ^= 1;
                LinkObservation::Seen(links[at].clone())
            }
            (None, _) => {
                links.push(link(ifindex, &format!("eth{ifindex}")));
                LinkObservation::Seen(links[links.len() - 1].clone())
            }
        };
        drop(links);
        if let Some(expected) = self.nets.get(&cookie).filter(|_| what != 3) {
            assert_eq!(see(&self.list, &expected.net, seen), []);
        }
        // What was lost is found again.
        self.resync(cookie);
    }

    fn resync(&mut self, cookie: u64) {
        let links = self.world.links_of(cookie).lock().unwrap().clone();
        if let Some(expected) = self.nets.get(&cookie) {
            see(&self.list, &expected.net, LinkObservation::Dump(links));
        }
    }

    fn check(&mut self, action: &Action) {
        self.journal.read(self.world.take());
        self.world.assert_all_work_ran();
        for (cookie, expected) in &self.nets {
            let present: BTreeSet<String> = names(&expected.net).into_iter().collect();
            let wanted: BTreeSet<String> = expected.present.iter().map(|p| name(*p)).collect();
            assert_eq!((expected.net.state(), present), (expected.state, wanted), "net {cookie} after {action:?}");
            let real: BTreeSet<String> =
                self.world.links_of(*cookie).lock().unwrap().iter().map(|l| l.name.clone()).collect();
            for p in expected.present.iter().filter(|p| self.specs[**p].shape.contains(&2)) {
                assert_eq!(self.journal.view(&name(*p), *cookie), Some(&real), "p{p}'s devices in {cookie}");
            }
        }
    }

    fn end(&mut self) {
        let nets: Vec<_> = self.nets.values().map(|e| e.net.clone()).collect();
        assert_eq!(cleanup_all(&write(&self.list), &nets, ExitReason::Stopped), []);
        self.journal.read(self.world.take());
        self.world.assert_all_work_ran();
        assert!(self.journal.live.is_empty() && self.journal.devices.values().all(BTreeSet::is_empty));
        assert_eq!(self.world.areas_in_use(), 0);
    }
}

impl Expected {
    fn running(&self) -> bool {
        matches!(self.state, NetState::Live | NetState::Degraded)
    }
}

/// Reads the calls one after another and holds each against the invariants.
#[derive(Default)]
struct Journal {
    shapes: Vec<Vec<u8>>,
    /// Ops whose init succeeded and whose exit has not come.
    live: HashSet<(String, usize, u64)>,
    /// Which devices each notifier was told of.
    devices: HashMap<(String, usize, u64), BTreeSet<String>>,
    /// Where the run of exits in a net has come to.
    exits: HashMap<u64, (u8, usize, usize)>,
}

impl Journal {
    fn read(&mut self, calls: Vec<String>) {
        self.exits.clear();
        for call in &calls {
            let (plugin, rest) = call.split_once('.').unwrap();
            let (hook, place) = rest.rsplit_once('@').unwrap();
            let Ok(cookie) = place.split(':').next().unwrap_or_default().parse::<u64>() else { continue };
            if let Some((number, event)) = hook.split_once('.') {
                self.event(plugin, number.trim_start_matches('n').parse().unwrap(), cookie, event);
                continue;
            }
            let at = hook.find(|c: char| c.is_ascii_digit()).unwrap();
            let key = (plugin.to_owned(), hook[at..].parse().unwrap(), cookie);
            match &hook[..at] {
                "init" => {
                    assert!(!self.live.contains(&key), "{call}: twice");
                    self.exits.remove(&cookie);
                }
                // The world notes it when an init succeeds.
                "ok" => assert!(self.live.insert(key)),
                "pre_exit" => assert!(self.live.contains(&key), "{call}: not initialised"),
                "exit" => self.exit(call, key),
                _ => {}
            }
        }
    }

    fn exit(&mut self, call: &str, key: (String, usize, u64)) {
        assert!(self.live.remove(&key), "{call}: an exit without an init, or a second one");
        let p: usize = key.0[1..].parse().unwrap();
        let class = *self.shapes[p].iter().filter(|s| **s < 2).nth(key.1).unwrap();
        let position = (class, p, key.1);
        if let Some(before) = self.exits.insert(key.2, position) {
            assert!(position < before, "{call}: after {before:?}");
        }
    }

    fn event(&mut self, plugin: &str, number: usize, cookie: u64, event: &str) {
        let view = self.devices.entry((plugin.to_owned(), number, cookie)).or_default();
        let (kind, device) = event.trim_end_matches(')').split_once('(').unwrap();
        match kind.trim_end_matches('~') {
            "register" => assert!(view.insert(device.to_owned()), "{plugin} {event}: told twice"),
            "unregister" => assert!(view.remove(device), "{plugin} {event}: never told of it"),
            "changename" => {
                let (old, new) = device.split_once('>').unwrap();
                assert!(view.remove(old) && view.insert(new.to_owned()), "{plugin} {event}");
            }
            _ => assert!(view.contains(device), "{plugin} {event}: never told of it"),
        }
    }

    fn view(&self, plugin: &str, cookie: u64) -> Option<&BTreeSet<String>> {
        self.devices.get(&(plugin.to_owned(), 0, cookie))
    }
}

fn specs() -> impl Strategy<Value = Vec<Spec>> {
    (spec(0), spec(1), spec(2), spec(3), spec(4)).prop_map(|(a, b, c, d, e)| vec![a, b, c, d, e])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_engine_does_what_the_model_says(specs in specs(), actions in prop::collection::vec(action(), 1..60)) {
        let mut model = Model::new(specs);
        actions.iter().for_each(|action| model.act(action));
        model.end();
    }
}
