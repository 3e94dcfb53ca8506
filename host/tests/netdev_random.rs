//! Random turns of fortune for plugins' own devices, in real namespaces: whatever the operator and other programs do, once
//! quiet the daemon's view is that of a fresh `ip -json link`, and every operation has its counterpart.
//!
//! `PERNET_SEED` repeats a run, `PERNET_TURNS` sets its length. The seed of a failure is in its message.
#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;

use std::collections::BTreeMap;
use std::env;
use std::fs::File;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use machine::{Machine, SOON, name_path, one};
use sandbox::{netns_add, netns_del};
use serde_json::Value;

const NAMESPACES: [&str; 3] = ["blue", "green", "red"];
/// What other programs do between two looks.
const BURST: u64 = 8;
/// Devices of the plugin's, and some that others make.
const NAMES: [&str; 9] = ["br0", "br1", "a0", "b0", "c0", "d0", "t0", "x0", "x1"];

fn main() -> ExitCode {
    let trials = [
        one("whatever happens, the view is the kernel's", |m| random(m, "", 0)),
        one("the same with a small receive buffer, so that events are lost", |m| {
            random(m, "netlink.receive_buffer = 4096", 1)
        }),
    ];
    let trials = trials.into_iter().flatten().map(|trial| trial.deadline(Duration::from_secs(240)));
    sandbox::main(trials.collect())
}

/// A seeded sequence (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }

    fn one_of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[usize::try_from(self.below(words.len() as u64)).unwrap()]
    }
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

fn random(mut m: Machine, main: &str, salt: u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let seed = number("PERNET_SEED").unwrap_or_else(|| u64::try_from(now & 0xffff_ffff).unwrap() + salt);
    println!("PERNET_SEED={seed}");
    let mut dice = Dice(seed * 2 + 1);
    m.main(main);
    plugin(&m);
    m.start();
    for turn in 0..number("PERNET_TURNS").unwrap_or(100) {
        let mut done = Vec::new();
        for _ in 0..=dice.below(BURST) {
            done.push(act(&m, &mut dice));
        }
        let mut last = String::new();
        let agreed = || {
            last = difference(&m);
            last.is_empty()
        };
        quiet(&format!("seed {seed}, turn {turn}, after {done:?}"), agreed, &m);
    }
    m.stop();
    for operation in ["init", "open"] {
        let count = |what: &str| m.trace().iter().filter(|call| call.starts_with(what)).count();
        let counterpart = if operation == "init" { "uninit" } else { "stop" };
        let (begun, ended) =
            (count(&format!("netdev netdev.ndo_{operation} ")), count(&format!("netdev netdev.ndo_{counterpart} ")));
        assert_eq!(begun, ended, "seed {seed}: each ndo_{operation} has its ndo_{counterpart}");
        assert!(begun > 0, "seed {seed}: nothing happened");
    }
}

/// Waits until the views agree; says where they differ if they never do.
fn quiet(when: &str, mut agreed: impl FnMut() -> bool, m: &Machine) {
    let until = std::time::Instant::now() + SOON * 2;
    while !agreed() {
        assert!(std::time::Instant::now() < until, "{when}: {}\n{}", difference(m), m.log());
        std::thread::yield_now();
    }
}

/// The plugin with its devices: they come with their namespaces.
fn plugin(m: &Machine) {
    let device = |netns: &str, rest: &str| format!("{{ netns = \"{netns}\", {rest}, open = true }}");
    let mut devices = vec![
        device("blue", "kind = \"bridge\", name = \"br0\""),
        device("green", "kind = \"bridge\", name = \"br1\""),
        device("blue", "kind = \"veth\", name = \"a0\", peer = \"b0\", peer_netns = \"green\""),
        device("red", "kind = \"veth\", name = \"c0\", peer = \"d0\", peer_netns = \"green\""),
    ];
    if File::options().read(true).write(true).open("/dev/net/tun").is_ok() {
        devices.push(device("red", "kind = \"tap\", name = \"t0\""));
    }
    let config = format!("subsys = false\ndevice_op = true\nnotifier = 0\nnetdevs = [{}]\n", devices.join(", "));
    m.probe(50, "netdev", "on_init_failure = \"skip\"", &config);
}

