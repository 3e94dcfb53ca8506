//! The daemon's own figures, as a plugin is told of them: hook calls with their errors and durations, and numbers of things.
//!
//! Plain data, as they were when they were asked for. Who shows them, and how, is the plugin's business.

use std::time::Duration;

use crate::abi;

/// The daemon's figures since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// The daemon's version.
    pub version: String,
    /// Upper bounds, inclusive and ascending, by which [`HookFigures::calls`] are sorted.
    pub bounds: Vec<Duration>,
    /// One entry for each hook of each plugin that was called. A plugin keeps its figures over a reload.
    pub hooks: Vec<HookFigures>,
    /// The other numbers.
    pub figures: Vec<Figure>,
}

/// The calls of one hook of one plugin that have ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookFigures {
    /// The plugin.
    pub plugin: String,
    /// The hook as the operator sees it: `pernet.init`, `netdev.up`, …
    pub hook: String,
    /// How many of the calls failed.
    pub errors: u64,
    /// How long all of them took together.
    pub duration: Duration,
    /// Calls by duration: one number for each of [`Figures::bounds`], not cumulative, and one for what took longer.
    pub calls: Vec<u64>,
}

/// A number of the daemon's.
///
/// What there is: `namespaces` and `plugins`, of each state; `retries` of namespaces in trouble; `resyncs` after link
/// events were lost; `reloads`, of the result `ok` or `error`; `retired_generations`, which are still mapped;
/// `hanging_hooks`, which have been running for more than a second. A newer daemon may have more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figure {
    /// What is counted.
    pub what: String,
    /// The part of it that this number is about, such as a state; empty for all of it.
    pub of: String,
    /// How many.
    pub value: u64,
}

impl Figures {
    pub(crate) fn of(answer: abi::FiguresReturn) -> Self {
        Figures {
            version: answer.version.into(),
            bounds: answer.bounds.into_iter().map(Duration::from_nanos).collect(),
            hooks: answer.hooks.into_iter().map(HookFigures::of).collect(),
            figures: answer.figures.into_iter().map(Figure::of).collect(),
        }
    }
}

impl HookFigures {
    fn of(told: abi::HookFigures) -> Self {
        HookFigures {
            plugin: told.plugin.into(),
            hook: told.hook.into(),
            errors: told.errors,
            duration: Duration::from_nanos(told.nanoseconds),
            calls: told.calls.into(),
        }
    }
}

impl Figure {
    fn of(told: abi::Figure) -> Self {
        Figure { what: told.what.into(), of: told.of.into(), value: told.value }
    }
}
