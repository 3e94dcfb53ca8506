//! What a client can ask of the daemon: closed requests, each with the channel for its answer.
//!
//! This is the seam between the control door and the daemon loop. Connection threads make requests, already judged and
//! with valid arguments; the loop answers them in its own time and never waits for a client. Time-outs and clients that
//! leave are the connection thread's business: all that the loop sees of them is an answer that nobody wants.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::sysctl::SysctlSet;
use super::wire::{
    BootRecord, Device, DeviceDetails, Filesystem, MountEntry, Netns, Plugin, ReloadResult, Socket, Status, Stories,
};

/// One thing that a client asks for.
#[derive(Debug)]
pub enum Request {
    /// The daemon's state.
    Status {
        /// For the answer.
        reply: Reply<Status>,
    },
    /// All namespaces, `@host` first.
    NetnsList {
        /// Count the devices where that takes a look into the kernel.
        count: bool,
        /// For the answer.
        reply: Reply<Vec<Netns>>,
    },
    /// One namespace; an unknown name is [`ErrorKind::NotFound`].
    NetnsGet {
        /// Any of its names.
        name: String,
        /// Count its devices where that takes a look into the kernel.
        count: bool,
        /// For the answer.
        reply: Reply<Netns>,
    },
    /// Answered when the namespace is there and live, degraded or failed; kept while it is absent, in setup or dying.
    NetnsWait {
        /// Any of its names.
        name: String,
        /// For the answer.
        reply: Reply<Netns>,
    },
    /// Retry a failed or degraded namespace now; answered when that is done (at once if there is nothing to retry).
    NetnsRetry {
        /// Any of its names.
        name: String,
        /// For the answer.
        reply: Reply<Netns>,
    },
    /// Run the inits in a namespace that is about to be named, on a lease.
    NetnsAdd(NetnsAdd),
    /// The client of an add has gone before `seen` was answered: look for the name once more, else undo and let go.
    /// A lease that is not known (any more) is nothing to worry about.
    LeaseEnded {
        /// The lease of that add.
        lease: LeaseId,
    },
    /// Answered when `name` no longer names the namespace and, if it was its last name, its exits are done: with the
    /// last state. A namespace that goes on under other names is answered with its state; one that is not known with
    /// [`ErrorKind::NotFound`].
    NetnsWaitGone {
        /// The name that goes.
        name: String,
        /// The namespace it goes from: a new one may have the same name at once.
        cookie: u64,
        /// For the answer.
        reply: Reply<Netns>,
    },
    /// All plugins in registration order.
    PluginList {
        /// For the answer.
        reply: Reply<Vec<Plugin>>,
    },
    /// The devices of one namespace, or of all.
    DevList {
        /// Any of the namespace's names; `None` for all.
        netns: Option<String>,
        /// For the answer.
        reply: Reply<Vec<Device>>,
    },
    /// The devices of this name, or alternative name; none is [`ErrorKind::NotFound`].
    DevShow {
        /// The device's name.
        name: String,
        /// Any of the namespace's names; `None` for all.
        netns: Option<String>,
        /// For the answer: at least one.
        reply: Reply<Vec<DeviceDetails>>,
    },
    /// What ran at the start, and the last setups of namespaces.
    Boot {
        /// Any of the namespace's names; `None` for all.
        netns: Option<String>,
        /// For the answer.
        reply: Reply<BootRecord>,
    },
    /// Why something is as it is; what nothing is known of is [`ErrorKind::NotFound`].
    Why {
        /// A name.
        name: String,
        /// Of these only; `None` for all that have this name.
        kind: Option<StoryKind>,
        /// For the answer: at least one.
        reply: Reply<Stories>,
    },
    /// The file system types in the order of registration.
    FilesystemList {
        /// For the answer.
        reply: Reply<Vec<Filesystem>>,
    },
    /// Users' mounts.
    MountList {
        /// For the answer.
        reply: Reply<Vec<MountEntry>>,
    },
    /// Serve a mount that the client has made.
    Mount(MountAsk),
    /// The sysctls of the namespaces that are meant, for the connection's thread to ask.
    Sysctls {
        /// A name or a pattern of names; `None` for the host's own namespace.
        netns: Option<String>,
        /// For the answer: at least one.
        reply: Reply<Vec<Box<dyn SysctlSet>>>,
    },
    /// Reload as SIGHUP does; answered when it is done. A refused configuration is [`ErrorKind::Failed`] with the
    /// errors, or `ok: false` with the plugins concerned.
    Reload {
        /// For the answer.
        reply: Reply<ReloadResult>,
    },
    /// The sockets of plugins in one namespace, or in all.
    SockList {
        /// Any of the namespace's names; `None` for all.
        netns: Option<String>,
        /// For the answer.
        reply: Reply<Vec<Socket>>,
    },
    /// Connect to a protocol family that a plugin offers.
    SockConnect(SockConnect),
}

/// What a story can be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoryKind {
    /// A namespace.
    Netns,
    /// A plugin.
    Plugin,
    /// A device.
    Dev,
}

impl StoryKind {
    /// The operator's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            StoryKind::Netns => "netns",
            StoryKind::Plugin => "plugin",
            StoryKind::Dev => "dev",
        }
    }

    pub(super) fn from_word(word: &str) -> Result<Self, ControlError> {
        let known =
            [StoryKind::Netns, StoryKind::Plugin, StoryKind::Dev].into_iter().find(|kind| kind.as_str() == word);
        let what = format!("{word:?} is no kind");
        known.ok_or_else(|| ControlError::new(ErrorKind::Invalid, "kind", what, "give netns, plugin or dev, or none"))
    }
}

