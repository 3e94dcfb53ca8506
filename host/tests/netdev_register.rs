//! Registrations of plugins' own devices in a real kernel: every kind by the words that an author has for it, and each
//! step's refusal with what it undoes (K2.4, K4.7), in the order of the calls and with the kernel's own sentence.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;

use std::process::{Command, ExitCode};

use libc::{EBUSY, EEXIST, EINVAL, ENODEV, EOPNOTSUPP, ERANGE};
use machine::{Call, Machine, has_tun, inside, links, one};
use pernetd::linux::rtnetlink;
use sandbox::netns_add;
use serde_json::{Value, json};

fn main() -> ExitCode {
    let trials = [
        one("a device of each kind is what its author said", |m| as_told(m, OVER_RTNETLINK)),
        one("a tun and a tap are what their author said", |m| as_told(m, BY_DEVICE_FILE))
            .into_iter()
            .map(|trial| trial.ignored_if(!has_tun()))
            .collect(),
        one("K2.4: what the refusal of each step undoes", unwound),
        one("K4.7: what the refusal of each step undoes of a pair", pairs_unwound),
    ];
    sandbox::main(trials.into_iter().flatten().collect())
}

/// A device's keys, and what `ip -d -json link` has to say of it.
type Told = (&'static str, &'static [(&'static str, &'static str)]);

