//! What an operator reloads: a third party's plugin dropped in, and what is wrong with a configuration.

use std::path::PathBuf;

use super::{chapter, install_and_enable, main_pid, netns_add};
use crate::debian::container::Container;
use crate::debian::keeper::Chapter;
use crate::sandbox::example_cdylib;

pub(super) const CHAPTERS: [Chapter; 2] = [
    chapter(
        "04-third-party",
        "A plugin of a third party's is dropped in beside its file, and `systemctl reload`.",
        drop_in,
    ),
    chapter("05-broken", "A broken configuration is reloaded: the old set runs on, and the journal says why.", broken),
];

const PLUGINS: &str = "/usr/lib/pernetd/plugins";
const PORTS: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// The README's own example, as its author builds it.
fn low_ports() -> PathBuf {
    example_cdylib("smallest")
}

fn drop_in(c: &Container) {
    install_and_enable(c);
    netns_add(c, "blue");
    c.step("the plugin and its file are put in their places");
    c.put(&low_ports(), &format!("{PLUGINS}/libpernet_low_ports.so"));
    c.ok(&format!("pernetctl plugin info {PLUGINS}/libpernet_low_ports.so"));
    c.write("/etc/pernetd/plugins.d/70-low-ports.toml", "# What is built in will do.\n");
    let before = main_pid(c);
    c.ok("systemctl reload pernetd");
    c.step("it acts in what is there, and in what comes");
    c.ok("pernetctl plugin list | grep -w low-ports | grep -w live");
    netns_add(c, "green");
    for netns in ["blue", "green"] {
        c.ok(&format!("test $(ip netns exec {netns} cat {PORTS}) = 0"));
    }
    c.assert(main_pid(c) == before, "a reload has started another daemon");
    c.step("taken out, it acts no more");
    c.ok("rm /etc/pernetd/plugins.d/70-low-ports.toml && systemctl reload pernetd");
    c.fails("pernetctl plugin list | grep -w low-ports | grep -w live");
    netns_add(c, "red");
    c.ok(&format!("test $(ip netns exec red cat {PORTS}) = 1024"));
}

fn broken(c: &Container) {
    install_and_enable(c);
    netns_add(c, "blue");
    let before = Running::of(c);
    syntax(c, &before);
    unknown_key(c, &before);
    plugin_file(c, &before);
    by_signal(c, &before);
}

/// What a failed reload must not change.
#[derive(PartialEq)]
struct Running {
    pid: String,
    generation: u64,
    plugins: String,
}

impl Running {
    fn of(c: &Container) -> Running {
        let generation = c.json("pernetctl status --json")["generation"].as_u64().unwrap();
        Running { pid: main_pid(c), generation, plugins: c.ok("pernetctl plugin list") }
    }

    /// The reload fails with the place in its message, here and in the journal, and the old set runs on.
    fn stays_when_reloaded(&self, c: &Container, place: &str) {
        c.ok("journalctl --sync; journalctl --rotate --vacuum-time=1s -q 2>/dev/null; date +%s.%N > /root/since");
        c.fails("systemctl reload pernetd");
        self.is_as_before(c, place);
    }

    fn is_as_before(&self, c: &Container, place: &str) {
        let said = c.until(&format!("journalctl -q -u pernetd --since @$(cat /root/since) | grep -F '{place}'"));
        c.assert_has(&said, &[place]);
        c.ok("systemctl is-active pernetd");
        c.assert(Running::of(c) == *self, "something has changed");
        c.ok("ip netns add while && pernetctl netns wait while && ip netns del while");
    }
}

fn syntax(c: &Container, before: &Running) {
    c.step("a mistake in a plugin's file: what is no TOML");
    c.ok("cp -a /etc/pernetd /root/good");
    c.write("/etc/pernetd/plugins.d/20-sysctl.toml", "enabled = true\non_stop = \"leave\n");
    before.stays_when_reloaded(c, "/etc/pernetd/plugins.d/20-sysctl.toml:2:17");
}

fn unknown_key(c: &Container, before: &Running) {
    c.step("a mistake in the main file: an unknown key");
    c.ok("cp -a /root/good/. /etc/pernetd/");
    c.write("/etc/pernetd/pernetd.toml", "[control]\n\nreda = \"all\"\n");
    before.stays_when_reloaded(c, "/etc/pernetd/pernetd.toml:3:1");
    c.step("--check says the same, and a restart would fail: so it is asked first");
    let said = c.fails("pernetd --check");
    c.assert_has(&said.stderr, &["/etc/pernetd/pernetd.toml:3:1", "read"]);
}

fn plugin_file(c: &Container, before: &Running) {
    c.step("a plugin's file is broken: half of it is missing");
    c.ok("cp -a /root/good/. /etc/pernetd/");
    let file = format!("{PLUGINS}/libpernet_sysctl.so");
    c.ok(&format!("cp -a {file} /root/good.so && truncate -s 4096 /root/bad.so && head -c 9000 {file} > /root/bad.so"));
    c.ok(&format!("mv /root/bad.so {file}"));
    before.stays_when_reloaded(c, &file);
    c.ok(&format!("cp -a /root/good.so {file}"));
}

fn by_signal(c: &Container, before: &Running) {
    c.step("SIGHUP does the same");
    c.write("/etc/pernetd/pernetd.toml", "[log]\nlevel = \"loud\"\n");
    c.ok("date +%s.%N > /root/since; kill -HUP $(systemctl show -P MainPID pernetd)");
    before.is_as_before(c, "/etc/pernetd/pernetd.toml:2:9");
    c.until("pernetctl status --json | grep -q '\"ok\": *false'");
    c.step("and, once it is mended, reloads");
    c.ok("cp -a /root/good/. /etc/pernetd/");
    c.ok("kill -HUP $(systemctl show -P MainPID pernetd)");
    c.until("pernetctl status --json | grep -q '\"ok\": *true'");
    c.assert(Running::of(c).generation > before.generation, "it has not reloaded");
    c.ok("systemctl reload pernetd");
}
