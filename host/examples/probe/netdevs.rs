//! Devices of a probe's own, and references to devices of anybody's.
//!
//! What the configuration wants is registered in the pernet device's init; a veth pair once both namespaces are met.
//! The answer is a line `netdev.register_netdevice` with an errno and, of a refusal, the sentence; each operation is a line
//! `netdev.ndo_…`, where a fault may be asked for as in every hook.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use pernet_plugin_api::prelude::*;

use super::config::Hold;
use super::record::Line;
use super::spec::WantedDevice;
use super::{Shared, wait_for};

/// What a probe has of devices.
pub(super) struct Netdevs {
    pub(super) host: Host,
    devices: Mutex<Vec<Netdev>>,
    /// Pairs of which both ends' namespaces are met, and which have been asked for.
    paired: Mutex<Vec<(NetCookie, NetCookie, String)>>,
    /// Put when the plugin ends, or earlier by the thread that waits for the file.
    held: Arc<Mutex<Vec<(PathBuf, NetdevRef)>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Netdevs {
    pub(super) fn new(host: Host) -> Netdevs {
        Netdevs {
            host,
            devices: Mutex::default(),
            paired: Mutex::default(),
            held: Arc::default(),
            threads: Mutex::default(),
        }
    }

    /// Registers what is wanted in this namespace. A refusal is recorded, and fails the init where it must not be.
    pub(super) fn register(&self, shared: &Arc<Shared>, net: &Net<'_>) -> Result<()> {
        for wanted in &shared.config.netdevs {
            let here = wanted.netns == net.name();
            if let (Some(until), true) = (&wanted.until, here) {
                self.register_outside(shared, net, wanted, until)?;
            } else if wanted.peer.is_empty() && here {
                let done = self.register_one(shared, net, wanted);
                answer(shared, net, wanted, done.as_ref())?;
                if let Ok(dev) = done {
                    self.move_later(shared, net, wanted, &dev)?;
                    lock(&self.devices).push(dev);
                }
            } else if here || wanted.peer_netns == net.name() {
                self.register_pair(shared, wanted)?;
            }
        }
        Ok(())
    }

    /// By a thread that is in no hook, for as long as the file is not there.
    fn register_outside(&self, shared: &Arc<Shared>, net: &Net<'_>, wanted: &WantedDevice, until: &Path) -> Result<()> {
        let dev = self.host.alloc_netdev(wanted.spec(0), ops(shared, net.name()))?;
        let (host, until, cookie) = (self.host.clone(), until.to_owned(), net.cookie());
        let (shared, netns) = (Arc::clone(shared), net.name().to_owned());
        let thread = thread::spawn(move || {
            let told = |what: &str, done: Result<()>| {
                let errno = Some(done.err().map_or(0, |e| e.errno()));
                shared.note(Line { netns: &netns, errno, ..Line::at_home(what) });
            };
            told("netdev.register_netdev", host.register_netdev(cookie, &dev));
            wait_for(&until);
            told("netdev.unregister_netdev", host.unregister_netdev(&dev));
            told("netdev.free", dev.free());
        });
        lock(&self.threads).push(thread);
        Ok(())
    }

    /// Registers the notifier of this namespace's own chain that the configuration wants.
    pub(super) fn listen(&self, shared: &Arc<Shared>, net: &Net<'_>) -> Result<()> {
        let Some(priority) = shared.config.net_notifier else { return Ok(()) };
        let notifier = NetNotifier(Arc::clone(shared));
        self.host.register_netdevice_notifier_net(net.cookie(), priority, notifier).map(drop)
    }

    fn register_one(&self, shared: &Arc<Shared>, net: &Net<'_>, wanted: &WantedDevice) -> Result<Netdev> {
        let over = if wanted.over.is_empty() { 0 } else { self.find(net, &wanted.over)?.ifindex };
        let dev = self.host.alloc_netdev(wanted.spec(over), ops(shared, net.name()))?;
        net.register_netdevice(&dev)?;
        if !wanted.rename.is_empty() {
            net.dev_change_name(&dev, &wanted.rename)?;
        }
        if wanted.open {
            net.dev_open(&dev)?;
        }
        Ok(dev)
    }

    /// Moves it where it is wanted: under both locks, so after this hook's.
    fn move_later(&self, shared: &Arc<Shared>, net: &Net<'_>, wanted: &WantedDevice, dev: &Netdev) -> Result<()> {
        let Some(to) = &wanted.move_to else { return Ok(()) };
        let (shared, wanted, dev, to) = (Arc::clone(shared), wanted.clone(), dev.clone(), shared.works.cookie(to));
        self.host.defer_two(net.cookie(), to, move |here, there| {
            let done = here.dev_change_net_namespace_as(&dev, there, wanted.move_as.as_deref(), wanted.move_index);
            let name = dev.state().map_or_else(|_| wanted.name.clone(), |info| info.name);
            let errno = Some(done.as_ref().err().map_or(0, Error::errno));
            shared.note(Line { device: Some(&name), errno, ..Line::of("netdev.move", "", here) });
        })
    }

    /// One of the probe's own in this namespace, by its name now.
    fn find(&self, net: &Net<'_>, name: &str) -> Result<NetdevInfo> {
        let mut infos = self.registered().into_iter().map(|(_, info)| info);
        let found = infos.find(|info| info.name == name && info.net == Some(net.cookie()));
        found.ok_or_else(|| Error::new(libc::ENODEV, format!("the probe has no device {name} in {}", net.name())))
    }

    /// The same anywhere, and where.
    pub(super) fn of_name(&self, name: &str) -> Result<(Netdev, NetCookie)> {
        let mut all = self.registered().into_iter();
        let found = all.find_map(|(dev, info)| info.net.filter(|_| info.name == name).map(|net| (dev, net)));
        found.ok_or_else(|| Error::new(libc::ENODEV, format!("the probe has no device {name}")))
    }

    fn registered(&self) -> Vec<(Netdev, NetdevInfo)> {
        let devices = lock(&self.devices).clone();
        let infos = devices.into_iter().filter_map(|dev| dev.state().ok().map(|info| (dev, info)));
        infos.filter(|(_, info)| info.net.is_some()).collect()
    }

    /// Registers anew what is wanted, in the namespaces met so far, and is registered nowhere under the wanted name. Those
    /// whose unregistration is done are let go.
    pub(super) fn register_again(&self, shared: &Arc<Shared>) {
        lock(&self.devices).retain(|dev| dev.state().is_ok_and(|info| info.net.is_some()));
        for wanted in shared.config.netdevs.iter().filter(|wanted| self.of_name(&wanted.name).is_err()) {
            if wanted.peer.is_empty() {
                let (own, wanted) = (Arc::clone(shared), wanted.clone());
                let registered = self.host.run_in(shared.works.cookie(&wanted.netns), move |net| {
                    let done = own.netdevs.register_one(&own, net, &wanted);
                    let _ = answer(&own, net, &wanted, done.as_ref());
                    done
                });
                lock(&self.devices).extend(registered.and_then(|done| done));
            } else {
                lock(&self.paired).clear();
                // Its namespaces may be gone.
                let _ = self.register_pair(shared, wanted);
            }
        }
    }

    /// Both ends, from whichever namespace is met last: under both locks, so after this hook's.
    fn register_pair(&self, shared: &Arc<Shared>, wanted: &WantedDevice) -> Result<()> {
        let ends = [shared.works.cookie(&wanted.netns), shared.works.cookie(&wanted.peer_netns)];
        let [here, there] = ends;
        let pair = (here, there, wanted.name.clone());
        let mut paired = lock(&self.paired);
        if ends.contains(&NetCookie(0)) || paired.contains(&pair) {
            return Ok(());
        }
        paired.push(pair);
        let near = self.host.alloc_netdev(wanted.spec(0), ops(shared, &wanted.netns))?;
        let far = NetdevSpec::veth(&wanted.peer).peer(&near);
        let far = self.host.alloc_netdev(far, ops(shared, &wanted.peer_netns))?;
        lock(&self.devices).extend([near.clone(), far.clone()]);
        let (shared, wanted) = (Arc::clone(shared), wanted.clone());
        self.host.defer_two(here, there, move |here, there| {
            let mut done = there.register_netdevice_pair(&far, here, &near);
            if wanted.open {
                done = done.and_then(|()| here.dev_open(&near)).and_then(|()| there.dev_open(&far));
            }
            let _ = answer(&shared, here, &wanted, done.as_ref().map(|()| &near));
        })
    }

    /// Takes the references that are wanted to a device that has just been registered.
    pub(super) fn hold(&self, shared: &Arc<Shared>, net: &Net<'_>, event: &Event<'_>) {
        let device = &event.device;
        let wanted = |hold: &&Hold| hold.netns == net.name() && hold.device == device.name;
        for hold in shared.config.holds.iter().filter(wanted) {
            let taken = self.host.dev_hold(net.cookie(), device.ifindex, device.serial, &hold.purpose);
            let errno = Some(taken.as_ref().err().map_or(0, Error::errno));
            shared.note(Line { device: Some(device.name), errno, ..Line::of("netdev.dev_hold", "", net) });
            let Ok(reference) = taken else { continue };
            lock(&self.held).push((hold.until.clone(), reference));
            let (held, until) = (Arc::clone(&self.held), hold.until.clone());
            lock(&self.threads).push(thread::spawn(move || {
                wait_for(&until);
                lock(&held).retain(|(file, _)| *file != until);
            }));
        }
    }

    /// Lets go of everything.
    pub(super) fn end(&self) {
        drop(std::mem::take(&mut *lock(&self.held)));
        drop(std::mem::take(&mut *lock(&self.devices)));
    }
}

/// A notifier of one namespace's own chain.
struct NetNotifier(Arc<Shared>);

impl Notifier for NetNotifier {
    fn event(&self, net: &Net<'_>, event: &Event<'_>) -> Result<Verdict> {
        let hook = format!("own.{}", event.kind.as_str());
        self.0.call(Line { device: Some(event.device.name), ..Line::of(&hook, "net_notifier", net) })?;
        Ok(Verdict::Ok)
    }
}

/// Records how it went.
fn answer(shared: &Shared, net: &Net<'_>, wanted: &WantedDevice, done: Result<&Netdev, &Error>) -> Result<()> {
    let name = done.ok().and_then(|dev| dev.state().ok()).map_or_else(|| wanted.name.clone(), |info| info.name);
    let errno = Some(done.err().map_or(0, Error::errno));
    let message = done.err().map(ToString::to_string);
    let line = Line::of("netdev.register_netdevice", "", net);
    shared.note(Line { device: Some(&name), errno, message: message.as_deref(), ..line });
    match done {
        Err(error) if wanted.must => Err(Error::new(error.errno(), error.to_string())),
        _ => Ok(()),
    }
}

fn ops(shared: &Arc<Shared>, netns: &str) -> Ops {
    Ops { shared: Arc::clone(shared), netns: netns.to_owned() }
}

struct Ops {
    shared: Arc<Shared>,
    /// Where it was to be registered: it may be elsewhere by now.
    netns: String,
}

impl Ops {
    fn call(&self, hook: &str, net: &Net<'_>, dev: &NdoDevice<'_>) -> Result<()> {
        self.shared.call(Line { device: Some(dev.name), ..Line::of(hook, "", net) })
    }
}

impl NetDeviceOps for Ops {
    fn init(&self, net: &Net<'_>, dev: &NdoDevice<'_>) -> Result<()> {
        self.call("netdev.ndo_init", net, dev)
    }

    fn uninit(&self, net: &Net<'_>, dev: &NdoDevice<'_>) -> Result<()> {
        self.call("netdev.ndo_uninit", net, dev)
    }

    fn open(&self, net: &Net<'_>, dev: &NdoDevice<'_>) -> Result<()> {
        self.call("netdev.ndo_open", net, dev)
    }

    fn stop(&self, net: &Net<'_>, dev: &NdoDevice<'_>) -> Result<()> {
        self.call("netdev.ndo_stop", net, dev)
    }

    fn change_mtu(&self, net: &Net<'_>, dev: &NdoDevice<'_>, _new: u32) -> Result<()> {
        self.call("netdev.ndo_change_mtu", net, dev)
    }

    fn set_mac_address(&self, net: &Net<'_>, dev: &NdoDevice<'_>, _new: &[u8]) -> Result<()> {
        self.call("netdev.ndo_set_mac_address", net, dev)
    }

    fn get_stats(&self) -> Stats {
        let _ = self.shared.call(Line::at_home("netdev.ndo_get_stats"));
        Stats { rx_packets: 7, ..Stats::default() }
    }

    fn destructor(&self) {
        self.shared.note(Line { netns: &self.netns, ..Line::at_home("netdev.destructor") });
    }
}
