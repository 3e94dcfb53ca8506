//! The story of a plugin: its file, its configuration, its place, where it acts and where not, and its generations.

use crate::config::{DropIn, OnInitFailure, PluginConfig, drop_ins_of};
use crate::control::wire::{Cause, Fact, PluginState, Story};
use crate::control::{StoryKind, errno_name};

use super::causes::bare;
use super::parts::bounded;
use super::{Witness, blank, fact, listed};
use crate::daemon::chronicle::PluginPast;
use crate::daemon::initcalls;
use crate::daemon::past::{Happening, Moment, many};
use crate::daemon::plugins::Known;
use crate::daemon::shell_word::why_command;
use crate::engine::HookError;
use crate::plugin::running::running;

impl Witness {
    pub(super) fn of_plugin(&self) -> Option<Story> {
        let name = &self.name;
        let files = drop_ins_of(&self.config_dirs, name);
        let story = if let Some(known) = self.known(name) {
            self.configured(known)
        } else if let Some(config) = self.config.plugins.iter().find(|plugin| plugin.name == *name) {
            self.without_turn(config)
        } else if !files.is_empty() {
            not_read(name, &files)
        } else {
            self.shared.chronicle.plugin(name)?;
            let what = "it is gone: no file configures it any more";
            let next =
                "nothing, until a file in plugins.d configures it and the configuration is read again".to_owned();
            Story { next, ..blank(StoryKind::Plugin, name, "gone", what) }
        };
        let mut facts = story.facts.clone();
        facts.extend(files.iter().map(|file| fact("drop-in", told(file))));
        Some(self.with_past(Story { facts, ..story }))
    }

    /// With what has happened to it. What it came to last is since when it is so.
    fn with_past(&self, story: Story) -> Story {
        let Some(PluginPast { lives, answers, made, .. }) = self.shared.chronicle.plugin(&story.name) else {
            return story;
        };
        // A reload that failed by it is told of a live one, too, but leaves it as it was.
        let since = made.filter(|_| story.state == "live").or_else(|| lives.iter().next_back().map(|it| it.last));
        let since = since.map(Moment::text);
        let mut all: Vec<&Happening> = lives.iter().chain(answers.iter()).collect();
        all.sort_by_key(|happening| happening.last);
        let happenings = all.into_iter().map(Happening::row).collect();
        Story { since, happenings, left_off: (lives.left_off + answers.left_off).into(), ..story }
    }

    fn configured(&self, known: &Known) -> Story {
        let name = &known.row.name;
        let refusal = self.refusal_of(known);
        let causes = refusal.clone().map_or_else(|| self.chain_of_plugin(known), |cause| vec![cause]);
        let parts = self.parts_of(known);
        let acting: u64 = parts.iter().filter(|part| part.acts).map(|part| part.count).sum();
        let failing = |why: &str| why.contains(" failed: ");
        let wrong: u64 = parts.iter().filter(|part| !part.acts && failing(&part.why)).map(|part| part.count).sum();
        let notices = self.nets.iter().filter_map(|(net, _)| net.notice());
        let complaints = notices.filter(|(error, _)| *error.plugin == **name).count();
        let poisoned = known.trouble.as_ref().is_some_and(|trouble| trouble.hook == "panic");
        let what = match &known.row.state {
            PluginState::live if wrong > 0 => {
                format!("it acts in {}, and failed in {wrong}", many(acting, "namespace", "namespaces"))
            }
            PluginState::live if complaints > 0 => {
                let acts = many(acting, "namespace", "namespaces");
                format!("it acts in {acts}; in {complaints} a hook of it failed, which stops nobody")
            }
            PluginState::live if refusal.is_some() => {
                let acts = many(acting, "namespace", "namespaces");
                format!("it acts in {acts} as it did before the last reload, which failed by it")
            }
            PluginState::live => {
                format!("all is well: it acts in {}", many(acting, "namespace", "namespaces"))
            }
            PluginState::failed if poisoned => "it panicked, and was taken out everywhere".to_owned(),
            PluginState::failed if known.not_added => {
                "a reload that was to add it failed by it, and was rolled back; it is no part of what runs".to_owned()
            }
            PluginState::failed => "it could not start, and acts nowhere".to_owned(),
            _ if known.is_wanted => "the blacklist keeps it from being called".to_owned(),
            _ => "it was refused before any of its code ran".to_owned(),
        };
        let (next, remedies) = self.outlook_of(known);
        Story {
            causes,
            next,
            remedies,
            parts: bounded(parts),
            facts: self.facts_of(known),
            ..blank(StoryKind::Plugin, name, known.row.state.as_str(), what)
        }
    }

