//! The chapters of the booted test, in the order of their numbers, and what several of them do.

mod apt;
mod crashes;
mod journal;
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
        &journal::CHAPTERS,
        &removal::CHAPTERS,
        &apt::CHAPTERS,
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
    c.ok("systemctl is-active pernetd.socket");
}

/// Each of these plugins runs, by its file as the package brings it.
fn enable(c: &Container, files: &[&str]) {
    c.step("plugins are enabled, each by its file");
    let files: Vec<String> = files.iter().map(|file| format!("/usr/share/pernetd/plugins.d/{file}.toml")).collect();
    c.ok(&format!("cp {} /etc/pernetd/plugins.d/", files.join(" ")));
    c.ok("systemctl reload pernetd");
}

/// The packages, with the two plugins that most have.
fn install_and_enable(c: &Container) {
    install(c);
    enable(c, &["10-loopback", "20-sysctl"]);
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
