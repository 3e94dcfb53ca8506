//! `pernetctl why` of devices: whose they are, who did what to them, why they are not up, who holds them, and what was known
//! of those that have gone.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::process::ExitCode;

use machine::{HOME, Machine, SOON, inside, link, name_path, one};
use pernetd::linux::rtnetlink;
use sandbox::{netns_add, netns_del, wait_until};
use serde_json::{Value, json};

fn main() -> ExitCode {
    let trials = [
        one("a plugin's own: its owner, what it asked, and why it is not up", own),
        one("who set it down, renamed it and changed it, and when", changed),
        one("what its plugin, or a notifier, refuses when it is set up", refused_up),
        one("one whose registration is vetoed never was", vetoed),
        one("moved by somebody else, it keeps its past", moved),
        one("one that is held after its end", held),
        one("deleted by somebody else, and gone with its namespace", gone),
        one("a past is not told of another device that has the same index later", same_index),
        one("a name that is chosen to hurt a terminal or a shell", hostile),
        one("the kernel's own, where a plugin watches and where none does", kernels),
    ];
    sandbox::main(trials.into_iter().flatten().collect())
}

const BRIDGE: &str = "{ netns = \"blue\", kind = \"bridge\", name = \"br0\", must = true }";
const BRIDGE_UP: &str = "{ netns = \"blue\", kind = \"bridge\", name = \"br0\", must = true, open = true }";

fn started(m: &mut Machine, netdevs: &str, more: &str) {
    m.netdev("", netdevs, more);
    m.start();
    m.add("blue");
}

/// The one story of a device's name.
#[track_caller]
fn story(m: &Machine, name: &str) -> Value {
    let stories = m.ctl(["why", "--dev", name]);
    assert_eq!(stories.as_array().unwrap().len(), 1, "{stories:#}");
    stories[0].clone()
}

fn happened(story: &Value) -> Vec<&str> {
    story["happenings"].as_array().unwrap().iter().map(|row| row["what"].as_str().unwrap()).collect()
}

#[track_caller]
fn fact<'v>(story: &'v Value, about: &str) -> &'v str {
    let all = story["facts"].as_array().unwrap().iter();
    let found = all.filter(|fact| fact["about"] == about).map(|fact| fact["what"].as_str().unwrap()).next();
    found.unwrap_or_else(|| panic!("{about}: {story:#}"))
}

/// Waits until something has happened to the device.
#[track_caller]
fn wait_happened(m: &Machine, name: &str, what: &str) -> Value {
    let mut told = Value::Null;
    wait_until(what, SOON, || {
        let stories = m.ask(["why", "--dev", name]).json;
        told = stories[0].clone();
        told.is_object() && happened(&told).contains(&what)
    });
    told
}

