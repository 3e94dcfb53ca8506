//! Devices of plugins' own over the end of one daemon and the start of the next: what can be found again is left and taken
//! over, whatever its kind; everything else is deleted.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;

use std::process::ExitCode;

use machine::{Machine, link, links, one};
use rustix::process::Signal;

const BRIDGE_UP: &str = "{ netns = \"blue\", kind = \"bridge\", name = \"br0\", must = true, open = true }";

fn main() -> ExitCode {
    let trials = [
        one("a stop leaves a bridge, and the next start adopts it", adopted),
        one("a stop leaves devices of every kind, and the next start adopts them", every_kind),
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
