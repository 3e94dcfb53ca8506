//! Random turns of fortune for plugins' own devices, in real namespaces: whatever the operator, other programs and the plugin
//! itself do, and whoever refuses, once quiet the daemon's view is that of a fresh `ip -d -json link`, and every operation
//! and event has its counterpart.
//!
//! `PERNET_SEED` repeats a run, `PERNET_TURNS` sets its length. The seed of a failure is in its message.
#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use machine::{Call, HOME, Machine, SOON, has_tun, name_path, one};
use sandbox::{Trial, netns_add, netns_del, wait_until};
use serde_json::Value;

const NAMESPACES: [&str; 3] = ["blue", "green", "red"];
/// What happens between two looks.
const BURST: u64 = 8;
/// Devices of the plugin's, and some that others make.
const NAMES: [&str; 9] = ["br0", "br1", "a0", "b0", "c0", "d0", "t0", "x0", "x1"];
/// Where the plugin refuses, while the file of that name is there.
const FAULTS: [&str; 7] = ["ndo_init", "post_init", "register", "pre_up", "ndo_open", "ndo_change_mtu", "changename"];
/// What marks a device of the probe's in the kernel.
const ALIAS: &str = "pernetd: probe-netdev";

fn main() -> ExitCode {
    let trials = |taps: bool| -> Vec<Trial> {
        let name = |what: &str| format!("{what}{}", if taps { "" } else { "; without tun and tap" });
        let trials = [
            one(&name("whatever happens, the view is the kernel's"), move |m| random(m, "", 0, taps)),
            one(&name("the same with a small receive buffer, so that events are lost"), move |m| {
                random(m, "netlink.receive_buffer = 4096", 1, taps)
            }),
        ];
        trials.into_iter().flatten().collect()
    };
    // Without the device file the rest is tested, and what is not is counted.
    let ignored = if has_tun() { Vec::new() } else { trials(false) };
    let all = trials(true).into_iter().map(|trial| trial.ignored_if(!has_tun())).chain(ignored);
    let deadline = Duration::from_secs(200 + turns());
    sandbox::main(all.map(|trial| trial.deadline(deadline)).collect())
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

fn turns() -> u64 {
    number("PERNET_TURNS").unwrap_or(100)
}

fn random(mut m: Machine, main: &str, salt: u64, taps: bool) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let seed = number("PERNET_SEED").unwrap_or_else(|| u64::try_from(now & 0xffff_ffff).unwrap() + salt);
    println!("PERNET_SEED={seed}");
    let mut dice = Dice(seed * 2 + 1);
    let mut orphans = BTreeSet::new();
    m.main(main);
    plugin(&m, taps);
    m.start();
    for turn in 0..turns() {
        let mut done = Vec::new();
        for _ in 0..=dice.below(BURST) {
            done.push(act(&m, &mut dice, taps));
        }
        let when = format!("seed {seed}, turn {turn}, after {done:?}");
        quiet(&when, &m, turn % 8 == 7);
        let before = std::mem::replace(&mut orphans, orphaned(&m));
        let moved = done.iter().any(|act| act.contains(" netns ") || act.contains("move "));
        assert!(moved || orphans.is_subset(&before), "{when}: {orphans:?} are the plugin's, and it is not told so");
    }
    m.stop();
    let calls = m.calls();
    balanced(&calls, seed);
    let (refused, done) = (calls.iter().any(|call| call.fault.is_some()), |call: &Call| call.errno == Some(0));
    let own = calls.iter().any(|call| call.hook == "act" && done(call));
    assert!(turns() < 50 || refused && own, "seed {seed}: no hook refused, or the plugin did nothing itself");
}

/// Every operation and event that began has its end.
fn balanced(calls: &[Call], seed: u64) {
    for (begun, ended) in [("ndo_init", "ndo_uninit"), ("ndo_open", "ndo_stop"), ("register", "unregister")] {
        let mut open: BTreeMap<(u64, Option<u64>), i64> = BTreeMap::new();
        let mut any = false;
        for call in calls {
            let Some(hook) = call.hook.strip_prefix("netdev.") else { continue };
            // Who refuses REGISTER is told the end all the same (K2.4 row 10).
            let refused = call.fault.is_some() && begun != "register";
            // A device that is moved between them ends elsewhere.
            let place = if begun == "register" { call.cookie } else { None };
            let count = open.entry((call.instance, place)).or_default();
            *count += i64::from(hook == begun && !refused) - i64::from(hook == ended);
            any |= hook == begun;
        }
        open.retain(|_, count| *count != 0);
        assert!(open.is_empty(), "seed {seed}: each {begun} has its {ended}, but for {open:?} by instance and cookie");
        assert!(any, "seed {seed}: no {begun} ever");
    }
}

