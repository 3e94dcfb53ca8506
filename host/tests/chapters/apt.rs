//! What apt does after what an operator did: removed it, switched it off, masked it, or broke a plugin.

use super::{chapter, install, install_and_enable, main_pid, netns_add};
use crate::debian::container::Container;
use crate::debian::keeper::Chapter;
use crate::debian::packages::{self, NAMES, Version};

pub(super) const CHAPTERS: [Chapter; 1] = [chapter(
    "17-apt",
    "Installed again, switched off, masked, held back by a plugin: apt does no more and no less than it should.",
    run,
)];

fn run(c: &Container) {
    install_and_enable(c);
    netns_add(c, "blue");
    again(c);
    held_back(c);
    switched_off(c);
    masked(c);
}

/// As `apt-get install` of these files, up or down.
fn put(c: &Container, version: &Version) -> String {
    let files = version.put(c);
    c.ok(&format!("apt-get install -qy --no-install-recommends --reinstall --allow-downgrades {files} 2>&1"))
}

fn again(c: &Container) {
    c.step("removed and installed again: service and socket run, with the configuration that stayed");
    c.ok(&format!("apt-get remove -qy {}", NAMES.join(" ")));
    install(c);
    c.ok("pernetctl plugin list | grep loopback && pernetctl netns wait blue");
    c.step("and over itself: nothing is complained of");
    let said = put(c, &packages::current());
    c.assert(!said.contains("Could not execute"), &said);
}

/// The daemon of before the upgrade, which runs on, is no match for newer plugins: it is replaced as soon as that is possible.
fn held_back(c: &Container) {
    c.step("an upgrade with a plugin that would not load leaves the daemon alone");
    c.ok(
        "echo nonsense > /usr/lib/pernetd/plugins/libpernet_odd.so; echo '# odd' > /etc/pernetd/plugins.d/30-odd.toml",
    );
    let pid = main_pid(c);
    let said = put(c, &packages::next());
    c.assert_has(&said, &["libpernet_odd.so would not load", "not restarted"]);
    c.assert(main_pid(c) == pid, "it was restarted all the same");
    c.step("the next package with plugins, when that one is gone, makes it the new one");
    c.ok("rm /usr/lib/pernetd/plugins/libpernet_odd.so /etc/pernetd/plugins.d/30-odd.toml");
    let files = packages::next().put(c);
    let plugins = files.split(' ').find(|file| file.contains("plugins")).unwrap_or_default();
    c.ok(&format!("apt-get install -qy --reinstall {plugins}"));
    c.until("cmp /proc/$(systemctl show -P MainPID pernetd)/exe /usr/bin/pernetd");
    c.assert(main_pid(c) != pid, "it is the old one");
    c.ok("pernetctl netns wait blue && pernetctl status --check");
}

fn is_off(c: &Container, unit: &str) {
    c.fails(&format!("systemctl is-active {unit}"));
    c.fails(&format!("systemctl is-enabled {unit}"));
}

fn switched_off(c: &Container) {
    c.step("switched off: an upgrade neither starts it nor switches it on");
    c.ok("systemctl disable --now pernetd.socket pernetd");
    put(c, &packages::next());
    is_off(c, "pernetd.service");
    is_off(c, "pernetd.socket");
    c.ok("systemctl enable --now pernetd.socket pernetd");
}

fn masked(c: &Container) {
    c.step("masked: likewise");
    c.ok("systemctl stop pernetd.socket pernetd && systemctl mask pernetd.socket pernetd");
    put(c, &packages::current());
    is_off(c, "pernetd.service");
    is_off(c, "pernetd.socket");
    c.ok("systemctl unmask pernetd.socket pernetd && systemctl start pernetd.socket pernetd");
    c.ok("systemctl is-active pernetd.socket pernetd && pernetctl netns wait blue");
}
