//! The story of a device: whose it is, what its owner asked, who did what to it, why it is not up, who holds it.

use std::path::Path;
use std::sync::Arc;

use crate::control::StoryKind;
use crate::control::wire::{Cause, Fact, Happening, Story};
use crate::engine::{HOST, Holder, Link, LinkSpec, Net, OwnDevice, RegState};

use super::causes::bare;
use super::{Witness, blank, fact};
use crate::daemon::device_past::DevicePast;
use crate::daemon::devices::{self, Found, address};
use crate::daemon::place::place_of;
use crate::daemon::shell_word::{operand, shell_word};

/// Where `ip -n` looks for names.
const IP_NETNS: &str = "/run/netns";

/// Gone ones that are told.
const MOST_GONE: usize = 4;

impl Witness {
    /// Those that are there, then those that have gone, as far as they are remembered.
    pub(super) fn of_devices(&self) -> Vec<Story> {
        // A device's name has no colon, so the last one ends its namespace's.
        let (netns, name) = self.name.rsplit_once(':').map_or((None, &*self.name), |(netns, dev)| (Some(netns), dev));
        let meant = |net: &Net| netns.is_none_or(|netns| net.names().iter().any(|it| **it == *netns));
        let (mut stories, mut gone) = (Vec::new(), Vec::new());
        for (net, place) in self.nets.iter().filter(|(net, _)| meant(net)) {
            let found = devices::found(net, place).into_iter().filter(|found| found.is_called(name));
            let there: Vec<Story> = found
                .map(|found| {
                    let past = found.serial.and_then(|serial| place.devices.of(found.link.ifindex, serial));
                    self.device(Some(net), &net.name(), &found, past)
                })
                .collect();
            if there.is_empty() {
                gone.extend(place.devices.gone(name).first().map(|past| of_gone(&net.name(), past)));
            }
            stories.extend(there);
        }
        for own in &self.held {
            let at = own.net();
            let net_name = at.as_ref().map_or_else(|| Arc::from("a namespace that is gone"), |net| net.name());
            let known = Found::held(Arc::clone(own)).filter(|found| found.is_called(name));
            if let Some(found) = known.filter(|_| at.as_ref().is_none_or(|net| meant(net))) {
                let past = at.as_ref().and_then(|net| gone_past(net, name));
                gone.retain(|story: &Story| story.netns.as_deref() != Some(&*net_name));
                stories.push(self.device(None, &net_name, &found, past));
            }
        }
        let graves = self.shared.chronicle.device_graves(name);
        let graves = graves.iter().filter(|grave| netns.is_none_or(|netns| *grave.netns == *netns));
        gone.extend(graves.map(|grave| of_gone(&grave.netns, &grave.past)));
        // That it went from another namespace is told by its own story, where it is now.
        let moved_here = |story: &Story| story.happenings.iter().any(|it| it.what.starts_with("moved here"));
        if stories.iter().any(moved_here) {
            gone.retain(|story| !story.what.starts_with("it is gone from here"));
        }
        stories.extend(gone.into_iter().take(MOST_GONE));
        stories
    }

    fn device(&self, net: Option<&Arc<Net>>, netns: &str, found: &Found, past: Option<DevicePast>) -> Story {
        let link = &found.link;
        let waited = found.own.as_ref().is_some_and(|own| own.is_waited_for());
        let is_there = found.reg_state == RegState::Registered;
        let state = match (is_there, link.is_up()) {
            (false, _) => found.reg_state.as_str(),
            (true, true) => "up",
            (true, false) => "down",
        };
        let watched = net.is_none_or(|net| net.watched());
        let (what, causes) = match (is_there, link.is_up()) {
            (false, _) => held(found, waited),
            (true, true) => ("it is there, and up".to_owned(), Vec::new()),
            (true, false) => why_down(found, past.as_ref(), watched),
        };
        let (next, remedies) = self.outlook_of_device(netns, found, (is_there, waited), &causes);
        let happenings = past.as_ref().map(DevicePast::rows).unwrap_or_default();
        Story {
            netns: Some(netns.to_owned()),
            since: past.as_ref().and_then(DevicePast::since).map(|at| at.text()),
            causes,
            next,
            remedies,
            facts: facts(found, watched),
            happenings,
            left_off: past.as_ref().map_or(0, |past| past.left_off.into()),
            ..blank(StoryKind::Dev, &link.name, state, what)
        }
    }

