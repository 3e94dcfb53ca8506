//! What happens in each namespace: it is known from its init to its exit. Nothing is done to it, so nothing is undone.

use std::sync::Arc;

use pernet_plugin_api::prelude::*;

use crate::spaces::Spaces;

/// The subsystem.
pub(crate) struct Registers {
    pub(crate) spaces: Arc<Spaces>,
}

impl PernetOps for Registers {
    type State = ();

    fn init(&self, net: &Net<'_>) -> Result<()> {
        self.spaces.insert(net.cookie());
        Ok(())
    }

    fn exit(&self, net: &Net<'_>, _: &(), _: ExitReason) -> Result<()> {
        self.spaces.remove(net.cookie());
        Ok(())
    }
}
