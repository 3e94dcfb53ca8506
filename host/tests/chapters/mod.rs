//! The chapters of the booted test, in the order of their numbers, and what several of them do.

mod crashes;
mod mounts;
mod readme;
mod reload;
mod removal;
mod sandboxed;
mod traffic;
mod twenty;
mod users;
mod varlinkctl;

use crate::debian::container::Container;
use crate::debian::keeper::Chapter;
use crate::debian::{RELEASES, packages};

/// All of them.
pub(crate) fn all() -> Vec<Chapter> {
    let chapters = [
        &readme::CHAPTERS[..],
        &twenty::CHAPTERS,
        &reload::CHAPTERS,
        &crashes::CHAPTERS,
        &mounts::CHAPTERS,
        &traffic::CHAPTERS,
        &sandboxed::CHAPTERS,
        &users::CHAPTERS,
        &varlinkctl::CHAPTERS,
        &removal::CHAPTERS,
    ];
    chapters.concat()
}

const fn chapter(name: &'static str, about: &'static str, run: fn(&Container)) -> Chapter {
    Chapter { name, about, releases: &RELEASES, run }
}

/// The packages as a user installs them; the service runs afterwards.
fn install(c: &Container) {
    c.step("the packages are installed");
    let files = packages::current().put(c);
    c.ok(&format!("apt-get install -qy --no-install-recommends {files}"));
    c.until("systemctl is-active pernetd");
}

/// A namespace of this name, by `ip`, ready.
fn netns_add(c: &Container, name: &str) {
    c.ok(&format!("ip netns add {name} && pernetctl netns wait {name}"));
}

/// The plugin `sysctl` gives every namespace these settings: a line of TOML's inner table.
fn configure_sysctl(c: &Container, settings: &str) {
    let text = format!("[[config.profile]]\nname = \"all\"\ninclude = [\"*\"]\nsettings = {{ {settings} }}\n");
    c.write("/etc/pernetd/plugins.d/20-sysctl.toml", &text);
    c.ok("systemctl reload pernetd");
}

/// The process that is the service.
fn main_pid(c: &Container) -> String {
    c.ok("systemctl show -P MainPID pernetd").trim().to_owned()
}
