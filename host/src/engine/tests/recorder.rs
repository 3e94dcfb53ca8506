//! A world in memory: plugins that record every call and fail on demand, namespaces that know which thread is inside.
//!
//! A call is written `plugin.hook` + op number + `@cookie`: `a.init0@1`, `a.exit0@1:Died`, `a.batch0@1,2:Stopped`,
//! `a.free0@1`, `a.n0.register(lo)@1`; a replayed event has a `~` after its kind. Whatever must hold at *every* call
//! (inside the right namespace, lock held, areas filled and not yet dropped) is asserted here, so every test checks it.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use pernet_plugin_api::{EventKind, ExitReason, NetCookie, Verdict};

use super::kernel::Kernel;
use super::ndo::Ledger;
use super::sock::Drawer;
use crate::engine::*;

thread_local! {
    static INSIDE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// What fails on demand fails with this errno, which the engine gives nowhere itself.
pub(super) const ODD: i32 = 71;

pub(super) type Hook = Box<dyn Fn(&Net) + Send + Sync>;

/// What a listener was told, by the device's serial: names come back.
pub(super) struct Told {
    pub(super) who: String,
    pub(super) cookie: u64,
    pub(super) kind: EventKind,
    pub(super) serial: u64,
    pub(super) name: String,
    pub(super) old_name: Option<String>,
}

/// Everything that the tests see of what happened.
#[derive(Default)]
pub(super) struct World {
    calls: Mutex<Vec<String>>,
    /// Calls that fail: as written, without the reason.
    failing: Mutex<HashMap<String, Failure>>,
    verdicts: Mutex<HashMap<String, Verdict>>,
    doing: Mutex<HashMap<String, Arc<Hook>>>,
    /// The same at calls that concern no namespace.
    doing_nowhere: Mutex<HashMap<String, Arc<dyn Fn() + Send + Sync>>>,
    /// Fails the call with this number, counting those that may fail from 1; 0 none.
    pub(super) fail_nth: AtomicUsize,
    pub(super) told: Mutex<Vec<Told>>,
    /// What the world was told of devices.
    pub(super) heard: Mutex<Vec<String>>,
    /// The call that failed by its number.
    failed: Mutex<String>,
    /// What fails is, of a notifier, a veto.
    pub(super) nth_is_a_veto: AtomicBool,
    fallible: AtomicUsize,
    last_area: AtomicU64,
    /// Areas that init gave and free has not taken: by (plugin, op, cookie).
    areas: Mutex<HashMap<(String, usize, u64), Area>>,
    pub(super) kernel: Arc<Kernel>,
    /// The newest life of each namespace.
    lives: Mutex<HashMap<u64, Weak<Net>>>,
    /// What was called of devices of plugins' own.
    pub(super) ledger: Ledger,
    /// Sockets of plugins.
    pub(super) socks: Drawer,
    /// What another program moved, and where it is now.
    pub(super) departed: Mutex<Vec<Departed>>,
    /// What was moved arrives only when a test lets it.
    pub(super) arrivals_wait: AtomicBool,
    /// What the kernel is asked counts among the calls that may fail.
    pub(super) kernel_fails: AtomicBool,
    enter_fails: Mutex<HashSet<u64>>,
    /// Work that the calls left for after the unlock, and how much of it ran.
    deferred: AtomicUsize,
    ran: AtomicUsize,
    /// Also note `plugin.okN@cookie` after each init that succeeded.
    pub(super) notes_success: AtomicBool,
}

impl World {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Another world on the same kernel: the daemon after this one.
    pub(super) fn on(before: &World) -> Arc<Self> {
        Arc::new(World { kernel: before.kernel.clone(), ..World::default() })
    }

    /// The calls since the last time.
    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }

    /// The same, only those that contain this.
    pub(super) fn take_only(&self, part: &str) -> Vec<String> {
        self.take().into_iter().filter(|call| call.contains(part)).collect()
    }

    /// Which call `fail_nth` came to.
    pub(super) fn failed(&self) -> String {
        std::mem::take(&mut *self.failed.lock().unwrap())
    }

    /// The same, without forgetting it.
    pub(super) fn failed_call(&self) -> String {
        self.failed.lock().unwrap().clone()
    }

    /// How often a call was made since the last time that they were taken.
    pub(super) fn count(&self, call: &str) -> usize {
        self.calls.lock().unwrap().iter().filter(|c| *c == call).count()
    }

    pub(super) fn fail(&self, call: &str) {
        self.failing.lock().unwrap().insert(call.into(), Failure::new(ODD, format!("{call} was told to fail")));
    }

    pub(super) fn panic_at(&self, call: &str) {
        let failure = Failure { panicked: true, ..Failure::new(5, format!("{call} was told to panic")) };
        self.failing.lock().unwrap().insert(call.into(), failure);
    }

    pub(super) fn verdict(&self, call: &str, verdict: Verdict) {
        self.verdicts.lock().unwrap().insert(call.into(), verdict);
    }

    /// Does something at a call, before it answers.
    pub(super) fn at(&self, call: &str, hook: impl Fn(&Net) + Send + Sync + 'static) {
        self.doing.lock().unwrap().insert(call.into(), Arc::new(Box::new(hook)));
    }

    /// The same at a call that concerns no namespace.
    pub(super) fn at_nowhere(&self, call: &str, hook: impl Fn() + Send + Sync + 'static) {
        self.doing_nowhere.lock().unwrap().insert(call.into(), Arc::new(hook));
    }

    pub(super) fn heal(&self) {
        self.doing_nowhere.lock().unwrap().clear();
        self.failing.lock().unwrap().clear();
        self.verdicts.lock().unwrap().clear();
        self.doing.lock().unwrap().clear();
        self.fail_nth.store(0, Ordering::SeqCst);
    }

    /// Starts counting the calls that may fail from 1 again, and gives how many there were.
    pub(super) fn count_again(&self) -> usize {
        self.fallible.swap(0, Ordering::SeqCst)
    }

    pub(super) fn areas_in_use(&self) -> usize {
        self.areas.lock().unwrap().len()
    }

    /// Every piece of work that was deferred has run, once.
    pub(super) fn assert_all_work_ran(&self) {
        assert_eq!(self.deferred.load(Ordering::SeqCst), self.ran.load(Ordering::SeqCst));
    }

    /// Every call leaves a piece of work, which takes the lock again.
    fn leave_work(self: &Arc<Self>, net: &Net) {
        self.deferred.fetch_add(1, Ordering::SeqCst);
        let (world, held) = (self.clone(), net.rtnl().held_by_me());
        let work = move || {
            assert!(held, "only who holds the lock leaves work");
            world.ran.fetch_add(1, Ordering::SeqCst);
        };
        net.rtnl().defer(Box::new(work)).unwrap();
    }

    pub(super) fn links_of(&self, cookie: u64) -> Arc<Mutex<Vec<Link>>> {
        self.kernel.state().space(cookie).links.clone()
    }

    /// The namespace's life, while it has one.
    pub(super) fn living(&self, cookie: u64) -> Option<Arc<Net>> {
        self.lives.lock().unwrap().get(&cookie).and_then(Weak::upgrade).filter(|net| net.state() != NetState::Dying)
    }

    /// Whatever acts in a namespace is inside it, and holds its lock.
    pub(super) fn assert_inside(&self, net: &Net, what: &str) {
        assert_eq!(INSIDE.get(), Some(net.cookie.0), "{what} runs inside its namespace");
        assert!(net.rtnl().held_by_me(), "{what} runs under the RTNL");
    }

    pub(super) fn note(&self, call: String) {
        self.calls.lock().unwrap().push(call);
    }

    pub(super) fn enter_fails(&self, cookie: u64) {
        self.enter_fails.lock().unwrap().insert(cookie);
    }

    /// A namespace with these devices, each `name` or `name+` (up), `lo` first.
    pub(super) fn net(self: &Arc<Self>, cookie: u64, devices: &[&str]) -> Arc<Net> {
        let links = devices.iter().enumerate().map(|(n, name)| link(u32::try_from(n).unwrap() + 1, name)).collect();
        *self.links_of(cookie).lock().unwrap() = links;
        self.life(cookie, 1)
    }

    /// A (next) life of a namespace that exists.
    pub(super) fn life(self: &Arc<Self>, cookie: u64, generation: u32) -> Arc<Net> {
        let namespace = Memory { cookie, world: self.clone() };
        let net = Net::new(NetCookie(cookie), generation, Box::new(namespace), false);
        net.set_names(vec![format!("ns{cookie}").into()]);
        self.lives.lock().unwrap().insert(cookie, Arc::downgrade(&net));
        net
    }

    pub(super) fn called(&self, call: &str, net: &Net) -> Result<(), Failure> {
        let short = call.split(':').next().unwrap_or(call);
        self.note(call.to_owned());
        let doing = self.doing.lock().unwrap().get(short).cloned();
        if let Some(hook) = doing {
            hook(net);
        }
        self.answer(call, short)
    }

    /// A call that concerns no namespace.
    pub(super) fn called_nowhere(&self, call: &str) -> Result<(), Failure> {
        self.note(call.to_owned());
        let doing = self.doing_nowhere.lock().unwrap().get(call).cloned();
        if let Some(hook) = doing {
            hook();
        }
        self.answer(call, call)
    }

    /// What the kernel is asked; noted only where it changes something.
    fn asked(&self, call: &str, cookie: u64, noted: bool) -> Result<(), Failure> {
        let net = self.lives.lock().unwrap().get(&cookie).and_then(Weak::upgrade);
        let net = net.expect("a namespace that lives is asked");
        self.assert_inside(&net, call);
        if noted {
            self.note(call.to_owned());
        }
        let doing = self.doing.lock().unwrap().get(call).cloned();
        if let Some(hook) = doing {
            hook(&net);
        }
        if self.kernel_fails.load(Ordering::SeqCst) {
            return self.answer(call, call);
        }
        self.failing.lock().unwrap().get(call).map_or(Ok(()), |failure| Err(failure.clone()))
    }

    fn answer(&self, call: &str, short: &str) -> Result<(), Failure> {
        let nth = self.fallible.fetch_add(1, Ordering::SeqCst) + 1;
        if nth == self.fail_nth.load(Ordering::SeqCst) {
            call.clone_into(&mut self.failed.lock().unwrap());
            return Err(Failure::new(ODD, format!("call {nth}, {call}, was told to fail")));
        }
        self.failing.lock().unwrap().get(short).map_or(Ok(()), |failure| Err(failure.clone()))
    }
}

