//! The one way in which anything ends: `ops_undo_list`.
//!
//! A failed setup, the death of a namespace, a failed registration, an unregistration, a skipped plugin and the stop
//! of the daemon are all this routine, over some plugins in some nets. Phases, each finished for all ops and all nets
//! before the next (K1.1(5)): every `pre_exit`, reverse → pernet-device exits, reverse → the plugins' own devices unregistered
//! and the others told gone, newest first → subsystem exits, reverse → areas dropped → what is left of sockets shut. Errors
//! are collected; nothing stops a teardown.

use std::sync::Arc;

use pernet_plugin_api::ExitReason;

use super::generic::Area;
use super::member::{At, Class, Member, Owner};
use super::mirror::oldest_first;
use super::net::Net;
use super::net_chain::NetNotifier;
use super::netdev::OwnDevice;
use super::pernet::{ChainRef, OpRef};
use super::walk::{Walk, own_error};

/// Whose things.
#[derive(Clone, Copy)]
pub(super) enum Who<'a> {
    /// Everybody's: the namespace itself ends, and its devices go for good.
    All,
    /// Some plugins': what they know is taken back from them; it stays for the others.
    Some(&'a [Arc<Member>]),
    /// One notifier's alone.
    Notifier(&'a ChainRef),
    /// One notifier's of a net's own chain alone.
    NetNotifier(&'a Arc<NetNotifier>),
}

impl Who<'_> {
    pub(super) fn includes(self, member: &Arc<Member>) -> bool {
        match self {
            Who::All => true,
            Who::Some(members) => members.iter().any(|m| Arc::ptr_eq(m, member)),
            Who::Notifier(link) => Arc::ptr_eq(&link.member, member),
            Who::NetNotifier(_) => false,
        }
    }

    /// Whether a plugin's end is meant, and this is the plugin.
    fn includes_owner(self, owner: &Arc<Owner>) -> bool {
        match self {
            Who::All => true,
            Who::Some(members) => members.iter().any(|m| Arc::ptr_eq(&m.owner, owner)),
            Who::Notifier(_) | Who::NetNotifier(_) => false,
        }
    }

    pub(super) fn includes_own(self, own: &Arc<NetNotifier>) -> bool {
        match self {
            Who::NetNotifier(one) => Arc::ptr_eq(one, own),
            who => who.includes_owner(&own.owner),
        }
    }

    pub(super) fn includes_notifier(self, link: &ChainRef) -> bool {
        self.includes(&link.member)
            && match self {
                Who::Notifier(one) => one.number == link.number,
                Who::All | Who::Some(_) | Who::NetNotifier(_) => true,
            }
    }
}

impl Walk {
    /// Undoes what is in force of `who` in these nets, in the order given.
    pub(super) fn undo(&mut self, nets: &[Arc<Net>], who: Who<'_>, reason: ExitReason) {
        let list = self.list();
        let ops = || list.ops().iter().rev().filter(|op| who.includes(&op.member));
        ops().for_each(|op| self.pre_exit(nets, op, reason));
        ops().filter(|op| op.class == Class::Device).for_each(|op| self.exit(nets, op, reason));
        nets.iter().for_each(|net| self.end_devices(net, who, reason));
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
                self.judge(net, &op.member.owner, "pernet.pre_exit", answer);
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
            self.judge(net, &op.member.owner, "pernet.exit", answer);
            batch.push((net, areas));
        }
        let Some((first, _)) = batch.first() else { return };
        let at: Vec<At<'_>> = batch.iter().map(|(net, areas)| At { net, areas }).collect();
        let answer = self.home().and_then(|()| op.ops().exit_batch(&at, told));
        self.judge(first, &op.member.owner, "pernet.exit_batch", Ok(answer));
    }

    /// Tells the notifiers of `who` that every device goes, newest first, `lo` last; then they are off the chain.
    fn detach(&mut self, net: &Arc<Net>, who: Who<'_>) {
        // One section: who was told that all is gone hears of nothing that comes.
        let gone = match self.locked(net, |walk| walk.detach_locked(net, who)) {
            Ok(gone) => gone,
            Err(failure) => {
                self.complain(own_error(net, "netdev.unregister", failure));
                self.detach_locked(net, who)
            }
        };
        // A notifier's end is its plugin's code.
        drop(gone);
        self.unwatch_if_idle(net);
    }

    fn detach_locked(&mut self, net: &Arc<Net>, who: Who<'_>) -> Vec<Arc<NetNotifier>> {
        self.tell_all_gone(net, who);
        let mut record = net.record();
        record.tenants.iter_mut().filter(|t| who.includes(&t.member)).for_each(|t| t.unchain_all());
        record.chain.extract_if(.., |own| who.includes_own(own)).collect()
    }

    fn tell_all_gone(&mut self, net: &Arc<Net>, who: Who<'_>) {
        let record = net.record();
        let listed = record.tenants.iter().any(|t| t.has_chained() && who.includes(&t.member));
        let chained = listed || record.chain.iter().any(|own| who.includes_own(own));
        drop(record);
        if chained {
            let replay = !matches!(who, Who::All);
            oldest_first(net).iter().rev().for_each(|device| self.unregister_device(net, device, who, replay));
        }
    }

    /// Unregisters what is left of the devices of `who`, newest first (K1.6). Told that the daemon stops, the plugin
    /// leaves them in the kernel: an upgrade is no outage.
    fn end_devices(&mut self, net: &Arc<Net>, who: Who<'_>, reason: ExitReason) {
        // Under the lock: what is being registered now is in the list afterwards, and nothing comes later.
        let close = || -> Vec<Arc<OwnDevice>> {
            let mut record = net.record();
            record.tenants.iter_mut().filter(|t| who.includes(&t.member)).for_each(|t| t.closed = true);
            let own = record.own.iter().rev().filter(|own| who.includes_owner(&own.owner) && own.is_listed());
            own.cloned().collect()
        };
        let acts = net.record().tenants.iter().any(|t| who.includes(&t.member));
        let locked = if acts { self.locked(net, |_| close()) } else { Ok(close()) };
        let going = locked.unwrap_or_else(|_| close());
        if !going.is_empty() {
            self.end_all(net, going, reason);
        }
    }

    /// Drops a plugin's areas in a net, newest first, and forgets it there. What it holds or left open ends then.
    fn free(&mut self, net: &Arc<Net>, member: &Arc<Member>) {
        for (number, (_, ops)) in member.ops().iter().enumerate().rev() {
            if let Some(area) = net.tenant(member, |t| t.take_area(number)).flatten() {
                let answer = self.section(net, || ops.free(area));
                self.judge(net, &member.owner, "pernet.free", answer);
            }
        }
        net.leave(member);
        self.unregister_left_tables(net, &member.owner);
        self.let_go(net, &member.owner);
        self.shut_sockets(net, &member.owner);
    }
}
