//! References to devices, and the end of an unregistration: `dev_hold`, `dev_put`, `netdev_run_todo`.
//!
//! Every reference has a name. After the unlock an unregistered device waits for its last one (K2.6): UNREGISTER is told
//! again each second, the holders are named to the operator after ten. Unlike the kernel's the wait has a bound; at it the
//! device is left as it is, visible, and whoever lets it go last ends it. Only plugins' own devices wait: one that the
//! kernel made is gone, whoever holds it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use pernet_plugin_api::{EventKind, RegState};

use super::failure::{ENODEV, Failure, HookError};
use super::links::Holder;
use super::member::Owner;
use super::mirror::{NetDevice, find};
use super::net::Net;
use super::netdev::OwnDevice;
use super::notifier::NetdevEvent;
use super::pernet::List;
use super::undo::Who;
use super::walk::Walk;

static NEXT_REFERENCE: AtomicU64 = AtomicU64::new(1);

/// Who holds a device, and who waits for that.
#[derive(Default)]
pub(super) struct References {
    holders: Vec<Holder>,
    bell: Option<Arc<Bell>>,
    /// Nobody waits any more: the last holder ends the device.
    leaked: bool,
}

impl References {
    pub(super) fn holders(&self) -> &[Holder] {
        &self.holders
    }

    pub(super) fn is_waited_for(&self) -> bool {
        self.bell.is_some()
    }

    /// Takes holders away; true if the device is to be ended by who did it.
    fn retain(&mut self, keep: impl FnMut(&Holder) -> bool) -> bool {
        self.holders.retain(keep);
        if let Some(bell) = self.bell.as_ref().filter(|_| self.holders.is_empty()) {
            bell.ring();
        }
        self.leaked && self.holders.is_empty()
    }
}

/// Rings when a device is free.
#[derive(Default)]
struct Bell(Mutex<bool>, Condvar);

impl Bell {
    fn ring(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.1.notify_all();
    }

    /// How long was waited: all of it, or, where it rang before, nothing that counts, since a device rings once.
    fn wait(&self, timeout: Duration) -> Duration {
        let rung = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.1.wait_timeout_while(rung, timeout, |rung| !*rung);
        let (mut rung, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut *rung) { Duration::ZERO } else { timeout }
    }
}

/// A named reference to a device (`dev_hold`); dropping it is `dev_put`.
#[derive(Debug)]
pub struct NetdevRef {
    /// `None` for a device that the kernel made: nobody waits for it.
    dev: Option<Arc<OwnDevice>>,
    serial: u64,
}

/// `dev_hold`: keeps a device from being free, and says why. Any device that the mirror has, by index and serial.
///
/// # Errors
/// `ENODEV` where there is no such device, or no longer.
pub fn dev_hold(net: &Net, ifindex: u32, serial: u64, holder: &str, purpose: &str) -> Result<NetdevRef, Failure> {
    let gone = || Failure::new(ENODEV, format!("`{}` has no device {ifindex} with serial {serial}", net.name()));
    let device = find(net, ifindex).filter(|device| device.serial == serial).ok_or_else(gone)?;
    let number = NEXT_REFERENCE.fetch_add(1, Ordering::Relaxed);
    if let Some(own) = &device.own {
        let mut life = own.life();
        if life.reg_state != RegState::Registered {
            return Err(gone());
        }
        let holder = Holder { plugin: holder.into(), purpose: purpose.into(), serial: number };
        life.references.holders.push(holder);
    }
    Ok(NetdevRef { dev: device.own.clone(), serial: number })
}

impl Drop for NetdevRef {
    fn drop(&mut self) {
        if let Some(dev) = self.dev.take() {
            let last = dev.life().references.retain(|holder| holder.serial != self.serial);
            if last {
                finish(&dev);
            }
        }
    }
}

/// A device whose unregistration is to be ended after the unlock.
pub(super) struct Ended {
    pub(super) dev: Arc<OwnDevice>,
    pub(super) net: Arc<Net>,
    pub(super) list: Arc<List>,
    /// As it was told gone.
    pub(super) device: Arc<NetDevice>,
}