fn text(m: &Machine, name: &str) -> String {
    let output = m.pernetctl_for_people(["why", "--dev", name]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
}

fn own(mut m: Machine) {
    started(&mut m, BRIDGE, "");
    let told = story(&m, "br0");
    assert_eq!((&told["state"], &told["netns"]), (&json!("down"), &json!("blue")));
    assert_eq!(told["what"], "it is there, and not up");
    let why = "its plugin probe-netdev has not opened it, nor has anybody else set it up";
    assert_eq!(told["causes"][0]["what"], why);
    assert_eq!(fact(&told, "owner"), "plugin probe-netdev, generation 1");
    assert!(fact(&told, "asked for").starts_with("br0 of kind bridge"), "{told:#}");
    assert_eq!(happened(&told), ["registered by plugin probe-netdev"]);
    assert_eq!(told["since"], told["happenings"][0]["time"]);
    assert_eq!(told["remedies"][0], "`ip -n blue link set br0 up`, or have plugin probe-netdev open it");
    let whole = text(&m, "br0");
    assert!(whole.starts_with("device br0 in blue is down, since ") && whole.contains(why), "{whole}");
    assert_eq!(m.ctl(["why", "blue:br0"])[0]["name"], "br0");
    assert_eq!(m.ask(["why", "@host:br0"]).code, 1, "not there");
    m.stop();
}

fn changed(mut m: Machine) {
    started(&mut m, BRIDGE_UP, "");
    let told = story(&m, "br0");
    assert_eq!((&told["state"], &told["causes"]), (&json!("up"), &json!([])));
    assert_eq!(happened(&told), ["registered by plugin probe-netdev", "set up by plugin probe-netdev"]);
    let ifindex = link("blue", "br0").unwrap().ifindex;
    inside("blue", move || rtnetlink::set_mtu(ifindex, 1400).unwrap());
    wait_happened(&m, "br0", "mtu 1400 set by somebody else");
    inside("blue", move || rtnetlink::set_down(ifindex).unwrap());
    let told = wait_happened(&m, "br0", "set down by somebody else");
    assert_eq!(told["state"], "down");
    assert_eq!(told["causes"][0]["what"], "it was set down by somebody else");
    assert!(told["causes"][0]["time"].is_string(), "{told:#}");
    inside("blue", move || rtnetlink::rename(ifindex, "br7").unwrap());
    let told = wait_happened(&m, "br7", "renamed by somebody else; it was br0");
    assert!(fact(&told, "is").starts_with("bridge, index "), "{told:#}");
    // Many changes push out the oldest, and are counted.
    for mtu in 1300..1312 {
        inside("blue", move || rtnetlink::set_mtu(ifindex, mtu).unwrap());
        wait_happened(&m, "br7", &format!("mtu {mtu} set by somebody else"));
    }
    let told = story(&m, "br7");
    assert_eq!((happened(&told).len(), told["left_off"].as_u64() > Some(3)), (10, true), "{told:#}");
    m.stop();
}

fn refused_up(mut m: Machine) {
    let fault = "faults = [{ hook = \"netdev.ndo_open\", netns = \"blue\", action = { fail = 16 } }]";
    let veto = "faults = [{ hook = \"netdev.pre_up\", netns = \"blue\", device = \"br1\", action = { fail = 1 } }]";
    m.probe(10, "a", "", &format!("subsys = false\nnotifier = -5\n{veto}"));
    let other = "{ netns = \"blue\", kind = \"bridge\", name = \"br1\", must = true }";
    started(&mut m, &format!("{BRIDGE}, {other}"), fault);
    for (name, said) in [("br0", "netdev.ndo_open of probe-netdev failed"), ("br1", "netdev.pre_up was refused")] {
        let ifindex = link("blue", name).unwrap().ifindex;
        inside("blue", move || rtnetlink::set_up(ifindex).unwrap());
        let told = wait_happened(&m, name, said);
        wait_until("it is down again", SOON, || !link("blue", name).unwrap().is_up());
        assert_eq!(told["state"], "down", "{told:#}");
        let cause = &told["causes"][0];
        assert!(cause["what"].as_str().unwrap().contains("as asked"), "{told:#}");
        let errno = if name == "br0" { "EBUSY" } else { "EPERM" };
        assert_eq!(cause["errno"], errno, "{told:#}");
    }
    assert!(story(&m, "br1").to_string().contains("plugin `probe-a` refused it at netdev.pre_up"));
    // Its own plugin's error is the namespace's complaint, too.
    assert!(fact(&m.ctl(["why", "--netns", "blue"])[0], "complaint").contains("it stops nobody"));
    m.stop();
}

fn vetoed(mut m: Machine) {
    let veto = "faults = [{ hook = \"netdev.post_init\", netns = \"blue\", device = \"br0\", action = { fail = 1 } }]";
    m.probe(10, "a", "", &format!("subsys = false\nnotifier = -5\n{veto}"));
    m.netdev("on_init_failure = \"skip\"", BRIDGE, "");
    m.start();
    netns_add("blue");
    m.wait_state("blue", "degraded");
    let told = story(&m, "br0");
    assert_eq!(told["state"], "refused", "{told:#}");
    let what = told["what"].as_str().unwrap();
    assert!(what.starts_with("its registration was refused, so it never was: plugin `probe-a` refused it"), "{what}");
    assert_eq!(fact(&told, "owner"), "plugin probe-netdev");
    assert_eq!(told["causes"][0]["errno"], "EPERM", "{told:#}");
    assert_eq!(
        told["next"],
        "nothing, until plugin probe-netdev asks for it again, as it does when blue is tried again"
    );
    assert_eq!(told["remedies"], json!(["correct what is said there; see `pernetctl why --netns blue`"]));
    m.stop();
}

fn same_index(mut m: Machine) {
    m.probe(10, "a", "", "subsys = false\nnotifier = 0");
    m.start();
    m.add("blue");
    inside("blue", || rtnetlink::create("br0", "bridge").unwrap());
    let ifindex = link("blue", "br0").unwrap().ifindex;
    inside("blue", move || rtnetlink::set_up(ifindex).unwrap());
    wait_happened(&m, "br0", "set up by somebody else");
    m.no_probe(10, "a");
    assert_eq!(m.reload().code, 0, "{}", m.log());
    inside("blue", || rtnetlink::delete("br0").unwrap());
    let name = name_path("blue");
    let new = ["ip", "link", "add", "br7", "index", &ifindex.to_string(), "type", "bridge"];
    let nsenter = std::process::Command::new("nsenter").arg(format!("--net={}", name.display())).args(new).status();
    assert!(nsenter.unwrap().success());
    let told = story(&m, "br7");
    assert_eq!((happened(&told), &told["since"]), (Vec::new(), &Value::Null), "{told:#}");
    m.probe(10, "a", "", "subsys = false\nnotifier = 0");
    assert_eq!(m.reload().code, 0, "{}", m.log());
    wait_until("it is watched", SOON, || story(&m, "br7").to_string().contains("serial"));
    let told = story(&m, "br7");
    assert_eq!(happened(&told), Vec::<&str>::new(), "{told:#}");
    m.stop();
}

fn hostile(mut m: Machine) {
    let other = m.path("other");
    fs::create_dir(&other).unwrap();
    let folders = format!("[\"/run/netns\", \"{}\"]", other.display());
    m.write("pernetd.toml", &format!("discovery.folders = {folders}\n"));
    m.start();
    let at = netns_add("blue");
    m.wait_state("blue", "live");
    for name in ["e\u{1b}[31mX", "$(reboot)", "it's"] {
        inside("blue", move || rtnetlink::create(name, "bridge").unwrap());
    }
    let told = m.ctl(["why", "--dev", "$(reboot)"]);
    assert_eq!(told[0]["remedies"], json!(["`ip -n blue link set '$(reboot)' up`"]));
    let told = m.ctl(["why", "--dev", "it's"]);
    assert_eq!(told[0]["remedies"], json!([r"`ip -n blue link set 'it'\''s' up`"]));
    let told = m.ctl(["why", "--dev", "e\u{1b}[31mX"]);
    assert_eq!(told[0]["remedies"], json!([r"`ip -n blue link set $'e\x1b[31mX' up`"]));
    for arguments in [&["why", "--dev", "e\u{1b}[31mX"][..], &["dev", "list"], &["dev", "show", "e\u{1b}[31mX"]] {
        let output = m.pernetctl_for_people(arguments.iter().copied()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(r"e\x1b[31mX") && !text.contains('\u{1b}'), "{arguments:?}: {text:?}");
    }
    let stderr = m.ask(["why", "no\u{1b}[31m"]).stderr;
    assert!(stderr.contains(r"no\x1b[31m") && !stderr.contains('\u{1b}'), "{stderr:?}");
    // `ip -n` knows no names of another folder.
    let there = other.join("green");
    File::create(&there).unwrap();
    rustix::mount::mount_bind(&at, &there).unwrap();
    wait_until("it has another name", SOON, || !m.netns("green").is_null());
    netns_del("blue");
    wait_until("it has no other", SOON, || m.netns("green")["name"] == "green");
    let told = m.ctl(["why", "--dev", "$(reboot)"]);
    let up = format!("`nsenter --net={} ip link set '$(reboot)' up`", there.display());
    assert_eq!(told[0]["remedies"], json!([up]));
    m.stop();
}

fn moved(mut m: Machine) {
    started(&mut m, "{ netns = \"blue\", kind = \"ifb\", name = \"ifb7\", must = true }", "");
    m.add("green");
    let green = File::open(name_path("green")).unwrap();
    let ifindex = link("blue", "ifb7").unwrap().ifindex;
    inside("blue", move || rtnetlink::move_to(ifindex, green.as_fd()).unwrap());
    wait_happened(&m, "ifb7", "moved here from blue");
    let told = story(&m, "ifb7");
    assert_eq!(told["netns"], "green", "where it is");
    let past =
        ["registered by plugin probe-netdev", "moved to another namespace by somebody else", "moved here from blue"];
    assert_eq!(happened(&told), past);
    // Where it was, it is gone.
    let told = story(&m, "blue:ifb7");
    assert_eq!((&told["state"], &told["netns"]), (&json!("gone"), &json!("blue")));
    assert_eq!(told["what"], "it is gone from here: moved to another namespace by somebody else");
    m.stop();
}

fn held(mut m: Machine) {
    m.main("unregister_timeout = 1");
    let holds = format!(
        "holds = [{{ netns = \"blue\", device = \"br0\", purpose = \"its queue\", until = \"{HOME}/let-go\" }}]"
    );
    m.probe(10, "a", "", &format!("subsys = false\nnotifier = 5\n{holds}"));
    started(&mut m, BRIDGE, "");
    m.wait_call("a netdev.dev_hold blue br0 0");
    assert_eq!(fact(&story(&m, "br0"), "held by"), "plugin probe-a for its queue");
    m.no_probe(50, "netdev");
    assert_eq!(m.reload().code, 0, "{}", m.log());
    let told = story(&m, "br0");
    assert_eq!(told["state"], "unregistered", "{told:#}");
    assert_eq!(told["what"], "it is unregistered, and was given up, as somebody holds it");
    assert_eq!(told["causes"][0]["what"], "plugin probe-a holds it: its queue");
    assert!(happened(&told).contains(&"unregistered by pernetd"), "{told:#}");
    let status = m.status();
    let wrong = &status["troubles"][0];
    assert_eq!((&wrong["kind"], &wrong["name"]), (&json!("dev"), &json!("br0")));
    assert_eq!(wrong["what"], "unregistered, and held by probe-a");
    m.write("let-go", "");
    wait_until("it is gone when it is put", SOON, || story(&m, "br0")["state"] == "gone");
    assert_eq!(m.status()["troubles"], json!([]));
    m.stop();
}

fn gone(mut m: Machine) {
    started(&mut m, BRIDGE_UP, "");
    inside("blue", || rtnetlink::delete("br0").unwrap());
    wait_until("it is gone", SOON, || m.listed("br0").is_empty());
    let told = story(&m, "br0");
    assert_eq!((&told["state"], &told["netns"]), (&json!("gone"), &json!("blue")));
    assert_eq!(told["what"], "it is gone: deleted by somebody else, or with its other end");
    assert!(fact(&told, "was").starts_with("bridge, index "), "{told:#}");
    // With its namespace.
    inside("blue", || rtnetlink::create("br5", "bridge").unwrap());
    wait_until("it is seen", SOON, || !m.listed("br5").is_empty());
    netns_del("blue");
    m.wait_gone("blue");
    let told = story(&m, "br5");
    assert_eq!((&told["state"], &told["netns"]), (&json!("gone"), &json!("blue")));
    assert_eq!(happened(&told), ["it came", "unregistered by pernetd"]);
    assert_eq!(story(&m, "br0")["state"], "gone", "it is remembered, too");
    assert_eq!(m.ask(["why", "--dev", "br6"]).code, 1);
    m.stop();
}

fn kernels(mut m: Machine) {
    m.probe(10, "a", "namespaces = { include = [\"blue\"] }", "notifier = 0");
    m.start();
    m.add("blue");
    m.add("green");
    let told = story(&m, "blue:lo");
    assert_eq!(told["causes"][0]["what"], "nobody has set it up since it came, or since it is watched");
    assert_eq!(told["remedies"][0], "`ip -n blue link set lo up`");
    let told = story(&m, "green:lo");
    assert!(told["causes"][0]["what"].as_str().unwrap().contains("no plugin watches this namespace"), "{told:#}");
    assert_eq!(fact(&told, "watched"), "no plugin wants device events here, so no past is kept");
    assert_eq!(fact(&told, "owner"), "the kernel, or whoever made it: no plugin");
    inside("blue", || rtnetlink::set_up(1).unwrap());
    let told = wait_happened(&m, "blue:lo", "set up by somebody else");
    assert_eq!((&told["state"], &told["what"]), (&json!("up"), &json!("it is there, and up")));
    assert_eq!(m.ctl(["why", "--dev", "lo"]).as_array().unwrap().len(), 3, "those of the host and of both");
    m.stop();
}
