//! What happens in each namespace: its knobs are registered, and at the end everything of it is withdrawn.
//!
//! There is nothing to undo at an exit: what was announced is true as long as the addresses are there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use pernet_plugin_api::prelude::*;

use crate::announcer::Announcer;
use crate::frame::Mac;
use crate::knobs::Knobs;
use crate::space::Space;

/// The subsystem.
pub(crate) struct Spaces {
    pub(crate) host: Host,
    pub(crate) defaults: Knobs,
    pub(crate) announcer: Arc<Announcer>,
}

/// The private area.
pub(crate) struct Here {
    pub(crate) space: Arc<Space>,
    /// Devices that can speak, by serial, and the address by which they do. One hook runs at a time in a namespace, so
    /// nobody ever waits for this.
    pub(crate) speaking: Mutex<HashMap<u64, Mac>>,
    /// Dropping it unregisters the knobs.
    _knobs: CtlHeader,
}

impl PernetOps for Spaces {
    type State = Here;

    fn init(&self, net: &Net<'_>) -> Result<Here> {
        let knobs = self.defaults.copied();
        let table = self.host.register_net_sysctl(net.cookie(), "neighbour", knobs.table())?;
        let space = Arc::new(Space::new(net.cookie(), knobs));
        Ok(Here { space, speaking: Mutex::default(), _knobs: table })
    }

    fn exit(&self, net: &Net<'_>, here: &Here, _: ExitReason) -> Result<()> {
        self.announcer.withdraw_all(net.cookie());
        here.space.leave();
        Ok(())
    }
}
