//! How a daemon is put together, and what `--check` looks at: everything that a start checks, with no effect.

use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, unbounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::config::{self, CommandLine, Config};
use crate::control::monitor::Monitor;
use crate::discovery::links::LinkSource;
use crate::engine::{Names, PernetList};
use crate::linux::ns;
use crate::linux::worker::Workers;
use crate::plugin::{self, Judge};
use crate::{control, discovery, logging, systemd};

use super::filesystems::Filesystems;
use super::identify;
use super::knobs::{self, Knobs};
use super::netctl;
use super::netdevs::Netdevs;
use super::pernetfs::{self, Readers};
use super::plugins::{self, Maker, Plugins};
use super::reload::{self, Shared};
use super::services::{Owners, Places, Services};
use super::sock_init::sock_init;
use super::sockets::Sockets;
use super::sysctls::net_sysctl_init;
use super::{Daemon, Event, Phase};

/// What went wrong before the loop ran: printed on standard error, exit code 1.
pub(crate) type Failed = String;

/// Everything that a start checks, with no effect: configuration, files, notes, ABI, the plugins' own judgement of
/// their configuration, and the order.
pub(crate) fn check(command_line: &CommandLine) -> Result<i32, Failed> {
    let config = Config::load(&command_line.paths()).map_err(|e| e.to_string())?;
    let mut good = Vec::new();
    let mut errors = Vec::new();
    for result in plugins::prepare_all(&Judge::new(), &config) {
        match result {
            Ok(prepared) => good.push(prepared),
            Err((_, trouble)) => errors.push(trouble.message),
        }
    }
    // With a plugin missing, what requires it would be reported too, and only confuse.
    if errors.is_empty()
        && let Err(error) = plugins::order(&good)
    {
        errors.push(error);
    }
    if !errors.is_empty() {
        return Err(errors.join("\npernetd: "));
    }
    let lines = config.sysctls.len();
    println!("pernetd: the configuration, {} plugins and {lines} lines of sysctl.d are right", good.len());
    Ok(0)
}

/// Runs the daemon in the foreground, to the end; the exit code. With an `inbox`, somebody else in this process hears
/// its monitor and asks it things.
pub(crate) fn run(command_line: CommandLine, judge: Judge, inbox: Option<Inbox>) -> Result<i32, Failed> {
    let paths = command_line.paths();
    let config = Config::load(&paths).map_err(|e| e.to_string())?;
    logging::start(config.main.log.level);
    plugin::load::use_folder_where_memfd_is_refused(paths.state_dir.join("code"));
    let Inbox { sender: events, receiver, monitor } = inbox.unwrap_or_default();
    listen_to_signals(&events)?;

    let patience = config.main.unregister_timeout;
    let workers = Workers::new(config.workers()).map_err(|e| format!("cannot start the workers: {e}"))?;
    let workers = Arc::new(workers);
    let sockets = Sockets::new();
    let (list, places) = (Arc::new(PernetList::new()), Arc::<Places>::default());
    list.set_unregister_timeout(Duration::from_secs(patience));
    let filesystems = Filesystems::new(Duration::from_secs(config.main.filesystem.timeout), &paths.state_dir)
        .map_err(|e| format!("cannot serve mounts: {e}"))?;
    let filesystems = Arc::new(filesystems);
    let sysctls = net_sysctl_init(&config.sysctls);
    // Without sockets the daemon is of use still.
    let sock_init = sock_init(&sockets, &sysctls, &filesystems, &workers)
        .inspect_err(|failure| tracing::error!("sock_init: {failure}"))
        .ok();
    let readers = Arc::new(Readers::new(&config.main.control.read));
    for fs in [pernetfs::new(events.clone(), &readers), netctl::new(events.clone(), &places)] {
        filesystems.register_own(&fs).map_err(|e| e.to_string())?;
    }
    let services = Arc::new(Services {
        events: events.clone(),
        monitor: Arc::clone(&monitor),
        places: Arc::clone(&places),
        netdevs: Netdevs::default(),
        sockets: Arc::clone(&sockets),
        filesystems: Arc::clone(&filesystems),
        owners: Owners::default(),
        list: Arc::downgrade(&list),
        sysctls: Arc::clone(&sysctls),
    });
    let shared = Arc::new(Shared {
        list,
        places,
        nets: RwLock::default(),
        plugins: Mutex::new(Plugins::default()),
        sockets,
        filesystems,
        readers,
        maker: Maker::new(services),
        patience: patience.into(),
        sysctls: Arc::clone(&sysctls),
        judge,
    });
    let knobs = Knobs {
        shared: Arc::downgrade(&shared),
        workers: Arc::clone(&workers),
        receive_buffer: config.main.netlink.receive_buffer,
    };
    let knobs = knobs::register(&sysctls, knobs).map_err(|e| format!("cannot register the daemon's sysctls: {e}"))?;
    let looks = Workers::new(1).map_err(|e| format!("cannot start a worker: {e}"))?;
    // Plugins before namespaces: then each namespace of the first scan gets one setup, not one registration per plugin.
    on_a_seat(|| reload::start(&shared, &config))?;

    let to_loop = events.clone();
    let receive_buffer = config.main.netlink.receive_buffer;
    let links = LinkSource::start(receive_buffer, Box::new(move |batch| drop(to_loop.send(Event::Links(batch)))));
    let to_loop = events.clone();
    let sink: control::RequestSink = Box::new(move |request| drop(to_loop.send(Event::Request(request))));
    let door = match systemd::control_socket() {
        Some(door) => door,
        None => control::Door::open(&paths.runtime_dir).map_err(|e| e.to_string())?,
    };
    let server = control::Server::start(door, &config.main.control.read, control::Limits::default(), monitor, sink)
        .map_err(|e| format!("cannot serve the control socket: {e}"))?;
    if let Some(group) = server.missing_group() {
        tracing::warn!("control.read names the group {group}, which does not exist: nobody is in it");
    }

    let (host, pin) =
        ns::current().map_err(|e| format!("cannot open the own network namespace: {e}; is /proc mounted?"))?;
    let mut daemon = Daemon {
        command_line,
        workers,
        _knobs: knobs,
        _sock_init: sock_init,
        looks,
        links,
        server,
        events: events.clone(),
        phase: Phase::Starting,
        names: Names::new(config.main.discovery.folders.clone(), Some(host)),
        nets: Default::default(),
        reborn: Default::default(),
        held: Default::default(),
        retries: Default::default(),
        leases: Default::default(),
        left_mounts: shared.filesystems.kept.left(),
        waiters: Vec::new(),
        operations: Default::default(),
        scanned: false,
        first_setups: 0,
        resyncs: 0,
        last_overrun: None,
        generation: 1,
        last_reload: None,
        discovery: None,
        exit_code: 0,
        config: Arc::new(config),
        shared,
    };
    daemon.begin_host(host, pin);
    let discovery = start_discovery(&daemon.config, &events)?;
    tracing::info!("discovery by {}: {}", discovery.method, discovery.why);
    daemon.discovery = Some(discovery);
    Ok(daemon.run(&receiver))
}

