//! Netdevice notifiers: what an author is told of a namespace's devices.
//!
//! Mirrors `struct notifier_block` on the netdevice chain. Which events there are, and when, is the host's engine.

use crate::abi::DeviceEvent;
use crate::{DeviceInfo, EventKind, Net, Result, Verdict};

/// Told of the events of the network devices in every namespace that the plugin acts in.
pub trait Notifier: Send + Sync + 'static {
    /// An event, inside the namespace of the device, with that namespace's device lock (the RTNL) held: work that needs
    /// the lock, or another namespace, goes to [`crate::Host::defer`].
    ///
    /// A late notifier is first replayed what exists, REGISTER and then UP if it is up (K3.1), and one that goes is
    /// told of each device's end; both with [`Event::replay`]. [`Verdict::Stop`] keeps the event from notifiers of
    /// lower priority; [`Verdict::Bad`] also does.
    ///
    /// [`Verdict::Bad`] (`EPERM`) and an error refuse what a plugin does with a device of its own at these events (K3.4):
    /// [`PostInit`](EventKind::PostInit), [`Register`](EventKind::Register), [`PreUp`](EventKind::PreUp),
    /// [`PreChangeMtu`](EventKind::PreChangeMtu), [`ChangeMtu`](EventKind::ChangeMtu),
    /// [`PreChangeAddr`](EventKind::PreChangeAddr), [`ChangeName`](EventKind::ChangeName),
    /// [`PreChangeUpper`](EventKind::PreChangeUpper) and [`ChangeUpper`](EventKind::ChangeUpper). What was done is then
    /// undone, and those who were told before may be told again, so a handler must bear the same event twice. At every
    /// other event, at one that comes with a move, and of a device that is not a plugin's, it refuses nothing: what the
    /// kernel reports has happened already.
    fn event(&self, net: &Net<'_>, event: &Event<'_>) -> Result<Verdict>;
}

/// What happened to which device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event<'a> {
    /// What happened.
    pub kind: EventKind,
    /// Whether this tells a new notifier what exists, or takes it back from one that goes: nothing happened to the
    /// device itself.
    pub replay: bool,
    /// The device, as it is after the event; at one that begins with `Pre`, as it is before.
    pub device: Device<'a>,
    /// The name before a [`EventKind::ChangeName`].
    pub old_name: Option<&'a str>,
}

/// A device for the time of one call; [`Device::to_info`] keeps it. The fields are those of [`DeviceInfo`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Device<'a> {
    /// Index in its namespace; reused by the kernel, so not an identity.
    pub ifindex: u32,
    /// Never reused: (cookie, ifindex, serial) is the identity.
    pub serial: u64,
    /// Current name.
    pub name: &'a str,
    /// Link kind; empty where the kernel gives none.
    pub kind: &'a str,
    /// Hardware address; empty where the device has none.
    pub address: &'a [u8],
    /// Maximum transmission unit in bytes.
    pub mtu: u32,
    /// `IFF_*` flags.
    pub flags: u32,
    /// ifindex of the upper device; 0 for none.
    pub master: u32,
}

impl Device<'_> {
    /// Whether the device is administratively up (`IFF_UP`).
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.flags & 1 != 0
    }

    /// The device as data of one's own.
    #[must_use]
    pub fn to_info(&self) -> DeviceInfo {
        DeviceInfo {
            ifindex: self.ifindex,
            serial: self.serial,
            name: self.name.to_owned(),
            kind: self.kind.to_owned(),
            address: self.address.to_vec(),
            mtu: self.mtu,
            flags: self.flags,
            master: self.master,
        }
    }
}

impl<'a> Event<'a> {
    /// `None` for a kind that this version does not know: a newer host may have more.
    pub(crate) fn read(raw: &'a DeviceEvent<'a>) -> Option<Self> {
        let kind = EventKind::from_u8(raw.kind)?;
        let device = Device {
            ifindex: raw.ifindex,
            serial: raw.serial,
            name: raw.name.as_str(),
            kind: raw.link_kind.as_str(),
            address: raw.address.as_slice(),
            mtu: raw.mtu,
            flags: raw.flags,
            master: raw.master,
        };
        let old_name = (kind == EventKind::ChangeName).then(|| raw.old_name.as_str());
        Some(Event { kind, replay: raw.replay != 0, device, old_name })
    }
}
