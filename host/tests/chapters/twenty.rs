//! Twenty namespaces, and the plugins act in each; the daemon and `ip netns` see each other's, whichever came first.

use super::{chapter, configure_sysctl, install_and_enable};
use crate::debian::container::Container;
use crate::debian::keeper::Chapter;

pub(super) const CHAPTERS: [Chapter; 2] = [
    chapter(
        "02-daemon-first",
        "The daemon runs; then `ip netns add` makes its first namespaces, twenty of them.",
        daemon,
    ),
    chapter("03-ip-first", "There are namespaces already when the packages are installed.", ip),
];

fn daemon(c: &Container) {
    c.step("nothing has ever made a named namespace");
    c.ok("test ! -e /run/netns");
    install_and_enable(c);
    c.step("a profile of settings is configured, and reloaded");
    configure_sysctl(c, "\"net.ipv4.ip_forward\" = 1");
    c.step("twenty namespaces are added");
    c.ok("for n in $(seq 20); do ip netns add ns$n; done");
    twenty(c);
    each_sees_the_others(c);
}

fn ip(c: &Container) {
    c.step("twenty namespaces are added, and nobody knows them");
    c.ok("for n in $(seq 20); do ip netns add ns$n; done");
    install_and_enable(c);
    c.step("a profile of settings is configured, and reloaded");
    configure_sysctl(c, "\"net.ipv4.ip_forward\" = 1");
    twenty(c);
    each_sees_the_others(c);
}

fn twenty(c: &Container) {
    c.step("both plugins have acted in each");
    c.ok("for n in $(seq 20); do pernetctl netns wait ns$n >/dev/null || exit 1; done");
    let up = c.ok("for n in $(seq 20); do ip -n ns$n -o link show lo up; done");
    c.assert(up.lines().count() == 20, "lo is not up in each");
    let forward = c.ok("for n in $(seq 20); do ip netns exec ns$n cat /proc/sys/net/ipv4/ip_forward; done | uniq -c");
    c.assert(forward.split_whitespace().eq(["20", "1"]), "the setting is not in each");
    let list = c.json("pernetctl netns list --json");
    let live = list.as_array().unwrap().iter().filter(|netns| netns["state"] == "live").count();
    c.assert(live == 21, &format!("{live} namespaces are live, not 20 and the host's own"));
    c.step("status says so, in a screen");
    let status = c.ok("pernetctl status");
    c.assert(status.lines().count() <= 24, "more than a screen");
}

fn each_sees_the_others(c: &Container) {
    c.step("what pernetctl makes ip sees, and the other way round");
    c.ok("pernetctl netns add ours");
    c.ok("ip netns list | grep -w ours && ip -n ours -o link show lo up | grep lo");
    c.ok("ip netns add theirs && pernetctl netns wait theirs");
    c.ok("pernetctl netns del theirs && test ! -e /run/netns/theirs");
    c.step("what ip deletes goes, and is kept by nobody");
    c.ok("ip netns del ours");
    c.until("! pernetctl netns list | grep -w ours");
    c.ok("for n in $(seq 20); do ip netns del ns$n || exit 1; done");
    c.until("test \"$(pernetctl netns list --json | grep -o '\"cookie\"' | wc -l)\" = 1");
    c.step("the kernel has freed them: no process and no mount holds one");
    c.until("test \"$(lsns --noheadings --type net --output NS | wc -l)\" -le 2");
    c.ok("lsns --type net");
}