pub(super) fn link(ifindex: u32, name: &str) -> Link {
    let up = name.ends_with('+');
    let name = name.trim_end_matches('+').to_owned();
    let kind = if name == "lo" { String::new() } else { "veth".into() };
    Link { ifindex, name, kind, address: vec![2, 0, 0, 0, 0, 1], mtu: 1500, flags: u32::from(up), ..Link::default() }
}

/// A namespace of the kernel in memory.
struct Memory {
    cookie: u64,
    world: Arc<World>,
}

impl Namespace for Memory {
    fn enter(&self) -> Result<(), Failure> {
        if self.world.enter_fails.lock().unwrap().contains(&self.cookie) {
            return Err(Failure::new(1, "told not to let anybody in"));
        }
        INSIDE.set(Some(self.cookie));
        Ok(())
    }

    fn home(&self) -> Result<(), Failure> {
        INSIDE.set(None);
        Ok(())
    }

    fn socket(&self, spec: &SockSpec) -> Result<Box<dyn Sock>, Failure> {
        let net = self.world.lives.lock().unwrap().get(&self.cookie).and_then(Weak::upgrade);
        let call = format!("k.socket({},{})@{}", spec.family, spec.sock_type(), self.cookie);
        self.world.called(&call, &net.expect("a namespace that lives is asked"))?;
        Ok(self.world.sock(self.cookie))
    }

