//! The daemon's own log: lines on standard error, which systemd hands to the journal.
//!
//! A plugin's lines come through the same subscriber with `plugin`, `generation` and `netns` as fields, so there is
//! one format and one level. Native journal fields are not made here.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::config::LogLevel;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

/// 0 off, 1 error … 5 trace: the plugins ask for it at every line, so it is one relaxed load.
static LEVEL: AtomicU8 = AtomicU8::new(3);

/// Lets each line through by [`LEVEL`], so that a reload can change it.
struct ByLevel;

impl<S> Filter<S> for ByLevel {
    fn enabled(&self, meta: &tracing::Metadata<'_>, _: &Context<'_, S>) -> bool {
        number(*meta.level()) <= LEVEL.load(Ordering::Relaxed)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        None
    }
}

/// Starts logging to standard error; a second call in the same process changes only the level.
pub fn start(level: LogLevel) {
    set_level(level);
    let out = fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(std::io::stderr().is_terminal());
    // Under systemd the journal stamps each line itself.
    let in_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let layer: Box<dyn Layer<Registry> + Send + Sync> =
        if in_journal { out.without_time().with_filter(ByLevel).boxed() } else { out.with_filter(ByLevel).boxed() };
    let _ = tracing_subscriber::registry().with(layer).try_init();
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
}

/// The level as the plugin ABI counts it.
#[must_use]
pub fn level() -> u8 {
    LEVEL.load(Ordering::Relaxed)
}

fn number(level: tracing::Level) -> u8 {
    match level {
        tracing::Level::ERROR => 1,
        tracing::Level::WARN => 2,
        tracing::Level::INFO => 3,
        tracing::Level::DEBUG => 4,
        tracing::Level::TRACE => 5,
    }
}

/// The fields of a plugin's line, which come as a JSON object, as the rest of the line shows its own: ` key=value`.
pub(crate) fn readable(fields: &str) -> String {
    if fields.is_empty() {
        return String::new();
    }
    match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(fields) {
        Ok(object) => object.iter().map(|(key, value)| format!(" {key}={value}")).collect(),
        // Only a plugin that is not made with the macro sends anything else.
        Err(_) => format!(" {fields}"),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn fields_are_shown_as_those_of_other_lines() {
        assert_eq!(super::readable(r#"{"key":"net.ipv4","n":3}"#), r#" key="net.ipv4" n=3"#);
        assert_eq!(super::readable(""), "");
        assert_eq!(super::readable("what is this"), " what is this");
    }
}
