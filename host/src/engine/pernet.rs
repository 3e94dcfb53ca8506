//! The pernet list: `pernet_list`, `register_pernet_subsys` and its undoing.
//!
//! One ordered list: all subsystems in place order, then all devices in place order (K1.1(1)); and the notifier chain.
//! The order is by configuration, not by arrival. Readers take a snapshot along ([`ReadToken`]); a writer replaces it
//! ([`WriteToken`]). Here is who is on the list; what happens in a namespace is `setup.rs`, how it ends is `undo.rs`.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pernet_plugin_api::ExitReason;

use super::failure::{E2BIG, EEXIST, ENOENT, Failure, HookError};
use super::gate::{Admission, Blocked, Exclusive, Gate};
use super::member::{Class, Member, NotifierBlock, OnInitFailure, Operations, Step};
use super::net::{Net, NetState};
use super::todo::Patience;
use super::undo::Who;
use super::walk::Walk;

/// An op's place in the list.
pub(super) struct OpRef {
    pub(super) member: Arc<Member>,
    pub(super) number: usize,
    pub(super) class: Class,
}

impl OpRef {
    pub(super) fn ops(&self) -> &dyn Operations {
        &*self.member.ops()[self.number].1
    }
}

/// A notifier's place in the chain.
pub(super) struct ChainRef {
    pub(super) member: Arc<Member>,
    pub(super) number: usize,
}

impl ChainRef {
    pub(super) fn block(&self) -> &dyn NotifierBlock {
        &*self.member.notifiers()[self.number].1
    }

    fn priority(&self) -> i32 {
        self.member.notifiers()[self.number].0
    }
}

/// What all snapshots of one list share.
pub(super) struct Common {
    serials: AtomicU64,
    /// How long an unregistration waits.
    pub(super) patience: Patience,
}

/// A snapshot of the list.
pub(super) struct List {
    /// By place.
    members: Vec<Arc<Member>>,
    /// Subsystems, then devices.
    ops: Vec<OpRef>,
    chain: Vec<ChainRef>,
    pub(super) common: Arc<Common>,
}

impl List {
    fn of(mut members: Vec<Arc<Member>>, common: &Arc<Common>) -> Self {
        members.sort_by_key(|m| m.owner.place());
        let mut ops = Vec::new();
        for class in [Class::Subsys, Class::Device] {
            for member in &members {
                let numbers = (0..member.ops().len()).filter(|n| member.ops()[*n].0 == class);
                ops.extend(numbers.map(|number| OpRef { member: member.clone(), number, class }));
            }
        }
        let refs = |member: &Arc<Member>| {
            let member = member.clone();
            (0..member.notifiers().len()).map(move |number| ChainRef { member: member.clone(), number })
        };
        let mut chain: Vec<ChainRef> = members.iter().flat_map(refs).collect();
        chain.sort_by_key(|link| Reverse(link.priority()));
        List { members, ops, chain, common: common.clone() }
    }

    pub(super) fn members(&self) -> &[Arc<Member>] {
        &self.members
    }

    /// A number that was never given.
    pub(super) fn next_serial(&self) -> u64 {
        self.common.serials.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn ops(&self) -> &[OpRef] {
        &self.ops
    }

    pub(super) fn chain(&self) -> &[ChainRef] {
        &self.chain
    }

    pub(super) fn find(&self, name: &str) -> Option<&Arc<Member>> {
        self.members.iter().find(|m| &*m.owner.name == name)
    }

    fn with(&self, member: Arc<Member>) -> Self {
        List::of(self.members.iter().cloned().chain([member]).collect(), &self.common)
    }

    fn without(&self, member: &Arc<Member>) -> Self {
        List::of(self.members.iter().filter(|m| !Arc::ptr_eq(m, member)).cloned().collect(), &self.common)
    }

    /// Who should act in this net: selected by its own names, and everybody whom it requires is selected too.
    pub(super) fn selected(&self, net: &Net) -> Vec<Arc<Member>> {
        let mut selected: Vec<Arc<Member>> = Vec::new();
        for member in &self.members {
            let unselected =
                |name: &Arc<str>| self.find(name).is_some() && selected.iter().all(|m| m.owner.name != *name);
            if (member.owner.selects)(net) && !member.owner.requires.iter().any(unselected) {
                selected.push(member.clone());
            }
        }
        selected
    }

    /// Who requires this plugin, directly or through others, in list order.
    pub(super) fn dependents(&self, name: &str) -> Vec<Arc<Member>> {
        let mut found: Vec<Arc<Member>> = Vec::new();
        // What is required stands before; one pass in place order sees every chain.
        for member in &self.members {
            let requires = &member.owner.requires;
            if requires.iter().any(|r| &**r == name || found.iter().any(|f| f.owner.name == *r)) {
                found.push(member.clone());
            }
        }
        found
    }
}

/// The list, and its gate.
#[derive(Clone)]
pub struct PernetList {
    gate: Arc<Gate<List>>,
    common: Arc<Common>,
}

impl Default for PernetList {
    fn default() -> Self {
        Self::new()
    }
}

impl PernetList {
    /// An empty list, open.
    #[must_use]
    pub fn new() -> Self {
        let common = Arc::new(Common { serials: AtomicU64::new(1), patience: Patience::default() });
        PernetList { gate: Gate::new(List::of(Vec::new(), &common)), common }
    }

