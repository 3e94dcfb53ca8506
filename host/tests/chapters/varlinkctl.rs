//! systemd's own varlink client, which Debian 13 has, on the control socket.

use crate::debian::container::Container;
use crate::debian::keeper::Chapter;
use crate::debian::{RELEASES, Release};

use super::{install_and_enable, netns_add};

const HAVE_IT: &[Release] = &[RELEASES[1]];

pub(super) const CHAPTERS: [Chapter; 1] = [Chapter {
    name: "14-varlinkctl",
    about: "varlinkctl is a real client of the control socket: list-interfaces, introspect, call, call --more.",
    releases: HAVE_IT,
    run,
}];

const SOCKET: &str = "unix:/run/pernetd/io.pernetd";

fn run(c: &Container) {
    install_and_enable(c);
    netns_add(c, "blue");
    c.step("what is there");
    let info = c.ok(&format!("varlinkctl info {SOCKET}"));
    c.assert_has(&info, &["pernetd", "io.pernetd"]);
    let interfaces = c.ok(&format!("varlinkctl list-interfaces {SOCKET}"));
    c.assert_has(&interfaces, &["io.pernetd", "org.varlink.service"]);
    let described = c.ok(&format!("varlinkctl introspect {SOCKET} io.pernetd"));
    c.assert_has(&described, &["interface io.pernetd", "method Status()", "method Monitor()", "error "]);
    c.step("calls");
    let status = c.json(&format!("varlinkctl --json=short call {SOCKET} io.pernetd.Status '{{}}'"));
    c.assert(status["status"]["state"] == "running", &format!("{status}"));
    let blue = c.json(&format!("varlinkctl --json=short call {SOCKET} io.pernetd.NetnsGet '{{\"name\":\"blue\"}}'"));
    c.assert(blue["namespace"]["state"] == "live", &format!("{blue}"));
    let reload = c.json(&format!("varlinkctl --json=short call {SOCKET} io.pernetd.Reload '{{}}'"));
    c.assert(reload["result"]["ok"] == true, &format!("{reload}"));
    c.step("errors are those of the interface");
    let refused = c.fails(&format!("varlinkctl call {SOCKET} io.pernetd.NetnsGet '{{\"name\":\"nowhere\"}}'"));
    c.assert_has(&refused.stderr, &["io.pernetd."]);
    c.fails(&format!("varlinkctl call {SOCKET} io.pernetd.NoSuchMethod '{{}}'"));
    more(c);
}

/// The monitor: one reply for each hook, until the client goes.
fn more(c: &Container) {
    c.step("more: the monitor, while a namespace is added");
    let monitor = format!("varlinkctl --more --json=short call {SOCKET} io.pernetd.Monitor '{{}}'");
    c.ok(&format!("systemd-run -q --unit=monitor -p StandardOutput=append:/root/hooks {monitor}"));
    c.until("ip netns add seen$RANDOM; grep -q pernet.init /root/hooks");
    let hooks = c.ok("cat /root/hooks");
    c.assert_has(&hooks, &["\"plugin\":\"loopback\"", "\"hook\":\"pernet.init\"", "seen"]);
    c.ok("systemctl stop monitor; pernetctl status");
}