    fn left_open(&self, socket: &Socket) {
        self.world.note(format!("k.left({})@{}", socket.number(), self.cookie));
    }
}

/// A change as a call is written: `mtu(t0=1400)`.
fn written(change: &LinkChange<'_>, name: &str) -> String {
    match change {
        LinkChange::Up => format!("up({name})"),
        LinkChange::Down => format!("down({name})"),
        LinkChange::Name(new) => format!("name({name}={new})"),
        LinkChange::Mtu(mtu) => format!("mtu({name}={mtu})"),
        LinkChange::Address(bytes) => format!("address({name}={})", bytes.last().copied().unwrap_or_default()),
        LinkChange::Master(master) => format!("master({name}={master})"),
        LinkChange::AddAltName(alt) => format!("altname({name}+{alt})"),
        LinkChange::DelAltName(alt) => format!("altname({name}-{alt})"),
        LinkChange::MoveTo { net, .. } => format!("move({name}={})", net.cookie.0),
    }
}

impl Memory {
    /// The device's name in the kernel, for the journal.
    fn name(&self, ifindex: u32) -> String {
        let link = self.world.kernel.state().space(self.cookie).get(ifindex);
        link.map_or_else(|| format!("#{ifindex}"), |link| link.name)
    }
}

impl Links for Memory {
    fn list(&self) -> Result<Vec<Link>, Failure> {
        self.world.asked(&format!("k.list()@{}", self.cookie), self.cookie, false)?;
        Ok(self.world.kernel.list(self.cookie))
    }

