//! The daemon: one loop over a closed [`Event`], which alone decides, and the only place that wires parts together.
//!
//! Source threads translate what they hear into events and send them; hooks run on the workers; what needs the pernet
//! list for itself (start, reload, stop, the removal of a plugin that panicked) runs as an [`operations`] on a thread
//! of its own. The loop never waits for any of them, so it always answers.

pub(crate) mod start;
pub(crate) mod fault;
mod boot;
mod chronicle;
mod device_past;
mod devices;
mod devices_past;
mod ask;
mod enlist;
mod facilities;
mod figures;
mod file_names;
mod filesystems;
mod hangs;
mod identify;
mod initcalls;
mod inodes;
mod kept_mounts;
mod knobs;
mod leases;
mod links;
mod mounts;
mod namespaces;
mod netctl;
mod netdevs;
mod operations;
mod past;
mod pernetfs;
mod place;
mod plugins;
mod prepared;
mod reload;
mod requests;
mod running_set;
mod services;
mod setups;
mod shell_word;
mod sock_init;
mod sockets;
mod standing;
mod sysctl_requests;
mod sysctls;
mod troubles;
mod why;

use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use pernet_plugin_api::NetCookie;

use crate::config::{CommandLine, Config};
use crate::control::{self, wire};
use crate::control::{ControlError, LeaseId, Reply, Request};
use crate::discovery::links::{LinkEvent, LinkSource};
use crate::discovery::{self, Batch};
use crate::engine::Names;
use crate::linux::ns::Pin;
use crate::linux::worker::Workers;
use crate::logging::catalog;
use crate::systemd;

use chronicle::Farewell;
use facilities::Surroundings;
use leases::Lease;
use links::InTransit;
use namespaces::{Held, Managed, Retry};
use operations::{Done, Operations};
use plugins::Trouble;
use reload::Shared;
use services::Work;
use setups::Setup;

/// Everything that the loop can be told.
pub(crate) enum Event {
    /// Names of namespaces came, went, or were listed: one drained queue.
    Names(Batch),
    /// No descriptor is left for the namespace of this name; it is tried again.
    NoRoom(PathBuf),
    /// Link messages, in the order of the socket's stream.
    Links(Vec<LinkEvent>),
    /// SIGHUP, SIGTERM or SIGINT.
    Signal(i32),
    /// A client asks.
    Request(Request),
    /// A namespace's setup ended, well or not; its state tells.
    SetUp(NetCookie, Setup),
    /// A namespace's plugins have been judged again by its new names.
    Judged(NetCookie),
    /// A namespace's exits are done.
    CleanedUp(NetCookie, Farewell),
    /// A client's descriptor has been identified.
    Leased(LeaseId, Result<(NetCookie, Pin), ControlError>),
    /// What the path of a lease shows whose client has gone.
    LeaseLooked(LeaseId, Option<NetCookie>),
    /// A plugin's own device has left its namespace, for this one if it is managed.
    Departed(Option<NetCookie>, InTransit),
    /// A plugin handed over work for later.
    Work(Work),
    /// A plugin asks for what calls a hook in a namespace.
    Hook(NetCookie, namespaces::HookJob),
    /// A plugin panicked: this generation of it.
    Poisoned(Arc<str>, u64, Trouble),
    /// An operation ended.
    Operation(Done),
}

/// What the daemon is at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Until the namespaces that were there at the start are set up.
    Starting,
    Running,
    /// Exits run or have run; nothing new is begun.
    Stopping,
}

/// The loop's state. Only the loop's thread has it.
struct Daemon {
    command_line: CommandLine,
    config: Arc<Config>,
    shared: Arc<Shared>,
    workers: Arc<Workers>,
    /// One thread more for looks into the kernel, where no hook runs: hooks that hang must not keep an operator from
    /// asking what hangs.
    looks: Workers,
    links: Arc<LinkSource>,
    server: control::Server,
    events: Sender<Event>,
    phase: Phase,
    /// What names which namespace: the engine's view of the mounts.
    names: Names,
    nets: HashMap<NetCookie, Managed>,
    /// Namespaces named again while their last life was ending.
    reborn: HashMap<NetCookie, namespaces::Rebirth>,
    /// Jobs that wait until an operation lets go of the pernet list, in order.
    held: VecDeque<Held>,
    retries: BinaryHeap<Retry>,
    leases: HashMap<LeaseId, Lease>,
    waiters: Vec<requests::Waiter>,
    operations: Operations,
    /// Mounts of the daemon before, until they are taken up.
    left_mounts: Vec<kept_mounts::Left>,
    /// Whether the first scan of the names has come.
    scanned: bool,
    /// What was asked before that: nobody is told of a world that has not been looked at.
    early: Vec<Request>,
    /// Names of namespaces that are not managed since no descriptor is left for them.
    without_room: BTreeSet<PathBuf>,
    /// What was found out at the start and stays so.
    surroundings: Surroundings,
    /// Setups that READY waits for.
    first_setups: usize,
    tally: Arc<figures::Tally>,
    last_overrun: Option<Instant>,
    generation: u64,
    last_reload: Option<wire::LastReload>,
    /// Ends when dropped.
    discovery: discovery::Started,
    /// When everything that existed at the start was set up, since the start.
    ready: Option<Duration>,
    /// Hooks that an operator has been told to hang.
    hangs: hangs::Hangs,
    exit_code: i32,
}

