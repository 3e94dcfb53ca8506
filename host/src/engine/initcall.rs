//! Initcalls: levels, and `do_initcalls`, which runs what starts once, one by one, with its time.
//!
//! Mirrors `do_one_initcall` and `do_initcalls` of `init/main.c` (K5.1 to K5.3). Unlike there, a result counts: what
//! requires an initcall that failed is not called, and neither is anything after a vital one. Each unwinds itself
//! wholly when it fails (`unwind.rs`); nothing here undoes what earlier ones did. The order is `order.rs`'s. Without a
//! clock: the time comes from the caller.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::failure::{ENODEV, EPERM, Failure};

/// The levels, earliest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// No dependencies at all.
    Pure,
    /// Core infrastructure.
    Core,
    /// After the core.
    Postcore,
    /// What depends on the machine.
    Arch,
    /// Subsystems: most plugins.
    Subsys,
    /// File systems.
    Fs,
    /// Devices.
    Device,
    /// After all others.
    Late,
}

impl Level {
    /// All, earliest first.
    pub const ALL: [Level; 8] =
        [Level::Pure, Level::Core, Level::Postcore, Level::Arch, Level::Subsys, Level::Fs, Level::Device, Level::Late];

    /// The operator's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Pure => "pure",
            Level::Core => "core",
            Level::Postcore => "postcore",
            Level::Arch => "arch",
            Level::Subsys => "subsys",
            Level::Fs => "fs",
            Level::Device => "device",
            Level::Late => "late",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Level::ALL.into_iter().find(|level| level.as_str() == word).ok_or_else(|| {
            let known = Level::ALL.map(Level::as_str).join(", ");
            format!("`{word}` is no level; the levels are {known}")
        })
    }
}

/// What an initcall does. What it leaves goes into the context.
pub type Run<'a, C> = Box<dyn FnOnce(&mut C) -> Result<(), Failure> + 'a>;

/// Something that starts once, in its level's turn.
pub struct Initcall<'a, C> {
    /// Its name, by which the operator and others name it.
    pub name: String,
    /// When its turn is.
    pub level: Level,
    /// Initcalls that must have succeeded before.
    pub requires: Vec<String>,
    /// Nothing goes on without it: the kernel's `BUG` in an initcall.
    pub vital: bool,
    /// What it does; when it fails it has left nothing.
    pub run: Run<'a, C>,
}

/// What became of an initcall.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it is for.
    Done,
    /// It was called and failed.
    Failed(Failure),
    /// It was not called, because the operator says so (`EPERM`, K5.3).
    Blacklisted(Failure),
    /// It was not called, because something that it requires is not there (`ENODEV`).
    Refused(Failure),
}

impl Outcome {
    /// Why it did not come to what it is for.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Outcome::Done => None,
            Outcome::Failed(failure) | Outcome::Blacklisted(failure) | Outcome::Refused(failure) => Some(failure),
        }
    }
}

/// An initcall whose turn has been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Called {
    /// Its name.
    pub name: String,
    /// Its level.
    pub level: Level,
    /// Nothing goes on without it.
    pub vital: bool,
    /// When its turn came, by the caller's clock.
    pub start: Duration,
    /// How long it took; nothing if it was not called.
    pub took: Duration,
    /// What became of it.
    pub outcome: Outcome,
}

impl Called {
    /// Why it is not there, as the end of a sentence: `failed: …`, `is blacklisted by …`, `requires …`.
    fn lack(&self) -> Option<String> {
        match &self.outcome {
            Outcome::Done => None,
            Outcome::Failed(failure) => Some(format!("failed: {}", failure.message)),
            Outcome::Blacklisted(failure) => Some(format!("is {}", failure.message)),
            Outcome::Refused(failure) => Some(failure.message.clone()),
        }
    }
}

/// The initcalls that are not to be called (`initcall_blacklist`), each with the place where that is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blacklist(pub Vec<(String, String)>);

impl Blacklist {
    /// What this very name gets if it is on the list: there are no patterns (K5.3).
    #[must_use]
    pub fn refuses(&self, name: &str) -> Option<Failure> {
        let (_, place) = self.0.iter().find(|(listed, _)| listed == name)?;
        Some(Failure::new(EPERM, format!("blacklisted by initcall_blacklist, {place}")))
    }
}

/// Who looks on: the clock, and what the kernel tells with `initcall_debug`.
pub trait Watch {
    /// The time; it never goes back.
    fn now(&self) -> Duration;
    /// It is going to be called.
    fn calling(&self, name: &str);
    /// Its turn is over.
    fn over(&self, called: &Called);
}

/// Calls each in its turn: level by level, and within a level in the order given. One that fails keeps nobody from
/// being called but those that require it (K5.2 would call these too), unless it is vital.
pub fn do_initcalls<C>(
    mut calls: Vec<Initcall<'_, C>>,
    context: &mut C,
    blacklist: &Blacklist,
    watch: &dyn Watch,
) -> Vec<Called> {
    calls.sort_by_key(|call| call.level);
    let mut before = Vec::with_capacity(calls.len());
    for call in calls {
        let called = do_one_initcall(call, context, &before, blacklist, watch);
        before.push(called);
    }
    before
}

/// Calls one, unless what became of those before it, or the operator, forbids that.
pub fn do_one_initcall<C>(
    call: Initcall<'_, C>,
    context: &mut C,
    before: &[Called],
    blacklist: &Blacklist,
    watch: &dyn Watch,
) -> Called {
    let Initcall { name, level, requires, vital, run } = call;
    let start = watch.now();
    let (took, outcome) = match obstacle(&name, &requires, before, blacklist) {
        Some(outcome) => (Duration::ZERO, outcome),
        None => {
            watch.calling(&name);
            let outcome = run(context).map_or_else(Outcome::Failed, |()| Outcome::Done);
            (watch.now().saturating_sub(start), outcome)
        }
    };
    let called = Called { name, level, vital, start, took, outcome };
    watch.over(&called);
    called
}

/// Why an initcall is not to be called, if it is not.
#[must_use]
pub fn obstacle(name: &str, requires: &[String], before: &[Called], blacklist: &Blacklist) -> Option<Outcome> {
    if let Some(failure) = blacklist.refuses(name) {
        return Some(Outcome::Blacklisted(failure));
    }
    let mut vital = before.iter().filter(|called| called.vital && called.outcome != Outcome::Done);
    if let Some(called) = vital.next() {
        // Why it failed is told once, by itself: all that come after it are told this.
        let lack = match &called.outcome {
            Outcome::Failed(_) => "failed".to_owned(),
            _ => called.lack().unwrap_or_default(),
        };
        let why = format!("nothing goes on without `{}`, which {lack}", called.name);
        return Some(Outcome::Refused(Failure::new(ENODEV, why)));
    }
    requires.iter().find_map(|required| {
        let lack = match before.iter().find(|called| called.name == *required) {
            Some(called) => called.lack()?,
            None => "is not among those before it".to_owned(),
        };
        Some(Outcome::Refused(Failure::new(ENODEV, format!("requires `{required}`, which {lack}"))))
    })
}
