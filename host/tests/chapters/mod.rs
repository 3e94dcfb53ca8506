//! The chapters of the booted test, in the order of their numbers, and what several of them do.

mod twenty;

use crate::debian::container::Container;
use crate::debian::keeper::Chapter;
use crate::debian::{RELEASES, packages};

/// All of them.
pub(crate) const ALL: [Chapter; 1] = [twenty::CHAPTER];

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
