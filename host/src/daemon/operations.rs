//! One at a time: the operations that need the pernet list for themselves, each on a thread of its own.
//!
//! A reload that is asked for while one runs causes exactly one more, however often it is asked for. Stop goes last.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::config::Config;
use crate::control::wire::{self, ReloadAction, ReloadResult, ReloadedPlugin};
use crate::control::{ControlError, ErrorKind, Reply};
use crate::linux::ns;
use crate::logging::catalog;
use crate::systemd;

use super::fault::Fault;
use super::knobs;
use super::plugins::Trouble;
use super::reload::{self, Report};
use super::{Daemon, Event, Phase, figures};

/// What can be asked for.
pub(super) enum Kind {
    /// Reload, and whom to tell.
    Reload(Vec<Reply<ReloadResult>>),
    /// Take out a plugin of which this generation panicked.
    Fail(Arc<str>, u64, Trouble),
    /// Run all exits.
    Stop,
}

/// What came of it.
pub(crate) enum Done {
    /// A reload.
    Reload(Report),
    /// The removal of a plugin.
    Failed(Result<(), Trouble>),
    /// The end.
    Stopped(Result<(), Trouble>),
}

/// What is told of an operation that could not be carried out.
type Broken = fn(Trouble) -> Done;

/// The queue, and what runs.
#[derive(Default)]
pub(super) struct Operations {
    running: bool,
    /// What runs is a reload.
    reloading: bool,
    queued: VecDeque<Kind>,
    /// Whom to tell of the reload that runs.
    askers: Vec<Reply<ReloadResult>>,
    stopped: bool,
}

impl Operations {
    /// Whether the exits have run.
    pub(super) fn stopped(&self) -> bool {
        self.stopped
    }

    /// Whether one is under way.
    pub(super) fn busy(&self) -> bool {
        self.running
    }

    pub(super) fn reloading(&self) -> bool {
        self.reloading
    }

    fn push(&mut self, kind: Kind) {
        if let Kind::Reload(mut new) = kind {
            let waiting =
                self.queued.iter_mut().find_map(|k| if let Kind::Reload(askers) = k { Some(askers) } else { None });
            match waiting {
                Some(askers) => askers.append(&mut new),
                None => self.queued.push_back(Kind::Reload(new)),
            }
        } else {
            self.queued.push_back(kind);
        }
    }

    /// What has not begun does not begin any more; who asked for it learns that from the dropped reply.
    pub(super) fn forget_queued(&mut self) {
        self.queued.clear();
    }
}

impl Daemon {
    pub(super) fn operate(&mut self, kind: Kind) {
        self.operations.push(kind);
        self.next_operation();
    }

    fn next_operation(&mut self) {
        if self.operations.running {
            return;
        }
        let Some(kind) = self.operations.queued.pop_front() else { return };
        self.operations.running = true;
        let (work, broken) = self.prepare(kind);
        let events = self.events.clone();
        let started = std::thread::Builder::new().name("operation".into()).spawn(move || {
            // It calls hooks, so it enters namespaces; where it cannot, every enter says so.
            if let Err(e) = ns::take_seat_here() {
                tracing::error!(
                    message_id = catalog::THREADS_EXHAUSTED,
                    errno = e.raw_os_error(),
                    "this thread cannot enter namespaces: {e}"
                );
            }
            // Without an answer nothing that was held back would ever go on, nor the daemon end.
            let done = catch_unwind(AssertUnwindSafe(work));
            let panicked = |_| broken(Trouble::new("pernetd", "pernetd itself panicked; see the lines above"));
            let _ = events.send(Event::Operation(done.unwrap_or_else(panicked)));
        });
        if let Err(e) = started {
            let what = format!("cannot start a thread for it: {e}; raise the limit of threads");
            let _ = self.events.send(Event::Operation(broken(Trouble::new("pernetd", what))));
        }
    }

    /// What the operation's thread does, and what is told where it cannot.
    fn prepare(&mut self, kind: Kind) -> (Box<dyn FnOnce() -> Done + Send>, Broken) {
        let shared = Arc::clone(&self.shared);
        match kind {
            Kind::Reload(askers) => {
                // Now, and not when it was asked for: the READY of the reload before this one must not end it.
                if self.phase == Phase::Running {
                    systemd::reloading();
                }
                self.operations.reloading = true;
                self.operations.askers = askers;
                let command_line = self.command_line.clone();
                let work = move || Done::Reload(reload::reload(&shared, &command_line));
                (Box::new(work), |trouble| Done::Reload(Report { error: Some(trouble.message), ..Report::default() }))
            }
            Kind::Fail(plugin, generation, trouble) => {
                let work = move || Done::Failed(reload::fail(&shared, &plugin, generation, &trouble));
                (Box::new(work), |trouble| Done::Failed(Err(trouble)))
            }
            Kind::Stop => (Box::new(move || Done::Stopped(reload::stop(&shared))), |t| Done::Stopped(Err(t))),
        }
    }

    pub(super) fn operation_done(&mut self, done: Done) {
        self.operations.running = false;
        self.operations.reloading = false;
        match done {
            Done::Reload(report) => self.reloaded(report),
            Done::Failed(Ok(())) => {}
            Done::Failed(Err(trouble)) => {
                tracing::error!(
                    message_id = catalog::PLUGIN_STUCK,
                    "a plugin that panicked is still registered: {}",
                    trouble.message
                );
            }
            Done::Stopped(result) => {
                if let Err(trouble) = result {
                    tracing::error!(message_id = catalog::EXITS_NOT_RUN, "the exits did not run: {}", trouble.message);
                    self.exit_code = Fault::Software.exit_code();
                    // Dropping the plugins would run their code on this thread, in the middle of the hook that hangs.
                    std::mem::forget(Arc::clone(&self.shared));
                }
                self.operations.stopped = true;
                self.release_all();
            }
        }
        self.look_at_all();
        self.release_held();
        self.retry_troubled_now();
        self.unwatch_idle();
        self.next_operation();
    }