    /// Why the last reload failed, if that was by this one, which runs on as it was.
    fn refusal_of(&self, known: &Known) -> Option<Cause> {
        let (at, trouble) = self.shared.chronicle.refusal(&known.row.name, known.config.path())?;
        let errno = Some(errno_name(trouble.errno).into_owned());
        let cause = Cause { plugin: Some(known.row.name.clone()), netns: trouble.namespace.clone(), errno, ..bare("") };
        known.is_live().then(|| Cause { what: trouble.told(), time: Some(at.text()), ..cause })
    }

    fn outlook_of(&self, known: &Known) -> (String, Vec<String>) {
        let name = &known.row.name;
        if known.is_live() {
            let refused = self.refusal_of(known).map(|_| "correct that, then `pernetctl reload`".to_owned());
            let next = match refused {
                Some(_) => "it runs on as it is, until a reload succeeds",
                None => "nothing, until a reload finds its file or its configuration changed",
            };
            let next = next.to_owned();
            let failing = self.nets.iter().filter(|(net, _)| {
                let mine = |error: HookError| *error.plugin == **name;
                let complains = net.notice().is_some_and(|(error, _)| mine(error));
                complains || net.failed().is_some_and(mine) || net.absent().into_iter().any(mine)
            });
            let failing: Vec<String> =
                failing.take(3).map(|(net, _)| format!("`{}`", why_command(&net.name()))).collect();
            let see = (!failing.is_empty()).then(|| format!("see {}", listed(&failing)));
            return (next, refused.into_iter().chain(see).collect());
        }
        let next = "nothing, until the configuration is read again".to_owned();
        if known.is_wanted {
            let take = "take it, and what it requires, off initcall_blacklist, then `pernetctl reload`".to_owned();
            return (next, vec![take]);
        }
        let root = self.root_of(known);
        let whose = if root.row.name == *name { String::new() } else { format!(" of plugin {}", root.row.name) };
        let file = root.config.path().display();
        let place = self.chain_of_plugin(root).into_iter().rev().find_map(|cause| cause.place);
        let hook = root.trouble.as_ref().map_or("", |trouble| &*trouble.hook);
        let remedy = match (hook, place) {
            ("open" | "load", _) => {
                format!("put the file{whose} right as the reason says ({}), then `pernetctl reload`", root.row.file)
            }
            ("panic", _) => format!("mend or update the plugin's file{whose}, then `pernetctl reload`"),
            (_, Some(place)) => format!("correct {place}, then `pernetctl reload`"),
            (_, None) => format!("correct what the reason{whose} says, then `pernetctl reload`"),
        };
        (next, vec![remedy, format!("or do without it: enabled = false in {file}, and `pernetctl reload`")])
    }

    /// The one at the end of the chain of requirements.
    fn root_of<'k>(&'k self, known: &'k Known) -> &'k Known {
        let mut root = known;
        for _ in 0..self.known.len() {
            match self.lost_by(root) {
                Some(lost) => root = lost,
                None => break,
            }
        }
        root
    }