    fn create(
        &self,
        wanted: &Wanted<'_>,
        peer: Option<(&Net, &Wanted<'_>)>,
    ) -> Result<(Created, Option<Created>), Failure> {
        let other = peer.map_or(String::new(), |(net, other)| format!(",{}@{}", other.name, net.cookie.0));
        self.world.asked(&format!("k.create({}{other})@{}", wanted.name, self.cookie), self.cookie, true)?;
        if let Some((net, _)) = peer {
            assert!(net.rtnl().held_by_me(), "both ends' locks are held");
        }
        self.world.kernel.create(self.cookie, wanted, peer.map(|(net, wanted)| (net.cookie.0, wanted)))
    }

    fn is_left(&self, wanted: &Wanted<'_>) -> Result<bool, Failure> {
        self.world.asked(&format!("k.is_left({})@{}", wanted.name, self.cookie), self.cookie, false)?;
        Ok(self.world.kernel.is_left(self.cookie, wanted))
    }

    fn delete(&self, ifindex: u32) -> Result<(), Failure> {
        self.world.asked(&format!("k.delete({})@{}", self.name(ifindex), self.cookie), self.cookie, true)?;
        self.world.kernel.state().delete(self.cookie, ifindex)
    }

    fn change(&self, ifindex: u32, change: &LinkChange<'_>) -> Result<(), Failure> {
        let call = format!("k.{}@{}", written(change, &self.name(ifindex)), self.cookie);
        self.world.asked(&call, self.cookie, true)?;
        self.world.kernel.state().change(self.cookie, ifindex, change)
    }

    fn reopen(&self, ifindex: u32, _: &LinkSpec, queues: Queues) -> Result<Queues, Failure> {
        self.world.asked(&format!("k.reopen({})@{}", self.name(ifindex), self.cookie), self.cookie, true)?;
        self.world.kernel.reopen(self.cookie, ifindex, queues)
    }

    fn fence(&self) -> Result<u64, Failure> {
        self.world.asked(&format!("k.fence()@{}", self.cookie), self.cookie, false)?;
        let mut state = self.world.kernel.state();
        Ok(if state.space(self.cookie).subscribed { state.stream.fence() } else { 0 })
    }

    fn look(&self, ifindex: u32) -> Result<Option<Link>, Failure> {
        self.world.asked(&format!("k.look()@{}", self.cookie), self.cookie, false)?;
        Ok(self.world.kernel.state().space(self.cookie).get(ifindex))
    }

    fn told(&self, event: &NetdevEvent<'_>) {
        let heard = format!("{}({})@{}", event.kind.hook_name(), event.device.link.name, self.cookie);
        self.world.heard.lock().unwrap().push(heard);
    }

    fn refused(&self, event: &NetdevEvent<'_>, failure: &Failure) {
        let what = event.kind.hook_name();
        let heard = format!("{what}({})@{} refused: {}", event.device.link.name, self.cookie, failure.message);
        self.world.heard.lock().unwrap().push(heard);
    }

    fn waiting(&self, device: &str, holders: &[Holder]) {
        self.world.note(format!("k.waiting({device}: {})@{}", spell(holders), self.cookie));
    }

    fn leaked(&self, device: &str, holders: &[Holder]) {
        self.world.note(format!("k.leaked({device}: {})@{}", spell(holders), self.cookie));
    }
}

fn spell(holders: &[Holder]) -> String {
    let each: Vec<String> = holders.iter().map(|holder| format!("{}/{}", holder.plugin, holder.purpose)).collect();
    each.join(", ")
}

/// Asserts that the calling thread is at home.
pub(super) fn assert_home() {
    assert_eq!(INSIDE.get(), None, "the thread came home");
}

/// One op or notifier that records.
struct Recorder {
    world: Arc<World>,
    plugin: String,
    number: usize,
}

impl Recorder {
    fn call(&self, hook: &str, at: &At<'_>) -> Result<(), Failure> {
        self.world.assert_inside(at.net, hook);
        self.world.leave_work(at.net);
        let (name, told) =
            hook.split_once(':').map_or((hook, String::new()), |(name, told)| (name, format!(":{told}")));
        self.world.called(&format!("{}.{name}@{}{told}", self.plugin, at.net.cookie.0), at.net)
    }