impl Daemon {
    /// Runs until told to stop; the process's exit code.
    fn run(mut self, inbox: &Receiver<Event>) -> i32 {
        let watchdog = systemd::watchdog_interval();
        let mut next_ping = Instant::now();
        while !self.ended() {
            if let Some(every) = watchdog
                && Instant::now() >= next_ping
            {
                systemd::watchdog_ping();
                next_ping = Instant::now() + every;
            }
            let deadlines = [watchdog.map(|_| next_ping), self.next_retry(), self.hangs.due()];
            let next = deadlines.into_iter().flatten().min();
            let wait = next.map_or(Duration::from_secs(3600), |t| t.saturating_duration_since(Instant::now()));
            let next = inbox.recv_timeout(wait);
            self.hangs.look(next.is_ok());
            match next {
                Ok(event) => self.handle(event),
                Err(RecvTimeoutError::Timeout) => self.retry_due(),
                // The loop holds a sender itself, so this cannot be; ending is the only sane answer.
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.exit_code
    }

    fn ended(&self) -> bool {
        self.phase == Phase::Stopping && self.operations.stopped()
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Names(batch) => self.observe_names(batch),
            Event::NoRoom(path) => self.no_room(path),
            Event::Links(events) => self.observe_links(events),
            Event::Signal(signal) => self.signal(signal),
            Event::Request(request) => self.answer(request),
            Event::SetUp(cookie, setup) => self.set_up(cookie, setup),
            Event::Judged(cookie) => self.judged(cookie),
            Event::CleanedUp(cookie, farewell) => self.cleaned_up(cookie, farewell),
            Event::Leased(lease, identity) => self.leased(lease, identity),
            Event::LeaseLooked(lease, there) => self.lease_looked(lease, there),
            Event::Departed(to, device) => self.departed(to, device),
            Event::Work(work) => self.work(work),
            Event::Hook(cookie, job) => {
                // Unless it can be queued it is dropped, which whoever waits for it learns.
                self.submit(cookie, job);
            }
            Event::Poisoned(plugin, generation, trouble) => {
                // Once stopping its exits come anyway.
                if self.phase != Phase::Stopping {
                    self.operate(operations::Kind::Fail(plugin, generation, trouble));
                }
            }
            Event::Operation(done) => self.operation_done(done),
        }
        self.retry_due();
    }

    fn signal(&mut self, signal: i32) {
        if signal == signal_hook::consts::SIGHUP {
            self.reload(None);
        } else {
            self.stop();
        }
    }

    /// Begins the end: what runs is finished, nothing new is begun, then the exits run.
    fn stop(&mut self) {
        if self.phase == Phase::Stopping {
            return;
        }
        tracing::info!(
            message_id = catalog::STOPPING,
            "stopping: exits run in reverse, effects stay in place unless a plugin asks otherwise"
        );
        systemd::stopping();
        self.phase = Phase::Stopping;
        // What is dropped unrun may be plugins' closures, whose drop is plugins' code: not on this thread.
        let held = std::mem::take(&mut self.held);
        self.workers.run_anywhere(Box::new(move || drop(held)));
        // Whoever waits for something that will not come any more learns it now, not when the last exit is done.
        self.early.clear();
        self.waiters.clear();
        self.leases.clear();
        self.operations.forget_queued();
        self.operate(operations::Kind::Stop);
    }

    fn reload(&mut self, reply: Option<Reply<wire::ReloadResult>>) {
        if self.phase == Phase::Stopping {
            if let Some(reply) = reply {
                reply.send(Err(ControlError::stopping()));
            }
            return;
        }
        self.operate(operations::Kind::Reload(reply.into_iter().collect()));
    }

    /// READY once everything that existed at the start is set up, however well.
    fn check_ready(&mut self) {
        if self.phase == Phase::Starting && self.scanned && self.first_setups == 0 {
            self.phase = Phase::Running;
            self.ready = self.shared.boot.get().map(|boot| boot.began.elapsed());
            let status = self.summary();
            tracing::info!(message_id = catalog::READY, "ready: {status}");
            systemd::ready(&status);
        }
    }

    fn summary(&self) -> String {
        let plugins = self.shared.shown();
        let live = plugins.iter().filter(|p| p.state == wire::PluginState::live).count();
        let namespaces = self.nets.len();
        format!("{namespaces} namespaces, {live} of {} plugins live, generation {}", plugins.len(), self.generation)
    }
}
