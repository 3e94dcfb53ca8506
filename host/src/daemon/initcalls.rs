//! The daemon's own initcalls: what is there once and that plugins stand on, each at its level among the plugins'.
//!
//! Mirrors the kernel's table of built-in initcalls (K5.1). A part that cannot start unwinds itself and the daemon goes
//! on without it, unless it is vital; what requires it is refused. What a part made is left in [`Made`], what takes it
//! back at the daemon's end in [`Booting::undo`]. The order among plugins, and what is told of it, is `boot.rs`'s.

use std::sync::Arc;

use crossbeam_channel::Sender;
use pernet_plugin_api::NetCookie;

use crate::config::{self, Config};
use crate::control::monitor::Monitor;
use crate::discovery::links::LinkSource;
use crate::engine::{Blacklist, Failure, Level, Undo, WriteToken};
use crate::linux::ns::{self, Pin};
use crate::linux::worker::Workers;
use crate::logging::catalog;
use crate::{control, discovery, systemd};

use super::knobs::{self, Knobs};
use super::plugins::Entry;
use super::reload::Shared;
use super::{Event, identify, netctl, pernetfs, sock_init};

/// One of the daemon's own initcalls.
pub(super) struct Own {
    /// The kernel's name, where it has such a one.
    pub(super) name: &'static str,
    pub(super) level: Level,
    /// Without it there is no daemon.
    pub(super) vital: bool,
    /// Others of these that must be there.
    pub(super) requires: &'static [&'static str],
    /// Starts it, and says what takes it back; when it fails it has left nothing.
    pub(super) run: fn(&mut Booting<'_>) -> Result<Undo, Failure>,
}

/// All of them, in the order in which they are called.
pub(super) const OWN: [Own; 10] = [
    Own { name: "net_ns_init", level: Level::Pure, vital: true, requires: &[], run: net_ns_init },
    Own { name: "workqueue_init", level: Level::Pure, vital: true, requires: &[], run: workqueue_init },
    Own { name: "net_sysctl_init", level: Level::Core, vital: false, requires: &[], run: net_sysctl_init },
    Own { name: "sock_init", level: Level::Core, vital: false, requires: &["net_sysctl_init"], run: sock_init },
    Own { name: "rtnetlink_init", level: Level::Core, vital: true, requires: &[], run: rtnetlink_init },
    Own { name: "net_dev_init", level: Level::Subsys, vital: false, requires: &[], run: net_dev_init },
    Own { name: "pernetfs_init", level: Level::Fs, vital: false, requires: &[], run: pernetfs_init },
    Own { name: "netctl_init", level: Level::Fs, vital: false, requires: &["net_sysctl_init"], run: netctl_init },
    Own { name: "control_init", level: Level::Late, vital: true, requires: &[], run: control_init },
    Own { name: "discovery_init", level: Level::Late, vital: true, requires: &["net_ns_init"], run: discovery_init },
];

/// Whether one of them is called so.
pub(super) fn is_own(name: &str) -> bool {
    OWN.iter().any(|own| own.name == name)
}

/// The names that the configuration forbids, each with its place.
pub(super) fn blacklist(config: &Config) -> Blacklist {
    let listed = config.main.initcall_blacklist.iter();
    Blacklist(listed.map(|listed| (listed.name.clone(), listed.place())).collect())
}

/// What the initcalls work on, and what they leave.
pub(super) struct Booting<'a> {
    pub(super) config: &'a Config,
    /// Taken by the control socket.
    pub(super) home: Option<control::Home>,
    pub(super) events: &'a Sender<Event>,
    pub(super) monitor: &'a Arc<Monitor>,
    pub(super) shared: &'a Arc<Shared>,
    /// Under which plugins are registered.
    pub(super) write: &'a WriteToken,
    pub(super) made: Made,
    /// What takes the parts back that have started, oldest first.
    pub(super) undo: Vec<Undo>,
    /// The plugins that were called, in that order.
    pub(super) entries: Vec<Entry>,
}

/// What the vital parts made, for the loop. It ends with its owner.
#[derive(Default)]
pub(super) struct Made {
    pub(super) host: Option<(NetCookie, Pin)>,
    pub(super) workers: Option<Arc<Workers>>,
    pub(super) looks: Option<Workers>,
    pub(super) links: Option<Arc<LinkSource>>,
    pub(super) server: Option<control::Server>,
    pub(super) discovery: Option<discovery::Started>,
}

/// For a part that ends with its owner.
fn ends_itself() -> Undo {
    Box::new(|| {})
}

fn failed(what: &str, e: &std::io::Error) -> Failure {
    Failure::new(e.raw_os_error().unwrap_or(libc::EIO), format!("{what}: {e}"))
}

const MAY_NOT_ENTER: &str = "pernetd may not enter network namespaces, for which it needs CAP_SYS_ADMIN and setns: run it as \
     root; in a container, allow both (for example `--cap-add SYS_ADMIN --cap-add NET_ADMIN --security-opt seccomp=unconfined`)";

/// The host's own namespace, `init_net`.
fn net_ns_init(booting: &mut Booting<'_>) -> Result<Undo, Failure> {
    let host = ns::current().map_err(|e| failed("cannot open the own network namespace; is /proc mounted?", &e))?;
    // The one right without which every setup would fail, one after the other.
    ns::enter(&host.1).and_then(|()| ns::home()).map_err(|e| failed(MAY_NOT_ENTER, &e))?;
    booting.made.host = Some(host);
    Ok(ends_itself())
}

