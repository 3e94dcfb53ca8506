//! A namespace's way to life and back: `setup_net` and `cleanup_net`.
//!
//! Setup: subsystem inits in list order → what exists is replayed to the notifiers → pernet-device inits → live. The
//! same routine serves a retry (only who is absent) and a change of names (only who is newly selected). What fails is
//! undone by `undo.rs`; who the plugin's configuration says must not be harmed by it, is not.

use std::sync::Arc;

use pernet_plugin_api::ExitReason;

use super::failure::{ENODEV, Failure, HookError};
use super::member::{Class, Member, OnInitFailure};
use super::net::{Net, NetState};
use super::pernet::{List, ReadToken, WriteToken};
use super::undo::Who;
use super::walk::{Walk, own_error};

/// How a setup ended.
#[derive(Clone, Debug)]
pub struct Setup {
    /// `Live`, `Degraded`, `Failed`; or `Dying` where the net was told to die meanwhile, and all is undone.
    pub state: NetState,
    /// Whatever a hook complained about, in order.
    pub errors: Vec<HookError>,
}

/// Why a bring-up ended before its end. All is undone.
struct Ended;

/// Brings a net to life, or retries: everything in a failed one, only who is absent in a degraded one.
pub fn setup_net(token: &ReadToken, net: &Arc<Net>) -> Setup {
    let list = token.list();
    let mut walk = Walk::new(list);
    match net.state() {
        NetState::Setup | NetState::Failed => {
            net.begin_setup();
            walk.bring_up(net, &list.selected(net), true);
        }
        NetState::Live | NetState::Degraded => {
            let missing = missing(list, net);
            walk.bring_up(net, &missing, false);
        }
        NetState::Dying => {}
    }
    let errors = walk.finish();
    Setup { state: net.state(), errors }
}

/// Who should act in this net and does not.
fn missing(list: &List, net: &Net) -> Vec<Arc<Member>> {
    list.selected(net).into_iter().filter(|member| !net.has_tenant(member)).collect()
}

/// The net's names changed: who is no more selected exits there (reason `Removed`), who newly is, inits there.
///
/// Who fails to init is absent there, whatever its `on_init_failure`: the others are running already.
pub fn rejudge_net(token: &ReadToken, net: &Arc<Net>) -> Vec<HookError> {
    if !matches!(net.state(), NetState::Live | NetState::Degraded) {
        return Vec::new();
    }
    let list = token.list();
    let mut walk = Walk::new(list);
    let selected = list.selected(net);
    let kept = |member: &Arc<Member>| selected.iter().any(|m| Arc::ptr_eq(m, member));
    let leaving: Vec<_> = list.members().iter().filter(|m| net.has_tenant(m) && !kept(m)).cloned().collect();
    if !leaving.is_empty() {
        walk.undo(std::slice::from_ref(net), Who::Some(&leaving), ExitReason::Removed);
    }
    list.members().iter().filter(|m| !kept(m)).for_each(|m| net.forget_absent(&m.owner.name));
    // Who was absent before waits for its retry.
    let absent = net.absent();
    let fresh = |m: &Arc<Member>| !net.has_tenant(m) && absent.iter().all(|a| a.plugin != m.owner.name);
    let joining: Vec<_> = selected.iter().filter(|m| fresh(m)).cloned().collect();
    walk.bring_up(net, &joining, false);
    walk.finish()
}

/// The net ends: everything in force there exits, its devices are told gone, its areas are dropped.
pub fn cleanup_net(token: &ReadToken, net: &Arc<Net>, reason: ExitReason) -> Vec<HookError> {
    let mut walk = Walk::new(token.list());
    walk.end(std::slice::from_ref(net), reason);
    walk.finish()
}

/// All nets end, as one batch.
pub fn cleanup_all(token: &WriteToken, nets: &[Arc<Net>], reason: ExitReason) -> Vec<HookError> {
    let list = token.list();
    let mut walk = Walk::new(&list);
    walk.end(nets, reason);
    walk.finish()
}

impl Walk {
    fn end(&mut self, nets: &[Arc<Net>], reason: ExitReason) {
        for net in nets {
            net.mark_dying();
            net.set_state(NetState::Dying);
        }
        self.undo(nets, Who::All, reason);
    }

    /// Brings plugins to life in a net. `fresh`: nothing else is, and a failure may end it all.
    fn bring_up(&mut self, net: &Arc<Net>, joining: &[Arc<Member>], fresh: bool) {
        joining.iter().for_each(|member| self.join(net, member));
        let done = self
            .init_all(net, joining, Class::Subsys, fresh)
            .and_then(|()| self.attach(net, joining, fresh))
            .and_then(|()| self.init_all(net, joining, Class::Device, fresh))
            .and_then(|()| self.unless_dying(net));
        if done.is_ok() {
            let here = joining.iter().filter(|member| net.has_tenant(member));
            here.for_each(|member| net.forget_absent(&member.owner.name));
            net.judge();
        }
    }

