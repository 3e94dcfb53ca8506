//! The notifier chains: `call_netdevice_notifiers`.
//!
//! Order: the net's own chain (`net_chain.rs`), then the one of all (K3.2); in each, priority descending, then list order
//! (K3.1). STOP and BAD cut both (K3.3). What happens to observed devices has happened: no error and no veto can be
//! honoured, and, unlike the kernel's, an errno is noted and the others are told: it harms nobody else. Where a plugin's
//! own device is asked about (K3.4), an errno refuses and cuts, as in the kernel; a panic is no answer and refuses nothing.

use std::ops::ControlFlow;
use std::sync::Arc;

use pernet_plugin_api::{EventKind, Verdict};

use super::failure::{Failure, HookError};
use super::generic::Area;
use super::member::{At, Member, NotifierBlock, Owner};
use super::mirror::{NetDevice, oldest_first};
use super::net::Net;
use super::net_chain::NetNotifier;
use super::pernet::{ChainRef, List};
use super::undo::Who;
use super::walk::{Walk, in_chain_of, own_error, refused};

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

impl<'a> NetdevEvent<'a> {
    /// Something that just happened.
    pub(super) fn new(kind: EventKind, device: &'a NetDevice) -> Self {
        NetdevEvent { kind, replay: false, device, old_name: None }
    }

    /// K3.4: whether an error refuses what a plugin does to its own device.
    fn may_be_refused(&self) -> bool {
        use EventKind::{ChangeMtu, ChangeName, ChangeUpper, PostInit, PreChangeAddr, PreChangeMtu, PreChangeUpper};
        use EventKind::{PreUp, Register};
        let asks = matches!(self.kind, PostInit | Register | PreUp | PreChangeMtu | ChangeMtu | PreChangeAddr);
        asks || matches!(self.kind, ChangeName | PreChangeUpper | ChangeUpper)
    }
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

/// Somebody on a chain.
pub(super) enum Listener<'l> {
    Listed(&'l ChainRef),
    Net(Arc<NetNotifier>),
}

impl Listener<'_> {
    fn owner(&self) -> &Arc<Owner> {
        match self {
            Listener::Listed(link) => &link.member.owner,
            Listener::Net(own) => &own.owner,
        }
    }

    fn block(&self) -> &dyn NotifierBlock {
        match self {
            Listener::Listed(link) => link.block(),
            Listener::Net(own) => &*own.block,
        }
    }

    /// One of the net's own chain may be taken off by who was called before it.
    fn is_off(&self, net: &Net) -> bool {
        matches!(self, Listener::Net(own) if own.is_off(net))
    }
}

/// Those of `who` that are on this net's chains, in order, with their areas.
fn listeners<'l>(list: &'l List, net: &Net, who: Who<'_>) -> Vec<(Listener<'l>, Arc<[Area]>)> {
    let record = net.record();
    if let Who::NetNotifier(own) = who {
        return vec![(Listener::Net((*own).clone()), record.areas_of(&own.owner))];
    }
    let own = record.chain.iter().filter(|own| who.includes_own(own));
    let own = own.map(|own| (Listener::Net(own.clone()), record.areas_of(&own.owner)));
    let called = |link: &'l ChainRef| {
        let tenant = record.tenants.iter().find(|t| Arc::ptr_eq(&t.member, &link.member))?;
        tenant.is_chained(link.number).then(|| (Listener::Listed(link), tenant.areas()))
    };
    let listed = list.chain().iter().filter(|link| who.includes_notifier(link)).filter_map(called);
    own.chain(listed).collect()
}

impl Walk {
    /// Tells what has happened to the chains, as far as `who` is on them. One RTNL section.
    pub(super) fn tell(&mut self, net: &Arc<Net>, who: Who<'_>, event: &NetdevEvent<'_>) {
        let _ = self.call_chains(net, who, event, false);
    }

    /// Asks everybody about a plugin's own device (K3.4).
    ///
    /// # Errors
    /// The first refusal; who comes after it was not asked.
    pub(super) fn ask(&mut self, net: &Arc<Net>, event: &NetdevEvent<'_>) -> Result<(), Failure> {
        self.call_chains(net, Who::All, event, true)
    }

    /// What is told to all is told to the world, too.
    fn call_chains(
        &mut self,
        net: &Arc<Net>,
        who: Who<'_>,
        event: &NetdevEvent<'_>,
        honours: bool,
    ) -> Result<(), Failure> {
        let to_all = matches!(who, Who::All) && !event.replay;
        if to_all {
            net.namespace().told(event);
        }
        let answer = self.call_listeners(net, who, event, honours);
        if let Err(failure) = answer.as_ref()
            && to_all
        {
            net.namespace().refused(event, failure);
        }
        answer
    }

    fn call_listeners(
        &mut self,
        net: &Arc<Net>,
        who: Who<'_>,
        event: &NetdevEvent<'_>,
        honours: bool,
    ) -> Result<(), Failure> {
        let list = self.list();
        let told = listeners(&list, net, who);
        let Some((first, _)) = told.first() else { return Ok(()) };
        let mut failures = Vec::new();
        let mut veto = None;
        let walk_it = || {
            let alone = matches!(who, Who::NetNotifier(_));
            for (listener, areas) in told.iter().filter(|(listener, _)| alone || !listener.is_off(net)) {
                let (flow, failure) = call(net, listener, areas, event);
                match failure {
                    Some(failure) if honours && !failure.panicked => veto = Some((listener.owner(), failure)),
                    failure => failures.extend(failure.map(|failure| (listener.owner(), failure))),
                }
                if flow.is_break() || veto.is_some() {
                    break;
                }
            }
        };
        let section = self.section(net, || in_chain_of(net, walk_it));
        if let Err(failure) = section {
            if honours {
                return Err(failure);
            }
            failures.push((first.owner(), failure));
        }
        for (owner, failure) in failures {
            self.note_notifier(net, owner, event, failure);
        }
        veto.map_or(Ok(()), |(owner, failure)| Err(vetoed(owner, event, failure)))
    }

