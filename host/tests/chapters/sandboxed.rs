//! What the daemon has to do works inside of the sandbox that its unit makes; and how tight that is.

use super::{chapter, configure_sysctl, install_and_enable, netns_add};
use crate::debian::container::Container;
use crate::debian::keeper::Chapter;
use crate::sandbox::example_cdylib;

pub(super) const CHAPTERS: [Chapter; 1] = [chapter(
    "11-sandboxed",
    "Sysctls, tun devices, mounts and all namespaces' link events work inside the sandbox.",
    run,
)];

/// systemd-analyze's measure, from 0 (nothing allowed) to 10.
const EXPOSURE: f64 = 4.0;

fn run(c: &Container) {
    install_and_enable(c);
    exposure(c);
    sysctls(c);
    tun(c);
    links(c);
    c.step("facilities: nothing is degraded for which something is to be done");
    let status = c.json("pernetctl status --json");
    for facility in status["facilities"].as_array().unwrap() {
        c.assert(facility["remedy"].is_null(), &format!("degraded: {facility}"));
    }
}

fn exposure(c: &Container) {
    c.step("the exposure that systemd itself measures");
    let said = c.ok("systemd-analyze security --no-pager pernetd");
    let figure = said.lines().last().and_then(|line| line.split(": ").nth(1)?.split(' ').next()?.parse::<f64>().ok());
    c.assert(figure.is_some_and(|figure| figure <= EXPOSURE), &format!("{figure:?} is more than {EXPOSURE}"));
    c.step("the sandbox is there");
    let inside = "nsenter --mount --target $(systemctl show -P MainPID pernetd)";
    c.fails(&format!("{inside} touch /usr/bin/pernetd-was-here"));
    c.fails(&format!("{inside} touch /etc/pernetd/was-here"));
    let status = c.ok("grep -E 'CapBnd|NoNewPrivs|Seccomp:' /proc/$(systemctl show -P MainPID pernetd)/status");
    c.assert_has(&status, &["NoNewPrivs:\t1", "Seccomp:\t2"]);
}

fn sysctls(c: &Container) {
    c.step("sysctl writes");
    configure_sysctl(c, "\"net.ipv4.ip_forward\" = 1, \"net.ipv6.conf.all.forwarding\" = 1");
    netns_add(c, "blue");
    netns_add(c, "red");
    c.ok("test \"$(ip netns exec red cat /proc/sys/net/ipv6/conf/all/forwarding)\" = 1");
}

fn tun(c: &Container) {
    c.step("tap devices: a cable of the plugin wire, and traffic over it");
    let ends = "a = { netns = \"blue\", device = \"eth0\" }\nb = { netns = \"red\", device = \"eth0\" }\n";
    let capture = "pcap = \"/var/lib/pernetd/uplink.pcap\"\n";
    let text = format!("enabled = true\n[[config.cables]]\nname = \"uplink\"\n{ends}{capture}");
    c.write("/etc/pernetd/plugins.d/50-wire.toml", &text);
    c.ok("systemctl reload pernetd");
    for (netns, n) in [("blue", 1), ("red", 2)] {
        c.until(&format!("ip -n {netns} addr replace 10.3.0.{n}/24 dev eth0 && ip -n {netns} link set eth0 up"));
    }
    c.until("ip netns exec blue ping -q -c 3 -W 1 10.3.0.2");
    c.ok("pernetctl dev show eth0 --netns blue");
    c.ok("test -s /var/lib/pernetd/uplink.pcap");
    c.step("tap devices: an author's own, from the documentation");
    c.put(&example_cdylib("reflector"), "/usr/lib/pernetd/plugins/libpernet_reflector.so");
    c.write("/etc/pernetd/plugins.d/70-reflector.toml", "# What is built in will do.\n");
    c.ok("systemctl reload pernetd && ip -n blue -o link show reflect0 up | grep reflect0");
}

fn links(c: &Container) {
    c.step("link events of all namespaces, by one socket");
    c.ok("ip -n blue link add seen0 type veth peer name seen9 && ip -n blue link set seen0 up");
    c.until("pernetctl dev list --netns blue | grep -w seen0");
    c.ok("ip -n blue link set seen0 name seen1");
    c.until("pernetctl dev list --netns blue | grep -w seen1");
    c.ok("ip -n blue link del seen1");
    c.until("! pernetctl dev list --netns blue | grep -w seen1");
}
