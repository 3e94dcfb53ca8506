//! Why something is as it is: the story of a namespace, a plugin or a device, told from what the daemon knows.
//!
//! The loop gives a witness what it alone has, and no more; the stories are put together on the thread for looks, since they
//! may take a look into the kernel. What has happened is kept where it happened (`past.rs`, `device_past.rs`,
//! `chronicle.rs`, `setups.rs`); here it is only told.

mod causes;
mod device;
mod near;
mod netns;
mod parts;
mod plugin;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::config::Config;
use crate::control::wire::{self, Stories, Story};
use crate::control::{Reply, StoryKind};
use crate::engine::{Net, OwnDevice};

use super::Daemon;
use super::devices::Inhabited;
use super::namespaces::Managed;
use super::past::Moment;
use super::place::Place;
use super::plugins::Known;
use super::reload::Shared;
use super::setups::Setup;

/// Devices of one name that are told; the others are counted.
const MOST: usize = 8;

/// A namespace as the loop knows it.
struct SeenNet {
    net: Arc<Net>,
    place: Arc<Place>,
    born: Moment,
    since: Moment,
    tries: u32,
    setting_up: bool,
    retry_at: Option<Instant>,
    setup: Option<Setup>,
    /// Why its end has begun.
    ends: Option<&'static str>,
}

/// What the loop knows.
struct Witness {
    name: String,
    config: Arc<Config>,
    config_dirs: Vec<PathBuf>,
    known: Arc<Vec<Known>>,
    shared: Arc<Shared>,
    /// The namespace of that name, then those that had it and are going.
    named: Vec<SeenNet>,
    /// All of them.
    nets: Vec<Inhabited>,
    /// Plugins' devices that are unregistered and held.
    held: Vec<Arc<OwnDevice>>,
    /// Something has the pernet list for itself, and hooks of namespaces wait.
    busy: bool,
}

impl Daemon {
    pub(super) fn why(&self, name: String, kind: Option<StoryKind>, reply: Reply<Stories>) {
        let managed = self.names.find(&name).and_then(|cookie| self.nets.get(&cookie));
        // Its name is gone, and its exits run; another may have the name already.
        let is_going = |it: &&Managed| it.net.dying() && it.net.names().iter().any(|known| **known == *name);
        let going = self.nets.values().filter(is_going);
        let going = going.filter(|it| managed.is_none_or(|other| !Arc::ptr_eq(&other.net, &it.net)));
        let witness = Witness {
            named: managed.into_iter().chain(going).map(Managed::seen).collect(),
            config: Arc::clone(&self.config),
            config_dirs: self.command_line.paths().config_dirs,
            known: self.shared.plugins().known(),
            shared: Arc::clone(&self.shared),
            nets: self.in_order(),
            held: self.shared.maker.held(),
            busy: self.operations.busy(),
            name,
        };
        self.looks.run_anywhere(Box::new(move || {
            let stories = witness.stories(kind);
            reply.send(if stories.stories.is_empty() { Err(witness.nothing(kind)) } else { Ok(stories) });
        }));
    }
}

impl Managed {
    fn seen(&self) -> SeenNet {
        SeenNet {
            net: Arc::clone(&self.net),
            place: Arc::clone(&self.place),
            born: self.standing.born,
            since: self.standing.since,
            tries: self.standing.tries,
            setting_up: self.setting_up,
            retry_at: self.retry_at,
            setup: self.setup.clone(),
            ends: self.ends,
        }
    }
}

impl Witness {
    fn stories(&self, kind: Option<StoryKind>) -> Stories {
        let wanted = |it| kind.is_none_or(|kind| kind == it);
        let mut stories = Vec::new();
        if wanted(StoryKind::Netns) {
            stories.extend(self.of_netns());
        }
        if wanted(StoryKind::Plugin) {
            stories.extend(self.of_plugin());
        }
        let mut devices = if wanted(StoryKind::Dev) { self.of_devices() } else { Vec::new() };
        // What is wrong is asked for, and that first.
        devices.sort_by_key(|story| (story.causes.is_empty(), story.state == "gone"));
        let more = devices.len().saturating_sub(MOST) as u64;
        devices.truncate(MOST);
        stories.extend(devices);
        Stories { stories, more }
    }

    /// The plugin of this name that is configured and was read.
    fn known(&self, name: &str) -> Option<&Known> {
        self.known.iter().find(|known| known.row.name == name)
    }
}

/// A story of which no more is known than that.
fn blank(kind: StoryKind, name: &str, state: &str, what: impl Into<String>) -> Story {
    Story {
        kind: kind.as_str().to_owned(),
        name: name.to_owned(),
        netns: None,
        state: state.to_owned(),
        since: None,
        what: what.into(),
        causes: Vec::new(),
        undone: Vec::new(),
        next: String::new(),
        next_time: None,
        remedies: Vec::new(),
        parts: Vec::new(),
        facts: Vec::new(),
        happenings: Vec::new(),
        left_off: 0,
    }
}

fn fact(about: &str, what: impl Into<String>) -> wire::Fact {
    wire::Fact { about: about.to_owned(), what: what.into(), time: None }
}

/// `a, b and c`
fn listed<S: AsRef<str>>(words: &[S]) -> String {
    match words {
        [] => String::new(),
        [one] => one.as_ref().to_owned(),
        [first @ .., last] => {
            let first: Vec<&str> = first.iter().map(AsRef::as_ref).collect();
            format!("{} and {}", first.join(", "), last.as_ref())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::listed;

    #[test]
    fn words_are_listed() {
        assert_eq!(listed::<&str>(&[]), "");
        assert_eq!(listed(&["a"]), "a");
        assert_eq!(listed(&["a", "b", "c"]), "a, b and c");
    }
}