    fn key(&self, at: &At<'_>) -> (String, usize, u64) {
        (self.plugin.clone(), self.number, at.net.cookie.0)
    }

    /// Every area of the plugin in this net is as its init gave it: none dropped early, none kept too long.
    fn check_areas(&self, at: &At<'_>) {
        let areas = self.world.areas.lock().unwrap();
        for (op, area) in at.areas.iter().enumerate() {
            let known = areas.get(&(self.plugin.clone(), op, at.net.cookie.0)).copied();
            assert_eq!(*area, known.unwrap_or_default(), "area {op} of {}", self.plugin);
        }
    }
}

impl Operations for Recorder {
    fn init(&self, at: &At<'_>) -> Result<Area, Failure> {
        assert_eq!(at.areas.get(self.number), Some(&Area(0)), "the slot is empty before init");
        self.check_areas(at);
        self.call(&format!("init{}", self.number), at)?;
        let area = Area(self.world.last_area.fetch_add(1, Ordering::SeqCst) + 1);
        assert_eq!(self.world.areas.lock().unwrap().insert(self.key(at), area), None, "one init per life");
        if self.world.notes_success.load(Ordering::SeqCst) {
            self.world.note(format!("{}.ok{}@{}", self.plugin, self.number, at.net.cookie.0));
        }
        Ok(area)
    }

    fn pre_exit(&self, at: &At<'_>, reason: ExitReason) -> Result<(), Failure> {
        self.check_areas(at);
        self.call(&format!("pre_exit{}:{reason:?}", self.number), at)
    }

    fn exit(&self, at: &At<'_>, reason: ExitReason) -> Result<(), Failure> {
        self.check_areas(at);
        assert_ne!(at.areas[self.number], Area(0), "exit only after init");
        self.call(&format!("exit{}:{reason:?}", self.number), at)
    }

    fn exit_batch(&self, nets: &[At<'_>], reason: ExitReason) -> Result<(), Failure> {
        assert_home();
        nets.iter().for_each(|at| self.check_areas(at));
        assert!(nets.iter().all(|at| !at.net.rtnl().held_by_me()), "exit_batch holds no lock");
        let cookies: Vec<String> = nets.iter().map(|at| at.net.cookie.0.to_string()).collect();
        let call = format!("{}.batch{}@{}:{reason:?}", self.plugin, self.number, cookies.join(","));
        self.world.called(&call, nets[0].net)
    }

    fn free(&self, area: Area) -> Result<(), Failure> {
        let mut areas = self.world.areas.lock().unwrap();
        let key = areas.iter().find(|(_, a)| **a == area).map(|(key, _)| key.clone());
        let key = key.expect("an area is dropped once");
        assert_eq!(
            (&key.0, key.1, INSIDE.get()),
            (&self.plugin, self.number, Some(key.2)),
            "dropped by its op, inside"
        );
        areas.remove(&key);
        drop(areas);
        self.world.note(format!("{}.free{}@{}", self.plugin, self.number, key.2));
        Ok(())
    }
}

impl NotifierBlock for Recorder {
    fn call(&self, at: &At<'_>, event: &NetdevEvent<'_>) -> Result<Verdict, Failure> {
        self.check_areas(at);
        let replay = if event.replay { "~" } else { "" };
        self.world.told.lock().unwrap().push(Told {
            who: self.plugin.clone(),
            cookie: at.net.cookie.0,
            kind: event.kind,
            serial: event.device.serial,
            name: event.device.link.name.clone(),
            old_name: event.old_name.map(str::to_owned),
        });
        let old = event.old_name.map_or(String::new(), |old| format!("{old}>"));
        let hook = format!("n{}.{}{replay}({old}{})", self.number, event.kind.as_str(), event.device.link.name);
        match Recorder::call(self, &hook, at) {
            Err(_) if self.world.nth_is_a_veto.load(Ordering::SeqCst) => return Ok(Verdict::Bad),
            answer => answer?,
        }
        let call = format!("{}.{hook}@{}", self.plugin, at.net.cookie.0);
        Ok(self.world.verdicts.lock().unwrap().get(&call).copied().unwrap_or(Verdict::Ok))
    }
}

impl World {
    /// A notifier that records as this plugin's with this number, for a chain of one namespace.
    pub(super) fn block(self: &Arc<Self>, plugin: &str, number: usize) -> Arc<dyn NotifierBlock> {
        Arc::new(Recorder { world: self.clone(), plugin: plugin.into(), number })
    }
}

/// A plugin under construction.
pub(super) struct Plugin {
    world: Arc<World>,
    owner: Owner,
    registrations: Vec<Registration>,
    ops: usize,
    notifiers: usize,
}

impl World {
    pub(super) fn plugin(self: &Arc<Self>, name: &str, place: usize) -> Plugin {
        let owner = Owner::new(name, 1, place);
        Plugin { world: self.clone(), owner, registrations: Vec::new(), ops: 0, notifiers: 0 }
    }
}

impl Plugin {
    fn recorder(&self, number: usize) -> Arc<Recorder> {
        Arc::new(Recorder { world: self.world.clone(), plugin: self.owner.name.to_string(), number })
    }