/// Waits until the views agree; says where they differ if they never do.
fn quiet(when: &str, m: &Machine, with_masters: bool) {
    let until = Instant::now() + SOON * 2;
    loop {
        let different = difference(m) + &if with_masters { masters(m) } else { String::new() };
        if different.is_empty() {
            return;
        }
        assert!(Instant::now() < until, "{when}: {different}\n{}", m.log());
        std::thread::yield_now();
    }
}

/// The plugin with its devices: they come with their namespaces. Some of its hooks refuse, as long as files say so.
fn plugin(m: &Machine, taps: bool) {
    let device = |netns: &str, rest: &str| format!("{{ netns = \"{netns}\", {rest}, open = true }}");
    let mut devices = vec![
        device("blue", "kind = \"bridge\", name = \"br0\""),
        device("green", "kind = \"bridge\", name = \"br1\""),
        device("blue", "kind = \"veth\", name = \"a0\", peer = \"b0\", peer_netns = \"green\""),
        device("red", "kind = \"veth\", name = \"c0\", peer = \"d0\", peer_netns = \"green\""),
    ];
    if taps {
        devices.push(device("red", "kind = \"tap\", name = \"t0\""));
    }
    let faults = FAULTS.map(|hook| {
        // What exists is shown by a replay, and a refusal of that is the namespace's failure: tested elsewhere.
        let replay = if hook == "register" { "replay = false, " } else { "" };
        format!("{{ hook = \"netdev.{hook}\", {replay}when = \"{HOME}/{hook}\", action = {{ fail = 71 }} }}")
    });
    let (devices, faults) = (devices.join(", "), faults.join(", "));
    let more = format!("acts = \"{HOME}/act\"\nfaults = [{faults}]\n");
    m.netdev("on_init_failure = \"skip\"", &devices, &more);
}

/// The plugin does something with one of its devices.
fn itself(m: &Machine, dice: &mut Dice, mtu: &str) -> String {
    let rows = m.ctl(["dev", "list"]);
    let own = rows.as_array().unwrap().iter().filter(|row| row["owner"] == "probe-netdev");
    let own: Vec<&str> = own.filter_map(|row| row["name"].as_str()).collect();
    if own.is_empty() {
        return let_it(m, "register");
    }
    let name = dice.one_of(&own);
    let words = match dice.below(6) {
        0 => format!("rename {name} {}", dice.one_of(&[&NAMES[..], &["new%d"]].concat())),
        1 => format!("move {name} {}", dice.one_of(&NAMESPACES)),
        2 => format!("up {name}"),
        3 => format!("down {name}"),
        4 => format!("mtu {name} {mtu}"),
        _ => format!("unregister {name}"),
    };
    let_it(m, &words)
}

/// Waits until the plugin has done this.
fn let_it(m: &Machine, words: &str) -> String {
    m.write("act.new", words);
    fs::rename(m.path("act.new"), m.path("act")).unwrap();
    wait_until(&format!("the plugin does: {words}"), SOON, || !m.path("act").exists());
    format!("the plugin: {words}")
}

/// What one of the plugin's hooks is to do from now on: refuse, where none does; else all agree.
fn toggle(m: &Machine, hook: &str) -> String {
    let refusing = FAULTS.iter().filter(|hook| m.path(hook).exists());
    let refusing: Vec<_> = refusing.inspect(|hook| m.remove(hook)).collect();
    if refusing.is_empty() {
        m.write(hook, "");
        return format!("{hook} refuses");
    }
    format!("{refusing:?} agree")
}

/// One turn of somebody's. What the kernel refuses is no matter: it is the kernel's state that counts.
fn act(m: &Machine, dice: &mut Dice, taps: bool) -> String {
    let netns = dice.one_of(&NAMESPACES);
    let name = dice.one_of(&NAMES);
    let there = name_path(netns).exists();
    let other = dice.one_of(&NAMES);
    let mtu = (1000 + dice.below(400)).to_string();
    let words: Vec<&str> = match dice.below(24) {
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
            plugin(m, taps);
            assert_eq!(m.reload().code, 0);
            return "the plugin out and in".into();
        }
        16 => return toggle(m, dice.one_of(&FAULTS)),
        17 => return let_it(m, "register"),
        18..24 => return itself(m, dice, &mtu),
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
#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    name: String,
    kind: Option<String>,
    address: Option<String>,
    mtu: u64,
    up: bool,
}

