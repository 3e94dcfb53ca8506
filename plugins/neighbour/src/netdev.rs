//! What happens to each device: one that becomes able to speak, or speaks by another address, is announced.
//!
//! Told by the state that each event shows, and not by the kind of the event: a carrier comes later than the device goes
//! up, an address may change while it is down, and a new notifier is told everything at once.

use std::sync::{Arc, PoisonError};

use pernet_plugin_api::prelude::*;

use crate::announcer::Announcer;
use crate::pernet::Here;
use crate::route::speaks;

/// The notifier.
pub(crate) struct Devices {
    pub(crate) id: PernetId<Here>,
    pub(crate) announcer: Arc<Announcer>,
}

impl Notifier for Devices {
    fn event(&self, net: &Net<'_>, event: &Event<'_>) -> Result<Verdict> {
        use EventKind::{Change, ChangeAddr, ChangeName, Down, Register, Unregister, Up};
        let Some(here) = net.private(&self.id) else { return Ok(Verdict::Done) };
        let device = &event.device;
        let mac = match event.kind {
            Register | Up | Change | ChangeAddr | ChangeName => speaks(device.flags, device.address),
            Down | Unregister => None,
            _ => return Ok(Verdict::Done),
        };
        let mut speaking = here.speaking.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mac) = mac else {
            if speaking.remove(&device.serial).is_some() {
                self.announcer.withdraw(&here.space, device.serial);
            }
            if event.kind == Unregister {
                self.announcer.forget(net.cookie(), device.serial);
            }
            return Ok(Verdict::Ok);
        };
        let was = speaking.insert(device.serial, mac);
        let knobs = &here.space.knobs;
        // A name that was not meant before is as good as a device that was not there.
        let was_meant = knobs.means(event.old_name.unwrap_or(device.name));
        if (was == Some(mac) && was_meant) || !knobs.means(device.name) || knobs.count() == 0 {
            return Ok(Verdict::Ok);
        }
        here.space.open(|family, kind| net.sock_create(family, kind, 0))?;
        self.announcer.begin(&here.space, device.ifindex, device.serial, mac);
        Ok(Verdict::Ok)
    }
}