/// The loop's queue. Unbounded: sources must never wait for the loop, and what floods (links) is bounded by the
/// kernel's socket buffer and by the loop being faster than a dump.
#[derive(Clone)]
pub(crate) struct Inbox {
    sender: Sender<Event>,
    receiver: crossbeam_channel::Receiver<Event>,
    /// Tells every hook call.
    pub(crate) monitor: Arc<Monitor>,
}

impl Default for Inbox {
    fn default() -> Self {
        let (sender, receiver) = unbounded();
        Inbox { sender, receiver, monitor: Monitor::new() }
    }
}

impl Inbox {
    /// Asks as a client would.
    pub(crate) fn request(&self, request: control::Request) {
        let _ = self.sender.send(Event::Request(request));
    }
}

fn start_discovery(config: &Config, events: &Sender<Event>) -> Result<discovery::Started, Failed> {
    let options = discovery::Options {
        method: match config.main.discovery.method {
            config::Method::Auto => None,
            config::Method::Fanotify => Some(discovery::Method::Fanotify),
            config::Method::Inotify => Some(discovery::Method::Inotify),
        },
        handles: true,
        folders: config.main.discovery.folders.clone(),
    };
    let stage = identify::stage(events.clone()).map_err(|e| format!("cannot start a thread: {e}"))?;
    discovery::start(options, stage).map_err(|e| e.to_string())
}

/// Runs something that calls hooks on a thread that may enter namespaces: this one must never leave its own.
fn on_a_seat<T: Send>(work: impl FnOnce() -> Result<T, Failed> + Send) -> Result<T, Failed> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            ns::take_seat_here()
                .map_err(|e| format!("cannot open the own network namespace: {e}; is /proc mounted?"))?;
            work()
        });
        thread.join().unwrap_or_else(|_| Err("the start panicked; see the lines above".to_owned()))
    })
}

/// Signals become events. A second SIGTERM or SIGINT ends the process at once: the way out when a hook hangs. One that
/// comes with the first (`timeout` signals its child and then the child's group) is no second one.
fn listen_to_signals(events: &Sender<Event>) -> Result<(), Failed> {
    const TOGETHER: Duration = Duration::from_millis(200);
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGTERM, SIGINT])
        .map_err(|e| format!("cannot listen to signals: {e}"))?;
    let events = events.clone();
    let listen = move || {
        let mut stopping: Option<Instant> = None;
        for signal in signals.forever() {
            if signal != SIGHUP {
                match stopping {
                    Some(since) if since.elapsed() < TOGETHER => continue,
                    Some(_) => {
                        eprintln!("pernetd: told to stop a second time: ending without the exits");
                        std::process::exit(1);
                    }
                    None => stopping = Some(Instant::now()),
                }
            }
            if events.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    };
    let thread = std::thread::Builder::new().name("signals".into()).spawn(listen);
    thread.map(drop).map_err(|e| format!("cannot start a thread: {e}"))
}
