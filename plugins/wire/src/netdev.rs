//! What the device at an end of a cable does: it is plugged in while it is up, and sends into the cable.

use std::borrow::Cow;
use std::sync::Arc;

use pernet_plugin_api::prelude::*;

use crate::cable::Cable;
use crate::counters::Counted;

/// The ops of one device.
pub(crate) struct Plug {
    cable: Arc<Cable>,
    /// 0 for the cable's end `a`, 1 for `b`.
    pub(crate) side: usize,
    /// What the cable had counted when the device was made: that was another's.
    before: Counted,
}

impl Plug {
    pub(crate) fn new(cable: &Arc<Cable>, side: usize) -> Self {
        Plug { cable: Arc::clone(cable), side, before: cable.counted(side) }
    }

    fn counted(&self) -> Counted {
        self.cable.counted(self.side).since(&self.before)
    }
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
        Stats { tx_dropped: self.counted().dropped(), ..Stats::default() }
    }

    /// Of what was sent into this end; what waits is now, and not only what this device sent.
    fn get_ethtool_stats(&self) -> Vec<(Cow<'static, str>, u64)> {
        let Counted { arrived, lost, duplicated, reordered, no_room, unplugged, missed, .. } = self.counted();
        let waiting = self.cable.waiting(self.side) as u64;
        let all = [
            ("arrived", arrived),
            ("lost", lost),
            ("duplicated", duplicated),
            ("reordered", reordered),
            ("no_room", no_room),
            ("unplugged", unplugged),
            ("waiting", waiting),
            ("pcap_missed", missed),
        ];
        all.map(|(name, value)| (name.into(), value)).into()
    }

    fn start_xmit(&self, queue: &Queue<'_>, frames: &mut Batch) {
        self.cable.carry(self.side, queue.index(), frames);
    }
}
