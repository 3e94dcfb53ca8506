//! What a cable of the plugin `wire` carries, beside a veth pair in the same run, with and without offloads.
//!
//! `iperf3` sends from one namespace to the other over each: one TCP stream for the bytes, UDP datagrams of 64 bytes as
//! fast as it can for the frames. All of it shares the machine's processors, so the ratio counts, not the figure.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pernetd::linux::netns;
use serde_json::Value;

use crate::daemon::Daemon;
use crate::sandbox::{RUN_NETNS, netns_add, tie, wait_until};

const SECONDS: &str = "5";
const SOON: Duration = Duration::from_secs(20);
const PORT: &str = "5201";
const TUN: &str = "/dev/net/tun";

const WIRE: &str = r#"
[[config.cables]]
name = "figures"
a = { netns = "left", device = "cable" }
b = { netns = "right", device = "cable" }
"#;

/// Two ends with an address each, in `left` and `right`.
struct Link {
    what: &'static str,
    device: &'static str,
    net: &'static str,
}

pub(crate) fn measure() {
    let tools = ["iperf3", "ethtool", "ss"].into_iter().filter(|tool| !is_installed(tool));
    let missing: Vec<_> = tools.chain((!Path::new(TUN).exists()).then_some(TUN)).collect();
    if !missing.is_empty() {
        println!("\na cable beside a veth pair: not measured, without {}", missing.join(", "));
        return;
    }
    netns::prepare_folder(Path::new(RUN_NETNS)).unwrap();
    for end in ["left", "right"] {
        netns_add(end);
    }
    for (with, offloads) in [("with offloads", true), ("without", false)] {
        println!("\na cable beside a veth pair, {with}");
        println!("{:12} {:>10} {:>14} {:>16}", "", "Gbit/s", "64 B frames/s", "of those lost %");
        ip(&["-n", "left", "link", "add", "pair", "type", "veth", "peer", "pair", "netns", "right"]);
        let daemon = Daemon::start_with(&[("30-wire.toml", &format!("{WIRE}offloads = {offloads}\n"))]);
        let links = [
            Link { what: "veth", device: "pair", net: "10.1.0" },
            Link { what: "wire", device: "cable", net: "10.2.0" },
        ];
        let [veth, wire] = links.map(|link| link.measure(offloads));
        println!("{:12} {:>10.2} {:>14.2}", "ratio", wire.0 / veth.0, wire.1 / veth.1);
        daemon.stop();
        ip(&["-n", "left", "link", "del", "pair"]);
    }
}

impl Link {
    /// Bytes and frames per second.
    fn measure(&self, offloads: bool) -> (f64, f64) {
        for (netns, end) in [("left", 1), ("right", 2)] {
            wait_until("the device is there", SOON, || ip_quiet(&["-n", netns, "link", "set", self.device, "up"]));
            ip(&["-n", netns, "addr", "add", &format!("{}.{end}/24", self.net), "dev", self.device]);
            if !offloads {
                // Segmentation first: it needs the checksums. Were one of them left on, the row would be another's.
                for features in [&["tso", "off", "gso", "off", "gro", "off"][..], &["tx", "off"]] {
                    let mut ethtool = inside(netns, "ethtool");
                    let done = ethtool.args(["-K", self.device]).args(features).stdout(Stdio::null()).status().unwrap();
                    assert!(done.success(), "ethtool -K {} {}: {done}", self.device, features.join(" "));
                }
            }
        }
        let far = format!("{}.2", self.net);
        let bytes = iperf(&far, &[]);
        let frames = iperf(&far, &["-u", "-b", "0", "-l", "64"]);
        let gbits = bytes["end"]["sum_received"]["bits_per_second"].as_f64().unwrap() / 1e9;
        let sum = &frames["end"]["sum"];
        let (sent, lost) = (sum["packets"].as_f64().unwrap(), sum["lost_percent"].as_f64().unwrap());
        let arrived = sent * (1.0 - lost / 100.0) / sum["seconds"].as_f64().unwrap();
        println!("{:12} {gbits:>10.2} {arrived:>14.0} {lost:>16.1}", self.what);
        (gbits, arrived)
    }
}

/// One run, with a server of its own.
fn iperf(far: &str, more: &[&str]) -> Value {
    let mut server = inside("right", "iperf3");
    server.args(["-s", "-1", "-p", PORT]).stdout(Stdio::null());
    let mut server = Ended(tie(&mut server).spawn().unwrap());
    wait_until("the server listens", SOON, || {
        let listening = inside("right", "ss").args(["-Hltn", "sport", "=", &format!(":{PORT}")]).output().unwrap();
        !listening.stdout.is_empty()
    });
    let out =
        inside("left", "iperf3").args(["-c", far, "-p", PORT, "-t", SECONDS, "--json"]).args(more).output().unwrap();
    let _ = server.0.wait();
    let answer: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(answer.get("error").is_none(), "{answer}");
    answer
}

/// Ends with the measurement, however that ends.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_installed(tool: &str) -> bool {
    // Any answer will do: it was found.
    Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn inside(netns: &str, program: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", netns, program]);
    command
}

fn ip_quiet(words: &[&str]) -> bool {
    Command::new("ip").args(words).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn ip(words: &[&str]) {
    assert!(ip_quiet(words), "ip {}", words.join(" "));
}
