//! `why`: the stories of a name, as prose.

use std::fmt::Write as _;
use std::time::SystemTime;

use super::arguments::WhyArguments;
use super::boot::time as took;
use super::connection::Connection;
use super::page::{clock, relative, width, wrap};
use super::{End, call, print};
use crate::control::StoryKind;
use crate::control::wire::{Cause, Happening, Part, Story};

/// Asks and prints. With --json it is an array of the stories.
pub(super) fn run(daemon: &mut Connection, json: bool, arguments: &WhyArguments) -> Result<(), End> {
    let kinds =
        [(arguments.netns, StoryKind::Netns), (arguments.plugin, StoryKind::Plugin), (arguments.dev, StoryKind::Dev)];
    let kind = kinds.iter().find(|(wanted, _)| *wanted).map(|(_, kind)| kind.as_str().to_owned());
    let asked = call::Why_Args { name: arguments.name.clone(), kind };
    let reply: call::Why_Reply = daemon.call("Why", &asked)?;
    print(json, &reply.stories, |stories| prose(stories, reply.more, SystemTime::now(), width()))
}

fn prose(stories: &[Story], more: u64, now: SystemTime, width: usize) -> String {
    let told: Vec<String> = stories.iter().map(|story| Teller { now, width, out: String::new() }.tell(story)).collect();
    let mut text = told.join("\n");
    if more > 0 {
        let _ = write!(text, "\nand {more} devices more of this name: ask for NETNS:NAME\n");
    }
    text
}

/// Writes one story.
struct Teller {
    now: SystemTime,
    width: usize,
    out: String,
}

impl Teller {
    fn tell(mut self, story: &Story) -> String {
        self.headline(story);
        self.causes(&story.causes);
        if !story.undone.is_empty() {
            self.heading("undone");
            story.undone.iter().for_each(|it| self.happening(it, story));
        }
        self.heading("next");
        let at = story.next_time.as_ref().map_or_else(String::new, |time| format!(", {}", self.both(time)));
        self.line("  ", &format!("{}{at}", story.next));
        self.section("to do", &story.remedies);
        self.parts(story);
        if !story.facts.is_empty() {
            self.heading("known");
            let wide = story.facts.iter().map(|fact| fact.about.chars().count()).max().unwrap_or_default();
            story.facts.iter().for_each(|fact| self.line(&format!("  {:wide$}  ", fact.about), &fact.what));
        }
        if !story.happenings.is_empty() {
            self.heading("happened");
            if story.left_off > 0 {
                self.line("  ", &format!("({} older ones are not kept)", story.left_off));
            }
            story.happenings.iter().for_each(|it| self.happening(it, story));
        }
        self.out
    }

    /// `12:00:01.123 (3 s ago)`
    fn both(&self, time: &str) -> String {
        format!("{} ({})", clock(time, self.now), relative(time, self.now))
    }

    fn headline(&mut self, story: &Story) {
        let kind = match &*story.kind {
            "netns" => "namespace",
            "dev" => "device",
            kind => kind,
        };
        let at = story.netns.as_ref().map_or_else(String::new, |netns| format!(" in {netns}"));
        let since = story.since.as_ref().map_or_else(String::new, |time| format!(", since {}", self.both(time)));
        self.line("", &format!("{kind} {}{at} is {}{since}", story.name, story.state));
        self.line("  ", &story.what);
    }

    fn line(&mut self, first: &str, text: &str) {
        self.out += &wrap(first, text, self.width);
    }

    fn heading(&mut self, word: &str) {
        self.line("", word);
    }

    fn section(&mut self, word: &str, lines: &[String]) {
        if !lines.is_empty() {
            self.heading(word);
            lines.iter().for_each(|line| self.line("  ", line));
        }
    }

    fn causes(&mut self, causes: &[Cause]) {
        if causes.is_empty() {
            return;
        }
        self.heading("because");
        for (at, cause) in causes.iter().enumerate() {
            self.line(if at == 0 { "  " } else { "  ← " }, &cause.what);
            if let Some(place) = &cause.place {
                self.line(if at == 0 { "    " } else { "      " }, place);
            }
        }
    }

    fn parts(&mut self, story: &Story) {
        if story.parts.is_empty() {
            return;
        }
        let of_plugin = story.kind == "plugin";
        self.heading(if of_plugin { "namespaces" } else { "plugins" });
        for part in &story.parts {
            let verb = match (part.acts, part.count) {
                (true, 2..) => "act",
                (true, _) => "acts",
                (false, 2..) => "do not act",
                (false, _) => "does not act",
            };
            let whose = if of_plugin { names(part) } else { part.plugin.clone() };
            let verb = if of_plugin && part.acts {
                "it acts"
            } else if of_plugin {
                "it does not act"
            } else {
                verb
            };
            self.line("  ", &format!("{whose}: {verb}, {}", part.why));
        }
    }

    fn happening(&mut self, it: &Happening, story: &Story) {
        let often = if it.count > 1 {
            format!("{} times since {}: ", it.count, clock(&it.first, self.now))
        } else {
            String::new()
        };
        let errno = it.errno.as_ref().filter(|_| it.error.is_some());
        let error = it.error.as_ref().map_or_else(String::new, |error| match errno {
            Some(errno) if !error.contains(errno.as_str()) => format!(": {error} ({errno})"),
            _ => format!(": {error}"),
        });
        // Where the story is about something else than that.
        let about = [Some(&story.name), story.netns.as_ref()];
        let told = |word: &&String| !about.contains(&Some(*word));
        let at = it.netns.as_ref().filter(told).map_or_else(String::new, |netns| format!(" in {netns}"));
        let device = it.device.as_ref().filter(told).map_or_else(String::new, |device| format!(" for {device}"));
        let lasted = it.duration_us.map_or_else(String::new, |us| format!(", {}", took(us)));
        let lead = format!("  {}  ", clock(&it.time, self.now));
        let text = format!("{often}{}{at}{device}{error}{lasted} ({})", it.what, relative(&it.time, self.now));
        self.line(&lead, &text);
    }
}

/// `blue, red and 3 more`
fn names(part: &Part) -> String {
    let told = part.namespaces.join(", ");
    let more = part.count.saturating_sub(part.namespaces.len() as u64);
    if more > 0 { format!("{told} and {more} more") } else { told }
}