    fn facts_of(&self, known: &Known) -> Vec<Fact> {
        let (row, config) = (&known.row, &known.config);
        let mut facts = vec![fact("file", row.file.clone())];
        if !row.sha256.is_empty() {
            let short = row.sha256.get(..12).unwrap_or_default();
            facts.push(fact("version", format!("{}, sha256 {short}…", row.version)));
        }
        facts.push(fact("configuration", config.path().display().to_string()));
        if known.is_live() {
            facts.push(fact("generation", row.generation.to_string()));
        }
        facts.push(fact("order", self.order_of(known)));
        let globs = |globs: Vec<&str>| if globs.is_empty() { "nothing".to_owned() } else { globs.join(", ") };
        let (include, exclude) = (config.selector.include().collect(), config.selector.exclude().collect());
        facts.push(fact("namespaces", format!("include {}, exclude {}", globs(include), globs(exclude))));
        let skip = config.on_init_failure == OnInitFailure::Skip;
        let policy = if skip { "it is left out there, the rest go on" } else { "the namespace is rolled back" };
        facts.push(fact("if an init fails", policy));
        let hooks =
            running().into_iter().filter(|hook| *hook.plugin == *row.name && hook.since.elapsed().as_secs() >= 1);
        facts.extend(hooks.map(|hook| {
            fact("in a hook", format!("{} in {}, for {} s", hook.hook, hook.netns, hook.since.elapsed().as_secs()))
        }));
        facts
    }

    /// Its place, and what put it there.
    fn order_of(&self, known: &Known) -> String {
        let mut told = format!("place {}: ", known.row.order);
        if known.row.level.is_empty() {
            return told + "none, its file has not told its level";
        }
        told += &format!("level {}, then its file's name {}", known.row.level, known.config.file_name);
        let there = |names: &[String]| {
            let told = |name: &String| match self.known(name) {
                Some(known) => format!("{name} (place {})", known.row.order),
                None if initcalls::is_own(name) => format!("{name} (pernetd's own)"),
                None => format!("{name} (not there)"),
            };
            names.iter().map(told).collect::<Vec<_>>().join(", ")
        };
        if !known.after.is_empty() {
            told += &format!("; after {}", there(&known.after));
        }
        if !known.requires.is_empty() {
            told += &format!("; requires {}", there(&known.requires));
        }
        told
    }

    /// One that is configured and has no entry: it is disabled.
    fn without_turn(&self, config: &PluginConfig) -> Story {
        let place = config.place_of("enabled");
        let facts = vec![
            fact("file", config.file.display().to_string()),
            fact("configuration", config.path().display().to_string()),
        ];
        if config.enabled {
            let what = "it is configured, and is just being taken in";
            return Story { facts, ..blank(StoryKind::Plugin, &config.name, "unread", what) };
        }
        Story {
            causes: vec![Cause { place: Some(place.clone()), ..bare("enabled = false") }],
            next: "nothing, until the configuration is read again".to_owned(),
            remedies: vec![format!("set enabled = true at {place}, then `pernetctl reload`")],
            facts,
            ..blank(StoryKind::Plugin, &config.name, "disabled", "it is disabled by its configuration")
        }
    }
}

/// There are files, but none counts, or none has been read.
fn not_read(name: &str, files: &[DropIn]) -> Story {
    let counts = files.iter().find(|file| file.behind.is_none());
    let next = "nothing, until the configuration is read again".to_owned();
    match counts {
        Some(mask) if mask.masks => {
            let path = mask.path.display().to_string();
            let what = "its configuration is masked by an empty file";
            Story {
                causes: vec![Cause { place: Some(path.clone()), ..bare(what) }],
                next,
                remedies: vec![format!("remove {path}, or write its configuration there, then `pernetctl reload`")],
                ..blank(StoryKind::Plugin, name, "masked", "it is masked: its files do not count")
            }
        }
        _ => {
            let what = "there is a file that configures it, which has not been read, or was not accepted";
            let remedies = vec!["`pernetctl reload`".to_owned()];
            Story { next, remedies, ..blank(StoryKind::Plugin, name, "unread", what) }
        }
    }
}

fn told(file: &DropIn) -> String {
    let path = file.path.display();
    match (&file.behind, file.masks) {
        (Some(first), _) => format!("{path} does not count: {} comes first", first.display()),
        (None, true) => format!("{path} is empty: it masks those of its name in later folders"),
        (None, false) => format!("{path} counts"),
    }
}
