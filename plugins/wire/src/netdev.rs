//! What the device at an end of a cable does: it is plugged in while it is up, and sends into the cable.

use std::sync::Arc;

use pernet_plugin_api::prelude::*;

use crate::cable::Cable;

/// The ops of one device.
pub(crate) struct Plug {
    pub(crate) cable: Arc<Cable>,
    /// 0 for the cable's end `a`, 1 for `b`.
    pub(crate) side: usize,
}

impl NetDeviceOps for Plug {
    const XMIT: bool = true;

    fn open(&self, _net: &Net<'_>, dev: &NdoDevice<'_>) -> Result<()> {
        self.cable.plug(self.side, dev.serial, dev.datapath);
        Ok(())
    }

    fn stop(&self, _net: &Net<'_>, dev: &NdoDevice<'_>) -> Result<()> {
        self.cable.unplug(self.side, dev.serial);
        Ok(())
    }

    fn get_stats(&self) -> Stats {
        self.cable.stats(self.side)
    }

    fn start_xmit(&self, queue: &Queue<'_>, frames: &mut Batch) {
        self.cable.carry(self.side, queue.index(), frames);
    }
}