/// The devices of a namespace by index, and which of them are the plugin's.
type Devices = (BTreeMap<u64, Row>, BTreeSet<u64>);

/// Where the daemon's view is not the kernel's; empty where it is. What is the plugin's must carry its mark.
fn difference(m: &Machine) -> String {
    let rows = m.ctl(["dev", "list"]);
    let mut text = String::new();
    for netns in NAMESPACES {
        let (known, own) = daemon(&rows, netns);
        let (kernel, marked) = kernel(netns);
        if known != kernel || !own.is_subset(&marked) {
            text += &format!("{netns}: the daemon has {known:?}, its own {own:?}, the kernel {kernel:?}, {marked:?}; ");
        }
    }
    text
}

/// Where the daemon has another upper device than the kernel: a question for each device, so it is not asked each time.
fn masters(m: &Machine) -> String {
    let mut text = String::new();
    for netns in NAMESPACES {
        let links = ip(netns);
        let index_of = |name: &Value| links.iter().find(|link| link["ifname"] == *name).map(|link| &link["ifindex"]);
        for link in &links {
            let shown = m.ask(["dev", "show", link["ifname"].as_str().unwrap(), "--netns", netns]).json;
            let master = link.get("master").and_then(index_of).unwrap_or(&Value::Null);
            if shown["master"] != *master {
                text += &format!("{netns}: {} is under {master}, not {}; ", link["ifname"], shown["master"]);
            }
        }
    }
    text
}

/// What carries the plugin's mark and is not the plugin's by the daemon's word, neither before nor after: something that was
/// moved about until nobody knew where it went.
fn orphaned(m: &Machine) -> BTreeSet<(&'static str, u64)> {
    let before = m.ctl(["dev", "list"]);
    let marked = NAMESPACES.map(|netns| (netns, kernel(netns).1));
    let after = m.ctl(["dev", "list"]);
    let own = |netns, ifindex| [&before, &after].iter().any(|rows| daemon(rows, netns).1.contains(&ifindex));
    let all = marked.into_iter().flat_map(|(netns, marked)| marked.into_iter().map(move |ifindex| (netns, ifindex)));
    all.filter(|(netns, ifindex)| !own(netns, *ifindex)).collect()
}

/// What the daemon says is there.
fn daemon(rows: &Value, netns: &str) -> Devices {
    let rows = rows.as_array().unwrap().iter();
    let here: Vec<&Value> = rows.filter(|row| row["netns"] == netns && row["reg_state"] == "registered").collect();
    let index = |row: &Value| row["ifindex"].as_u64().unwrap();
    let row = |row: &&Value| {
        let text = |key: &str| row[key].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let (kind, address) = (text("kind"), text("address"));
        let (mtu, up) = (row["mtu"].as_u64().unwrap(), row["up"].as_bool().unwrap());
        (index(row), Row { name: text("name").unwrap(), kind, address, mtu, up })
    };
    let own = here.iter().filter(|row| row["owner"] == "probe-netdev").map(|row| index(row)).collect();
    (here.iter().map(row).collect(), own)
}

/// What `ip` says is there; nothing where there is no such namespace.
fn ip(netns: &str) -> Vec<Value> {
    let out = Command::new("ip").args(["-n", netns, "-d", "-json", "link"]).stderr(Stdio::null()).output().unwrap();
    serde_json::from_slice(&out.stdout).unwrap_or_default()
}

fn kernel(netns: &str) -> Devices {
    let links = ip(netns);
    let index = |link: &Value| link["ifindex"].as_u64().unwrap();
    let row = |link: &Value| {
        let text = |pointer: &str| link.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let (kind, address) = (text("/linkinfo/info_kind"), text("/address"));
        let up = link["flags"].as_array().unwrap().iter().any(|flag| flag == "UP");
        (index(link), Row { name: text("/ifname").unwrap(), kind, address, mtu: link["mtu"].as_u64().unwrap(), up })
    };
    let marked = links.iter().filter(|link| link["ifalias"] == ALIAS).map(index).collect();
    (links.iter().map(row).collect(), marked)
}
