//! The boot: the daemon's own initcalls and the plugins' in one order, called one by one, and the record of that.
//!
//! Mirrors `do_basic_setup` (K5.1 to K5.3). What an initcall that was not called, or failed, means for its plugin is
//! decided here; what the calls do is `initcalls.rs`'s and `plugins.rs`'s. It runs on a thread with a seat, before any
//! namespace is known: so each namespace of the first scan gets one setup, not one registration per plugin.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::Sender;

use crate::config::{Config, ConfigError, ConfigErrors, initcall_of};
use crate::control::monitor::Monitor;
use crate::control::{Home, wire};
use crate::engine::{self, Called, Failure, Initcall, Outcome, Watch};
use crate::logging::catalog;

use super::Event;
use super::fault::{Failed, Fault};
use super::initcalls::{Booting, Made, OWN, Own, blacklist};
use super::plugins::{Entry, REPAIR, Trouble};
use super::prepared::{Prepared, Refusal, order, prepare_all, sort_out};
use super::reload::{Shared, destroy, register_new};

/// When this start began, by both clocks.
#[derive(Clone, Copy)]
pub(super) struct Began {
    at: Instant,
    time: SystemTime,
}

impl Began {
    pub(super) fn now() -> Began {
        Began { at: Instant::now(), time: SystemTime::now() }
    }

    /// The time since then.
    pub(super) fn elapsed(self) -> Duration {
        self.at.elapsed()
    }
}

/// What ran at the start, and what came of it.
pub(super) struct Boot {
    pub(super) began: Began,
    /// Until the last initcall was over.
    took: Duration,
    initcalls: Vec<wire::Initcall>,
    /// The daemon's own: whether what requires one can run is known by these.
    pub(super) own: Vec<Called>,
}

/// What is there before the first initcall.
pub(super) struct Start<'a> {
    pub(super) began: Began,
    pub(super) config: &'a Config,
    pub(super) home: Home,
    pub(super) events: &'a Sender<Event>,
    pub(super) monitor: &'a Arc<Monitor>,
    pub(super) shared: &'a Arc<Shared>,
}

/// Calls every initcall. A bad plugin file is refused and the rest run; a contradiction in the order ends the start, and
/// so does a vital part that cannot start: then nothing is left of the others.
pub(super) fn boot(start: Start<'_>) -> Result<Made, Failed> {
    let Start { began, config, shared, .. } = start;
    let wrong = |message| Failed::new(Fault::Configuration, message);
    judge_blacklist(config, doubt)?;
    let (good, refused) = sort_out(prepare_all(&shared.judge, config));
    let ordered = order(&good).map_err(|t| wrong(t.message))?;
    let ordered: Vec<Prepared> = ordered.into_iter().map(|index| good[index].clone()).collect();
    let write = shared.write().map_err(|t| Failed::new(Fault::Software, t.message))?;
    let mut booting = Booting {
        config,
        home: Some(start.home),
        events: start.events,
        monitor: start.monitor,
        shared,
        write: &write,
        made: Made::default(),
        undo: Vec::new(),
        entries: Vec::new(),
    };
    let own = OWN.iter().map(own_call);
    let plugins = ordered.iter().enumerate().map(|(place, prepared)| plugin_call(prepared, place));
    let calls = own.chain(plugins).collect();
    let called = engine::do_initcalls(calls, &mut booting, &blacklist(config), &began);
    if let Some(lost) = called.iter().find(|call| call.vital && call.outcome != Outcome::Done) {
        return Err(give_up(booting, lost));
    }
    let Booting { made, undo, entries, .. } = booting;
    let entries = entries_of(&called, &ordered, entries, refused);
    let initcalls = rows(&called, &ordered, &entries, began);
    let own = called.into_iter().filter(|call| OWN.iter().any(|own| own.name == call.name)).collect();
    shared.chronicle.booted(&entries);
    shared.plugins().put(entries);
    shared.booted(Boot { began, took: began.elapsed(), initcalls, own }, undo);
    Ok(made)
}

/// Something of the configuration that has no effect.
pub(super) fn doubt(warning: &ConfigError) {
    let ConfigError { file, position, .. } = warning;
    tracing::warn!(
        message_id = catalog::CONFIG_DOUBTFUL,
        config_file = %file.display(),
        config_line = position.map(|at| at.line),
        config_column = position.map(|at| at.column),
        "{warning}"
    );
}