impl Ended {
    /// K2.6(3).
    pub(super) fn begin(&self) {
        self.dev.life().reg_state = RegState::Unregistered;
    }

    /// Ends it, if nobody holds it.
    fn try_finish(&self, bell: &Arc<Bell>) -> bool {
        let mut life = self.dev.life();
        let free = life.references.holders.is_empty();
        life.references.bell = (!free).then(|| bell.clone());
        drop(life);
        if free {
            finish(&self.dev);
        }
        free
    }

    /// K2.6(5): tells UNREGISTER again; who missed it, or forgot its reference, has another chance.
    fn retell(&self) {
        let mut walk = Walk::new(&self.list);
        // Where this thread holds a lock that forbids it, it comes without.
        if let Ok(held) = walk.hold(&[&*self.net]) {
            walk.tell(&self.net, Who::All, &NetdevEvent::new(EventKind::Unregister, &self.device));
            walk.release(held);
        }
        walk.finish_at(&self.net);
    }

    fn warn(&self) {
        self.net.namespace().waiting(&self.device.link.name, &self.dev.holders());
    }

    /// The bound: whoever holds it ends it. Nobody may, by now.
    fn give_up(&self) {
        let mut life = self.dev.life();
        life.references.bell = None;
        life.references.leaked = true;
        let holders = life.references.holders.clone();
        drop(life);
        if holders.is_empty() {
            return finish(&self.dev);
        }
        self.net.namespace().leaked(&self.device.link.name, &holders);
    }
}

/// `netdev_run_todo`: ends devices in whichever order they become free (K2.6(4)).
pub(super) fn netdev_run_todo(mut left: Vec<Ended>) {
    let Some(pace) = left.first().map(|ended| ended.list.common.patience.pace()) else { return };
    let bell = Arc::new(Bell::default());
    let (mut passed, mut retell, mut warn) = (Duration::ZERO, pace.retell, pace.warn);
    loop {
        left.retain(|ended| !ended.try_finish(&bell));
        if left.is_empty() {
            return;
        }
        if passed >= warn {
            left.iter().for_each(Ended::warn);
            warn += pace.warn;
        } else if passed >= pace.bound {
            return left.iter().for_each(Ended::give_up);
        } else if passed >= retell {
            left.iter().for_each(Ended::retell);
            retell += pace.retell;
        } else {
            passed += bell.wait(retell.min(warn).min(pace.bound) - passed);
        }
    }
}

/// `priv_destructor`, then `free_netdev` if it is due. The device is nobody's from here on.
pub(super) fn finish(dev: &Arc<OwnDevice>) {
    let mut life = dev.life();
    let Some(net) = life.net.clone().filter(|_| !life.ending) else { return };
    life.ending = true;
    drop(life);
    net.record().own.retain(|own| !Arc::ptr_eq(own, dev));
    destroy(&net, dev);
    let mut life = dev.life();
    // Only now: whoever frees it before leaves that to here.
    life.net = None;
    let needs_free = life.needs_free && life.reg_state == RegState::Unregistered;
    if needs_free {
        life.reg_state = RegState::Released;
    }
    drop(life);
    if needs_free {
        tell_failure(&net, dev, "ndo.free", dev.ops.free());
    }
}

/// `priv_destructor`. It may run anywhere, so nobody is there who would take its error.
pub(super) fn destroy(net: &Net, dev: &OwnDevice) {
    tell_failure(net, dev, "ndo.destructor", dev.ops.destructor());
}

fn tell_failure(net: &Net, dev: &OwnDevice, hook: &'static str, answer: Result<(), Failure>) {
    let Err(failure) = answer else { return };
    let error = HookError { plugin: dev.owner.name.clone(), hook, netns: net.name(), device: None, failure };
    net.namespace().noted(&error);
    if error.failure.panicked {
        dev.owner.poison(error);
    }
}

impl Walk {
    /// The references that a plugin holds in a net end with it.
    pub(super) fn let_go(&self, net: &Net, owner: &Owner) {
        let own = net.record().own.clone();
        for dev in own {
            if dev.life().references.retain(|holder| *holder.plugin != *owner.name) {
                finish(&dev);
            }
        }
    }
}
