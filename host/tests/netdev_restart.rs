//! Devices of plugins' own over the end of one daemon and the start of the next: what can be found again is left and taken
//! over, whatever its kind; everything else is deleted.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;

use std::fs::File;
use std::os::fd::AsFd;
use std::process::ExitCode;

use machine::{Machine, inside, link, links, name_path, one};
use pernetd::linux::rtnetlink;
use rustix::process::Signal;

const BRIDGE_UP: &str = "{ netns = \"blue\", kind = \"bridge\", name = \"br0\", must = true, open = true }";

fn main() -> ExitCode {
    let trials = [
        one("a stop leaves a bridge, and the next start adopts it", adopted),
        one("a stop leaves devices of every kind, and the next start adopts them", every_kind),
        one("a stop leaves a pair in two namespaces, and the next start adopts both ends", pairs),
        one("a device named by a pattern is deleted by a stop, and made anew", patterns),
        one("a device that was renamed is deleted by a stop, and made anew", renamed),
        one("a device that its plugin renames is deleted by a stop, and made anew", renamed_by_its_plugin),
        one("a device that was moved is deleted by a stop, and made anew", moved),
        one("a pair of which one end was renamed is deleted by a stop, and made anew", half_renamed),
        one("on_stop = undo leaves nothing", undone_at_stop),
        one("killed, the daemon takes over what it left", killed),
    ];
    sandbox::main(trials.into_iter().flatten().collect())
}

fn started(m: &mut Machine, netdevs: &str) {
    m.netdev("", netdevs, "");
    m.start();
    m.add("blue");
}

/// The kernel's devices besides `lo`: name, index, kind, and whether it is up.
fn kernel(netns: &str) -> Vec<(String, u32, String, bool)> {
    let row = |link: &pernetd::engine::Link| (link.name.clone(), link.ifindex, link.kind.clone(), link.is_up());
    links(netns).iter().filter(|link| link.name != "lo").map(row).collect()
}

fn adopted(mut m: Machine) {
    started(&mut m, BRIDGE_UP);
    let before = link("blue", "br0").unwrap();
    m.forget();
    m.stop();
    let left = link("blue", "br0").unwrap();
    assert_eq!((left.ifindex, left.is_up()), (before.ifindex, true), "as it was");
    assert!(m.trace().contains(&"netdev netdev.ndo_uninit blue br0".to_owned()), "{:?}", m.trace());
    m.forget();
    m.start();
    m.wait_state("blue", "live");
    assert!(m.trace().contains(&"netdev netdev.register_netdevice blue br0 0".to_owned()), "{:?}", m.trace());
    assert_eq!(link("blue", "br0").unwrap().ifindex, before.ifindex, "the same device");
    assert_eq!(m.listed("br0")[0]["owner"], "probe-netdev");
    m.no_probe(50, "netdev");
    assert_eq!(m.reload().code, 0);
    assert_eq!(link("blue", "br0"), None, "adopted, it goes with its plugin");
    m.stop();
}

fn undone_at_stop(mut m: Machine) {
    m.netdev("on_stop = \"undo\"", BRIDGE_UP, "");
    m.start();
    m.add("blue");
    assert!(link("blue", "br0").is_some());
    m.stop();
    assert_eq!(link("blue", "br0"), None);
}

fn killed(mut m: Machine) {
    started(&mut m, BRIDGE_UP);
    let before = link("blue", "br0").unwrap();
    m.signal(Signal::KILL);
    m.end();
    m.start();
    m.wait_state("blue", "live");
    assert_eq!(link("blue", "br0").unwrap().ifindex, before.ifindex);
    assert_eq!(m.listed("br0")[0]["owner"], "probe-netdev");
    m.stop();
}

/// As their authors tell them: with data that the kernel takes at the creation only.
const EVERY_KIND: &str = r#"
    { netns = "blue", kind = "bridge", name = "br0", must = true, open = true },
    { netns = "blue", kind = "ifb", name = "ifb7", must = true },
    { netns = "blue", kind = "veth", name = "v0", must = true, open = true },
    { netns = "blue", kind = "vxlan", name = "vx0", vni = 7, remote = "192.0.2.1", must = true, open = true },
    { netns = "blue", kind = "vxlan", name = "vx1", vni = 8, remote = "192.0.2.1", over = "v0", port = 8472, must = true },
    { netns = "blue", kind = "macvlan", name = "m0", over = "v0", must = true, open = true },
    { netns = "blue", kind = "macvtap", name = "m1", over = "v0", attributes = [[1, [4, 0, 0, 0]]], must = true },
"#;