    fn pernet(mut self, class: Class) -> Self {
        let ops = self.recorder(self.ops);
        self.ops += 1;
        self.registrations.push(Registration::Pernet { class, ops });
        self
    }

    pub(super) fn subsys(self) -> Self {
        self.pernet(Class::Subsys)
    }

    pub(super) fn device(self) -> Self {
        self.pernet(Class::Device)
    }

    pub(super) fn notifier(mut self, priority: i32) -> Self {
        let block = self.recorder(self.notifiers);
        self.notifiers += 1;
        self.registrations.push(Registration::Notifier { priority, block });
        self
    }

    pub(super) fn skip(mut self) -> Self {
        self.owner.on_init_failure = OnInitFailure::Skip;
        self
    }

    pub(super) fn undo_on_stop(mut self) -> Self {
        self.owner.undo_on_stop = true;
        self
    }

    pub(super) fn requires(mut self, name: &str) -> Self {
        self.owner.requires.push(name.into());
        self
    }

    pub(super) fn only(mut self, selects: impl Fn(&Net) -> bool + Send + Sync + 'static) -> Self {
        self.owner.selects = Box::new(selects);
        self
    }

    pub(super) fn build(self) -> Arc<Member> {
        Arc::new(Member::new(Arc::new(self.owner), self.registrations))
    }
}

/// Takes the calling thread elsewhere, as work for two nets may.
pub(super) fn stray(cookie: u64) {
    INSIDE.set(Some(cookie));
}

pub(super) fn write(list: &PernetList) -> WriteToken {
    list.write(Duration::from_secs(10)).unwrap()
}

/// Registers, expecting success.
pub(super) fn add(list: &PernetList, plugin: Plugin, nets: &[Arc<Net>]) -> Arc<Member> {
    let member = plugin.build();
    register(&write(list), member.clone(), nets).unwrap();
    assert_home();
    member
}

pub(super) fn set_up(list: &PernetList, net: &Arc<Net>) -> Setup {
    let setup = setup_net(&list.read().unwrap(), net);
    assert_home();
    setup
}

pub(super) fn clean_up(list: &PernetList, net: &Arc<Net>, reason: ExitReason) -> Vec<HookError> {
    let errors = cleanup_net(&list.read().unwrap(), net, reason);
    assert_home();
    errors
}

/// A message that was read before any fence.
pub(super) fn see(list: &PernetList, net: &Arc<Net>, seen: LinkObservation) -> Vec<HookError> {
    see_fenced(None, list, net, 0, seen)
}

/// A message that was read after this fence. What another program moved goes to where it is now.
pub(super) fn see_fenced(
    world: Option<&World>,
    list: &PernetList,
    net: &Arc<Net>,
    fence: u64,
    what: LinkObservation,
) -> Vec<HookError> {
    let seen = links_seen(&list.read().unwrap(), net, Observed { fence, what });
    assert_home();
    match world {
        Some(world) => {
            world.departed.lock().unwrap().extend(seen.departed);
            if seen.lost {
                world.kernel.state().stream.miss();
            }
        }
        None => assert!(seen.departed.is_empty() && !seen.lost, "nothing of a plugin's own was moved"),
    }
    seen.errors
}

pub(super) fn names(net: &Net) -> Vec<String> {
    net.subsystems().iter().map(ToString::to_string).collect()
}
