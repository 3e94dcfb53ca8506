//! Network devices and their events, as plain data: what a notifier is told and what it answers.

/// A network device as the daemon last saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Index in its namespace; reused by the kernel, so not an identity.
    pub ifindex: u32,
    /// Given by the daemon at each registration and never reused: (cookie, ifindex, serial) is the identity.
    pub serial: u64,
    /// Current name.
    pub name: String,
    /// Link kind (`veth`, `bridge`, …); empty where the kernel gives none (`lo`).
    pub kind: String,
    /// Hardware address; empty where the device has none.
    pub address: Vec<u8>,
    /// Maximum transmission unit in bytes.
    pub mtu: u32,
    /// `IFF_*` flags.
    pub flags: u32,
    /// ifindex of the upper device (bridge, bond) that it belongs to; 0 for none.
    pub master: u32,
}

impl DeviceInfo {
    /// Whether the device is administratively up (`IFF_UP`).
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.flags & 1 != 0
    }
}

/// What happened to a device (the kernel's `NETDEV_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EventKind {
    /// The device appeared, or is replayed to a late notifier.
    Register = 0,
    /// It went up.
    Up = 1,
    /// It is about to be shown as down.
    GoingDown = 2,
    /// It went down.
    Down = 3,
    /// Its name changed; the old one is in the event.
    ChangeName = 4,
    /// Its MTU changed.
    ChangeMtu = 5,
    /// Its hardware address changed.
    ChangeAddr = 6,
    /// It joined or left an upper device.
    ChangeUpper = 7,
    /// Other flags changed.
    Change = 8,
    /// It is gone, or moved to another namespace, or the notifier goes.
    Unregister = 9,
    /// A plugin's device is initialised and not yet in the kernel; an error refuses it (K2.4).
    PostInit = 10,
    /// A plugin's device is about to be uninitialised.
    PreUninit = 11,
    /// A plugin's device is about to go up; an error refuses it.
    PreUp = 12,
    /// The MTU of a plugin's device is about to change; an error refuses it.
    PreChangeMtu = 13,
    /// The hardware address of a plugin's device is about to change; an error refuses it.
    PreChangeAddr = 14,
    /// A plugin's device is about to join or leave an upper device; an error refuses it.
    PreChangeUpper = 15,
}

impl EventKind {
    const ALL: [EventKind; 16] = [
        EventKind::Register,
        EventKind::Up,
        EventKind::GoingDown,
        EventKind::Down,
        EventKind::ChangeName,
        EventKind::ChangeMtu,
        EventKind::ChangeAddr,
        EventKind::ChangeUpper,
        EventKind::Change,
        EventKind::Unregister,
        EventKind::PostInit,
        EventKind::PreUninit,
        EventKind::PreUp,
        EventKind::PreChangeMtu,
        EventKind::PreChangeAddr,
        EventKind::PreChangeUpper,
    ];

    /// The event with this number, or `None` for a number that this version does not know.
    #[must_use]
    pub fn from_u8(n: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|k| *k as u8 == n)
    }

    /// The hook's name as the operator sees it.
    #[must_use]
    pub fn hook_name(self) -> &'static str {
        match self {
            EventKind::Register => "netdev.register",
            EventKind::Up => "netdev.up",
            EventKind::GoingDown => "netdev.goingdown",
            EventKind::Down => "netdev.down",
            EventKind::ChangeName => "netdev.changename",
            EventKind::ChangeMtu => "netdev.changemtu",
            EventKind::ChangeAddr => "netdev.changeaddr",
            EventKind::ChangeUpper => "netdev.changeupper",
            EventKind::Change => "netdev.change",
            EventKind::Unregister => "netdev.unregister",
            EventKind::PostInit => "netdev.post_init",
            EventKind::PreUninit => "netdev.pre_uninit",
            EventKind::PreUp => "netdev.pre_up",
            EventKind::PreChangeMtu => "netdev.pre_changemtu",
            EventKind::PreChangeAddr => "netdev.pre_changeaddr",
            EventKind::PreChangeUpper => "netdev.pre_changeupper",
        }
    }

    /// The event's name alone: what follows `netdev.`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.hook_name().trim_start_matches("netdev.")
    }
}

/// Where a device stands in its life (K2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RegState {
    /// Allocated, and never registered; or its registration failed before the device was in any list.
    Uninitialized = 0,
    /// In its namespace's lists.
    Registered = 1,
    /// Out of the lists, and being told gone.
    Unregistering = 2,
    /// Told gone, and waiting for its last reference.
    Unregistered = 3,
    /// Freed.
    Released = 4,
}

impl RegState {
    const ALL: [RegState; 5] = [
        RegState::Uninitialized,
        RegState::Registered,
        RegState::Unregistering,
        RegState::Unregistered,
        RegState::Released,
    ];

    /// The state with this number, or `None` for a number that this version does not know.
    #[must_use]
    pub fn from_u8(n: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|s| *s as u8 == n)
    }

    /// The operator's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            RegState::Uninitialized => "uninitialized",
            RegState::Registered => "registered",
            RegState::Unregistering => "unregistering",
            RegState::Unregistered => "unregistered",
            RegState::Released => "released",
        }
    }
}

/// What a notifier answers (the kernel's `NOTIFY_*`); an errno is answered as an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    /// Not interested.
    Done = 0,
    /// Handled.
    Ok = 1,
    /// Handled, and nobody after this notifier is told. Success (K3.3).
    Stop = 2,
    /// Refused: decodes to EPERM (K3.3), and nobody after this notifier is told. What it refuses, and where it refuses
    /// nothing (K3.4), is with [`Notifier::event`](crate::Notifier::event).
    Bad = 3,
}

impl Verdict {
    /// The verdict with this number, or `None` for a number that this version does not know.
    #[must_use]
    pub fn from_u8(n: u8) -> Option<Self> {
        [Verdict::Done, Verdict::Ok, Verdict::Stop, Verdict::Bad].into_iter().find(|v| *v as u8 == n)
    }
}