fn every_kind(mut m: Machine) {
    started(&mut m, EVERY_KIND);
    let before = kernel("blue");
    // The other end of the veth is the kernel's.
    assert_eq!(before.len(), 8, "{before:?}");
    for _ in 0..2 {
        m.stop();
        assert_eq!(kernel("blue"), before, "as they were");
        m.start();
        m.wait_state("blue", "live");
        assert_eq!(kernel("blue"), before, "the same devices");
        for name in ["br0", "ifb7", "v0", "vx0", "vx1", "m0", "m1"] {
            assert_eq!(m.listed(name)[0]["owner"], "probe-netdev", "{name}");
        }
    }
    m.no_probe(50, "netdev");
    assert_eq!(m.reload().code, 0);
    assert_eq!(kernel("blue"), [], "adopted, they go with their plugin");
    m.stop();
}

/// Stops the daemon and starts it again, until its namespaces are live.
fn restart(m: &mut Machine, namespaces: &[&str]) {
    m.stop();
    m.start();
    for netns in namespaces {
        m.wait_state(netns, "live");
    }
}

/// The names of the kernel's devices besides `lo`.
fn names(netns: &str) -> Vec<String> {
    kernel(netns).into_iter().map(|(name, ..)| name).collect()
}

const PAIR: &str =
    "{ netns = \"blue\", kind = \"veth\", name = \"a0\", peer = \"b0\", peer_netns = \"green\", open = true }";

/// Starts with a pair, `a0` in `blue`.
fn started_with(m: &mut Machine, pair: &str) {
    m.netdev("", pair, "");
    m.start();
    m.add("green");
    m.add("blue");
    m.wait_call("netdev netdev.register_netdevice blue a0 0");
}

/// Starts again, and waits for the pair.
fn restart_pair(m: &mut Machine) {
    m.forget();
    restart(m, &["blue", "green"]);
    m.wait_call("netdev netdev.register_netdevice blue a0 0");
}

fn pairs(mut m: Machine) {
    started_with(&mut m, PAIR);
    let before = (kernel("blue"), kernel("green"));
    for _ in 0..2 {
        restart_pair(&mut m);
        assert_eq!((kernel("blue"), kernel("green")), before);
        assert_eq!(m.listed("b0")[0]["owner"], "probe-netdev");
    }
    m.stop();
}

fn patterns(mut m: Machine) {
    started_with(
        &mut m,
        &format!(
            "{{ netns = \"blue\", kind = \"bridge\", name = \"br%d\", must = true }}, {}",
            PAIR.replace("b0", "b%d")
        ),
    );
    for _ in 0..3 {
        m.forget();
        restart_pair(&mut m);
        assert_eq!((names("blue"), names("green")), (vec!["br0".to_owned(), "a0".into()], vec!["b0".to_owned()]));
        assert_eq!(m.listed("br0")[0]["owner"], "probe-netdev");
    }
    m.stop();
    assert_eq!((names("blue").len(), names("green").len()), (0, 0), "nobody would find them again");
}

fn renamed(mut m: Machine) {
    started(&mut m, BRIDGE_UP);
    let ifindex = link("blue", "br0").unwrap().ifindex;
    inside("blue", move || rtnetlink::rename(ifindex, "brX").unwrap());
    m.wait_call("netdev netdev.changename blue brX");
    restart(&mut m, &["blue"]);
    assert_eq!(names("blue"), ["br0"]);
    assert_eq!(m.listed("br0")[0]["owner"], "probe-netdev");
    m.stop();
}

fn renamed_by_its_plugin(mut m: Machine) {
    started(&mut m, "{ netns = \"blue\", kind = \"bridge\", name = \"new0\", rename = \"br5\", must = true }");
    for _ in 0..2 {
        assert_eq!(names("blue"), ["br5"]);
        restart(&mut m, &["blue"]);
    }
    m.stop();
}

fn moved(mut m: Machine) {
    started(&mut m, "{ netns = \"blue\", kind = \"ifb\", name = \"ifb7\", must = true }");
    m.add("green");
    let green = File::open(name_path("green")).unwrap();
    let ifindex = link("blue", "ifb7").unwrap().ifindex;
    inside("blue", move || rtnetlink::move_to(ifindex, green.as_fd()).unwrap());
    m.wait_call("netdev netdev.register green ifb7");
    restart(&mut m, &["blue", "green"]);
    assert_eq!((names("blue"), names("green")), (vec!["ifb7".to_owned()], vec![]));
    m.stop();
}

fn half_renamed(mut m: Machine) {
    started_with(&mut m, PAIR);
    let ifindex = link("green", "b0").unwrap().ifindex;
    inside("green", move || rtnetlink::rename(ifindex, "bX").unwrap());
    m.wait_call("netdev netdev.changename green bX");
    restart_pair(&mut m);
    assert_eq!((names("blue"), names("green")), (vec!["a0".to_owned()], vec!["b0".to_owned()]));
    m.stop();
}