    /// The new configuration, but for what only a start can change, which stays and is said to.
    fn in_force(&self, new: &Config) -> Config {
        let (mut config, old) = (new.clone(), &self.config.main);
        let main = &mut config.main;
        let keys = [
            ("discovery.*", std::mem::replace(&mut main.discovery, old.discovery.clone()) != old.discovery),
            ("netlink.receive_buffer", std::mem::replace(&mut main.netlink, old.netlink.clone()) != old.netlink),
        ];
        for (key, _) in keys.iter().filter(|(_, changed)| *changed) {
            tracing::warn!(
                message_id = catalog::NEEDS_RESTART,
                key,
                "{key} has changed in the configuration; it stays as it was until pernetd is started again"
            );
        }
        config
    }

    /// Carries out what has changed in the main file and is a knob, too. What it says as before does not undo what was
    /// set by hand, and what `sysctl.d` says counts before it.
    fn turn_knobs(&self, before: &Config) {
        let (main, old) = (&self.config.main, &before.main);
        let changed = |differs: bool, knob: &str| differs && !self.shared.sysctls.says(knob);
        if changed(main.unregister_timeout != old.unregister_timeout, "unregister_timeout") {
            self.shared.set_patience(main.unregister_timeout);
        }
        if changed(main.log.level != old.log.level, "log_level") {
            knobs::set_log_level(main.log.level);
        }
        if changed(main.filesystem != old.filesystem, "filesystem_timeout") {
            self.shared.filesystems.fuse.set_deadline(Duration::from_secs(main.filesystem.timeout));
        }
        if changed(main.workers != old.workers, "workers") {
            self.workers.set_size(self.config.workers());
        }
    }

    fn reloaded(&mut self, report: Report) {
        figures::add(if report.ok { &self.tally.reloads } else { &self.tally.failed_reloads });
        if let Some(config) = &report.config {
            let config_now = Arc::new(self.in_force(config));
            let before = std::mem::replace(&mut self.config, config_now);
            self.turn_knobs(&before);
            self.shared.readers.set(&config.main.control.read);
            if let Err(e) = self.server.set_read(&config.main.control.read) {
                tracing::warn!(message_id = catalog::CONFIG_DOUBTFUL, "control.read stays as it was: {e}");
            }
            self.generation += 1;
        }
        self.shared.chronicle.reloaded(&report, self.generation);
        self.last_reload = Some(wire::LastReload {
            time: wire::time(SystemTime::now()),
            ok: report.ok,
            error: report.error.clone(),
            pause_us: u64::try_from(report.pause.as_micros()).unwrap_or(u64::MAX),
        });
        let outcome = match &report.error {
            None => format!("reloaded in {} us", report.pause.as_micros()),
            Some(error) => format!("reload failed: {error}"),
        };
        tell(&report, self.generation);
        if self.phase == Phase::Running {
            systemd::ready(&format!("{}; {outcome}", self.summary()));
        }
        let result = ReloadResult {
            ok: report.ok,
            generation: self.generation,
            plugins: report.plugins.iter().map(row).collect(),
        };
        for asker in std::mem::take(&mut self.operations.askers) {
            // A refusal that names no plugin is nobody's row: it goes as the error itself.
            asker.send(match &report.error {
                Some(error) if report.plugins.is_empty() => Err(ControlError::new(
                    ErrorKind::Failed,
                    "reload",
                    error.clone(),
                    "nothing was changed; correct it and reload again",
                )),
                _ => Ok(result.clone()),
            });
        }
    }
}

/// Logs what came of a reload: each thing that was wrong, or each plugin that changed.
fn tell(report: &Report, generation: u64) {
    for (plugin, trouble) in &report.causes {
        trouble.tell(catalog::RELOAD_FAILED, plugin, &format!("reload failed: {}", trouble.told()));
    }
    if let (true, Some(error)) = (report.causes.is_empty(), &report.error) {
        tracing::error!(message_id = catalog::RELOAD_FAILED, "reload failed: {error}");
    }
    if !report.ok {
        return;
    }
    tracing::info!(
        message_id = catalog::RELOADED,
        generation,
        "reloaded in {} us: this is generation {generation}",
        report.pause.as_micros()
    );
    for reload::Row { name: plugin, action, error, why } in &report.plugins {
        match error {
            // Because of the blacklist, so as the operator wants it.
            Some(error) if *action == "removed" => {
                tracing::warn!(message_id = catalog::NOT_CALLED, plugin, action, "removed: {error}");
            }
            Some(error) => tracing::error!(message_id = catalog::PLUGIN_FAILED, plugin, action, "{error}"),
            None if *action == "kept" => tracing::debug!(plugin, action, "kept"),
            None => {
                let why = why.map_or_else(String::new, |why| format!(": {why}"));
                tracing::info!(message_id = catalog::PLUGIN_CHANGED, plugin, action, "{action}{why}");
            }
        }
    }
}

fn row(row: &reload::Row) -> ReloadedPlugin {
    let action = match row.action {
        "kept" => ReloadAction::kept,
        "added" => ReloadAction::added,
        "replaced" => ReloadAction::replaced,
        "removed" => ReloadAction::removed,
        _ => ReloadAction::failed,
    };
    ReloadedPlugin { name: row.name.clone(), action, error: row.error.clone() }
}
