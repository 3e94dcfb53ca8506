//! What a test tells a probe: where to record, what to register, and where to go wrong.

use std::path::PathBuf;

use serde::Deserialize;

use super::record::Line;
use super::spec::WantedDevice;

/// The probe's `[config]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The file to which each call appends a line.
    pub(super) record: PathBuf,
    /// Copied to each line, to tell configurations apart.
    #[serde(default)]
    pub(super) label: String,
    /// Refuses this very configuration, with this reason.
    #[serde(default)]
    pub(super) refuse: Option<String>,
    /// Registers a pernet subsystem.
    #[serde(default = "yes")]
    pub(super) subsys: bool,
    /// Registers a pernet device.
    #[serde(default)]
    pub(super) device_op: bool,
    /// Registers a notifier of this priority.
    #[serde(default)]
    pub(super) notifier: Option<i32>,
    /// A file of which each line gets the content: what the hook can see where it runs.
    #[serde(default)]
    pub(super) read: Option<PathBuf>,
    /// Where to go wrong; the first that fits counts.
    #[serde(default)]
    faults: Vec<Fault>,
    /// What to ask of the daemon, and where.
    #[serde(default)]
    pub(super) works: Vec<Work>,
    /// Devices of its own, registered by the pernet device.
    #[serde(default)]
    pub(super) netdevs: Vec<WantedDevice>,
    /// Registers a notifier of this priority in each namespace's own chain, in the init of the pernet device.
    #[serde(default)]
    pub(super) net_notifier: Option<i32>,
    /// Devices of its own are changed as this file says, whenever there is one.
    #[serde(default)]
    pub(super) acts: Option<PathBuf>,
    /// File system types to register.
    #[serde(default)]
    pub(super) filesystems: Vec<WantedFs>,
    /// Internal mounts to make in a namespace's init.
    #[serde(default)]
    pub(super) kern_mounts: Vec<WantedMount>,
    /// Devices to hold from their REGISTER on; the notifier has to be there.
    #[serde(default)]
    pub(super) holds: Vec<Hold>,
    /// Sockets to make.
    #[serde(default)]
    pub(super) sockets: Vec<WantedSocket>,
    /// Families to connect to.
    #[serde(default)]
    pub(super) connects: Vec<Connect>,
    /// Protocol families to offer, each of which sends back what it is sent.
    #[serde(default)]
    pub(super) families: Vec<String>,
}

/// Where something is done.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Place {
    /// In this hook …
    hook: String,
    /// … of the namespaces that this glob fits.
    #[serde(default = "everywhere")]
    netns: String,
    /// In the namespace of this name, whose init this instance has seen; in the hook's own without.
    #[serde(default)]
    pub(super) to: String,
    /// From a thread of the plugin's own, instead of from the hook.
    #[serde(default)]
    pub(super) own_thread: bool,
}

impl Place {
    pub(super) fn is(&self, hook: &str, netns: &str) -> bool {
        self.hook == hook && glob::Pattern::new(&self.netns).is_ok_and(|glob| glob.matches(netns))
    }
}

/// A socket to make.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct WantedSocket {
    #[serde(flatten)]
    pub(super) at: Place,
    /// `AF_*`
    pub(super) family: i32,
    /// `SOCK_*`
    pub(super) kind: i32,
    #[serde(default)]
    pub(super) protocol: i32,
    /// For how long.
    #[serde(default)]
    pub(super) keep: Keep,
    /// A thread reads it once.
    #[serde(default)]
    pub(super) read: bool,
}

/// How long a socket is kept.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Keep {
    /// Dropped at once.
    Drop,
    /// Until the namespace's exit.
    #[default]
    Net,
    /// Until the plugin's own end: it leaks from the namespace.
    Plugin,
    /// For ever.
    Forget,
}

/// A family to connect to.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Connect {
    #[serde(flatten)]
    pub(super) at: Place,
    pub(super) family: String,
    /// `SOCK_*`
    pub(super) kind: i32,
    /// Said; the answer is recorded.
    pub(super) say: String,
}

/// A file system type to register.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WantedFs {
    pub(super) name: String,
    /// For internal mounts only.
    #[serde(default)]
    pub(super) internal: bool,
}

/// An internal mount to make.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WantedMount {
    /// In the init of the namespace of this name.
    pub(super) netns: String,
    /// The type.
    pub(super) fs: String,
    #[serde(default)]
    pub(super) options: String,
}

/// A device to hold.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hold {
    /// In the namespace of this name …
    pub(super) netns: String,
    /// … the device of this name.
    pub(super) device: String,
    /// As the operator reads it.
    pub(super) purpose: String,
    /// Put when this file is there.
    pub(super) until: PathBuf,
}

fn yes() -> bool {
    true
}

/// One thing to go wrong.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fault {
    /// The hook by the operator's name, or `init`, `drop`, `pernet.free`.
    hook: String,
    /// A glob of namespaces; hooks that run at home have the empty name.
    #[serde(default = "everywhere")]
    netns: String,
    /// Only for the device of this name.
    device: Option<String>,
    /// Only the n-th call in a namespace, counted from 1.
    nth: Option<u64>,
    /// Only where an event is, or is not, a replay of what exists.
    replay: Option<bool>,
    /// Only while this file is there.
    when: Option<PathBuf>,
    /// How.
    pub(super) action: Action,
}

fn everywhere() -> String {
    "*".to_owned()
}

/// How a hook goes wrong.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Action {
    /// Returns an error with this errno.
    Fail(i32),
    /// Panics.
    Panic,
    /// Hangs until this file is there.
    Until(PathBuf),
}

impl Action {
    /// For the record.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Action::Fail(_) => "fail",
            Action::Panic => "panic",
            Action::Until(_) => "until",
        }
    }
}

/// Work to ask of the daemon from a hook.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Work {
    /// In this hook …
    pub(super) hook: String,
    /// … of this namespace.
    pub(super) netns: String,
    /// What to ask.
    pub(super) ask: Ask,
    /// For this namespace, whose init this instance has seen.
    pub(super) to: String,
    /// The second one of `defer_two`.
    #[serde(default)]
    pub(super) and: String,
    /// What the deferred work is called in the record.
    #[serde(default)]
    pub(super) tag: String,
    /// From a thread of the plugin's own, instead of from the hook.
    #[serde(default)]
    pub(super) own_thread: bool,
}

/// What can be asked of the daemon.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ask {
    /// `Host::defer`
    Defer,
    /// `Host::defer_two`
    DeferTwo,
    /// `Host::run_in`
    RunIn,
    /// `Host::register_netdevice_notifier_net`, of one that records nothing
    Notifier,
}

impl Config {
    /// Whether something may go wrong there.
    pub(super) fn has_fault(&self, hook: &str, device: Option<&str>) -> bool {
        let here = |f: &Fault| f.hook == hook && f.device.as_deref().is_none_or(|name| device == Some(name));
        self.faults.iter().any(here)
    }

    /// What is to go wrong in this call.
    pub(super) fn fault(&self, call: &Line<'_>, nth: u64) -> Option<&Fault> {
        self.faults.iter().find(|f| {
            f.hook == call.hook
                && glob::Pattern::new(&f.netns).is_ok_and(|glob| glob.matches(call.netns))
                && f.device.as_deref().is_none_or(|name| call.device == Some(name))
                && f.replay.is_none_or(|replay| call.replay == Some(replay))
                && f.nth.is_none_or(|n| n == nth)
                && f.when.as_ref().is_none_or(|file| file.exists())
        })
    }
}