/// The arguments of [`Request::SockConnect`].
#[derive(Debug)]
pub struct SockConnect {
    /// Any of the namespace's names.
    pub netns: String,
    /// The family's name.
    pub family: String,
    /// `stream`, `dgram` or `seqpacket`.
    pub kind: String,
    /// Who connects: effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Process; 0 where it has no number here.
    pub pid: u32,
    /// The plugin's end; not looked at yet.
    pub fd: OwnedFd,
    /// Answered when the plugin has taken it, or refused.
    pub reply: Reply<()>,
}

/// The arguments of [`Request::NetnsAdd`].
#[derive(Debug)]
pub struct NetnsAdd {
    /// The name that it will have, in the operator's form.
    pub name: String,
    /// The file that the client has reserved and will bind.
    pub path: PathBuf,
    /// The namespace. The sender's descriptor, hence to be identified and pinned from inside, then closed.
    pub ns: OwnedFd,
    /// Names this add in [`Request::LeaseEnded`].
    pub lease: LeaseId,
    /// Answered first: the inits are done (live or degraded) or failed. Failed ends the lease; so does an error.
    pub inits: Reply<Netns>,
    /// Answered second: discovery has seen the name. Ends the lease.
    pub seen: Reply<Netns>,
}

/// The arguments of [`Request::Mount`].
#[derive(Debug)]
pub struct MountAsk {
    /// The file system type, by name.
    pub fs: String,
    /// Any of the namespace's names; `None` for none in particular.
    pub netns: Option<String>,
    /// As given to mount(8).
    pub source: String,
    /// Where the client is going to attach it.
    pub target: String,
    /// Separated by commas; those that are the client's own are not among them.
    pub options: String,
    /// The connection.
    pub device: OwnedFd,
    /// Answered when the mount answers. An unknown type is [`ErrorKind::NotFound`].
    pub reply: Reply<MountEntry>,
}

/// Identifies a lease; never reused by a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub u64);

/// Where one answer goes. Sending never blocks; dropping it unanswered tells the client that the daemon gave up on it.
#[derive(Debug)]
pub struct Reply<T> {
    sender: Sender<Result<T, ControlError>>,
    asker: Weak<()>,
}

/// The asker's end of a [`Reply`].
#[derive(Debug)]
pub struct Answer<T> {
    pub(super) receiver: Receiver<Result<T, ControlError>>,
    _asking: Arc<()>,
}

impl<T> Reply<T> {
    /// A place for one answer, and the end at which it is awaited.
    #[must_use]
    pub fn new() -> (Reply<T>, Answer<T>) {
        // Room for the one answer: the daemon loop never waits for a client.
        let (sender, receiver) = bounded(1);
        let asking = Arc::new(());
        (Reply { sender, asker: Arc::downgrade(&asking) }, Answer { receiver, _asking: asking })
    }

    /// Answers. Whether anybody still listens is not the daemon's business.
    pub fn send(self, answer: Result<T, ControlError>) {
        let _ = self.sender.try_send(answer);
    }

    /// Whether nobody waits any more: time-out, or the client has gone. A kept request can then be forgotten.
    #[must_use]
    pub fn abandoned(&self) -> bool {
        self.asker.strong_count() == 0
    }
}

impl<T> Answer<T> {
    /// The channel to wait on; disconnected when the daemon dropped the request.
    #[must_use]
    pub fn receiver(&self) -> &Receiver<Result<T, ControlError>> {
        &self.receiver
    }
}

/// What kind of refusal it is: one varlink error each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The caller may not do this.
    NotPermitted,
    /// No such namespace.
    NotFound,
    /// A parameter is not what the method needs.
    Invalid,
    /// Not in time.
    TimedOut,
    /// Not in this state of the daemon.
    Unavailable,
    /// Tried in vain.
    Failed,
}

/// A refusal: what is wrong, where, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}; {remedy}")]
pub struct ControlError {
    /// Its kind.
    pub kind: ErrorKind,
    /// What is wrong.
    pub what: String,
    /// What it is about: a namespace, a file, a method.
    pub place: String,
    /// What to do.
    pub remedy: String,
}

impl ControlError {
    /// An error of a kind: `place`: `what`; `remedy`.
    pub fn new(
        kind: ErrorKind,
        place: impl Into<String>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> ControlError {
        ControlError { kind, what: what.into(), place: place.into(), remedy: remedy.into() }
    }

    /// No namespace has this name.
    #[must_use]
    pub fn no_such_netns(name: &str) -> ControlError {
        let remedy = "see the names with `pernetctl netns list`";
        ControlError::new(ErrorKind::NotFound, format!("namespace {name}"), "there is no such namespace", remedy)
    }

    /// No device has this name in the namespace, or in any.
    #[must_use]
    pub fn no_such_device(name: &str, netns: Option<&str>) -> ControlError {
        let what = match netns {
            Some(netns) => format!("there is no such device in namespace {netns}"),
            None => "there is no such device in any managed namespace".to_owned(),
        };
        let remedy = "see the names with `pernetctl dev list`";
        ControlError::new(ErrorKind::NotFound, format!("device {name}"), what, remedy)
    }

    /// The daemon is stopping.
    #[must_use]
    pub fn stopping() -> ControlError {
        ControlError::new(ErrorKind::Unavailable, "pernetd", "it is stopping", "ask again when it has started")
    }
}
