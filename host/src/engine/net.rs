//! One life of a network namespace: `struct net`.
//!
//! Owns what the engine knows of it: names, state, which plugins are in force, the mirror of its devices. Reads from
//! other threads (status, lists) take one short lock that is never held while a hook runs. The world is reached only
//! through [`Namespace`], which the daemon implements with descriptors and tests in memory.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pernet_plugin_api::{NetCookie, RegState};

use super::failure::{ENODEV, ENOSYS, EPERM, ESTALE, Failure, HookError};
use super::fence::Ahead;
use super::generic::{Area, Tenant};
use super::links::Links;
use super::member::{At, Member, Owner};
use super::mirror::NetDevice;
use super::net_chain::NetNotifier;
use super::netdev::OwnDevice;
use super::rtnl::{Rtnl, RtnlGuard};
use super::socket::{Sock, SockSpec, Socket};
use super::sysctl::CtlSet;

/// Where a namespace stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NetState {
    /// Its inits have not all run yet.
    Setup,
    /// Every plugin that should act here does.
    Live,
    /// At least one plugin is absent; the others act.
    Degraded,
    /// The setup was rolled back; nobody acts here.
    Failed,
    /// Its exits have begun.
    Dying,
}

impl NetState {
    /// The operator's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            NetState::Setup => "setup",
            NetState::Live => "live",
            NetState::Degraded => "degraded",
            NetState::Failed => "failed",
            NetState::Dying => "dying",
        }
    }
}

impl fmt::Display for NetState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How the world acts in one namespace.
pub trait Namespace: Links + Any {
    /// The calling thread acts inside from here on, until [`Namespace::home`] or another namespace's `enter`.
    fn enter(&self) -> Result<(), Failure>;
    /// The calling thread acts at home again. After a failure it must not be used for anything else.
    fn home(&self) -> Result<(), Failure>;
    /// `socket(2)` inside, by a thread that may be anywhere and is there again afterwards.
    fn socket(&self, spec: &SockSpec) -> Result<Box<dyn Sock>, Failure> {
        Err(Failure::new(ENOSYS, format!("this namespace has no sockets ({spec:?})")))
    }
    /// A plugin that has gone from here left this socket open; it is shut next.
    fn left_open(&self, socket: &Socket) {
        let _ = socket;
    }
}

/// An error that stops nobody (a notifier's), shown until the same plugin is content with the same device.
struct Notice {
    error: HookError,
    ifindex: u32,
}

/// What the lock guards.
pub(super) struct Record {
    names: Vec<Arc<str>>,
    pub(super) state: NetState,
    pub(super) tenants: Vec<Tenant>,
    /// Plugins that should act here and do not, each with why.
    pub(super) absent: Vec<HookError>,
    /// Why the setup was rolled back.
    failed: Option<HookError>,
    notice: Option<Box<Notice>>,
    /// By ifindex.
    pub(super) devices: Vec<Arc<NetDevice>>,
    pub(super) watched: bool,
    /// Devices of plugins' own, from the beginning of their registration until they are free.
    pub(super) own: Vec<Arc<OwnDevice>>,
    /// The net's own notifiers, in calling order.
    pub(super) chain: Vec<Arc<NetNotifier>>,
    /// Whose observations lag behind what was done here.
    pub(super) ahead: Vec<Ahead>,
    /// Sockets of plugins' that keep the namespace.
    sockets: Vec<Arc<Socket>>,
}

impl Record {
    /// A plugin's areas; empty where it has nothing here.
    pub(super) fn areas_of(&self, owner: &Owner) -> Arc<[Area]> {
        self.tenant_of(owner).map_or_else(Arc::default, Tenant::areas)
    }

    fn tenant_of(&self, owner: &Owner) -> Option<&Tenant> {
        self.tenants.iter().find(|t| std::ptr::eq(&raw const *t.member.owner, owner))
    }
}

