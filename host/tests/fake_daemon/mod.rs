//! A daemon with canned answers behind the real control door, and the ways in: `pernetctl`, and a bare socket.
#![allow(dead_code, unreachable_pub)] // Each test binary uses its own part of this.
#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

pub mod sysctls;

use std::fs;
use std::io::{BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, unbounded};
use pernetd::config::ControlRead;
use pernetd::control::monitor::Monitor;
use pernetd::control::wire::{
    BootRecord, Cause, DaemonState, Device, DeviceCounter, DeviceDetails, DeviceHolder, DeviceStats, Facility, Fact,
    Filesystem, Happening, HookResult, Initcall, InitcallResult, LastReload, MountEntry, NamespaceCounts, Netns,
    NetnsError, NetnsSetup, NetnsState, Part, Pinned, Plugin, PluginCounts, PluginError, PluginState, ReloadAction,
    ReloadResult, ReloadedPlugin, SetupHook, Socket, Status, Stories, Story, Trouble,
};
use pernetd::control::{ControlError, Door, ErrorKind, Limits, Request, SOCKET, Server};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::Value;
use sysctls::Canned;

/// Longer than anything here takes, even on a machine that does much else.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The door, open, and what came in by it.
pub struct FakeDaemon {
    pub dir: tempfile::TempDir,
    pub monitor: Arc<Monitor>,
    pub server: Option<Server>,
    pub requests: Receiver<Request>,
}

impl FakeDaemon {
    /// Requests are left to the test.
    pub fn silent(limits: Limits) -> FakeDaemon {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (sender, requests) = unbounded();
        let monitor = Monitor::new();
        let door = Door::open(dir.path()).unwrap();
        let sink = Box::new(move |request| drop(sender.send(request)));
        let server = Server::start(door, &ControlRead::Root, limits, Arc::clone(&monitor), sink).unwrap();
        FakeDaemon { dir, monitor, server: Some(server), requests }
    }

    /// Requests are answered with the canned values.
    pub fn answering(limits: Limits) -> FakeDaemon {
        let daemon = FakeDaemon::silent(limits);
        let requests = daemon.requests.clone();
        std::thread::spawn(move || requests.iter().for_each(answer));
        daemon
    }

