//! What goes wrong in the daemon: a plugin that panics, a process that dies or hangs.

use super::{chapter, configure_sysctl, install_and_enable, main_pid, netns_add};
use crate::debian::container::Container;
use crate::debian::keeper::Chapter;
use crate::sandbox::example_cdylib;

pub(super) const CHAPTERS: [Chapter; 3] = [
    chapter("06-panic", "A plugin panics: it is out, the others go on, and status says so.", panic),
    chapter("07-killed", "The daemon is killed, twice: systemd starts it anew, and it adopts what it finds.", killed),
    chapter("08-watchdog", "The daemon hangs: the watchdog bites, and the next one takes over.", watchdog),
];

fn panic(c: &Container) {
    install_and_enable(c);
    netns_add(c, "blue");
    c.step("a plugin that panics in one namespace");
    c.put(&example_cdylib("probe_a"), "/usr/lib/pernetd/plugins/libpernet_probe_a.so");
    let fault = "[[config.faults]]\nhook = \"pernet.init\"\nnetns = \"bang\"\naction = \"panic\"\n";
    let text = format!("[config]\nrecord = \"/var/lib/pernetd/calls\"\n{fault}");
    c.write("/etc/pernetd/plugins.d/70-probe-a.toml", &text);
    c.ok("systemctl reload pernetd");
    c.ok("pernetctl plugin list | grep -w probe-a | grep -w live");
    let before = main_pid(c);
    c.step("it panics");
    c.ok("ip netns add bang");
    c.until("pernetctl plugin list | grep -w probe-a | grep -w failed");
    c.step("status says so, and what happened");
    c.assert(c.json("pernetctl status --json")["plugins"]["failed"] == 1, "status counts no failed plugin");
    c.ok("pernetctl status | grep -E 'probe-a|1 failed'");
    c.assert_has(&c.ok("pernetctl plugin list"), &["panic"]);
    c.until("journalctl -q -u pernetd | grep -i panic");
    c.step("the others go on");
    c.ok("pernetctl netns retry bang");
    c.ok("pernetctl netns wait bang");
    c.ok("ip -n bang -o link show lo up | grep lo");
    netns_add(c, "green");
    c.assert(main_pid(c) == before, "another daemon runs");
    c.step("mended, it is back after a reload");
    c.write("/etc/pernetd/plugins.d/70-probe-a.toml", "[config]\nrecord = \"/var/lib/pernetd/calls\"\n");
    c.ok("systemctl reload pernetd && pernetctl plugin list | grep -w probe-a | grep -w live");
}

/// Two namespaces with a setting, one of which somebody changes and one of which goes while nobody looks.
fn settled(c: &Container) {
    install_and_enable(c);
    configure_sysctl(c, "\"net.ipv4.ip_forward\" = 1");
    netns_add(c, "blue");
    netns_add(c, "red");
}

fn adopted(c: &Container) {
    c.ok("test $(ip netns exec blue cat /proc/sys/net/ipv4/ip_forward) = 1");
    c.ok("ip -n blue -o link show lo up | grep lo");
    let list = c.json("pernetctl netns list --json");
    let blue = list.as_array().unwrap().iter().find(|netns| netns["name"] == "blue");
    c.assert(blue.is_some_and(|blue| blue["state"] == "live"), "blue is not live");
    netns_add(c, "green");
    c.ok("test $(ip netns exec green cat /proc/sys/net/ipv4/ip_forward) = 1");
    c.ok("ip netns del green");
}

fn killed(c: &Container) {
    settled(c);
    // Of a SEGV that is only sent, Rust's own handler makes nothing.
    for (n, signal) in ["ABRT", "KILL"].into_iter().enumerate() {
        c.step(&format!("SIG{signal}"));
        let before = main_pid(c);
        c.ok(&format!("systemctl kill --kill-whom=main --signal={signal} pernetd"));
        c.ok("test $(ip netns exec blue cat /proc/sys/net/ipv4/ip_forward) = 1");
        c.until(&format!("test \"$(systemctl show -P NRestarts pernetd)\" = {} && systemctl is-active pernetd", n + 1));
        c.assert(main_pid(c) != before, "it is the same process");
        adopted(c);
    }
    c.step("what went meanwhile is not taken up");
    c.ok("systemctl stop pernetd && ip netns del red && systemctl start pernetd");
    c.fails("pernetctl netns list | grep -w red");
    adopted(c);
}

fn watchdog(c: &Container) {
    settled(c);
    c.step("the watchdog is made short");
    c.write("/etc/systemd/system/pernetd.service.d/short.conf", "[Service]\nWatchdogSec=2\n");
    c.ok("systemctl daemon-reload && systemctl restart pernetd");
    c.step("it is fed");
    let before = main_pid(c);
    c.ok("sleep 5; systemctl is-active pernetd; test \"$(systemctl show -P NRestarts pernetd)\" = 0");
    c.note("the one place where time itself is the condition: more than twice the limit has passed");
    c.step("it hangs");
    c.ok(&format!("kill -STOP {before}"));
    c.until("test \"$(systemctl show -P NRestarts pernetd)\" = 1 && systemctl is-active pernetd");
    c.assert(main_pid(c) != before, "it is the same process");
    c.until("journalctl -q -u pernetd | grep -i 'watchdog timeout'");
    adopted(c);
}
