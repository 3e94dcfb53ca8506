//! A call of a device's operation: the author's method, and what the datapath does at the same time.
//!
//! The order of the two is what an author may rely on: frames pass after `open` has returned, and have ended before
//! `stop` is called. When the calls come is the host's engine.

use std::os::fd::OwnedFd;

use crate::abi::{NdoCall, Status};
use crate::log::Caller;
use crate::netdev_ops::Entry;
use crate::own::{self, NetdevRef};
use crate::{NdoDevice, Net, Result, Stats};

impl Entry {
    /// One call, by the number that [`NdoCall::op`] has. A panic in `start_xmit`, on a thread of its own, that the daemon
    /// has not come for yet ([`Work::Fault`](crate::work::Work)) is told by the next call that can: as the inner status.
    pub(crate) fn call(
        &self,
        caller: Caller,
        net: &Net<'_>,
        call: &NdoCall<'_>,
        queues: Vec<OwnedFd>,
    ) -> Result<Result<Stats, Status>> {
        let (ops, datapath) = (&self.ops, &self.datapath);
        let dev = NdoDevice::read(call, datapath);
        let mut stats = Stats::default();
        match call.op {
            0 => ops.init(net, &dev)?,
            1 => self.uninit(caller, net, &dev)?,
            2 => {
                ops.open(net, &dev)?;
                let opened = datapath.open(ops, caller, net.cookie(), queues, call.vnet_header != 0, call.mtu);
                opened.inspect_err(|_| drop(ops.stop(net, &dev)))?;
            }
            3 => {
                datapath.stop(|queue| hold(caller, net, &dev, queue));
                ops.stop(net, &dev)?;
            }
            4 => {
                ops.change_mtu(net, &dev)?;
                datapath.set_mtu(call.mtu);
            }
            5 => ops.set_mac_address(net, &dev)?,
            6 => stats = ops.get_stats() + datapath.stats(),
            7 => ops.destructor(),
            // A newer host's: an error would refuse what it is about.
            _ => {}
        }
        Ok(datapath.take_fault().map_or(Ok(stats), Err))
    }

    fn uninit(&self, caller: Caller, net: &Net<'_>, dev: &NdoDevice<'_>) -> Result<()> {
        let result = self.ops.uninit(net, dev);
        if let Some(orphan) = self.orphaned() {
            // Nobody has a handle to free it by: so it is freed when its unregistration, which is under way, is done.
            let _ = own::free(caller, orphan);
        }
        result
    }
}

/// What a thread keeps that does not come out of `start_xmit`: the operator reads who holds the device up.
fn hold(caller: Caller, net: &Net<'_>, dev: &NdoDevice<'_>, queue: u16) -> Option<NetdevRef> {
    let purpose = format!("datapath, queue {queue}");
    let held = NetdevRef::hold(caller, net.cookie(), dev.ifindex, dev.serial, &purpose);
    tracing::warn!(device = dev.name, queue, "start_xmit has not returned a second after the device was to go down");
    held.inspect_err(|error| tracing::warn!(%error, device = dev.name, queue, "its end will not wait for it")).ok()
}