    /// The next request that comes in.
    #[track_caller]
    pub fn next(&self) -> Request {
        self.requests.recv_timeout(PATIENCE).unwrap()
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `pernetctl` with arguments, for this daemon.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pernetctl"));
        command.arg("--runtime-dir").arg(self.path()).args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs `pernetctl`.
    pub fn ctl(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs `pernetctl --json`, which must succeed.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.command(arguments).arg("--json").output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub fn connect(&self) -> Client {
        let stream = UnixStream::connect(self.path().join(SOCKET)).unwrap();
        // So that a test fails instead of hanging.
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client(BufReader::new(stream))
    }
}

/// A bare connection.
pub struct Client(pub BufReader<UnixStream>);

impl Client {
    pub fn send(&mut self, call: &str) {
        self.0.get_ref().write_all(call.as_bytes()).unwrap();
        self.0.get_ref().write_all(b"\0").unwrap();
    }

    pub fn send_with(&mut self, call: &str, descriptors: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
        let message = [call.as_bytes(), b"\0"].concat();
        let sent = sendmsg(self.0.get_ref().as_fd(), &[IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL);
        assert_eq!(sent, Ok(message.len()));
    }

    /// The next reply; `Null` at the end.
    #[track_caller]
    pub fn receive(&mut self) -> Value {
        let mut text = Vec::new();
        self.0.read_until(0, &mut text).unwrap();
        match text.pop() {
            None => Value::Null,
            Some(nul) => {
                assert_eq!(nul, 0, "half a reply");
                serde_json::from_slice(&text).unwrap()
            }
        }
    }
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until a condition holds.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Answers as a daemon with the namespaces `@host`, `blue` (live) and `bad` (failed) would.
pub fn answer(request: Request) {
    let known = |name: &str| namespaces().into_iter().find(|n| n.name == name);
    let found = |name: &str| known(name).ok_or_else(|| ControlError::no_such_netns(name));
    match request {
        Request::Status { reply } => reply.send(Ok(status())),
        Request::NetnsList { reply, .. } => reply.send(Ok(namespaces())),
        Request::NetnsGet { name, reply, .. } | Request::NetnsRetry { name, reply } => reply.send(found(&name)),
        Request::NetnsWait { name, reply } => match known(&name) {
            Some(netns) => reply.send(Ok(netns)),
            // Waits for ever; forgotten when the test ends.
            None => std::mem::forget(reply),
        },
        Request::NetnsAdd(add) => {
            add.inits.send(Ok(netns(&add.name, NetnsState::live)));
            add.seen.send(Ok(netns(&add.name, NetnsState::live)));
        }
        Request::LeaseEnded { .. } => {}
        Request::NetnsWaitGone { name, reply, .. } => reply.send(Ok(netns(&name, NetnsState::dying))),
        Request::PluginList { reply } => reply.send(Ok(vec![plugin()])),
        Request::DevList { netns, reply } => {
            let name = netns.unwrap_or_else(|| "blue".to_owned());
            reply.send(found(&name).map(|n| vec![device(&n.name)]));
        }
        Request::Boot { netns, reply } => {
            let all = boot();
            let wanted = |setup: &NetnsSetup| netns.as_ref().is_none_or(|name| setup.netns == *name);
            let setups = all.setups.iter().filter(|setup| wanted(setup)).cloned().collect();
            reply.send(
                netns.as_ref().map_or(Ok(()), |name| found(name).map(drop)).map(|()| BootRecord { setups, ..all }),
            );
        }
        Request::DevShow { name, netns, reply } => reply.send(devices(&name, netns.as_deref())),
        Request::Why { name, reply, .. } => reply.send(match &*name {
            "bad" => Ok(Stories { stories: vec![story()], more: 4 }),
            other => Err(ControlError::no_such_netns(other)),
        }),
        Request::FilesystemList { reply } => reply.send(Ok(vec![filesystem()])),
        Request::MountList { reply } => reply.send(Ok(vec![mount()])),
        Request::Mount(ask) => {
            let remedy = "there is none";
            ask.reply.send(Err(ControlError::new(ErrorKind::NotFound, ask.fs, "no such type", remedy)));
        }
        Request::Sysctls { netns, reply } => reply.send(match netns.as_deref() {
            None | Some("@host") => Ok(vec![Box::new(Canned("@host"))]),
            Some("blue") => Ok(vec![Box::new(Canned("blue"))]),
            Some("*") => Ok(vec![Box::new(Canned("blue")), Box::new(Canned("bad"))]),
            Some(other) => Err(ControlError::no_such_netns(other)),
        }),
        Request::Reload { reply } => {
            let kept = ReloadedPlugin { name: "loopback".into(), action: ReloadAction::kept, error: None };
            reply.send(Ok(ReloadResult { ok: true, generation: 8, plugins: vec![kept] }));
        }
        Request::SockList { netns, reply } => {
            let name = netns.unwrap_or_else(|| "blue".to_owned());
            reply.send(found(&name).map(|n| vec![socket(&n.name)]));
        }
        // Takes the connection and ends it.
        Request::SockConnect(ask) => ask.reply.send(found(&ask.netns).map(|_| ())),
    }
}

pub fn netns(name: &str, state: NetnsState) -> Netns {
    let failed = state == NetnsState::failed;
    let why = NetnsError { plugin: "sysctl".into(), hook: "pernet.init".into(), message: "net.x: no such key".into() };
    Netns {
        name: name.into(),
        names: vec![name.into()],
        cookie: 4711,
        generation: 1,
        nsid: None,
        state,
        subsystems: vec!["loopback".into()],
        devices: 1,
        error: failed.then_some(why),
    }
}

pub fn namespaces() -> Vec<Netns> {
    vec![netns("@host", NetnsState::live), netns("blue", NetnsState::live), netns("bad", NetnsState::failed)]
}

pub fn status() -> Status {
    Status {
        version: "0.1.0".into(),
        state: DaemonState::running,
        generation: 7,
        discovery: "fanotify".into(),
        namespaces: NamespaceCounts { live: 2, degraded: 0, failed: 1, setup: 0, dying: 0 },
        plugins: PluginCounts { live: 1, failed: 0, refused: 0 },
        devices: 3,
        resyncs: 0,
        retired_generations: 1,
        last_reload: None,
        folders: vec!["/run/netns".into()],
        pinned: vec![Pinned { netns: "x".into(), plugin: "p".into(), hook: "pernet.exit".into(), seconds: 9 }],
        facilities: vec![Facility {
            name: "statmount".into(),
            used: false,
            detail: Some("no such call".into()),
            remedy: None,
        }],
        troubles: vec![
            trouble("netns", "bad", "failed: sysctl pernet.init: net.x: no such key"),
            trouble("hook", "x", "x is pinned by p pernet.exit, which has been running for 9 s"),
        ],
    }
}

pub fn trouble(kind: &str, name: &str, what: &str) -> Trouble {
    let remedy = format!("pernetctl why {name}");
    Trouble { kind: kind.into(), name: name.into(), what: what.into(), remedy, count: 1 }
}

/// The story of `bad`, a namespace that failed, with something of everything.
pub fn story() -> Story {
    let time = || "2026-11-22T01:02:03.000004Z".to_owned();
    let happening = |what: &str, count| Happening {
        time: time(),
        first: time(),
        count,
        what: what.into(),
        plugin: Some("sysctl".into()),
        hook: Some("pernet.init".into()),
        netns: Some("bad".into()),
        device: None,
        error: Some("net.x: no such key".into()),
        errno: Some("ENOENT".into()),
        duration_us: Some(1_234),
    };
    let undone = Happening { error: None, errno: None, ..happening("the init of loopback was undone in bad", 1) };
    let cause = |what: &str, place: Option<&str>| Cause {
        what: what.into(),
        plugin: Some("sysctl".into()),
        hook: None,
        netns: None,
        errno: None,
        place: place.map(str::to_owned),
    };
    Story {
        kind: "netns".into(),
        name: "bad".into(),
        netns: None,
        state: "failed".into(),
        since: Some(time()),
        what: "its setup failed".into(),
        causes: vec![
            cause("pernet.init of plugin sysctl failed", None),
            cause("the key net.x says so", Some("/etc/pernetd/plugins.d/20-sysctl.toml:3:1")),
        ],
        undone: vec![undone],
        next: "it is tried again".into(),
        next_time: Some(time()),
        remedies: vec!["correct it".into()],
        parts: vec![Part {
            plugin: "loopback".into(),
            namespaces: vec!["bad".into()],
            count: 1,
            acts: false,
            why: "the setup was undone".into(),
        }],
        facts: vec![Fact { about: "names".into(), what: "bad".into() }],
        happenings: vec![happening("pernet.init of sysctl failed", 3)],
        left_off: 2,
    }
}

pub fn last_reload() -> LastReload {
    LastReload { time: "2026-11-22T01:02:03.000004Z".into(), ok: false, error: Some("no".into()), pause_us: 12 }
}

pub fn plugin() -> Plugin {
    let why = PluginError { namespace: None, hook: "create".into(), message: "no".into() };
    Plugin {
        name: "loopback".into(),
        version: "1.0.0".into(),
        state: PluginState::failed,
        level: "subsys".into(),
        order: 0,
        file: "/x.so".into(),
        sha256: "00".into(),
        generation: 1,
        namespaces: 2,
        error: Some(why),
    }
}

pub fn filesystem() -> Filesystem {
    Filesystem { name: "pernetfs".into(), owner: "pernetd".into(), user: true, judges_access: false, mounts: 1 }
}

pub fn mount() -> MountEntry {
    MountEntry {
        id: 3,
        fs: "pernetfs".into(),
        owner: "pernetd".into(),
        netns: None,
        source: "none".into(),
        target: "/mnt".into(),
        options: String::new(),
        calls: 0,
    }
}

pub fn device(netns: &str) -> Device {
    Device {
        netns: netns.into(),
        ifindex: 1,
        name: "lo".into(),
        kind: None,
        up: true,
        mtu: 65536,
        owner: "kernel".into(),
        reg_state: "registered".into(),
        alt_names: Vec::new(),
        address: Some("00:00:00:00:00:00".into()),
        stats: None,
    }
}

pub fn socket(netns: &str) -> Socket {
    Socket {
        ino: 12,
        netns: netns.into(),
        owner: "neighbour".into(),
        family: "packet".into(),
        r#type: "raw".into(),
        protocol: 1544,
        age_ms: 61_999,
        state: "open".into(),
    }
}

/// `lo` of each namespace, and `wire0`, a plugin's, in `blue` alone: unregistered and held.
pub fn devices(name: &str, netns: Option<&str>) -> Result<Vec<DeviceDetails>, ControlError> {
    let named = namespaces().into_iter().filter(|n| netns.is_none_or(|netns| n.name == netns));
    let there = named.filter(|n| name == "lo" || (name, &*n.name) == ("wire0", "blue"));
    let found: Vec<_> = there.map(|n| details(&n.name, name)).collect();
    if found.is_empty() { Err(ControlError::no_such_device(name, netns)) } else { Ok(found) }
}

pub fn details(netns: &str, name: &str) -> DeviceDetails {
    let own = name == "wire0";
    let Device { ifindex, up, mtu, address, .. } = device(netns);
    let stats = |rx_packets| DeviceStats {
        rx_packets,
        rx_bytes: 840,
        rx_dropped: 1,
        rx_errors: 0,
        tx_packets: 0,
        tx_bytes: 0,
        tx_dropped: 0,
        tx_errors: 2,
    };
    let holder = DeviceHolder { plugin: "shaper".into(), purpose: "its queue".into() };
    DeviceDetails {
        netns: netns.into(),
        ifindex,
        name: name.into(),
        kind: own.then(|| "tap".into()),
        up,
        mtu,
        owner: if own { "wire" } else { "kernel" }.into(),
        reg_state: if own { "unregistered" } else { "registered" }.into(),
        alt_names: if own { vec!["uplink".into(), "wan".into()] } else { Vec::new() },
        address,
        stats: (!own).then(|| stats(12)),
        master: own.then_some(7),
        serial: own.then_some(42),
        holders: if own { vec![holder] } else { Vec::new() },
        waiting: own,
        plugin_stats: own.then(|| stats(13)),
        plugin_counters: if own { vec![DeviceCounter { name: "lost".into(), value: 3 }] } else { Vec::new() },
    }
}

/// A start with one of each result, and the setups of `blue` and, with an error, `bad`; `@host`'s is not over.
pub fn boot() -> BootRecord {
    let call = |name: &str, result| Initcall {
        name: name.into(),
        level: Some("subsys".into()),
        start_us: Some(2_000),
        duration_us: 1_500,
        prepare_start_us: Some(100),
        prepare_us: Some(900),
        result,
        errno: None,
        error: None,
    };
    let wrong = |name: &str, result, errno, error: &str| Initcall {
        errno: Some(errno),
        error: Some(error.into()),
        ..call(name, result)
    };
    let own = Initcall { prepare_start_us: None, prepare_us: None, ..call("sock_init", InitcallResult::ok) };
    let file = "/x.so: no plugin <none> & \"nothing\"";
    BootRecord {
        version: "0.1.0".into(),
        time: "2026-11-22T01:02:03.000004Z".into(),
        initcalls_us: 9_000,
        ready_us: Some(12_345),
        initcalls: vec![
            Initcall { level: Some("core".into()), ..own },
            call("plugin.loopback", InitcallResult::ok),
            wrong("plugin.a", InitcallResult::failed, 5, "cannot"),
            wrong("plugin.b", InitcallResult::blacklisted, 1, "blacklisted by initcall_blacklist, /main.toml:3"),
            Initcall { level: None, start_us: None, ..wrong("plugin.c", InitcallResult::refused, 22, file) },
        ],
        setups: vec![setup("blue", None), setup("bad", Some("net.x: no such key"))],
    }
}

pub fn setup(netns: &str, error: Option<&str>) -> NetnsSetup {
    let hook = |hook: &str, device: Option<&str>, error: Option<&str>| SetupHook {
        plugin: "loopback".into(),
        hook: hook.into(),
        device: device.map(str::to_owned),
        start_us: 10,
        duration_us: 400,
        result: if error.is_some() { HookResult::error } else { HookResult::ok },
        error: error.map(str::to_owned),
    };
    NetnsSetup {
        netns: netns.into(),
        cookie: 4711,
        time: "2026-11-22T01:02:03.000004Z".into(),
        state: if error.is_some() { NetnsState::failed } else { NetnsState::live },
        total_us: 850,
        hooks: vec![hook("pernet.init", None, None), hook("netdev.register", Some("lo"), error)],
        left_off: 1,
    }
}

/// A refusal of the daemon's.
pub fn unavailable() -> ControlError {
    ControlError::new(ErrorKind::Unavailable, "pernetd", "it is reloading", "try again")
}