/// One life of a network namespace.
pub struct Net {
    /// The kernel's cookie: never reused.
    pub cookie: NetCookie,
    /// Which life of the namespace: counts from 1.
    pub generation: u32,
    /// The host's own namespace.
    pub is_host: bool,
    namespace: Box<dyn Namespace>,
    rtnl: Rtnl,
    dying: AtomicBool,
    sysctl: Arc<CtlSet>,
    record: Mutex<Record>,
}

impl Net {
    /// A life that begins, in state [`NetState::Setup`], without names.
    #[must_use]
    pub fn new(cookie: NetCookie, generation: u32, namespace: Box<dyn Namespace>, is_host: bool) -> Arc<Self> {
        Self::with_sysctl(cookie, generation, namespace, is_host, Arc::default())
    }

    /// The host's own, `init_net`: its sysctls are there before it is.
    #[must_use]
    pub fn init_net(
        cookie: NetCookie,
        generation: u32,
        namespace: Box<dyn Namespace>,
        sysctl: Arc<CtlSet>,
    ) -> Arc<Self> {
        Self::with_sysctl(cookie, generation, namespace, true, sysctl)
    }

    fn with_sysctl(
        cookie: NetCookie,
        generation: u32,
        namespace: Box<dyn Namespace>,
        is_host: bool,
        sysctl: Arc<CtlSet>,
    ) -> Arc<Self> {
        let record = Record {
            names: Vec::new(),
            state: NetState::Setup,
            tenants: Vec::new(),
            absent: Vec::new(),
            failed: None,
            notice: None,
            devices: Vec::new(),
            watched: false,
            own: Vec::new(),
            chain: Vec::new(),
            ahead: Vec::new(),
            sockets: Vec::new(),
        };
        let (rtnl, dying) = (Rtnl::new(cookie), AtomicBool::new(false));
        Arc::new(Net { cookie, generation, is_host, namespace, rtnl, dying, sysctl, record: Mutex::new(record) })
    }

    pub(super) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How to act in it.
    #[must_use]
    pub fn namespace(&self) -> &dyn Namespace {
        &*self.namespace
    }

    /// Its lock.
    #[must_use]
    pub fn rtnl(&self) -> &Rtnl {
        &self.rtnl
    }

    /// Its sysctl tables.
    #[must_use]
    pub fn sysctl(&self) -> &Arc<CtlSet> {
        &self.sysctl
    }

    /// The first of its names; before it has one, `net:` and its cookie.
    #[must_use]
    pub fn name(&self) -> Arc<str> {
        let first = self.record().names.first().cloned();
        first.unwrap_or_else(|| format!("net:{}", self.cookie.0).into())
    }

    /// All its names, as the operator sees them, in order.
    #[must_use]
    pub fn names(&self) -> Vec<Arc<str>> {
        self.record().names.clone()
    }