    fn outlook_of_device(
        &self,
        netns: &str,
        found: &Found,
        (is_there, waited): (bool, bool),
        causes: &[Cause],
    ) -> (String, Vec<String>) {
        let name = &found.link.name;
        if waited {
            let seconds = self.shared.patience().as_secs();
            let next = format!("it is waited for; after {seconds} s (unregister_timeout) it is given up as leaked");
            return (next, vec!["have those who hold it let it go: see what they say they hold it for".to_owned()]);
        }
        if !is_there {
            let next = "nothing, until those who hold it let it go: then its end is done".to_owned();
            return (next, vec!["have those who hold it let it go, or take their plugins out by a reload".to_owned()]);
        }
        if found.link.is_up() {
            return ("nothing, until somebody changes it".to_owned(), Vec::new());
        }
        let refuser = causes.iter().find(|cause| cause.errno.is_some()).and_then(|cause| cause.plugin.clone());
        let set_up = format!("`{} link set {} up`", self.ip_in(netns), shell_word(name));
        let up = match (&refuser, &found.own) {
            (Some(plugin), _) => format!("correct what {plugin} says, then {set_up}"),
            (None, Some(own)) => format!("{set_up}, or have plugin {} open it", own.owner.name),
            (None, None) => set_up,
        };
        ("nothing, until somebody sets it up".to_owned(), vec![up])
    }

    /// The command `ip` as it acts in this namespace: its `-n` knows names in one folder only.
    fn ip_in(&self, netns: &str) -> String {
        if netns == HOST {
            return "ip".to_owned();
        }
        let paths = self.config.main.discovery.folders.iter().map(|folder| folder.join(netns));
        match paths.into_iter().find(|path| path.exists()) {
            Some(path) if path.parent() != Some(Path::new(IP_NETNS)) => {
                format!("nsenter --net={} ip", shell_word(&path.to_string_lossy()))
            }
            _ => format!("ip -n {}", shell_word(netns)),
        }
    }
}

/// The past of one that is unregistered, and held.
fn gone_past(net: &Arc<Net>, name: &str) -> Option<DevicePast> {
    place_of(net)?.devices.gone(name).into_iter().next()
}

/// Why it has not ended.
fn held(found: &Found, waited: bool) -> (String, Vec<Cause>) {
    let holders = found.own.as_ref().map(|own| own.holders()).unwrap_or_default();
    let told = |holder: &Holder| Cause {
        plugin: Some(holder.plugin.to_string()),
        ..bare(format!("plugin {} holds it: {}", holder.plugin, holder.purpose))
    };
    let how = if waited { "and its last reference is waited for" } else { "and was given up, as somebody holds it" };
    (format!("it is unregistered, {how}"), holders.iter().map(told).collect())
}

/// What happened, as what something comes of.
fn of_row(row: Happening, lead: &str) -> Cause {
    Cause {
        what: match &row.error {
            Some(error) => format!("{lead}{}: {error}", row.what),
            None => format!("{lead}{}", row.what),
        },
        time: Some(row.time),
        duration_us: row.duration_us,
        plugin: row.plugin,
        hook: row.hook,
        netns: row.netns,
        errno: row.errno,
        place: None,
    }
}

/// Why it is not up.
fn why_down(found: &Found, past: Option<&DevicePast>, watched: bool) -> (String, Vec<Cause>) {
    let what = "it is there, and not up".to_owned();
    let obstacle = past.and_then(DevicePast::obstacle);
    if let Some(obstacle) = obstacle.filter(|row| row.hook.as_deref().is_some_and(is_about_up)) {
        return (what, vec![of_row(obstacle, "")]);
    }
    if let Some(down) = past.and_then(DevicePast::set_down) {
        return (what, vec![of_row(down, "it was ")]);
    }
    let why = match &found.own {
        _ if !watched => {
            "nobody has set it up, or somebody has set it down: no plugin watches this namespace, so what \
                          happened to its devices is not known"
                .to_owned()
        }
        Some(own) => format!("its plugin {} has not opened it, nor has anybody else set it up", own.owner.name),
        None => "nobody has set it up since it came, or since it is watched".to_owned(),
    };
    (what, vec![bare(why)])
}

