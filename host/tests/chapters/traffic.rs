//! Traffic that flows through namespaces while the daemon is stopped, started, restarted and upgraded under it.

use super::{chapter, configure_sysctl, install_and_enable, main_pid, netns_add};
use crate::debian::container::Container;
use crate::debian::keeper::Chapter;
use crate::debian::packages;
use crate::sandbox::example_cdylib;

pub(super) const CHAPTERS: [Chapter; 1] = [chapter(
    "10-traffic",
    "Stop, start, restart and an upgrade are no outage: not one packet is lost, and the settings stay.",
    run,
)];

fn run(c: &Container) {
    install_and_enable(c);
    c.step("two namespaces, with a pair of an operator's between them, and one of a plugin's");
    configure_sysctl(c, "\"net.ipv4.ip_forward\" = 1, \"net.ipv4.conf.all.rp_filter\" = 2");
    netns_add(c, "blue");
    netns_add(c, "red");
    c.ok("ip -n blue link add veth0 type veth peer name veth0 netns red");
    pair_of_a_plugin(c);
    for (netns, n) in [("blue", 1), ("red", 2)] {
        c.ok(&format!("ip -n {netns} addr add 10.1.0.{n}/24 dev veth0 && ip -n {netns} link set veth0 up"));
        c.ok(&format!("ip -n {netns} addr add 10.2.0.{n}/24 dev own0"));
    }
    let (one, other) = (Ping::start(c, "operators", "10.1.0.2"), Ping::start(c, "plugins", "10.2.0.2"));
    through_stop_and_start(c);
    upgrade(c);
    c.step("no packet was lost");
    one.has_lost_nothing(c);
    other.has_lost_nothing(c);
}

/// Registered by a plugin under literal names, so that a stop leaves it and the next start takes it over.
fn pair_of_a_plugin(c: &Container) {
    c.put(&example_cdylib("probe_netdev"), "/usr/lib/pernetd/plugins/libpernet_probe_netdev.so");
    let device = "netns = \"blue\", kind = \"veth\", name = \"own0\", peer = \"own0\", peer_netns = \"red\"";
    let text = format!(
        "[config]\nrecord = \"/var/lib/pernetd/calls\"\ndevice_op = true\nnetdevs = [{{ {device}, must = true, open = true }}]\n"
    );
    c.write("/etc/pernetd/plugins.d/80-probe-netdev.toml", &text);
    c.ok("systemctl reload pernetd");
    c.ok("pernetctl dev list --netns red");
    c.until("ip -n red -o link show own0 up | grep own0");
}

/// A ping five hundred times a second, that says at its end what was lost.
struct Ping {
    name: &'static str,
}

impl Ping {
    fn start(c: &Container, name: &'static str, address: &str) -> Ping {
        c.until(&format!("ip netns exec blue ping -q -c 1 -W 1 {address}"));
        let unit = format!(
            "--unit=ping-{name} -p NetworkNamespacePath=/run/netns/blue -p StandardOutput=append:/root/ping-{name}"
        );
        c.ok(&format!("systemd-run -q {unit} ping -q -i 0.002 -W 2 {address}"));
        Ping { name }
    }

    fn has_lost_nothing(&self, c: &Container) {
        let name = self.name;
        c.ok(&format!("systemctl kill --signal=INT ping-{name}"));
        let said = c.until(&format!("grep 'packet loss' /root/ping-{name}"));
        c.assert_has(&said, &[" 0% packet loss"]);
        let sent: u32 = said.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default();
        c.assert(sent >= 500, &format!("{sent} packets are too few to show anything"));
    }
}

/// What plugins did is there, whoever runs.
fn settings_stay(c: &Container) {
    for netns in ["blue", "red"] {
        let settings = c.ok(&format!(
            "ip netns exec {netns} cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/all/rp_filter"
        ));
        c.assert(settings == "1\n2\n", "the settings are not there");
        c.ok(&format!("ip -n {netns} -o link show lo up | grep lo && ip -n {netns} -o link show own0 up | grep own0"));
    }
}

fn through_stop_and_start(c: &Container) {
    c.step("stop");
    let index = "ip -n blue -o link show own0 | cut -d: -f1";
    let before = c.ok(index);
    c.ok("systemctl stop pernetd.socket pernetd");
    settings_stay(c);
    c.step("start");
    c.ok("systemctl start pernetd");
    settings_stay(c);
    c.step("restart");
    c.ok("systemctl restart pernetd");
    settings_stay(c);
    c.assert(c.ok(index) == before, "the plugin's device is another one");
    let devices = c.json("pernetctl dev list --netns blue --json");
    let own = devices.as_array().unwrap().iter().find(|device| device["name"] == "own0");
    c.assert(own.is_some_and(|own| own["owner"] == "probe-netdev"), "it is not the plugin's any more");
}

fn upgrade(c: &Container) {
    c.step("upgrade");
    c.ok("sed -i '1i # a change of the operator' /etc/pernetd/pernetd.toml");
    let (pid, state) = (main_pid(c), "pernetctl netns list --json | grep -E '\"(name|cookie|state)\"'");
    let before = c.ok(state);
    let next = packages::next();
    let files = next.put(c);
    c.ok(&format!("apt-get install -qy --no-install-recommends {files}"));
    c.until("systemctl is-active pernetd");
    c.step("it is the new one that runs");
    c.assert(main_pid(c) != pid, "it is the old process");
    let version = c.ok("dpkg-query -W -f '${Version}' pernetd");
    c.assert(version == next.version, "the new version is not installed");
    c.ok("cmp /proc/$(systemctl show -P MainPID pernetd)/exe /usr/bin/pernetd");
    c.fails("readlink /proc/$(systemctl show -P MainPID pernetd)/exe | grep deleted");
    c.step("everything is as it was");
    c.assert(c.ok(state) == before, "the namespaces' state is another");
    settings_stay(c);
    c.ok("head -n 1 /etc/pernetd/pernetd.toml | grep 'a change of the operator'");
}
