//! Remove and purge: afterwards nothing is left.

use std::collections::BTreeSet;

use super::{chapter, install_and_enable, netns_add};
use crate::debian::container::Container;
use crate::debian::keeper::Chapter;
use crate::debian::packages::NAMES;

pub(super) const CHAPTERS: [Chapter; 1] = [chapter(
    "16-removal",
    "Stop, remove and purge: files, units, users, mounts, processes and namespaces are as before the install.",
    run,
)];

/// Everything of a system that a package could leave behind, one thing a line.
const LISTING: &str = "\
    find / -xdev -path /proc -prune -o -path /sys -prune -o -path /root -prune -o -printf 'file %p %y %M %u:%g\\n'; \
    find /run -xdev -printf 'file %p %y %M %u:%g\\n'; \
    systemctl list-unit-files --no-legend --no-pager | sed 's/^/unit /'; \
    systemctl list-units --all --plain --no-legend --no-pager | awk '{print \"loaded\", $1, $3, $4}'; \
    sed 's/^/user /' /etc/passwd; sed 's/^/group /' /etc/group; \
    awk '{print \"mount\", $5, $9}' /proc/self/mountinfo; \
    ps -eo comm= | grep -vE '^(ps|grep|awk|sed|sort|bash|find|systemctl|timeout|sleep|kworker.*)$' | sed 's/^/process /'; \
    lsns --noheadings --type net --output TYPE | sed 's/^/namespace /'; \
    ip -o link | awk '{print \"link\", $2}'";

/// What apt, dpkg, the journal and systemd keep of anything that was ever installed or started.
const KEPT: [&str; 13] = [
    "file /var/lib/dpkg/",
    "file /var/lib/apt/",
    "file /var/cache/apt/",
    "file /var/cache/ldconfig",
    "file /var/cache/debconf/",
    "file /var/cache/man/",
    "file /var/log/",
    "file /var/lib/systemd/",
    "file /run/systemd/",
    "file /run/log/",
    "file /tmp/",
    "file /var/tmp/systemd-private-",
    // A target of systemd's own, which stays reached once anything has wanted it.
    "loaded network-pre.target ",
];

fn listing(c: &Container) -> BTreeSet<String> {
    let kept = |line: &&str| KEPT.iter().any(|kept| line.starts_with(kept));
    c.run_quietly(LISTING).lines().filter(|line| !kept(line)).map(str::to_owned).collect()
}

fn run(c: &Container) {
    c.step("before");
    let before = listing(c);
    install_and_enable(c);
    c.step("it is used: namespaces, a mount, a state");
    netns_add(c, "blue");
    c.ok("mkdir -p /mnt/pernetfs && pernetctl mount -t pernetfs /mnt/pernetfs && ls /mnt/pernetfs");
    c.ok("pernetctl boot >/dev/null; systemctl reload pernetd; systemctl restart pernetd; ls -la /var/lib/pernetd /run/pernetd");
    stop(c);
    remove(c);
    purge(c);
    c.step("nothing is left");
    c.ok("ip netns del blue; umount /mnt/pernetfs; rmdir /mnt/pernetfs; umount /run/netns; rmdir /run/netns; true");
    c.ok("systemctl daemon-reload; systemctl reset-failed");
    c.note("what the operator made, and the folder that `ip netns add` makes, are his to take away");
    let after = listing(c);
    let left: Vec<&String> = after.difference(&before).collect();
    let gone: Vec<&String> = before.difference(&after).collect();
    c.assert(left.is_empty() && gone.is_empty(), &format!("left: {left:#?}\ngone: {gone:#?}"));
    c.note(&format!("{} lines of a listing are the same as before", before.len()));
}

fn stop(c: &Container) {
    c.step("stop: the namespace and what was done in it stay");
    c.ok("systemctl stop pernetd.socket pernetd");
    c.ok("ip -n blue -o link show lo up | grep lo");
    c.fails("pgrep -x pernetd");
    c.ok("systemctl start pernetd");
}

fn remove(c: &Container) {
    c.step("remove: stopped, the configuration stays");
    c.ok(&format!("apt-get remove -qy {}", NAMES.join(" ")));
    c.fails("pgrep -x pernetd");
    c.fails("systemctl is-active pernetd");
    c.ok("test -e /etc/pernetd/pernetd.toml && test ! -e /usr/bin/pernetd");
    c.ok("ip -n blue -o link show lo up | grep lo");
}

fn purge(c: &Container) {
    c.step("purge");
    c.ok(&format!("apt-get purge -qy {}", NAMES.join(" ")));
    c.ok("test ! -e /etc/pernetd && test ! -e /var/lib/pernetd && test ! -e /run/pernetd");
    c.ok("dpkg --audit; ! dpkg -l | grep pernet");
}