/// A name on the list that nothing has is a warning, one without which nothing goes on a mistake.
pub(super) fn judge_blacklist(config: &Config, warn: impl Fn(&ConfigError)) -> Result<(), ConfigErrors> {
    let names: Vec<&str> = OWN.iter().map(|own| own.name).collect();
    config.unknown_initcalls(&names).iter().for_each(warn);
    let vital: Vec<&str> = OWN.iter().filter(|own| own.vital).map(|own| own.name).collect();
    let mistakes = config.vital_initcalls(&vital);
    if mistakes.is_empty() { Ok(()) } else { Err(ConfigErrors(mistakes)) }
}

fn own_call<'a>(own: &'static Own) -> Initcall<'a, Booting<'a>> {
    Initcall {
        name: own.name.to_owned(),
        level: own.level,
        requires: own.requires.iter().map(ToString::to_string).collect(),
        vital: own.vital,
        run: Box::new(|booting: &mut Booting<'_>| {
            let undo = (own.run)(booting)?;
            booting.undo.push(undo);
            Ok(())
        }),
    }
}

fn plugin_call<'a>(prepared: &'a Prepared, place: usize) -> Initcall<'a, Booting<'a>> {
    Initcall {
        name: initcall_of(&prepared.config.name),
        level: prepared.level,
        requires: prepared.required_initcalls(),
        vital: false,
        run: Box::new(move |booting: &mut Booting<'_>| {
            match register_new(booting.shared, booting.write, prepared, place) {
                Ok(live) => {
                    booting.entries.push(Entry::Live(live));
                    Ok(())
                }
                Err(trouble) => {
                    let failure = trouble.failure();
                    booting.entries.push(Entry::Failed(prepared.clone(), trouble));
                    Err(failure)
                }
            }
        }),
    }
}

/// As the kernel tells with `initcall_debug`; what did not come to what it is for is told in any case.
impl Watch for Began {
    fn now(&self) -> Duration {
        self.elapsed()
    }

    fn calling(&self, name: &str) {
        tracing::debug!(initcall = name, plugin = name.strip_prefix("plugin."), "calling {name}");
    }

    fn over(&self, called: &Called) {
        let (name, usecs) = (&called.name, called.took.as_micros());
        let (initcall, plugin) = (&**name, name.strip_prefix("plugin."));
        match &called.outcome {
            Outcome::Done => tracing::debug!(plugin, initcall, "initcall {name} returned 0 after {usecs} usecs"),
            Outcome::Failed(Failure { errno, message, .. }) => {
                let message_id = if plugin.is_some() { catalog::PLUGIN_FAILED } else { catalog::PART_FAILED };
                let what = format!("initcall {name} returned -{errno} after {usecs} usecs: {message}");
                tracing::error!(message_id, plugin, initcall, errno, "{what}");
            }
            Outcome::Blacklisted(failure) => tracing::warn!(
                message_id = catalog::NOT_CALLED,
                plugin,
                initcall,
                errno = failure.errno,
                "initcall {name} was not called: {failure}"
            ),
            Outcome::Refused(failure) => tracing::error!(
                message_id = catalog::NOT_CALLED,
                plugin,
                initcall,
                errno = failure.errno,
                "initcall {name} was not called: {failure}"
            ),
        }
    }
}

/// The start ends: what has started is taken back, newest first.
fn give_up(booting: Booting<'_>, lost: &Called) -> Failed {
    let Booting { shared, entries, undo, .. } = booting;
    for entry in entries.into_iter().rev() {
        if let Entry::Live(live) = entry {
            destroy(shared, live);
        }
    }
    undo.into_iter().rev().for_each(|undo| undo());
    let (fault, why) = match lost.outcome.failure() {
        Some(failure) => (Fault::of_errno(failure.errno), format!("{failure}{}", remedy(failure))),
        None => (Fault::Software, String::new()),
    };
    Failed::new(fault, format!("{}: {why}", lost.name))
}

/// What to do where a limit is reached, unless the failure says it.
fn remedy(failure: &Failure) -> &'static str {
    match failure.errno {
        libc::EMFILE if !failure.message.contains("LimitNOFILE") => {
            "; raise the limit of open files: LimitNOFILE= of the service, or `ulimit -n`"
        }
        libc::ENFILE => "; raise the system's limit of open files, the sysctl fs.file-max",
        libc::EAGAIN => "; raise the limit of threads: TasksMax= of the service, or `ulimit -u`",
        _ => "",
    }
}