    fn note_notifier(&mut self, net: &Net, owner: &Owner, event: &NetdevEvent<'_>, mut failure: Failure) {
        let refuses = !failure.panicked && !event.replay && event.may_be_refused() && event.device.own.is_none();
        if refuses && owner.refuses_first() {
            failure
                .message
                .push_str("; the kernel made this device and has done it, so nothing can be refused: answer Ok");
        }
        let error = self.note_about(net, Some(event.device), owner, event.kind.hook_name(), failure);
        net.note_device_error(error, event.device.link.ifindex);
    }

    /// Starts keeping the mirror, unless it is kept already.
    pub(super) fn watch(&mut self, net: &Arc<Net>) -> Result<(), Failure> {
        if net.watched() {
            return Ok(());
        }
        self.locked(net, |walk| walk.watch_locked(net))?
    }

    fn watch_locked(&mut self, net: &Arc<Net>) -> Result<(), Failure> {
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
    /// (REGISTER, then UP, per device), through the chain. One RTNL section, or a plugin's device that comes meanwhile
    /// would be told twice.
    pub(super) fn attach_all(&mut self, net: &Arc<Net>, members: &[Arc<Member>]) {
        if let Err(failure) = self.locked(net, |walk| walk.attach_locked(net, members)) {
            self.complain(own_error(net, "netdev.register", failure));
        }
    }

    fn attach_locked(&mut self, net: &Arc<Net>, members: &[Arc<Member>]) {
        for member in members {
            net.tenant(member, |t| (0..member.notifiers().len()).for_each(|n| t.chain(n)));
        }
        for device in oldest_first(net) {
            let replayed = |kind| NetdevEvent { replay: true, ..NetdevEvent::new(kind, &device) };
            self.tell(net, Who::Some(members), &replayed(EventKind::Register));
            if device.link.is_up() {
                self.tell(net, Who::Some(members), &replayed(EventKind::Up));
            }
        }
    }

    /// K3.5: puts one notifier on the chain and replays what exists to it alone; after an error it is off again.
    pub(super) fn attach_one(&mut self, net: &Arc<Net>, link: &ChainRef) -> Result<(), HookError> {
        let unable = |walk: &mut Walk, failure| walk.note(net, &link.member.owner, "netdev.register", failure);
        self.watch(net).map_err(|failure| unable(self, failure))?;
        let attached = self.locked(net, |walk| {
            net.tenant(&link.member, |t| t.chain(link.number));
            walk.replay_all(net, &Listener::Listed(link), Who::Notifier(link)).inspect_err(|_| {
                net.tenant(&link.member, |t| t.unchain(link.number));
            })
        });
        attached.map_err(|failure| unable(self, failure))?
    }

    /// Replays what exists to one notifier, who is `who`; REGISTER's error is honoured. Then the devices before the
    /// failing one are taken back in reverse, and the failing one is not.
    pub(super) fn replay_all(
        &mut self,
        net: &Arc<Net>,
        listener: &Listener<'_>,
        who: Who<'_>,
    ) -> Result<(), HookError> {
        let devices = oldest_first(net);
        for (n, device) in devices.iter().enumerate() {
            if let Err(error) = self.replay(net, listener, EventKind::Register, device) {
                let told = devices.iter().take(n).rev();
                told.for_each(|device| self.unregister_device(net, device, who, true));
                return Err(error);
            }
            if device.link.is_up() {
                let _ = self.replay(net, listener, EventKind::Up, device);
            }
        }
        Ok(())
    }

    /// One replayed event to one notifier.
    fn replay(
        &mut self,
        net: &Arc<Net>,
        listener: &Listener<'_>,
        kind: EventKind,
        device: &NetDevice,
    ) -> Result<(), HookError> {
        let areas = net.areas_of(listener.owner());
        let event = NetdevEvent { replay: true, ..NetdevEvent::new(kind, device) };
        let section = self.section(net, || in_chain_of(net, || call(net, listener, &areas, &event).1));
        let failure = section.unwrap_or_else(Some);
        let Some(failure) = failure else { return Ok(()) };
        Err(self.note_about(net, Some(device), listener.owner(), kind.hook_name(), failure))
    }
}

/// What whoever is refused is told.
fn vetoed(owner: &Owner, event: &NetdevEvent<'_>, failure: Failure) -> Failure {
    let message = format!("plugin `{}` refused it at {}: {}", owner.name, event.kind.hook_name(), failure.message);
    Failure { message, ..failure }
}

/// Calls one notifier, unless its plugin is poisoned.
fn call(
    net: &Net,
    listener: &Listener<'_>,
    areas: &[Area],
    event: &NetdevEvent<'_>,
) -> (ControlFlow<()>, Option<Failure>) {
    if listener.owner().poisoned() {
        return (ControlFlow::Continue(()), None);
    }
    let decoded = decode(listener.block().call(&At { net, areas }, event));
    if decoded.1.is_none() {
        net.resolve_device_error(Some(&listener.owner().name), event.device.link.ifindex);
    }
    decoded
}
