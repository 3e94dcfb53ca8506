//! Twenty namespaces, and the plugins act in each.

use super::{chapter, install};
use crate::debian::container::Container;
use crate::debian::keeper::Chapter;

pub(super) const CHAPTER: Chapter =
    chapter("02-twenty", "Twenty namespaces by `ip netns add`: the plugins act in each of them.", run);

fn run(c: &Container) {
    install(c);
    c.step("a profile of settings is configured, and reloaded");
    c.write(
        "/etc/pernetd/plugins.d/20-sysctl.toml",
        "[[config.profile]]\nname = \"all\"\ninclude = [\"*\"]\nsettings = { \"net.ipv4.ip_forward\" = 1 }\n",
    );
    c.ok("systemctl reload pernetd");
    c.step("twenty namespaces are added");
    c.ok("for n in $(seq 20); do ip netns add ns$n; done");
    for n in 1..=20 {
        c.ok(&format!("pernetctl netns wait ns{n} --timeout 30"));
    }
}