/// One entry per plugin in the order of the calls; the refused, which had no turn, come last.
fn entries_of(called: &[Called], ordered: &[Prepared], mut up: Vec<Entry>, refused: Vec<Refusal>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for prepared in ordered {
        let name = &prepared.config.name;
        let entry = match up.iter().position(|entry| entry.name() == name) {
            Some(at) => up.remove(at),
            None => match called.iter().find(|call| call.name == initcall_of(name)) {
                Some(call) => not_called(prepared, &call.outcome, called, &entries),
                None => continue,
            },
        };
        entries.push(entry);
    }
    for (config, trouble) in refused {
        let text = format!("plugin refused: {}", trouble.message);
        trouble.tell(catalog::PLUGIN_REFUSED, &config.name, &text);
        entries.push(Entry::Refused(config, trouble));
    }
    entries
}

/// The entry of a plugin whose initcall was not called: it is skipped if the list is the reason in the end.
pub(super) fn not_called(prepared: &Prepared, outcome: &Outcome, own: &[Called], before: &[Entry]) -> Entry {
    let why = outcome.failure().map_or("", |failure| &*failure.message);
    if let Outcome::Blacklisted(failure) = outcome {
        return Entry::Skipped(prepared.clone(), Trouble::blacklisted(failure));
    }
    let listed = |name: &String| {
        let own = own.iter().any(|call| call.name == *name && matches!(call.outcome, Outcome::Blacklisted(_)));
        own || before.iter().any(|entry| entry.name() == name && matches!(entry, Entry::Skipped(..)))
    };
    if prepared.requires.iter().any(listed) {
        Entry::Skipped(prepared.clone(), Trouble::not_called(&format!("{why}; take that one off the list first")))
    } else {
        Entry::Failed(prepared.clone(), Trouble::not_called(&format!("{why}{REPAIR}")))
    }
}

/// The record's rows: what had its turn, in order, then what was refused before that.
fn rows(called: &[Called], ordered: &[Prepared], entries: &[Entry], began: Began) -> Vec<wire::Initcall> {
    let mut rows: Vec<wire::Initcall> = called.iter().map(row).collect();
    for prepared in ordered {
        let name = initcall_of(&prepared.config.name);
        let (start, took) = prepared.prepared;
        if let Some(row) = rows.iter_mut().find(|row| row.name == name) {
            row.prepare_start_us = Some(micros(start.saturating_duration_since(began.at)));
            row.prepare_us = Some(micros(took));
        }
    }
    let refused = entries.iter().filter_map(|entry| match entry {
        Entry::Refused(config, trouble) => Some((config, trouble)),
        _ => None,
    });
    rows.extend(refused.map(|(config, trouble)| {
        let Failure { errno, message, .. } = trouble.failure();
        let result =
            if trouble.is_blacklisting() { wire::InitcallResult::blacklisted } else { wire::InitcallResult::refused };
        let called = bare_row(initcall_of(&config.name), result);
        wire::Initcall { errno: u64::try_from(errno).ok(), error: Some(message), ..called }
    }));
    rows
}

fn row(called: &Called) -> wire::Initcall {
    let result = match called.outcome {
        Outcome::Done => wire::InitcallResult::ok,
        Outcome::Failed(_) => wire::InitcallResult::failed,
        Outcome::Blacklisted(_) => wire::InitcallResult::blacklisted,
        Outcome::Refused(_) => wire::InitcallResult::refused,
    };
    let failure = called.outcome.failure();
    wire::Initcall {
        level: Some(called.level.as_str().to_owned()),
        start_us: Some(micros(called.start)),
        duration_us: micros(called.took),
        errno: failure.and_then(|f| u64::try_from(f.errno).ok()),
        error: failure.map(|f| f.message.clone()),
        ..bare_row(called.name.clone(), result)
    }
}

fn bare_row(name: String, result: wire::InitcallResult) -> wire::Initcall {
    wire::Initcall {
        name,
        level: None,
        start_us: None,
        duration_us: 0,
        prepare_start_us: None,
        prepare_us: None,
        result,
        errno: None,
        error: None,
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Boot {
    /// For the operator; without the namespaces' setups.
    pub(super) fn row(&self, ready: Option<Duration>) -> wire::BootRecord {
        wire::BootRecord {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            time: wire::time(self.began.time),
            initcalls_us: micros(self.took),
            ready_us: ready.map(micros),
            initcalls: self.initcalls.clone(),
            setups: Vec::new(),
        }
    }
}