    /// Gives it other names; see [`super::rejudge_net`]. Without any it keeps those it had, to be called by.
    pub fn set_names(&self, names: Vec<Arc<str>>) {
        if !names.is_empty() {
            self.record().names = names;
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> NetState {
        self.record().state
    }

    pub(super) fn set_state(&self, state: NetState) {
        self.record().state = state;
    }

    /// Tells it, from any thread, that its names are gone: a setup that is under way stops before its next step.
    pub fn mark_dying(&self) {
        self.dying.store(true, Ordering::Release);
    }

    /// Whether it was told to die.
    #[must_use]
    pub fn dying(&self) -> bool {
        self.dying.load(Ordering::Acquire)
    }

    /// What is wrong with it: why it failed, else why a plugin is absent, else the last unresolved notifier's error.
    #[must_use]
    pub fn error(&self) -> Option<HookError> {
        let record = self.record();
        let first = record.failed.as_ref().or_else(|| record.absent.first());
        first.or(record.notice.as_ref().map(|n| &n.error)).cloned()
    }

    /// Why its setup was rolled back.
    #[must_use]
    pub fn failed(&self) -> Option<HookError> {
        self.record().failed.clone()
    }

    /// The last unresolved error that stopped nobody, and the index of the device that it is about.
    #[must_use]
    pub fn notice(&self) -> Option<(HookError, u32)> {
        self.record().notice.as_ref().map(|notice| (notice.error.clone(), notice.ifindex))
    }

    /// The plugins that should act here and do not, each with why.
    #[must_use]
    pub fn absent(&self) -> Vec<HookError> {
        self.record().absent.clone()
    }

    /// The plugins in force here, in init order, each once.
    #[must_use]
    pub fn subsystems(&self) -> Vec<Arc<str>> {
        let record = self.record();
        let mut owners: Vec<_> = record.tenants.iter().filter(|t| t.in_force()).map(|t| &t.member).collect();
        owners.sort_by_key(|member| (member.first_phase(), member.owner.place()));
        owners.iter().map(|member| member.owner.name.clone()).collect()
    }

    /// The mirror of its devices, by ifindex. Empty while no plugin watches.
    #[must_use]
    pub fn devices(&self) -> Vec<Arc<NetDevice>> {
        self.record().devices.clone()
    }

    /// Devices of plugins' own that are registered here, or ended here and are not free yet, in that order.
    #[must_use]
    pub fn own_devices(&self) -> Vec<Arc<OwnDevice>> {
        self.record().own.iter().filter(|own| own.reg_state() != RegState::Uninitialized).cloned().collect()
    }

    /// How many devices the mirror has.
    #[must_use]
    pub fn device_count(&self) -> usize {
        self.record().devices.len()
    }

    /// Whether a plugin here wants device events, and so the mirror is kept. Look after every engine call.
    #[must_use]
    pub fn watched(&self) -> bool {
        self.record().watched
    }

    /// Calls `f` with a plugin's areas here; `None` if none of its hooks is in force (any more).
    ///
    /// For work that a plugin left behind: what it is told exists, and no code of it runs here after its exits.
    pub fn with_areas<R>(&self, held: &RtnlGuard<'_>, owner: &Owner, f: impl FnOnce(&At<'_>) -> R) -> Option<R> {
        debug_assert_eq!(held.cookie(), self.cookie, "the lock of another net proves nothing");
        self.areas_in_force(owner).map(|areas| f(&At { net: self, areas: &areas }))
    }

    /// The areas of a plugin of which a hook is in force here. Ask under the RTNL, or the answer is stale at once.
    #[must_use]
    pub fn areas_in_force(&self, owner: &Owner) -> Option<Arc<[Area]>> {
        self.record().tenant_of(owner).filter(|t| t.in_force()).map(Tenant::areas)
    }

    pub(super) fn areas_of(&self, owner: &Owner) -> Arc<[Area]> {
        self.record().areas_of(owner)
    }

    /// `ASSERT_RTNL`, for a proof that may have outlived the lock or be another net's.
    pub(super) fn check_held(&self, rtnl: &RtnlGuard<'_>) -> Result<(), Failure> {
        if rtnl.cookie() == self.cookie && self.rtnl.held_here() {
            return Ok(());
        }
        Err(Failure::new(EPERM, format!("this thread does not hold the lock of `{}`", self.name())))
    }

    /// Whether a plugin may still register things here.
    pub(super) fn check_acting(&self, owner: &Owner) -> Result<(), Failure> {
        let record = self.record();
        if record.state == NetState::Dying {
            return Err(Failure::new(ENODEV, "the namespace is going; nothing can be registered in it"));
        }
        match record.tenant_of(owner) {
            Some(tenant) if !tenant.closed => Ok(()),
            Some(_) => Err(Failure::new(ESTALE, format!("plugin `{}` is going; it registers no more", owner.name))),
            None => Err(Failure::new(ESTALE, format!("plugin `{}` does not act in this namespace", owner.name))),
        }
    }

    /// Whether a plugin is here, from before its first init until after its last exit.
    pub(super) fn check_joined(&self, owner: &Owner) -> Result<(), Failure> {
        joined(&self.record(), owner)
    }

    /// In the list as long as the plugin is here: who leaves later finds it.
    pub(super) fn add_socket(&self, socket: &Arc<Socket>) -> Result<(), Failure> {
        let mut record = self.record();
        joined(&record, &socket.owner)?;
        record.sockets.push(socket.clone());
        Ok(())
    }

    pub(super) fn remove_socket(&self, socket: &Arc<Socket>) {
        let mut record = self.record();
        // The youngest first: those that are released soon are many.
        let at = record.sockets.iter().rposition(|known| Arc::ptr_eq(known, socket));
        let removed = at.map(|at| record.sockets.swap_remove(at));
        drop(record);
        drop(removed);
    }

    /// The sockets of a plugin that has left; oldest first.
    pub(super) fn take_sockets(&self, owner: &Owner) -> Vec<Arc<Socket>> {
        let mine = |socket: &mut Arc<Socket>| std::ptr::eq(&raw const *socket.owner, owner);
        let mut taken: Vec<_> = self.record().sockets.extract_if(.., mine).collect();
        taken.sort_unstable_by_key(|socket| socket.ino());
        taken
    }

    pub(super) fn has_tenant(&self, member: &Arc<Member>) -> bool {
        self.record().tenants.iter().any(|t| Arc::ptr_eq(&t.member, member))
    }

    /// The member's things here, under the record's lock. Never call a hook from inside `f`.
    pub(super) fn tenant<R>(&self, member: &Arc<Member>, f: impl FnOnce(&mut Tenant) -> R) -> Option<R> {
        self.record().tenants.iter_mut().find(|t| Arc::ptr_eq(&t.member, member)).map(f)
    }

    pub(super) fn join(&self, member: &Arc<Member>) {
        self.record().tenants.push(Tenant::new(member.clone()));
    }

    pub(super) fn leave(&self, member: &Arc<Member>) {
        let mut record = self.record();
        record.tenants.retain(|t| !Arc::ptr_eq(&t.member, member));
        record.notice.take_if(|n| n.error.plugin == member.owner.name);
    }

    /// Notes that a plugin should act here and does not.
    pub(super) fn note_absent(&self, why: HookError) {
        let mut record = self.record();
        match record.absent.iter_mut().find(|a| a.plugin == why.plugin) {
            Some(before) => *before = why,
            None => record.absent.push(why),
        }
    }

    pub(super) fn forget_absent(&self, plugin: &str) {
        self.record().absent.retain(|a| &*a.plugin != plugin);
    }

    pub(super) fn fail(&self, why: HookError) {
        let mut record = self.record();
        record.absent.clear();
        record.failed = Some(why);
        record.state = NetState::Failed;
    }

    pub(super) fn begin_setup(&self) {
        let mut record = self.record();
        record.absent.clear();
        record.failed = None;
        record.state = NetState::Setup;
    }

    /// Live or degraded, by whether somebody is absent.
    pub(super) fn judge(&self) {
        let mut record = self.record();
        record.state = if record.absent.is_empty() { NetState::Live } else { NetState::Degraded };
    }

    /// The same, for one that is running already: a dying or failed net stays that.
    pub(super) fn judge_again(&self) {
        if matches!(self.state(), NetState::Live | NetState::Degraded) {
            self.judge();
        }
    }

    pub(super) fn note_device_error(&self, error: HookError, ifindex: u32) {
        self.record().notice = Some(Box::new(Notice { error, ifindex }));
    }

    /// The plugin is content with the device, or (`None`) the device is gone: what it said before no longer holds.
    pub(super) fn resolve_device_error(&self, plugin: Option<&str>, ifindex: u32) {
        let same = |n: &mut Box<Notice>| n.ifindex == ifindex && plugin.is_none_or(|p| p == &*n.error.plugin);
        self.record().notice.take_if(same);
    }
}

fn joined(record: &Record, owner: &Owner) -> Result<(), Failure> {
    let absent = || Failure::new(ESTALE, format!("plugin `{}` does not act in this namespace", owner.name));
    record.tenant_of(owner).map(drop).ok_or_else(absent)
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Net({} {} life {} {})", self.name(), self.cookie.0, self.generation, self.state())
    }
}
