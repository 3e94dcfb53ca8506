//! A net's own notifier chain: `register_netdevice_notifier_net`.
//!
//! For a notifier that concerns one namespace, registered and unregistered in the middle of its life, from a hook there
//! (K3.7). It is called before the chain of all (K3.2), is replayed what exists when it comes and what goes when it
//! leaves (K3.5, K3.6), and leaves at its plugin's end at the latest. From within the chain none comes (K3.8): it would
//! miss the event that is being told, or hear of it twice.

use std::cmp::Reverse;
use std::sync::Arc;

use super::failure::{EDEADLK, EEXIST, ENOENT, Failure};
use super::member::{NotifierBlock, Owner};
use super::mirror::oldest_first;
use super::net::Net;
use super::notifier::Listener;
use super::rtnl::RtnlGuard;
use super::undo::Who;
use super::walk::{Walk, is_in_chain_of};

/// A notifier of one net.
pub(super) struct NetNotifier {
    id: u64,
    pub(super) owner: Arc<Owner>,
    priority: i32,
    pub(super) block: Arc<dyn NotifierBlock>,
}

impl NetNotifier {
    /// Whether it is no longer on the net's chain.
    pub(super) fn is_off(&self, net: &Net) -> bool {
        !net.record().chain.iter().any(|own| own.id == self.id)
    }
}

/// Puts a notifier on the net's own chain and replays what exists to it. Gives its id.
///
/// # Errors
/// `EPERM` without the net's lock or outside of a hook, `EDEADLK` from within the net's chain (K3.8), `EEXIST` if it is
/// there already, `ESTALE` where the plugin does not act; or REGISTER's own, after which what it was told is taken back,
/// and it is off the chain.
pub fn register_notifier_net(
    rtnl: &RtnlGuard<'_>,
    net: &Arc<Net>,
    owner: &Arc<Owner>,
    priority: i32,
    block: Arc<dyn NotifierBlock>,
) -> Result<u64, Failure> {
    net.check_held(rtnl)?;
    if is_in_chain_of(net) {
        let why = "a notifier is not registered from within the chain that it would join; use defer";
        return Err(Failure::new(EDEADLK, why));
    }
    net.check_acting(owner)?;
    if net.record().chain.iter().any(|own| std::ptr::addr_eq(Arc::as_ptr(&own.block), Arc::as_ptr(&block))) {
        return Err(Failure::new(EEXIST, "this notifier is on the namespace's chain already"));
    }
    Walk::within(|walk| {
        walk.watch(net)?;
        let own = Arc::new(NetNotifier { id: walk.next_serial(), owner: owner.clone(), priority, block });
        let mut record = net.record();
        record.chain.push(own.clone());
        record.chain.sort_by_key(|own| Reverse(own.priority));
        drop(record);
        let replayed = walk.replay_all(net, &Listener::Net(own.clone()), Who::NetNotifier(&own));
        if let Err(error) = replayed {
            net.record().chain.retain(|other| other.id != own.id);
            walk.unwatch_if_idle(net);
            return Err(error.failure);
        }
        Ok(own.id)
    })
}

/// Takes it off, then tells it that every device goes (K3.6).
///
/// # Errors
/// `EPERM` without the net's lock or outside of a hook, `ENOENT` for an id that is not on the chain.
pub fn unregister_notifier_net(rtnl: &RtnlGuard<'_>, net: &Arc<Net>, id: u64) -> Result<(), Failure> {
    net.check_held(rtnl)?;
    Walk::within(|walk| {
        let mut record = net.record();
        let at = record.chain.iter().position(|own| own.id == id);
        let own = at.map(|at| record.chain.remove(at));
        drop(record);
        let Some(own) = own else {
            return Err(Failure::new(ENOENT, "this notifier is not on the namespace's chain"));
        };
        walk.take_back(net, &own);
        walk.unwatch_if_idle(net);
        Ok(())
    })
}

impl Walk {
    /// Tells one notifier that every device goes; forwards (K3.6).
    fn take_back(&mut self, net: &Arc<Net>, own: &Arc<NetNotifier>) {
        for device in oldest_first(net) {
            self.unregister_device(net, &device, Who::NetNotifier(own), true);
        }
    }

    /// Stops keeping the mirror where nobody wants it any more; what is not kept up must not be shown.
    pub(super) fn unwatch_if_idle(&self, net: &Net) {
        let mut record = net.record();
        let wanted = record.tenants.iter().any(|t| t.has_chained()) || !record.chain.is_empty();
        if !wanted && !record.own.iter().any(|own| own.is_listed()) {
            record.watched = false;
            record.ahead = Vec::new();
            let devices = std::mem::take(&mut record.devices);
            drop(record);
            drop(devices);
        }
    }
}
