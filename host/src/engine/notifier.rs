//! The notifier chain: `register_netdevice_notifier` and `call_netdevice_notifiers`.
//!
//! Order: priority descending, then list order (K3.1). What happens to observed devices has happened: no error and no
//! veto can be honoured (K3.4), but STOP and BAD still cut the chain (K3.3). The exception is the replay to a notifier
//! that is being added, where REGISTER's error fails the registration (K3.5). Unlike the kernel, where an errno cuts
//! the chain too, a plugin's error is noted and the others are told: it harms nobody else.

use std::ops::ControlFlow;
use std::sync::Arc;

use pernet_plugin_api::{EventKind, Verdict};

use super::failure::{Failure, HookError};
use super::generic::Area;
use super::member::{At, Member};
use super::mirror::{NetDevice, oldest_first};
use super::net::Net;
use super::pernet::ChainRef;
use super::undo::Who;
use super::walk::{Walk, refused};

/// What a notifier is told.
#[derive(Clone, Copy, Debug)]
pub struct NetdevEvent<'a> {
    /// What happened.
    pub kind: EventKind,
    /// What exists is told to a notifier that is new here, or taken back from one that goes.
    pub replay: bool,
    /// The device as it is at this event.
    pub device: &'a NetDevice,
    /// The name before a change of it.
    pub old_name: Option<&'a str>,
}

/// K3.3: whether the chain goes on, and what error it was.
fn decode(answer: Result<Verdict, Failure>) -> (ControlFlow<()>, Option<Failure>) {
    match answer {
        Ok(Verdict::Done | Verdict::Ok) => (ControlFlow::Continue(()), None),
        Ok(Verdict::Stop) => (ControlFlow::Break(()), None),
        Ok(Verdict::Bad) => (ControlFlow::Break(()), Some(refused())),
        Err(failure) => (ControlFlow::Continue(()), Some(failure)),
    }
}

/// The notifiers of `who` that are on this net's chain, with their areas.
fn chained<'l>(chain: &'l [ChainRef], net: &Net, who: Who<'_>) -> Vec<(&'l ChainRef, Arc<[Area]>)> {
    let record = net.record();
    let called = |link: &'l ChainRef| {
        let tenant = record.tenants.iter().find(|t| Arc::ptr_eq(&t.member, &link.member))?;
        tenant.is_chained(link.number).then(|| (link, tenant.areas()))
    };
    chain.iter().filter(|link| who.includes_notifier(link)).filter_map(called).collect()
}

impl Walk<'_> {
    /// Tells one event to the chain, as far as `who` is on it. One RTNL section.
    pub(super) fn tell(
        &mut self,
        net: &Arc<Net>,
        who: Who<'_>,
        kind: EventKind,
        replay: bool,
        device: &NetDevice,
        old_name: Option<&str>,
    ) {
        let list = self.list;
        let told = chained(list.chain(), net, who);
        if told.is_empty() {
            return;
        }
        let event = NetdevEvent { kind, replay, device, old_name };
        let mut failures = Vec::new();
        let section = self.section(net, || {
            for (link, areas) in &told {
                let (flow, failure) = call(net, link, areas, &event);
                failures.extend(failure.map(|failure| (&link.member, failure)));
                if flow.is_break() {
                    break;
                }
            }
        });
        if let (Err(failure), Some((link, _))) = (section, told.first()) {
            failures.push((&link.member, failure));
        }
        for (member, failure) in failures {
            self.note_notifier(net, member, &event, failure);
        }
    }

    fn note_notifier(&mut self, net: &Net, member: &Member, event: &NetdevEvent<'_>, failure: Failure) -> HookError {
        let error = self.note(net, member, event.kind.hook_name(), failure);
        net.note_device_error(error.clone(), event.device.link.ifindex);
        error
    }

    /// Starts keeping the mirror, unless it is kept already.
    pub(super) fn watch(&mut self, net: &Arc<Net>) -> Result<(), Failure> {
        if net.watched() {
            return Ok(());
        }
        let mut links = self.section(net, || net.namespace().list())??;
        super::mirror::sort_links(&mut links);
        net.record().watched = true;
        for link in links {
            self.mirror_device(net, link);
        }
        Ok(())
    }

    /// Puts the notifiers of these members on the chain of a net that is being set up, and replays what exists there
    /// (DESIGN: REGISTER, then UP, per device), through the chain.
    pub(super) fn attach_all(&mut self, net: &Arc<Net>, members: &[Arc<Member>]) {
        for member in members {
            net.tenant(member, |t| (0..member.notifiers().len()).for_each(|n| t.chain(n)));
        }
        for device in oldest_first(net) {
            self.tell(net, Who::Some(members), EventKind::Register, true, &device, None);
            if device.link.is_up() {
                self.tell(net, Who::Some(members), EventKind::Up, true, &device, None);
            }
        }
    }

    /// K3.5: puts one notifier on the chain and replays what exists to it alone; REGISTER's error is honoured. Then
    /// the devices before the failing one are taken back in reverse, the failing one is not, and it is off the chain.
    pub(super) fn attach_one(&mut self, net: &Arc<Net>, link: &ChainRef) -> Result<(), HookError> {
        self.watch(net).map_err(|failure| self.note(net, &link.member, "netdev.register", failure))?;
        net.tenant(&link.member, |t| t.chain(link.number));
        let devices = oldest_first(net);
        for (n, device) in devices.iter().enumerate() {
            if let Err(error) = self.replay(net, link, EventKind::Register, device) {
                let told = devices.iter().take(n).rev();
                told.for_each(|device| self.unregister_device(net, device, Who::Notifier(link), true));
                net.tenant(&link.member, |t| t.unchain(link.number));
                return Err(error);
            }
            if device.link.is_up() {
                let _ = self.replay(net, link, EventKind::Up, device);
            }
        }
        Ok(())
    }

    /// One replayed event to one notifier.
    fn replay(&mut self, net: &Arc<Net>, link: &ChainRef, kind: EventKind, dev: &NetDevice) -> Result<(), HookError> {
        let Some(areas) = net.tenant(&link.member, |t| t.areas()) else { return Ok(()) };
        let event = NetdevEvent { kind, replay: true, device: dev, old_name: None };
        let failure = self.section(net, || call(net, link, &areas, &event).1).unwrap_or_else(Some);
        failure.map_or(Ok(()), |failure| Err(self.note(net, &link.member, kind.hook_name(), failure)))
    }
}

/// Calls one notifier, unless its plugin is poisoned.
fn call(net: &Net, link: &ChainRef, areas: &[Area], event: &NetdevEvent<'_>) -> (ControlFlow<()>, Option<Failure>) {
    if link.member.owner.poisoned() {
        return (ControlFlow::Continue(()), None);
    }
    let decoded = decode(link.block().call(&At { net, areas }, event));
    if decoded.1.is_none() {
        net.resolve_device_error(Some(&link.member.owner.name), event.device.link.ifindex);
    }
    decoded
}
