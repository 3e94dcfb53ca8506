//! How a daemon is put together, and what `--check` looks at: everything that a start checks, with no effect.

use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, unbounded};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::config::{CommandLine, Config, ConfigError, ConfigErrors, LogLevel};
use crate::control::monitor::Monitor;
use crate::engine::{Names, PernetList};
use crate::linux::ns;
use crate::logging::catalog;
use crate::plugin::{self, Judge};
use crate::{control, logging};

use super::boot::{self, Began};
use super::chronicle::Chronicle;
use super::filesystems::Filesystems;
use super::hangs;
use super::initcalls::Made;
use super::netdevs::Netdevs;
use super::pernetfs::Readers;
use super::plugins::{Maker, Plugins, Trouble};
use super::prepared::{order, prepare_all, sort_out};
use super::reload::Shared;
use super::services::{Owners, Places, Services};
use super::sockets::Sockets;
use super::sysctls::NetSysctl;
use super::{Daemon, Event, Phase};

/// What went wrong before the loop ran: exit code 1.
#[derive(Debug)]
pub(crate) struct Failed {
    text: String,
    /// The mistakes in the configuration, if that is what it is.
    mistakes: Vec<ConfigError>,
}

impl Failed {
    /// On standard error; where the journal is behind that, as entries of their own.
    pub(crate) fn tell(&self) {
        if !logging::is_journal() {
            eprintln!("pernetd: {}", self.text);
        } else if self.mistakes.is_empty() {
            tracing::error!(message_id = catalog::NOT_STARTED, "pernetd did not start: {}", self.text);
        }
        for mistake in self.mistakes.iter().filter(|_| logging::is_journal()) {
            Trouble::mistake(mistake).tell(catalog::NOT_STARTED, "", &format!("pernetd did not start: {mistake}"));
        }
    }
}

impl From<String> for Failed {
    fn from(text: String) -> Self {
        Failed { text, mistakes: Vec::new() }
    }
}

impl From<ConfigErrors> for Failed {
    fn from(errors: ConfigErrors) -> Self {
        Failed { text: errors.to_string(), mistakes: errors.0 }
    }
}

/// Everything that a start checks, with no effect: configuration, files, notes, ABI, the plugins' own judgement of
/// their configuration, and the order.
pub(crate) fn check(command_line: &CommandLine) -> Result<i32, Failed> {
    let config = Config::load(&command_line.paths())?;
    let results = prepare_all(&Judge::new(), &config);
    let refused = results.iter().filter_map(|result| result.as_ref().err());
    let wrong = refused.filter(|(_, trouble)| !trouble.is_blacklisting());
    let mut errors: Vec<String> = wrong.map(|(_, trouble)| trouble.message.clone()).collect();
    let mistakes = boot::judge_blacklist(&config, |warning| eprintln!("pernetd: {warning}")).err();
    errors.extend(mistakes.map(|mistakes| mistakes.to_string()));
    let (good, _) = sort_out(results);
    // With a plugin missing, what requires it would be reported too, and only confuse.
    if errors.is_empty()
        && let Err(error) = order(&good)
    {
        errors.push(error.message);
    }
    if !errors.is_empty() {
        return Err(errors.join("\npernetd: ").into());
    }
    let lines = config.sysctls.len();
    println!("pernetd: the configuration, {} plugins and {lines} lines of sysctl.d are right", good.len());
    Ok(0)
}

/// Runs the daemon in the foreground, to the end; the exit code. With an `inbox`, somebody else in this process hears
/// its monitor and asks it things.
pub(crate) fn run(command_line: CommandLine, judge: Judge, inbox: Option<Inbox>) -> Result<i32, Failed> {
    let began = Began::now();
    let paths = command_line.paths();
    // What is wrong with the configuration is told by it, too.
    logging::start(LogLevel::Info);
    let config = Config::load(&paths)?;
    logging::set_level(config.main.log.level);
    plugin::load::use_folder_where_memfd_is_refused(paths.state_dir.join("code"));
    let Inbox { sender: events, receiver, monitor } = inbox.unwrap_or_default();
    listen_to_signals(&events)?;

    let patience = config.main.unregister_timeout;
    let sockets = Sockets::new();
    let (list, places) = (Arc::new(PernetList::new()), Arc::<Places>::default());
    list.set_unregister_timeout(Duration::from_secs(patience));
    let filesystems = Filesystems::new(Duration::from_secs(config.main.filesystem.timeout), &paths.state_dir)
        .map_err(|e| format!("cannot serve mounts: {e}"))?;
    let filesystems = Arc::new(filesystems);
    let readers = Arc::new(Readers::new(&config.main.control.read));
    let sysctls = NetSysctl::new(&config.sysctls);
    let chronicle = Arc::<Chronicle>::default();
    let services = Arc::new(Services {
        events: events.clone(),
        monitor: Arc::clone(&monitor),
        places: Arc::clone(&places),
        netdevs: Netdevs::default(),
        sockets: Arc::clone(&sockets),
        filesystems: Arc::clone(&filesystems),
        owners: Owners::default(),
        chronicle: Arc::clone(&chronicle),
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
        chronicle,
        boot: OnceLock::new(),
        parts: Mutex::default(),
    });
    let runtime_dir = &paths.runtime_dir;
    let start =
        boot::Start { began, config: &config, runtime_dir, events: &events, monitor: &monitor, shared: &shared };
    let Made { host, workers, looks, links, server, discovery } = on_a_seat(|| boot::boot(&start))?;
    let (Some((host, pin)), Some(workers), Some(looks), Some(links), Some(server), Some(discovery)) =
        (host, workers, looks, links, server, discovery)
    else {
        return Err("a vital part said that it started, and is not there: report this mistake".to_owned().into());
    };
    let mut daemon = Daemon {
        command_line,
        workers,
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
        discovery,
        ready: None,
        hangs: hangs::Hangs::default(),
        exit_code: 0,
        config: Arc::new(config),
        shared,
    };
    // Before any name: whatever discovery has found so far waits in the queue.
    daemon.begin_host(host, pin);
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

/// Runs something that calls hooks on a thread that may enter namespaces: this one must never leave its own.
fn on_a_seat<T: Send>(work: impl FnOnce() -> Result<T, Failed> + Send) -> Result<T, Failed> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            ns::take_seat_here()
                .map_err(|e| format!("cannot open the own network namespace: {e}; is /proc mounted?"))?;
            work()
        });
        thread.join().unwrap_or_else(|_| Err("the start panicked; see the lines above".to_owned().into()))
    })
}

/// Signals become events. A second SIGTERM or SIGINT ends the process at once: the way out when a hook hangs. One that
/// comes with the first (`timeout` signals its child and then the child's group) is no second one.
fn listen_to_signals(events: &Sender<Event>) -> Result<(), String> {
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