    /// Admission for a job; `None` while a writer waits or works: keep the job and ask again afterwards.
    #[must_use]
    pub fn read(&self) -> Option<ReadToken> {
        let admission = self.gate.read()?;
        Some(ReadToken { admission })
    }

    /// Stops admission and waits until the admitted jobs are done.
    ///
    /// # Errors
    /// The deadline passed; admission is open again and nothing has changed.
    pub fn write(&self, deadline: Duration) -> Result<WriteToken, Blocked> {
        let exclusive = self.gate.write(deadline)?;
        Ok(WriteToken { exclusive })
    }

    /// How long an unregistration waits for a device's last reference before it gives the device up as leaked.
    pub fn set_unregister_timeout(&self, timeout: Duration) {
        self.common.patience.set_bound(timeout);
    }

    /// That time: whatever goes is waited for so long.
    #[must_use]
    pub fn unregister_timeout(&self) -> Duration {
        self.common.patience.pace().bound
    }

    /// Sets it, and how often UNREGISTER is told again, and that it waits, meanwhile.
    #[cfg(test)]
    pub(super) fn set_unregister_pace(&self, retell: Duration, warn: Duration, timeout: Duration) {
        self.common.patience.set_pace(retell, warn, timeout);
    }

    /// The list as it is now, for who has no admission.
    pub(super) fn current(&self) -> Arc<List> {
        self.gate.current()
    }

    /// Who is registered, in list order.
    #[must_use]
    pub fn members(&self) -> Vec<Arc<Member>> {
        self.gate.current().members.clone()
    }

