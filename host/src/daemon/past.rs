//! What has happened to one thing, as far as it is kept: a bounded ring, in which the same again is one entry that counts.
//!
//! Entries are made where something goes wrong or changes, never where all is well, and hold what was said as it was. A
//! thing to which nothing has happened has an empty ring, which is no memory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::control::errno_name;
use crate::control::wire;
use crate::engine::{Failure, HookError};

use super::boot::micros;

/// `1 try`, `3 tries`
pub(super) fn many(count: u64, one: &str, more: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {more}") }
}

/// `830 µs`, `12.40 ms`, `1.20 s`
pub(super) fn span(took: Duration) -> String {
    match took.as_micros() {
        us @ 0..1_000 => format!("{us} µs"),
        us @ 1_000..1_000_000 => format!("{}.{:02} ms", us / 1_000, us % 1_000 / 10),
        us => format!("{}.{:02} s", us / 1_000_000, us % 1_000_000 / 10_000),
    }
}

/// A point in time, in microseconds since the epoch: half as large as a `SystemTime`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(u64);

impl Moment {
    pub(super) fn now() -> Moment {
        SystemTime::now().into()
    }

    /// When the clock shows what the other one will at `at`.
    pub(super) fn of(at: Instant) -> Moment {
        let (now, time) = (Instant::now(), SystemTime::now());
        match at.checked_duration_since(now) {
            Some(ahead) => time + ahead,
            None => time - now.saturating_duration_since(at),
        }
        .into()
    }

    pub(super) fn text(self) -> String {
        wire::time(UNIX_EPOCH + Duration::from_micros(self.0))
    }
}

impl From<SystemTime> for Moment {
    fn from(time: SystemTime) -> Moment {
        Moment(time.duration_since(UNIX_EPOCH).map_or(0, micros))
    }
}

/// Who answered with an error, to what, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) plugin: Arc<str>,
    pub(super) hook: &'static str,
    /// Empty for none.
    pub(super) netns: Arc<str>,
    pub(super) device: Option<Box<str>>,
    pub(super) failure: Failure,
}

impl From<&HookError> for Answer {
    fn from(e: &HookError) -> Answer {
        let HookError { plugin, hook, netns, device, failure } = e.clone();
        Answer { plugin, hook, netns, device: device.as_deref().map(Into::into), failure }
    }
}

impl Answer {
    /// `pernet.init of probe-b failed`, `… panicked`.
    pub(super) fn told(&self) -> String {
        let how = if self.failure.panicked { "panicked" } else { "failed" };
        format!("{} of {} {how}", self.hook, self.plugin)
    }

    pub(super) fn row(&self) -> wire::Happening {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        wire::Happening {
            plugin: some(&self.plugin),
            hook: some(self.hook),
            netns: some(&self.netns),
            device: self.device.as_deref().and_then(some),
            error: Some(self.failure.message.clone()),
            errno: Some(errno_name(self.failure.errno).into_owned()),
            ..bare_row(Moment(0), self.told())
        }
    }
}

/// What it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A hook answered with an error.
    Answer(Box<Answer>),
    /// Something else, in a sentence.
    Said(Box<str>),
}

/// What happened, when, and how often in a row.
#[derive(Clone, Debug)]
pub(super) struct Happening {
    first: Moment,
    pub(super) last: Moment,
    count: u32,
    /// The last one, in microseconds; 0: not measured.
    took: u32,
    pub(super) what: What,
}

/// A row about nothing but a time and a sentence.
pub(super) fn bare_row(at: Moment, what: impl Into<String>) -> wire::Happening {
    wire::Happening {
        time: at.text(),
        first: at.text(),
        count: 1,
        what: what.into(),
        plugin: None,
        hook: None,
        netns: None,
        device: None,
        error: None,
        errno: None,
        duration_us: None,
    }
}