/// The threads that enter namespaces.
fn workqueue_init(booting: &mut Booting<'_>) -> Result<Undo, Failure> {
    let threads = |n| Workers::new(n).map_err(|e| failed("cannot start the workers", &e));
    let (workers, looks) = (threads(booting.config.workers())?, threads(1)?);
    (booting.made.workers, booting.made.looks) = (Some(Arc::new(workers)), Some(looks));
    Ok(ends_itself())
}

/// The root of the sysctls: from here on tables are registered, the daemon's own first.
fn net_sysctl_init(booting: &mut Booting<'_>) -> Result<Undo, Failure> {
    let sysctls = Arc::clone(&booting.shared.sysctls);
    let knobs = Knobs {
        shared: Arc::downgrade(booting.shared),
        workers: made(&booting.made.workers)?,
        receive_buffer: booting.config.main.netlink.receive_buffer,
    };
    sysctls.set_open(true);
    let knobs = knobs::register(&sysctls, knobs).inspect_err(|_| sysctls.set_open(false))?;
    Ok(Box::new(move || {
        sysctls.set_open(false);
        drop(knobs);
    }))
}

/// What an earlier initcall has made.
fn made<T>(part: &Option<Arc<T>>) -> Result<Arc<T>, Failure> {
    part.clone().ok_or_else(|| Failure::new(libc::ENODEV, "an initcall before this one has not run"))
}

/// Sockets and what they stand on, each a step in the kernel's order (K6.7).
fn sock_init(booting: &mut Booting<'_>) -> Result<Undo, Failure> {
    let shared = booting.shared;
    sock_init::sock_init(&shared.sockets, &shared.sysctls, &shared.filesystems, &made(&booting.made.workers)?)
}

/// The source of link events; it opens its socket when somebody wants to hear.
fn rtnetlink_init(booting: &mut Booting<'_>) -> Result<Undo, Failure> {
    let to_loop = booting.events.clone();
    let receive_buffer = booting.config.main.netlink.receive_buffer;
    let send = Box::new(move |batch| drop(to_loop.send(Event::Links(batch))));
    booting.made.links = Some(LinkSource::start(receive_buffer, send));
    Ok(ends_itself())
}

/// From here on plugins may have devices of their own.
fn net_dev_init(booting: &mut Booting<'_>) -> Result<Undo, Failure> {
    booting.shared.maker.open_netdevs();
    Ok(ends_itself())
}

/// What is running, as files.
fn pernetfs_init(booting: &mut Booting<'_>) -> Result<Undo, Failure> {
    let fs = pernetfs::new(booting.events.clone(), &booting.shared.readers);
    booting.shared.filesystems.register_own(fs)
}

/// The sysctls, as files.
fn netctl_init(booting: &mut Booting<'_>) -> Result<Undo, Failure> {
    let fs = netctl::new(booting.events.clone(), &booting.shared.places);
    booting.shared.filesystems.register_own(fs)
}

/// The operator's door. Whoever comes in is answered when the loop runs.
fn control_init(booting: &mut Booting<'_>) -> Result<Undo, Failure> {
    let refused = |e: control::DoorError| Failure::new(e.errno, e.to_string());
    let home = booting.home.take().ok_or_else(|| Failure::new(libc::ENODEV, "the runtime folder has been taken"))?;
    let door = match systemd::control_socket() {
        Some(listener) => control::Door::inherited(listener, home),
        None => control::Door::open(home).map_err(refused)?,
    };
    let to_loop = booting.events.clone();
    let sink: control::RequestSink = Box::new(move |request| drop(to_loop.send(Event::Request(request))));
    let (read, monitor) = (&booting.config.main.control.read, Arc::clone(booting.monitor));
    let server = control::Server::start(door, read, control::Limits::default(), monitor, sink)
        .map_err(|e| failed("cannot serve the control socket", &e))?;
    if let Some(group) = server.missing_group() {
        tracing::warn!(
            message_id = catalog::CONFIG_DOUBTFUL,
            "control.read names the group {group}, which does not exist: nobody is in it"
        );
    }
    booting.made.server = Some(server);
    Ok(ends_itself())
}

/// The names of namespaces. What is found waits for the loop.
fn discovery_init(booting: &mut Booting<'_>) -> Result<Undo, Failure> {
    let folders = booting.config.main.discovery.folders.clone();
    let method = match booting.config.main.discovery.method {
        config::Method::Auto => None,
        config::Method::Fanotify => Some(discovery::Method::Fanotify),
        config::Method::Inotify => Some(discovery::Method::Inotify),
    };
    let stage = identify::stage(booting.events.clone()).map_err(|e| failed("cannot start a thread", &e))?;
    let remedy = match method {
        Some(_) => "set discovery.method to auto",
        None => "raise fs.inotify.max_user_instances and LimitNOFILE=, and see that /proc is mounted",
    };
    let started = discovery::start(discovery::Options { method, handles: true, folders }, stage)
        .map_err(|e| Failure::new(e.errno().unwrap_or(libc::EIO), format!("{e}; {remedy}")))?;
    tracing::info!("discovery by {}: {}", started.method, started.why);
    booting.made.discovery = Some(started);
    Ok(ends_itself())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_comes_after_those_it_requires() {
        for (at, own) in OWN.iter().enumerate() {
            assert!(OWN[..at].iter().all(|before| before.level <= own.level), "{} is not in its level", own.name);
            for required in own.requires {
                assert!(OWN[..at].iter().any(|before| before.name == *required), "{} before {required}", own.name);
            }
        }
    }

    /// So that no plugin can be called so.
    #[test]
    fn names_are_no_plugins_names() {
        assert!(OWN.iter().all(|own| own.name.contains('_')));
    }
}