/// Hooks whose refusal keeps a device down.
fn is_about_up(hook: &str) -> bool {
    matches!(hook, "netdev.pre_up" | "netdev.ndo_open" | "netdev.up")
}

fn facts(found: &Found, watched: bool) -> Vec<Fact> {
    let Found { link, serial, own, .. } = found;
    let mut facts = Vec::new();
    match own {
        Some(own) => {
            facts.push(fact("owner", format!("plugin {}, generation {}", own.owner.name, own.owner.generation)));
            facts.push(fact("asked for", wanted(&own.spec)));
            facts.extend(own.peer().map(|peer| fact("other end", other_end(&peer))));
            let holders = own.holders().into_iter();
            facts.extend(holders.map(|it| fact("held by", format!("plugin {} for {}", it.plugin, it.purpose))));
        }
        None => facts.push(fact("owner", "the kernel, or whoever made it: no plugin")),
    }
    facts.push(fact("is", is(link)));
    if link.master != 0 {
        facts.push(fact("under", format!("the device with index {}", link.master)));
    }
    if !link.alt_names.is_empty() {
        facts.push(fact("also", link.alt_names.join(", ")));
    }
    match serial {
        Some(serial) => facts.push(fact("serial", serial.to_string())),
        None if !watched => facts.push(fact("watched", "no plugin wants device events here, so no past is kept")),
        None => {}
    }
    facts
}

fn other_end(peer: &OwnDevice) -> String {
    let name = peer.device().map_or_else(|| peer.spec.name.clone(), |device| device.link.name.clone());
    match peer.net() {
        Some(net) => format!("{name} in {}", net.name()),
        None => format!("{name}, which is not registered"),
    }
}

/// `veth, index 3, mtu 1500, 02:00:5e:00:53:01`
fn is(link: &Link) -> String {
    let kind = if link.kind.is_empty() { "of no kind" } else { &link.kind };
    let address = address(&link.address).map_or_else(String::new, |address| format!(", {address}"));
    format!("{kind}, index {}, mtu {}{address}", link.ifindex, link.mtu)
}

fn wanted(spec: &LinkSpec) -> String {
    let mut told = format!("{} of kind {}", spec.name, spec.kind);
    if spec.mtu != 0 {
        told += &format!(", mtu {}", spec.mtu);
    }
    if let Some(address) = address(&spec.address) {
        told += &format!(", {address}");
    }
    if spec.ifindex != 0 {
        told += &format!(", index {}", spec.ifindex);
    }
    if spec.queues > 1 {
        told += &format!(", {} queues", spec.queues);
    }
    told
}

fn of_gone(netns: &str, past: &DevicePast) -> Story {
    let last = past.rows().into_iter().next_back();
    let causes: Vec<Cause> = last.iter().filter(|_| past.refused).map(|row| of_row(row.clone(), "")).collect();
    let (next, remedies) = match past.owner.as_ref().filter(|_| past.refused) {
        Some(owner) => {
            let next =
                format!("nothing, until plugin {owner} asks for it again, as it does when {netns} is tried again");
            (next, vec![format!("correct what is said there; see `pernetctl why --netns {}`", operand(netns))])
        }
        None => ("nothing, unless a device of this name comes again".to_owned(), Vec::new()),
    };
    let (state, what) = if past.refused {
        let why = last.map_or_else(String::new, |it| format!(": {}", it.error.unwrap_or(it.what)));
        ("refused", format!("its registration was refused, so it never was{why}"))
    } else if past.moved {
        ("gone", format!("it is gone from here: {}", last.map_or_else(String::new, |it| it.what)))
    } else {
        let gone = past.rows().into_iter().rev().map(|it| it.what).find(|what| !what.contains("failed"));
        ("gone", format!("it is gone: {}", gone.unwrap_or_default()))
    };
    let owner = past.owner.as_ref().map_or_else(|| "no plugin's".to_owned(), |owner| format!("plugin {owner}"));
    let mut facts = vec![fact("owner", owner)];
    if past.link.ifindex != 0 {
        facts.push(fact("was", is(&past.link)));
    }
    Story {
        netns: Some(netns.to_owned()),
        since: past.since().map(|at| at.text()),
        causes,
        next,
        remedies,
        facts,
        happenings: past.rows(),
        left_off: past.left_off.into(),
        ..blank(StoryKind::Dev, &past.link.name, state, what)
    }
}