    /// Who requires this plugin, directly or through others, in list order.
    ///
    /// Before the plugin is replaced or one is inserted that they require, unregister these (in reverse) with reason
    /// `Replaced`, and register them again (forwards) after it.
    #[must_use]
    pub fn dependents(&self, name: &str) -> Vec<Arc<str>> {
        self.gate.current().dependents(name).iter().map(|m| m.owner.name.clone()).collect()
    }
}

/// A job's admission, with the list as it was then. Dropping it tells the writer that the job is done.
pub struct ReadToken {
    admission: Admission<List>,
}

impl ReadToken {
    pub(super) fn list(&self) -> &Arc<List> {
        &self.admission.value
    }
}

/// The writer's admission: no job runs in any namespace. Dropping it opens the gate.
pub struct WriteToken {
    exclusive: Exclusive<List>,
}

impl WriteToken {
    pub(super) fn list(&self) -> Arc<List> {
        self.exclusive.current()
    }
}

/// Why a member cannot be on this list at all.
fn refusal(list: &List, member: &Member) -> Option<Failure> {
    let most = Member::MOST;
    if list.find(&member.owner.name).is_some() {
        return Some(Failure::new(EEXIST, "a plugin of this name is registered already; unregister it first"));
    }
    if member.ops().len() > most || member.notifiers().len() > most {
        return Some(Failure::new(E2BIG, format!("at most {most} pernet operations and {most} notifiers per plugin")));
    }
    let missing = member.owner.requires.iter().find(|r| list.find(r).is_none())?;
    Some(Failure::new(ENOENT, format!("requires `{missing}`, which is not registered")))
}

/// Puts a plugin on the list, in its place, and into every net that is live or degraded: its registrations one after
/// another, each over the nets in the order given (K1.1(4): creation order).
///
/// # Errors
/// It could not be. Then, and whenever it panicked, it is undone everywhere (K1.2) and not on the list. Under
/// `Skip` a failing init only makes it absent in that net.
pub fn register(token: &WriteToken, member: Arc<Member>, nets: &[Arc<Net>]) -> Result<(), Vec<HookError>> {
    let before = token.list();
    if let Some(failure) = refusal(&before, &member) {
        let (plugin, netns) = (member.owner.name.clone(), "".into());
        return Err(vec![HookError { plugin, hook: "pernet.register", netns, device: None, failure }]);
    }
    let list = Arc::new(before.with(member.clone()));
    let mut walk = Walk::new(&list);
    let nets = walk.join_everywhere(&member, nets);
    for step in member.steps() {
        for net in &nets {
            let panicked = || member.owner.poison_error().cloned();
            let Some(error) = walk.step(net, &member, *step).err().or_else(panicked) else { continue };
            if error.failure.panicked || member.owner.on_init_failure == OnInitFailure::Rollback {
                walk.undo(&nets, Who::Some(std::slice::from_ref(&member)), ExitReason::RolledBack);
                nets.iter().for_each(|net| net.forget_absent(&member.owner.name));
                nets.iter().for_each(|net| net.judge_again());
                return Err(walk.finish());
            }
            walk.skip(net, &member, error);
        }
    }
    nets.iter().for_each(|net| net.judge_again());
    drop(walk);
    token.exclusive.replace(list);
    Ok(())
}

impl Walk {
    /// Makes room for a new member wherever it should act, and says where that is.
    fn join_everywhere(&mut self, member: &Arc<Member>, nets: &[Arc<Net>]) -> Vec<Arc<Net>> {
        let acts = |net: &&Arc<Net>| {
            let open = matches!(net.state(), NetState::Live | NetState::Degraded) && !net.dying();
            open && self.list().selected(net).iter().any(|m| Arc::ptr_eq(m, member))
        };
        let nets: Vec<Arc<Net>> = nets.iter().filter(acts).cloned().collect();
        nets.iter().for_each(|net| self.join(net, member));
        nets
    }

    /// One step of a registration in one net; nothing where the plugin is absent.
    fn step(&mut self, net: &Arc<Net>, member: &Arc<Member>, step: Step) -> Result<(), HookError> {
        if !net.has_tenant(member) {
            return Ok(());
        }
        let here = |m: &Arc<Member>, n: usize, number: usize| Arc::ptr_eq(m, member) && n == number;
        let list = self.list();
        match step {
            Step::Op(number) => {
                let op = list.ops().iter().find(|op| here(&op.member, op.number, number));
                op.map_or(Ok(()), |op| self.init(net, op))
            }
            Step::Notifier(number) => {
                let link = list.chain().iter().find(|link| here(&link.member, link.number, number));
                link.map_or(Ok(()), |link| self.attach_one(net, link))
            }
        }
    }
}

/// Takes a plugin out of every net and off the list. Whoever requires it must be unregistered before.
///
/// Gives the member (`None`: no such plugin) and what its hooks complained about, which stops nothing.
pub fn unregister(
    token: &WriteToken,
    name: &str,
    nets: &[Arc<Net>],
    reason: ExitReason,
) -> (Option<Arc<Member>>, Vec<HookError>) {
    let list = token.list();
    let Some(member) = list.find(name).cloned() else { return (None, Vec::new()) };
    let mut walk = Walk::new(&list);
    walk.undo(nets, Who::Some(std::slice::from_ref(&member)), reason);
    nets.iter().for_each(|net| net.forget_absent(name));
    nets.iter().for_each(|net| net.judge_again());
    let errors = walk.finish();
    token.exclusive.replace(list.without(&member));
    (Some(member), errors)
}

/// Gives registered plugins other places, after a change of configuration. No hook is called: what runs, runs on.
pub fn renumber(token: &WriteToken, places: &[(Arc<str>, usize)]) {
    let list = token.list();
    for (name, place) in places {
        if let Some(member) = list.find(name) {
            member.owner.set_place(*place);
        }
    }
    token.exclusive.replace(List::of(list.members.clone(), &list.common));
}
