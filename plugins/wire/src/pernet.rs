//! What happens in each namespace: the devices of the cables that end there, made at the init.
//!
//! Owns which namespace an end belongs to, by the names that it has at its init: one that is renamed later keeps its
//! ends, and gets no others. What the exit leaves is the daemon's: it unregisters what is left of our devices, in reverse, whatever the
//! reason is.

use std::sync::Arc;

use pernet_plugin_api::prelude::*;

use crate::cable::Cable;
use crate::netdev::Plug;
use crate::plan::{CablePlan, EndPlan, Plan};

/// The pernet device.
pub(crate) struct Ends {
    pub(crate) host: Host,
    pub(crate) plan: Plan,
    /// In the plan's order.
    pub(crate) cables: Vec<Arc<Cable>>,
}

impl PernetOps for Ends {
    /// The devices here, kept: a device whose last handle is dropped is freed.
    type State = Vec<Netdev>;

    fn init(&self, net: &Net<'_>) -> Result<Vec<Netdev>> {
        let mut made = Vec::new();
        // An older daemon tells the first name only.
        let names = self.host.net_names(net.cookie()).unwrap_or_else(|_| vec![net.name().to_owned()]);
        for (at, side) in self.plan.ends_in(&names) {
            let plan = &self.plan.cables[at];
            let ops = Plug::new(&self.cables[at], side);
            if let Err(e) = self.make(net, plan, ops, &mut made) {
                let field = format!("cables[{at}].{}", ["a", "b"][side]);
                return Err(undone(net, &made, &name_end(&field, plan, side, &e)));
            }
            self.cables[at].has_met(side);
        }
        Ok(made)
    }
}

impl Ends {
    fn make(&self, net: &Net<'_>, plan: &CablePlan, ops: Plug, made: &mut Vec<Netdev>) -> Result<()> {
        let end = &plan.ends[ops.side];
        let dev = self.host.alloc_netdev(spec(plan, end), ops)?;
        net.register_netdevice(&dev)?;
        made.push(dev.clone());
        if end.up { net.dev_open(&dev) } else { Ok(()) }
    }
}

fn spec(plan: &CablePlan, end: &EndPlan) -> NetdevSpec {
    let spec = NetdevSpec::tap(&end.device).mtu(end.mtu).queues(plan.queues).offloads(plan.offloads);
    match end.address {
        Some(address) => spec.address(&address),
        None => spec,
    }
}

fn name_end(field: &str, plan: &CablePlan, side: usize, e: &Error) -> Error {
    let EndPlan { netns, device, .. } = &plan.ends[side];
    Error::new(e.errno(), format!("cable `{}`, `{field}`: {device} in {netns}: {e}", plan.name))
}

/// An init that fails gets no exit, so it takes back what it made.
fn undone(net: &Net<'_>, made: &[Netdev], e: &Error) -> Error {
    let newest_first: Vec<_> = made.iter().rev().collect();
    match net.unregister_many(&newest_first) {
        Ok(()) => e.clone(),
        Err(second) => Error::new(e.errno(), format!("{e}; and unregistering the devices before it: {second}")),
    }
}