impl Happening {
    pub(super) fn row(&self) -> wire::Happening {
        let row = match &self.what {
            What::Answer(answer) => answer.row(),
            What::Said(text) => bare_row(self.last, &**text),
        };
        wire::Happening {
            time: self.last.text(),
            first: self.first.text(),
            count: self.count.into(),
            duration_us: (self.took > 0).then_some(self.took.into()),
            ..row
        }
    }
}

/// The ring.
#[derive(Clone, Debug, Default)]
pub(super) struct Past {
    kept: VecDeque<Happening>,
    /// How many older ones are gone.
    pub(super) left_off: u32,
}

impl Past {
    /// Entries that are kept of one thing.
    pub(super) const MOST: usize = 12;

    /// A hook answered with an error.
    pub(super) fn answered(&mut self, answer: Answer, took: Duration) {
        self.push(What::Answer(Box::new(answer)), took);
    }

    /// Something else happened.
    pub(super) fn said(&mut self, what: impl Into<Box<str>>) {
        self.push(What::Said(what.into()), Duration::ZERO);
    }

    fn push(&mut self, what: What, took: Duration) {
        let last = Moment::now();
        let took = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        // What is tried again and again alternates: a retry's error comes between two of another plugin's.
        if let Some(at) = self.kept.iter().rposition(|known| known.what == what).filter(|at| *at + 3 > self.kept.len())
            && let Some(mut same) = self.kept.remove(at)
        {
            (same.last, same.took, same.count) = (last, took, same.count.saturating_add(1));
            self.kept.push_back(same);
            return;
        }
        if self.kept.len() == Past::MOST {
            self.kept.pop_front();
            self.left_off += 1;
        }
        self.kept.push_back(Happening { first: last, last, count: 1, took, what });
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Happening> {
        self.kept.iter()
    }

    pub(super) fn rows(&self) -> Vec<wire::Happening> {
        self.kept.iter().map(Happening::row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(past: &Past) -> Vec<(String, u32)> {
        past.iter().map(|happening| (happening.row().what, happening.count)).collect()
    }

    #[test]
    fn the_same_again_counts_and_the_oldest_goes() {
        let mut past = Past::default();
        ["a", "a", "b", "a", "b"].into_iter().for_each(|what| past.said(what));
        assert_eq!(counts(&past), [("a".into(), 3), ("b".into(), 2)]);
        (0..Past::MOST).for_each(|n| past.said(n.to_string()));
        assert_eq!((past.iter().count(), past.left_off), (Past::MOST, 2));
    }

    #[test]
    fn an_answer_is_told_with_its_errno() {
        let failure = Failure { panicked: true, ..Failure::new(16, "no") };
        let (plugin, netns, device) = ("p".into(), "blue".into(), Some("eth0".into()));
        let mut past = Past::default();
        past.answered(Answer { plugin, hook: "netdev.up", netns, device, failure }, Duration::from_micros(7));
        let row = past.rows().remove(0);
        assert_eq!(row.what, "netdev.up of p panicked");
        assert_eq!((row.errno.as_deref(), row.error.as_deref()), (Some("EBUSY"), Some("no")));
        assert_eq!((row.device.as_deref(), row.duration_us), (Some("eth0"), Some(7)));
    }

    #[test]
    fn numbers_are_told_as_people_do() {
        assert_eq!((many(1, "try", "tries"), many(0, "try", "tries")), ("1 try".into(), "0 tries".into()));
        let told = [7, 12_345, 2_050_000].map(|us| span(Duration::from_micros(us)));
        assert_eq!(told, ["7 µs", "12.34 ms", "2.05 s"]);
    }

    #[test]
    fn a_moment_is_the_clocks() {
        let now = Moment::now();
        let soon = Moment::of(Instant::now() + Duration::from_secs(5));
        assert!(soon > now && Moment::of(Instant::now()) < soon);
        assert!(size_of::<Past>() <= 40 && size_of::<Happening>() <= 48);
    }
}
