//! The one way in which anything ends: `ops_undo_list`.
//!
//! A failed setup, the death of a namespace, a failed registration, an unregistration, a skipped plugin and the stop
//! of the daemon are all this routine, over some plugins in some nets. Phases, each finished for all ops and all nets
//! before the next (K1.1(5)): every `pre_exit`, reverse → pernet-device exits, reverse → devices told gone, newest
//! first → subsystem exits, reverse → areas dropped. Errors are collected; nothing stops a teardown.

use std::sync::Arc;

use pernet_plugin_api::ExitReason;

use super::failure::Failure;
use super::generic::Area;
use super::member::{At, Class, Member};
use super::mirror::oldest_first;
use super::net::Net;
use super::pernet::{ChainRef, OpRef};
use super::walk::Walk;

/// Whose things.
#[derive(Clone, Copy)]
pub(super) enum Who<'a> {
    /// Everybody's: the namespace itself ends, and its devices go for good.
    All,
    /// Some plugins': what they know is taken back from them; it stays for the others.
    Some(&'a [Arc<Member>]),
    /// One notifier's alone.
    Notifier(&'a ChainRef),
}

impl Who<'_> {
    pub(super) fn includes(self, member: &Arc<Member>) -> bool {
        match self {
            Who::All => true,
            Who::Some(members) => members.iter().any(|m| Arc::ptr_eq(m, member)),
            Who::Notifier(link) => Arc::ptr_eq(&link.member, member),
        }
    }

    pub(super) fn includes_notifier(self, link: &ChainRef) -> bool {
        self.includes(&link.member)
            && match self {
                Who::Notifier(one) => one.number == link.number,
                Who::All | Who::Some(_) => true,
            }
    }
}

impl Walk<'_> {
    /// Undoes what is in force of `who` in these nets, in the order given.
    pub(super) fn undo(&mut self, nets: &[Arc<Net>], who: Who<'_>, reason: ExitReason) {
        let list = self.list;
        let ops = || list.ops().iter().rev().filter(|op| who.includes(&op.member));
        ops().for_each(|op| self.pre_exit(nets, op, reason));
        ops().filter(|op| op.class == Class::Device).for_each(|op| self.exit(nets, op, reason));
        nets.iter().for_each(|net| self.detach(net, who));
        ops().filter(|op| op.class == Class::Subsys).for_each(|op| self.exit(nets, op, reason));
        for member in list.members().iter().rev().filter(|member| who.includes(member)) {
            nets.iter().for_each(|net| self.free(net, member));
        }
    }

    fn pre_exit(&mut self, nets: &[Arc<Net>], op: &OpRef, reason: ExitReason) {
        let told = op.member.owner.told(reason);
        for net in nets {
            let live = net.tenant(&op.member, |t| t.is_live(op.number).then(|| t.areas())).flatten();
            if let Some(areas) = live {
                let answer = self.section(net, || op.ops().pre_exit(&At { net, areas: &areas }, told));
                self.complain(net, &op.member, "pernet.pre_exit", answer);
            }
        }
    }

    /// K1.5(d) for one op: its exit in each net, then once its exit_batch for all of those, at home.
    fn exit(&mut self, nets: &[Arc<Net>], op: &OpRef, reason: ExitReason) {
        let told = op.member.owner.told(reason);
        let mut batch: Vec<(&Arc<Net>, Arc<[Area]>)> = Vec::new();
        for net in nets {
            let due = net.tenant(&op.member, |t| t.begin_exit(op.number).then(|| t.areas())).flatten();
            let Some(areas) = due else { continue };
            let answer = self.section(net, || op.ops().exit(&At { net, areas: &areas }, told));
            self.complain(net, &op.member, "pernet.exit", answer);
            batch.push((net, areas));
        }
        let Some((first, _)) = batch.first() else { return };
        let at: Vec<At<'_>> = batch.iter().map(|(net, areas)| At { net, areas }).collect();
        let answer = self.home().and_then(|()| op.ops().exit_batch(&at, told));
        self.complain(first, &op.member, "pernet.exit_batch", Ok(answer));
    }

    /// Tells the notifiers of `who` that every device goes, newest first, `lo` last; then they are off the chain.
    fn detach(&mut self, net: &Arc<Net>, who: Who<'_>) {
        let chained = net.record().tenants.iter().any(|t| t.has_chained() && who.includes(&t.member));
        if chained {
            let replay = !matches!(who, Who::All);
            oldest_first(net).iter().rev().for_each(|device| self.unregister_device(net, device, who, replay));
        }
        let mut record = net.record();
        record.tenants.iter_mut().filter(|t| who.includes(&t.member)).for_each(|t| t.unchain_all());
        if record.tenants.iter().all(|t| !t.has_chained()) {
            // Nobody wants to know any more; and what is not kept up must not be shown.
            record.watched = false;
            record.devices = Vec::new();
        }
    }

    /// Drops a plugin's areas in a net, newest first, and forgets it there.
    fn free(&mut self, net: &Arc<Net>, member: &Arc<Member>) {
        for (number, (_, ops)) in member.ops().iter().enumerate().rev() {
            if let Some(area) = net.tenant(member, |t| t.take_area(number)).flatten() {
                let answer = self.section(net, || ops.free(area));
                self.complain(net, member, "pernet.free", answer);
            }
        }
        net.leave(member);
    }

    fn complain(
        &mut self,
        net: &Net,
        member: &Member,
        hook: &'static str,
        answer: Result<Result<(), Failure>, Failure>,
    ) {
        if let Err(failure) = answer.and_then(|answer| answer) {
            self.note(net, member, hook, failure);
        }
    }
}