    /// Makes room for a plugin in a net; or notes it absent, if it cannot act there now.
    pub(super) fn join(&mut self, net: &Arc<Net>, member: &Arc<Member>) {
        match self.obstacle(net, member) {
            None => net.join(member),
            Some(error) => net.note_absent(error),
        }
    }

    fn obstacle(&self, net: &Net, member: &Member) -> Option<HookError> {
        let owner = &member.owner;
        if let Some(panic) = owner.poison_error() {
            return Some(panic.clone());
        }
        let there = |name: &Arc<str>| self.list().find(name).is_some_and(|required| net.has_tenant(required));
        let missing = owner.requires.iter().find(|name| !there(name))?;
        Some(absent_because(net, member, missing))
    }

    fn unless_dying(&mut self, net: &Arc<Net>) -> Result<(), Ended> {
        if !net.dying() {
            return Ok(());
        }
        self.end(std::slice::from_ref(net), ExitReason::Died);
        Err(Ended)
    }

    /// The inits of one class, in list order.
    fn init_all(&mut self, net: &Arc<Net>, joining: &[Arc<Member>], class: Class, fresh: bool) -> Result<(), Ended> {
        let list = self.list();
        for op in list.ops().iter().filter(|op| op.class == class && Who::Some(joining).includes(&op.member)) {
            self.unless_dying(net)?;
            if !net.has_tenant(&op.member) {
                continue;
            }
            if op.member.owner.poisoned() {
                // It panicked in another namespace since it joined here.
                self.skip_poisoned(net, &op.member);
            } else if let Err(error) = self.init(net, op) {
                self.failed(net, &op.member, error, fresh)?;
            }
        }
        Ok(())
    }

    /// What an init's failure means for the net it happened in.
    fn failed(&mut self, net: &Arc<Net>, member: &Arc<Member>, error: HookError, fresh: bool) -> Result<(), Ended> {
        let rolls_back = member.owner.on_init_failure == OnInitFailure::Rollback && !error.failure.panicked;
        if fresh && rolls_back {
            return Err(self.roll_back(net, error));
        }
        self.skip(net, member, error);
        Ok(())
    }

    fn roll_back(&mut self, net: &Arc<Net>, error: HookError) -> Ended {
        self.undo(std::slice::from_ref(net), Who::All, ExitReason::RolledBack);
        net.fail(error);
        Ended
    }

    fn skip_poisoned(&mut self, net: &Arc<Net>, member: &Arc<Member>) {
        if let Some(panic) = member.owner.poison_error() {
            self.skip(net, member, panic.clone());
        }
    }

    /// Makes a plugin absent in a net: what it has there is undone, and who requires it goes with it.
    pub(super) fn skip(&mut self, net: &Arc<Net>, member: &Arc<Member>, error: HookError) {
        let mut gone = vec![member.clone()];
        gone.extend(self.list().dependents(&member.owner.name).into_iter().filter(|m| net.has_tenant(m)));
        self.undo(std::slice::from_ref(net), Who::Some(&gone), ExitReason::RolledBack);
        net.note_absent(error);
        for dependent in gone.iter().skip(1) {
            net.note_absent(absent_because(net, dependent, &member.owner.name));
        }
    }

    /// Puts the notifiers of who is joining on the chain, with the replay.
    fn attach(&mut self, net: &Arc<Net>, joining: &[Arc<Member>], fresh: bool) -> Result<(), Ended> {
        let notifies = |m: &&Arc<Member>| !m.notifiers().is_empty() && net.has_tenant(m);
        let members: Vec<Arc<Member>> = joining.iter().filter(notifies).cloned().collect();
        if members.is_empty() {
            return Ok(());
        }
        self.unless_dying(net)?;
        if let Err(failure) = self.watch(net) {
            let error = own_error(net, "namespace.links", failure);
            self.complain(error.clone());
            if fresh {
                return Err(self.roll_back(net, error));
            }
            members.iter().for_each(|m| self.skip(net, m, HookError { plugin: m.owner.name.clone(), ..error.clone() }));
            return Ok(());
        }
        self.attach_all(net, &members);
        Ok(())
    }
}

fn absent_because(net: &Net, member: &Member, required: &str) -> HookError {
    let failure = Failure::new(ENODEV, format!("requires `{required}`, which is absent in this namespace"));
    HookError { plugin: member.owner.name.clone(), hook: "pernet.init", netns: net.name(), device: None, failure }
}