/// One turn of somebody's. What the kernel refuses is no matter: it is the kernel's state that counts.
fn act(m: &Machine, dice: &mut Dice) -> String {
    let netns = dice.one_of(&NAMESPACES);
    let name = dice.one_of(&NAMES);
    let there = name_path(netns).exists();
    let other = dice.one_of(&NAMES);
    let mtu = (1000 + dice.below(400)).to_string();
    let words: Vec<&str> = match dice.below(16) {
        0 if there => {
            netns_del(netns);
            return format!("del {netns}");
        }
        0..=3 if !there => {
            netns_add(netns);
            return format!("add {netns}");
        }
        1 if dice.below(4) == 0 => {
            m.no_probe(50, "netdev");
            assert_eq!(m.reload().code, 0);
            plugin(m);
            assert_eq!(m.reload().code, 0);
            return "the plugin out and in".into();
        }
        2 => vec!["link", "add", other, "type", "bridge"],
        3 => vec!["link", "add", "x0", "type", "veth", "peer", "x1"],
        4 | 5 => vec!["link", "del", name],
        6 | 7 => vec!["link", "set", name, "up"],
        8 | 9 => vec!["link", "set", name, "down"],
        10 => vec!["link", "set", name, "mtu", &mtu],
        11 => vec!["link", "set", name, "name", other],
        12 | 13 => vec!["link", "set", name, "netns", dice.one_of(&NAMESPACES)],
        14 => vec!["link", "set", name, "master", "br0"],
        _ => vec!["link", "property", "add", "dev", name, "altname", "another"],
    };
    let done = Command::new("ip").args(["-n", netns]).args(&words).stderr(Stdio::null()).status().unwrap();
    format!("{netns}: {}{}", words.join(" "), if done.success() { "" } else { " (refused)" })
}

/// A device as both sides tell it.
///
/// Without alternative names: the kernel announces none of their changes (K2.1.9), so they are known from the next event
/// of the device on.
type Row = (String, u64, bool);

/// Where the daemon's view is not the kernel's; empty where it is.
fn difference(m: &Machine) -> String {
    let rows = m.ctl(["dev", "list"]);
    let mut text = String::new();
    for netns in NAMESPACES {
        let known: BTreeMap<u64, Row> = rows
            .as_array()
            .unwrap()
            .iter()
            .filter(|row| row["netns"] == netns && row["reg_state"] == "registered")
            .map(|row| {
                let up = row["up"].as_bool().unwrap();
                let name = row["name"].as_str().unwrap().to_owned();
                (row["ifindex"].as_u64().unwrap(), (name, row["mtu"].as_u64().unwrap(), up))
            })
            .collect();
        let kernel = kernel(netns);
        if known != kernel {
            text += &format!("{netns}: the daemon has {known:?}, the kernel {kernel:?}; ");
        }
    }
    text
}

/// What `ip` says is there.
fn kernel(netns: &str) -> BTreeMap<u64, Row> {
    let out = Command::new("ip").args(["-n", netns, "-json", "link"]).stderr(Stdio::null()).output().unwrap();
    let Ok(Value::Array(links)) = serde_json::from_slice(&out.stdout) else { return BTreeMap::new() };
    let row = |link: &Value| {
        let up = link["flags"].as_array().unwrap().iter().any(|flag| flag == "UP");
        let name = link["ifname"].as_str().unwrap().to_owned();
        (link["ifindex"].as_u64().unwrap(), (name, link["mtu"].as_u64().unwrap(), up))
    };
    links.iter().map(row).collect()
}