const OVER_RTNETLINK: &[Told] = &[
    (
        "kind = 'veth', name = 'v0', ifindex = 70, mtu = 1400, address = [2, 0, 0, 0, 0, 7], alt_names = ['front', 'a b']",
        &[
            ("/ifindex", "70"),
            ("/mtu", "1400"),
            ("/address", "\"02:00:00:00:00:07\""),
            ("/altnames", r#"["front","a b"]"#),
            ("/linkinfo/info_kind", "\"veth\""),
        ],
    ),
    ("kind = 'bridge', name = 'br%d'", &[("/ifname", "\"br0\""), ("/linkinfo/info_kind", "\"bridge\"")]),
    ("kind = 'ifb', name = 'i0', mtu = 1300", &[("/mtu", "1300"), ("/linkinfo/info_kind", "\"ifb\"")]),
    (
        "kind = 'vxlan', name = 'vx0', vni = 7, remote = '192.0.2.1', over = 'v0', port = 8472, mtu = 1350",
        &[
            ("/mtu", "1350"),
            ("/linkinfo/info_kind", "\"vxlan\""),
            ("/linkinfo/info_data/id", "7"),
            ("/linkinfo/info_data/remote", "\"192.0.2.1\""),
            ("/linkinfo/info_data/link", "\"v0\""),
            ("/linkinfo/info_data/port", "8472"),
        ],
    ),
    (
        "kind = 'vxlan', name = 'vx1', vni = 16777215, remote = '2001:db8::1', local = '2001:db8::2'",
        &[
            ("/linkinfo/info_data/id", "16777215"),
            ("/linkinfo/info_data/remote6", "\"2001:db8::1\""),
            ("/linkinfo/info_data/local6", "\"2001:db8::2\""),
            ("/linkinfo/info_data/port", "4789"),
        ],
    ),
    (
        "kind = 'macvlan', name = 'm0', over = 'v0', address = [2, 0, 0, 0, 0, 8]",
        &[
            ("/link", "\"v0\""),
            ("/address", "\"02:00:00:00:00:08\""),
            ("/linkinfo/info_kind", "\"macvlan\""),
            ("/linkinfo/info_data/mode", "\"bridge\""),
        ],
    ),
    // A kind that has no words of its own: attributes one by one, and encoded already (IFLA_MACVLAN_MODE).
    (
        "kind = 'macvtap', name = 'm1', link = 70, attributes = [[1, WORD(2)]]",
        &[("/link", "\"v0\""), ("/linkinfo/info_kind", "\"macvtap\""), ("/linkinfo/info_data/mode", "\"vepa\"")],
    ),
    (
        "kind = 'macvtap', name = 'm2', link = 70, data = MODE(1)",
        &[("/linkinfo/info_kind", "\"macvtap\""), ("/linkinfo/info_data/mode", "\"private\"")],
    ),
];

const BY_DEVICE_FILE: &[Told] = &[
    (
        "kind = 'tun', name = 'tun0', mtu = 1380, ifindex = 71",
        &[
            ("/ifindex", "71"),
            ("/mtu", "1380"),
            ("/linkinfo/info_kind", "\"tun\""),
            ("/linkinfo/info_data/type", "\"tun\""),
            ("/linkinfo/info_data/persist", "false"),
        ],
    ),
    (
        "kind = 'tap', name = 'tap%d', address = [2, 0, 0, 0, 0, 9], queues = 3, offloads = true, alt_names = ['back']",
        &[
            ("/ifname", "\"tap0\""),
            ("/address", "\"02:00:00:00:00:09\""),
            ("/altnames", r#"["back"]"#),
            ("/linkinfo/info_data/type", "\"tap\""),
            ("/linkinfo/info_data/numqueues", "3"),
            ("/linkinfo/info_data/vnet_hdr", "true"),
        ],
    ),
];

fn as_told(mut m: Machine, devices: &[Told]) {
    let bytes = |before: &[u8], value: u32| format!("{:?}", [before, &value.to_ne_bytes()].concat());
    let mode = [8u16.to_ne_bytes(), 1u16.to_ne_bytes()].concat();
    let keys = |keys: &str| {
        let keys = keys.replace("WORD(2)", &bytes(&[], 2)).replace("MODE(1)", &bytes(&mode, 1));
        format!("{{ netns = 'blue', {keys}, must = true }}")
    };
    let config: Vec<String> = devices.iter().map(|(device, _)| keys(device)).collect();
    m.netdev("", &config.join(",\n"), "");
    m.start();
    m.add("blue");
    let out = Command::new("ip").args(["-n", "blue", "-d", "-json", "link"]).output().unwrap();
    let told: Vec<Value> = serde_json::from_slice(&out.stdout).unwrap();
    let rows = m.ctl(["dev", "list"]);
    let registered = m.calls().into_iter().filter(|call| call.hook == "netdev.register_netdevice");
    let names: Vec<String> = registered.filter_map(|call| call.device).collect();
    assert_eq!(names.len(), devices.len());
    for (name, (_, expected)) in names.iter().zip(devices) {
        let link = told.iter().find(|link| link["ifname"] == name.as_str()).unwrap_or_else(|| panic!("no {name}"));
        for (pointer, value) in *expected {
            let value: Value = serde_json::from_str(value).unwrap();
            assert_eq!(link.pointer(pointer), Some(&value), "{name}: {pointer} in {link}");
        }
        let row = rows.as_array().unwrap().iter().find(|row| row["name"] == name.as_str()).unwrap();
        assert_eq!((&row["owner"], &row["ifindex"]), (&json!("probe-netdev"), &link["ifindex"]), "{name}");
    }
    m.no_probe(50, "netdev");
    assert_eq!(m.reload().code, 0);
    assert_eq!(links("blue").len(), 1, "they go with their plugin");
    m.stop();
}

/// A registration that is refused.
struct Row {
    what: &'static str,
    /// The device's keys in the probe's configuration, but for its namespace.
    device: String,
    /// The hook that goes wrong, and how.
    fault: &'static str,
    /// The calls, in order: the hook, and the device where it is told.
    calls: &'static [&'static str],
    errno: i32,
    /// What its author reads.
    words: &'static str,
}

const INIT: &str = "ndo_init d0";
const POST_INIT: &str = "post_init d0";
const PRE_UNINIT: &str = "pre_uninit d0";
const UNINIT: &str = "ndo_uninit d0";
const REGISTER: &str = "register d0";
const UNREGISTER: &str = "unregister d0";
const DESTRUCTOR: &str = "destructor d0";
/// The kernel's refusal, at step 8.
const AT_STEP_8: &[&str] = &[INIT, POST_INIT, PRE_UNINIT, UNINIT, DESTRUCTOR];

fn rows() -> Vec<Row> {
    let row =
        |what, device: &str, errno, words| Row { what, device: device.into(), fault: "", calls: &[], errno, words };
    let bridge = "kind = 'bridge', name = 'd0'";
    let wide = format!("kind = 'vxlan', name = 'd0', attributes = [[1, {:?}]]", (1u32 << 24).to_ne_bytes());
    let at_8 = |what, device, errno, words| Row { calls: AT_STEP_8, ..row(what, device, errno, words) };
    vec![
        row("before 1: a name that is too long", "kind = 'bridge', name = 'sixteen-bytes-xx'", EINVAL, "15 bytes"),
        row("2: a name that is none", "kind = 'bridge', name = 'a/b'", EINVAL, "a/b"),
        row("2: a pattern that is none", "kind = 'bridge', name = 'd%s'", EINVAL, "%s"),
        row("2: a name in use", "kind = 'bridge', name = 'lo'", EEXIST, "`lo`"),
        row("2: an alternative name in use", &format!("{bridge}, alt_names = ['x', 'lo']"), EEXIST, "`lo`"),
        Row { fault: "ndo_init", calls: &[INIT], ..row("4: ndo_init", bridge, 71, "as asked, in netdev.ndo_init") },
        Row {
            calls: &[INIT, UNINIT, DESTRUCTOR],
            ..row("6: an index in use", &format!("{bridge}, ifindex = 1"), EBUSY, "index 1 is in use")
        },
        Row {
            fault: "post_init",
            calls: &[INIT, POST_INIT, UNINIT, DESTRUCTOR],
            ..row("7: POST_INIT", bridge, 71, "as asked, in netdev.post_init")
        },
        at_8("8: an MTU out of range", &format!("{bridge}, mtu = 67"), EINVAL, "mtu less than device minimum"),
        at_8("8: an unknown kind", "kind = 'nonsense', name = 'd0'", EOPNOTSUPP, "Unknown device type"),
        at_8("8: no settings", "kind = 'vxlan', name = 'd0'", EINVAL, "Required attributes not provided"),
        at_8("8: wrong settings", &wide, ERANGE, "VXLAN ID must be lower than 16777216"),
        at_8("8: no lower device", "kind = 'macvlan', name = 'd0', link = 4711", ENODEV, "No such device"),
        Row {
            fault: "register",
            calls: &[INIT, POST_INIT, REGISTER, UNREGISTER, PRE_UNINIT, UNINIT, DESTRUCTOR],
            ..row("10: REGISTER", bridge, 71, "as asked, in netdev.register")
        },
    ]
}

/// A fault of the probe's: this hook fails in this namespace.
fn fault(hook: &str, netns: &str) -> String {
    format!("{{ hook = 'netdev.{hook}', netns = '{netns}', action = {{ fail = 71 }} }}, ")
}

/// The probe's calls in these namespaces about the devices of its own, in short; without the answers to registrations.
/// At the destructor nobody is told the name: `of` a namespace it is this.
fn calls(all: &[Call], of: &[(&str, &str)]) -> Vec<String> {
    let short = |call: &Call| {
        let (_, name) = of.iter().find(|(netns, _)| *netns == call.netns)?;
        let device = call.device.as_deref().unwrap_or(name);
        let hook = call.hook.strip_prefix("netdev.").filter(|_| call.errno.is_none())?;
        (!matches!(device, "lo" | "last")).then(|| format!("{hook} {device}"))
    };
    all.iter().filter_map(short).collect()
}

/// Whatever is on its way about devices there comes before this.
fn flush(m: &Machine, netns: &str) {
    inside(netns, || rtnetlink::create("last", "bridge").unwrap());
    m.wait_call(&format!("netdev netdev.register {netns} last"));
}

fn unwound(mut m: Machine) {
    let rows = rows();
    let netns = |n: usize| format!("n{n}");
    let (mut devices, mut faults) = (String::new(), String::new());
    for (n, row) in rows.iter().enumerate() {
        devices += &format!("{{ netns = '{}', {} }},\n", netns(n), row.device);
        if !row.fault.is_empty() {
            faults += &fault(row.fault, &netns(n));
        }
        netns_add(netns(n));
    }
    m.netdev("", &devices, &format!("faults = [{faults}]"));
    m.start();
    for (n, row) in rows.iter().enumerate() {
        let (netns, what) = (netns(n), row.what);
        m.wait_state(&netns, "live");
        assert_eq!(links(&netns).len(), 1, "{what}: nothing is left in the kernel");
        flush(&m, &netns);
        let all = m.calls();
        assert_eq!(calls(&all, &[(&netns, "d0")]), row.calls, "{what}");
        let mut answers = all.iter().filter(|call| call.netns == netns && call.hook.ends_with("register_netdevice"));
        let answer = answers.next().unwrap();
        assert_eq!(answer.errno, Some(row.errno), "{what}: {:?}", answer.message);
        let message = answer.message.as_deref().unwrap();
        assert!(message.contains(row.words), "{what}: {message}");
    }
    assert_eq!(m.listed("d0"), [Value::Null; 0]);
    m.stop();
}

/// One end's whole way in, and its way out again.
const NEAR_IN: [&str; 3] = ["ndo_init near", "post_init near", "register near"];
const NEAR_OUT: [&str; 3] = ["unregister near", "pre_uninit near", "ndo_uninit near"];

/// A pair of which one end is refused. The kernel makes both at once, but `near` is registered first, and whole.
struct PairRow {
    what: &'static str,
    keys: &'static str,
    /// Whose hook fails: `a` is the namespace of `near`, `b` that of `far`.
    fault: Option<(&'static str, char)>,
    calls: Vec<&'static str>,
    errno: i32,
    words: &'static str,
}

fn pair_rows() -> Vec<PairRow> {
    let row = |what, hook, whose, calls: &[&[&'static str]]| PairRow {
        what,
        keys: "",
        fault: Some((hook, whose)),
        calls: calls.concat(),
        errno: 71,
        words: "as asked",
    };
    let (near_init, far_init) = (&NEAR_IN[..1], &["ndo_init far"][..]);
    let undone = |near: &[&'static str]| [near, &["ndo_uninit near", "destructor near"]].concat();
    vec![
        row("the first end's ndo_init", "ndo_init", 'a', &[near_init]),
        row("the first end's POST_INIT", "post_init", 'a', &[&undone(&NEAR_IN[..2])]),
        row("the first end's REGISTER", "register", 'a', &[&NEAR_IN, &NEAR_OUT, &["destructor near"]]),
        row("the second end's ndo_init", "ndo_init", 'b', &[&NEAR_IN, far_init, &NEAR_OUT, &["destructor near"]]),
        row(
            "the second end's POST_INIT",
            "post_init",
            'b',
            &[
                &NEAR_IN,
                far_init,
                &["post_init far", "ndo_uninit far", "destructor far"],
                &NEAR_OUT,
                &["destructor near"],
            ],
        ),
        row(
            "the second end's REGISTER",
            "register",
            'b',
            &[
                &NEAR_IN,
                far_init,
                &["post_init far", "register far", "unregister far", "pre_uninit far", "ndo_uninit far"],
                &NEAR_OUT,
                &["destructor near", "destructor far"],
            ],
        ),
        PairRow {
            what: "the kernel",
            keys: ", mtu = 67",
            fault: None,
            calls: undone(&["ndo_init near", "post_init near", "pre_uninit near"]),
            errno: EINVAL,
            words: "cannot create the veth pair far and near",
        },
    ]
}

fn pairs_unwound(mut m: Machine) {
    let rows = pair_rows();
    let (mut devices, mut faults) = (String::new(), String::new());
    for (n, row) in rows.iter().enumerate() {
        let ends = "kind = 'veth', name = 'near', peer = 'far'";
        devices += &format!("{{ netns = 'n{n}a', {ends}, peer_netns = 'n{n}b' {} }},\n", row.keys);
        if let Some((hook, whose)) = row.fault {
            faults += &fault(hook, &format!("n{n}{whose}"));
        }
        netns_add(format!("n{n}a"));
        netns_add(format!("n{n}b"));
    }
    m.netdev("", &devices, &format!("faults = [{faults}]"));
    m.start();
    for (n, row) in rows.iter().enumerate() {
        let (what, a, b) = (row.what, format!("n{n}a"), format!("n{n}b"));
        m.wait_call(&format!("netdev netdev.register_netdevice {a} near {}", row.errno));
        assert_eq!((links(&a).len(), links(&b).len()), (1, 1), "{what}: nothing is left in the kernel");
        flush(&m, &a);
        flush(&m, &b);
        let all = m.calls();
        let mut told = calls(&all, &[(&a, "near"), (&b, "far")]);
        // The two locks are let go in either order (K2.6(4)).
        if let Some(ends) = told.last_chunk_mut::<2>().filter(|ends| ends[0].starts_with("destructor")) {
            ends.sort_by(|one, other| other.cmp(one));
        }
        assert_eq!(told, row.calls, "{what}");
        let answer = all.iter().find(|call| call.netns == a && call.hook.ends_with("register_netdevice")).unwrap();
        let message = answer.message.as_deref().unwrap();
        assert!(message.contains(row.words), "{what}: {message}");
    }
    m.stop();
}
