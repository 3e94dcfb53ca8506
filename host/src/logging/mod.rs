//! The daemon's log: to the journal with its fields where systemd runs it, else to standard error as lines for people.
//!
//! One subscriber takes the daemon's own events; a plugin's lines come by [`plugin_line`]. Both are a [`line::Line`],
//! which [`journal`] and [`text`] format. Where the journal takes none, a line goes to standard error; where that takes
//! none either it is counted, and the number is told later. Nobody who logs waits for long.
//!
//! Fields have the same names everywhere: `plugin`, `netns`, `hook`, `device`, `generation`, `errno`, and `message_id`
//! with an event of the [`catalog`]. Texts do not repeat `plugin` and `netns`, which are shown with each line, and say
//! all else themselves.

pub mod catalog;
mod journal;
mod journal_socket;
mod line;
mod output;
pub(crate) mod text;

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::SystemTime;

use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};

use crate::config::LogLevel;
use crate::plugin::LogLine;
use journal_socket::Journal;
use line::Line;
use output::Output;

/// 0 off, 1 error … 5 trace: the plugins ask for it at every line, so it is one relaxed load.
static LEVEL: AtomicU8 = AtomicU8::new(3);

/// Where lines go, once that is known.
static LOG: OnceLock<Log> = OnceLock::new();

/// Where lines go.
struct Log {
    journal: Option<Journal>,
    output: Output,
    colours: bool,
    /// Lines that nobody took.
    lost: AtomicU64,
}

/// Starts logging; a second call in the same process changes only the level.
pub fn start(level: LogLevel) {
    LOG.get_or_init(|| Log {
        journal: Journal::behind_stderr(),
        output: Output::default(),
        colours: colours_are_wanted(),
        lost: AtomicU64::new(0),
    });
    let _ = tracing::subscriber::set_global_default(ByLevel);
    set_level(level);
}

/// Whether lines go to the journal. Nothing that is in it needs to be said on standard error, too.
#[must_use]
pub fn is_journal() -> bool {
    LOG.get().is_some_and(|log| log.journal.is_some())
}

/// On a terminal that knows them, unless whoever sits there has asked for none (<https://no-color.org>).
fn colours_are_wanted() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    std::io::stderr().is_terminal() && set("NO_COLOR").is_none() && set("TERM").is_some_and(|term| term != "dumb")
}

/// Sets what is logged, at start and after a reload.
pub fn set_level(level: LogLevel) {
    let level = match level {
        LogLevel::Error => 1,
        LogLevel::Warn => 2,
        LogLevel::Info => 3,
        LogLevel::Debug => 4,
        LogLevel::Trace => 5,
    };
    LEVEL.store(level, Ordering::Relaxed);
    // So that a line below the level costs no more than the look at it that the macros take.
    tracing_core::callsite::rebuild_interest_cache();
}

/// The level as the plugin ABI counts it.
#[must_use]
pub fn level() -> u8 {
    LEVEL.load(Ordering::Relaxed)
}

fn number(level: Level) -> u8 {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

/// Takes a line of a plugin's log.
pub fn plugin_line(line: &LogLine<'_>) {
    if let Some(log) = LOG.get().filter(|_| line.level <= level()) {
        log.take(&Line::of_plugin(line));
    }
}

impl Log {
    fn take(&self, line: &Line<'_>) {
        if !self.deliver(line) {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 && !self.deliver(&lines_lost(lost)) {
            self.lost.fetch_add(lost, Ordering::Relaxed);
        }
    }

    fn deliver(&self, line: &Line<'_>) -> bool {
        match &self.journal {
            None => self.output.write(&text::line(line, SystemTime::now(), self.colours)),
            Some(journal) => journal.send(&journal::entry(line)).is_ok() || self.output.write(&text::for_stream(line)),
        }
    }
}

fn lines_lost(lost: u64) -> Line<'static> {
    let text =
        format!("{lost} lines of the log before the last one are lost: whoever takes them took none for a while");
    let mut line = Line::bare(Level::WARN, text);
    line.put("message_id", catalog::LINES_LOST);
    line.put("lost", lost.to_string());
    line
}

/// The subscriber. The daemon opens no spans: what a line is about is in its fields.
struct ByLevel;

impl Subscriber for ByLevel {
    /// Never "always": a reload may change the level at any time.
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        number(*metadata.level()) <= level()
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(match level() {
            0 => LevelFilter::OFF,
            1 => LevelFilter::ERROR,
            2 => LevelFilter::WARN,
            3 => LevelFilter::INFO,
            4 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        })
    }

    fn event(&self, event: &Event<'_>) {
        if let Some(log) = LOG.get() {
            log.take(&Line::of_event(event));
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
