//! Devices of every kind that this machine has, made and changed in its real kernel, and the kernel's words when it
//! refuses.
#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod sandbox;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use pernetd::engine::{Failure, Link, LinkSpec, Wanted};
use pernetd::linux::link_create::{self, NewLink};
use pernetd::linux::ns::{self, Pin};
use pernetd::linux::tun::{self, NewTun, TunKind};
use pernetd::linux::{device, link_stats, rtnetlink};
use pernetd::netlink::{NetlinkError, link};
use rustix::mount::{MountFlags, mount};
use sandbox::{netns_add, trial};

const IFF_UP: u32 = 1;
const ADDRESS: [u8; 6] = [2, 0, 0, 0, 0, 7];
const OTHER_ADDRESS: [u8; 6] = [2, 0, 0, 0, 0, 8];

fn main() -> ExitCode {
    let no_tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun").is_err();
    if no_tun {
        eprintln!("devices: /dev/net/tun cannot be opened here: what is about tun and tap is ignored");
    }
    let mut trials = vec![
        trial("a bridge has its life, but is not moved", || life(NewLink { kind: "bridge", ..wanted() })),
        trial("an ifb has its life", || life(NewLink { kind: "ifb", ..wanted() })),
        trial("a vxlan has its life", || life(NewLink { kind: "vxlan", data: &vxlan_id(7), ..wanted() })),
        trial("a macvlan has its life", a_macvlan),
        trial("a veth has its life", || life(NewLink { kind: "veth", ..wanted() })),
        trial("a veth pair is made in two namespaces by one request", a_veth_pair),
        trial("an explicit index is taken, and refused when it is taken", an_explicit_index),
        trial("K2.1(6): a name that is taken is EEXIST, by name and by alternative name", a_name_that_is_taken),
        trial("K4.5: an unknown kind is refused in the kernel's words", an_unknown_kind),
        trial("a vxlan without id and a macvlan without lower are refused in the kernel's words", missing_parts),
        trial("K2.7: an MTU out of range is refused in the kernel's words", an_mtu_out_of_range),
        trial("K2.8: what may not be moved is refused in the kernel's words", an_immutable_device),
        trial("K2.8: a name that is taken there is refused, and a device may arrive under another", names_at_a_move),
        trial("K2.1(9): alternative names are added, found and deleted", alternative_names),
        trial("an alias is written, seen and taken off", an_alias),
        trial("queues are as asked for", queues),
        trial("counters are those of the device", counters_of_a_veth),
        trial("a device is made as its plugin wants it, marked, or not at all", a_wanted_device),
        trial("a device that an earlier run left is taken over, and made what is wanted now", a_left_device),
        trial(
            "settings that a kind cannot change are in nobody's way if they are as wanted",
            settings_of_a_left_device,
        ),
        trial("what is not left by the same plugin is not taken over", not_ours),
        trial("a pair is made whole, taken over whole, or refused", a_wanted_pair),
        trial("a device that is gone is not there", a_device_that_is_gone),
        trial("K2.9(5): nobody deletes lo", lo_stays),
    ];
    let of_tun = [
        trial("a tap has its life", || life_of(TunKind::Tap)),
        trial("a tun has its life", || life_of(TunKind::Tun)),
        trial("a tap has the queues that were asked for", a_tap_with_queues),
        trial("frames of a tap with offloads carry a header", frames_with_a_header),
        trial("a taken name is EEXIST for a tap, whoever has it", a_tap_with_a_taken_name),
        trial("a tap's index is as asked for, and refused when it is taken", a_tap_with_an_index),
        trial("a tap is made as its plugin wants it, and never taken over", a_wanted_tap),
        trial("a tap ends with its last descriptor", a_tap_ends_with_its_descriptors),
        trial("a tap that was moved is opened anew there, and goes on", || moved_and_reopened("tap", 1, false)),
        trial("so is one with queues and offloads", || moved_and_reopened("tap", 3, true)),
        trial("so is a tun", || moved_and_reopened("tun", 2, true)),
        trial("a tap that cannot be opened anew is deleted", a_tap_that_cannot_be_reopened),
        trial("a tun's name is a literal one that fits", a_tun_name_that_is_none),
    ];
    trials.extend(of_tun.into_iter().map(|trial| trial.ignored_if(no_tun)));
    trials.push(trial("without /dev/net/tun the error says what to do", without_the_device_file));
    sandbox::main(trials)
}

fn space(name: &str) -> Pin {
    ns::take_seat_here().unwrap();
    ns::identify(&netns_add(name)).unwrap().1
}

fn inside<T>(pin: &Pin, act: impl FnOnce() -> T) -> T {
    ns::enter(pin).unwrap();
    let result = act();
    ns::home().unwrap();
    result
}

fn wanted() -> NewLink<'static> {
    NewLink { name: "dev0", address: &ADDRESS, mtu: 1400, ifindex: 77, ..NewLink::default() }
}

/// One attribute as IFLA_INFO_DATA holds it.
fn word(kind: u16, value: u32) -> Vec<u8> {
    [&8u16.to_ne_bytes()[..], &kind.to_ne_bytes(), &value.to_ne_bytes()].concat()
}

fn vxlan_id(id: u32) -> Vec<u8> {
    const IFLA_VXLAN_ID: u16 = 1;
    word(IFLA_VXLAN_ID, id)
}

#[track_caller]
fn looks(ifindex: u32) -> Link {
    rtnetlink::look(ifindex).unwrap().expect("it is there").link
}

/// Made, looked at, changed, moved, deleted.
fn life(new: NewLink<'_>) {
    let (blue, red) = (space("blue"), space("red"));
    inside(&blue, || {
        let made = link_create::create(&new).unwrap();
        assert_eq!(Some(&made), rtnetlink::look(new.ifindex).unwrap().as_ref());
        let Link { ifindex, name, kind, address, mtu, flags, master, .. } = made.link;
        assert_eq!((ifindex, name.as_str(), kind.as_str(), address, mtu), (77, "dev0", new.kind, ADDRESS.into(), 1400));
        assert_eq!((flags & IFF_UP, master), (0, 0), "it begins down");
    });
    change_and_move(&blue, &red, new.kind);
}

/// The same of what there is: `dev0` with index 77, down, in `blue`.
fn change_and_move(blue: &Pin, red: &Pin, kind: &str) {
    inside(blue, || {
        rtnetlink::set_mtu(77, 1300).unwrap();
        rtnetlink::rename(77, "dev1").unwrap();
        let changed = rtnetlink::set_address(77, &OTHER_ADDRESS);
        if matches!(kind, "tun" | "ifb") {
            refused(changed, libc::EOPNOTSUPP, "");
        } else {
            changed.unwrap();
            assert_eq!(looks(77).address, OTHER_ADDRESS);
        }
        if !matches!(kind, "bridge" | "tun") {
            rtnetlink::create("br", "bridge").unwrap();
            let br = rtnetlink::find("br").unwrap().ifindex;
            rtnetlink::set_master(77, br).unwrap();
            assert_eq!(looks(77).master, br);
            rtnetlink::set_master(77, 0).unwrap();
        }
        rtnetlink::set_up(77).unwrap();
        let link = looks(77);
        assert_eq!((link.name.as_str(), link.mtu, link.flags & IFF_UP, link.master), ("dev1", 1300, IFF_UP, 0));
        let moved = rtnetlink::move_as(77, red.as_fd(), 99, Some("there"));
        if kind == "bridge" {
            let refused = moved.unwrap_err();
            assert_eq!(refused.errno, libc::EINVAL);
            rtnetlink::set_down(77).unwrap();
            assert_eq!(looks(77).flags & IFF_UP, 0);
            rtnetlink::delete_index(77).unwrap();
        } else {
            moved.unwrap();
        }
        assert_eq!(rtnetlink::look(77).unwrap(), None);
    });
    if kind != "bridge" {
        inside(red, || {
            let link = looks(99);
            // The kernel has one word for both.
            let kind = if kind == "tap" { "tun" } else { kind };
            assert_eq!((link.name.as_str(), link.kind.as_str(), link.mtu), ("there", kind, 1300));
            assert_eq!(link.flags & IFF_UP, 0, "K2.8: it is not opened again");
            rtnetlink::delete_index(99).unwrap();
            assert_eq!(rtnetlink::look(99).unwrap(), None);
        });
    }
}

fn a_macvlan() {
    const IFLA_MACVLAN_MODE: u16 = 1;
    const BRIDGE: u32 = 4;
    // It is made in a namespace of its own, so that its lower device can be there too.
    let (blue, red) = (space("blue"), space("red"));
    let data = word(IFLA_MACVLAN_MODE, BRIDGE);
    inside(&blue, || {
        rtnetlink::create_veth("lower", "far", None).unwrap();
        let lower = rtnetlink::find("lower").unwrap().ifindex;
        let new = NewLink { kind: "macvlan", data: &data, link: lower, ..wanted() };
        let made = link_create::create(&new).unwrap();
        assert_eq!((made.link.kind.as_str(), made.link.ifindex, made.lower), ("macvlan", 77, lower));
        assert_eq!((made.link.address, made.link.mtu), (ADDRESS.into(), 1400));
        // It goes up over a device that is up only.
        rtnetlink::set_up(lower).unwrap();
    });
    change_and_move(&blue, &red, "macvlan");
}

fn a_veth_pair() {
    let (blue, red) = (space("blue"), space("red"));
    let near = NewLink { name: "near", ..wanted() };
    let far = NewLink { name: "far", address: &OTHER_ADDRESS, mtu: 1350, ifindex: 88, ..NewLink::default() };
    let made = inside(&blue, || link_create::create_pair(&near, &far, Some(red.as_fd()))).unwrap();
    assert_eq!((made.link.ifindex, made.link.name.as_str(), made.link.mtu, made.lower), (77, "near", 1400, 88));
    let there = inside(&red, || rtnetlink::look(made.lower)).unwrap().unwrap();
    assert_eq!((there.link.name.as_str(), there.link.kind.as_str(), there.link.mtu), ("far", "veth", 1350));
    assert_eq!((there.link.address.as_slice(), there.lower), (&OTHER_ADDRESS[..], 77));
    inside(&blue, || {
        let here = NewLink { name: "a", ..NewLink::default() };
        let made = link_create::create_pair(&here, &NewLink { name: "b", ..here.clone() }, None).unwrap();
        assert_eq!(looks(made.lower).name, "b");
        let far = NewLink { ifindex: 0, ..near };
        let taken = link_create::create_pair(&NewLink { name: "c", ..here }, &far, None).unwrap_err();
        assert_eq!(taken.errno, libc::EEXIST, "{taken}");
        assert_eq!(rtnetlink::find_described("c").unwrap(), None, "both or neither");
        rtnetlink::delete_index(77).unwrap();
    });
    assert_eq!(inside(&red, || rtnetlink::look(88)).unwrap(), None, "one end does not outlive the other");
}

fn an_explicit_index() {
    let blue = space("blue");
    inside(&blue, || {
        rtnetlink::create("br", "bridge").unwrap();
        let br = rtnetlink::find("br").unwrap().ifindex;
        let taken = NewLink { kind: "ifb", ifindex: br, ..wanted() };
        refused(link_create::create(&taken), libc::EBUSY, "the index is taken");
        // Both are: the name comes first (K2.4).
        refused(link_create::create(&NewLink { name: "br", ..taken.clone() }), libc::EEXIST, "");
        let (near, far) = (NewLink { kind: "veth", ..taken }, NewLink { name: "dev1", ..NewLink::default() });
        refused(link_create::create_pair(&near, &far, None), libc::EBUSY, "the index is taken");
        let (near, far) = (NewLink { ifindex: 77, ..near }, NewLink { ifindex: br, ..far });
        refused(link_create::create_pair(&near, &far, None), libc::EBUSY, "");
        let only_far = (NewLink { ifindex: 0, ..near }, NewLink { ifindex: 88, ..far });
        refused(link_create::create_pair(&only_far.0, &only_far.1, None), libc::EINVAL, "give both");
        assert_eq!(rtnetlink::dump_links().unwrap().len(), 2, "nothing is left of them");
        let (free, any) = (NewLink { kind: "ifb", ..wanted() }, NewLink { kind: "ifb", ifindex: 0, ..wanted() });
        assert_eq!(link_create::create(&free).unwrap().link.ifindex, 77);
        let next = link_create::create(&NewLink { name: "dev1", ..any }).unwrap().link.ifindex;
        assert_eq!(next, br + 1, "K2.2(2): a given index does not move the next one");
    });
}

fn a_name_that_is_taken() {
    let blue = space("blue");
    inside(&blue, || {
        rtnetlink::create("br", "bridge").unwrap();
        rtnetlink::add_alt_name(rtnetlink::find("br").unwrap().ifindex, "other").unwrap();
        for name in ["br", "other"] {
            let refused = link_create::create(&NewLink { name, kind: "ifb", ..NewLink::default() }).unwrap_err();
            assert_eq!(refused.errno, libc::EEXIST);
            let text = refused.to_string();
            assert!(text.starts_with(&format!("cannot create the ifb link {name}: File exists")), "{text}");
        }
        rtnetlink::create("dev0", "ifb").unwrap();
        let dev0 = rtnetlink::find("dev0").unwrap().ifindex;
        assert_eq!(rtnetlink::rename(dev0, "br").unwrap_err().errno, libc::EEXIST);
        assert_eq!(looks(dev0).name, "dev0");
    });
}

#[track_caller]
fn refused(result: Result<impl std::fmt::Debug, NetlinkError>, errno: i32, words: &str) {
    let refused = result.unwrap_err();
    assert_eq!(refused.errno, errno, "{refused}");
    assert!(refused.reason.contains(words), "the kernel says {:?}, not {words:?}", refused.reason);
    assert!(refused.to_string().ends_with(&refused.reason), "and it is told: {refused}");
}

fn an_unknown_kind() {
    let blue = space("blue");
    let made = inside(&blue, || link_create::create(&NewLink { kind: "nonsense", ..wanted() }));
    refused(made, libc::EOPNOTSUPP, "Unknown device type");
}

fn missing_parts() {
    let blue = space("blue");
    inside(&blue, || {
        let vxlan = NewLink { kind: "vxlan", ..wanted() };
        refused(link_create::create(&vxlan), libc::EINVAL, "Required attributes not provided");
        refused(
            link_create::create(&NewLink { data: &vxlan_id(1 << 24), ..vxlan }),
            libc::ERANGE,
            "VXLAN ID must be lower",
        );
        refused(link_create::create(&NewLink { kind: "macvlan", ..wanted() }), libc::EINVAL, "");
        refused(link_create::create(&NewLink { kind: "macvlan", link: 4711, ..wanted() }), libc::ENODEV, "");
        assert_eq!(rtnetlink::dump_links().unwrap().len(), 1, "nothing is left of them");
    });
}

fn an_mtu_out_of_range() {
    let blue = space("blue");
    inside(&blue, || {
        let bridge = NewLink { kind: "bridge", ..wanted() };
        refused(link_create::create(&NewLink { mtu: 67, ..bridge.clone() }), libc::EINVAL, "less than device minimum");
        let most = NewLink { mtu: 65_536, ..bridge };
        refused(link_create::create(&most), libc::EINVAL, "mtu greater than device maximum");
        // A veth judges what it is asked for before the core does, and has no words for it.
        let veth = NewLink { kind: "veth", ..wanted() };
        refused(link_create::create(&NewLink { mtu: 67, ..veth.clone() }), libc::EINVAL, "");
        link_create::create(&veth).unwrap();
        refused(rtnetlink::set_mtu(77, 67), libc::EINVAL, "mtu less than device minimum");
        refused(rtnetlink::set_mtu(77, 65_536), libc::EINVAL, "mtu greater than device maximum");
        assert_eq!(looks(77).mtu, 1400);
    });
}

fn an_immutable_device() {
    let (blue, red) = (space("blue"), space("red"));
    inside(&blue, || {
        rtnetlink::create("br", "bridge").unwrap();
        let br = rtnetlink::find("br").unwrap().ifindex;
        for ifindex in [1, br] {
            refused(rtnetlink::move_to(ifindex, red.as_fd()), libc::EINVAL, "netns");
            assert!(rtnetlink::look(ifindex).unwrap().is_some());
        }
    });
}

fn lo_stays() {
    let blue = space("blue");
    inside(&blue, || {
        refused(rtnetlink::delete_index(1), libc::EOPNOTSUPP, "");
        refused(rtnetlink::delete("lo").map(drop), libc::EOPNOTSUPP, "");
        assert_eq!(looks(1).name, "lo");
    });
}

fn names_at_a_move() {
    let (blue, red) = (space("blue"), space("red"));
    inside(&red, || rtnetlink::create("dev0", "ifb")).unwrap();
    let there = inside(&red, || rtnetlink::find("dev0")).unwrap().ifindex;
    inside(&blue, || {
        link_create::create(&NewLink { kind: "ifb", ..wanted() }).unwrap();
        refused(rtnetlink::move_to(77, red.as_fd()), libc::EEXIST, "");
        refused(rtnetlink::move_as(77, red.as_fd(), there, Some("free")), libc::EBUSY, "");
        assert_eq!(looks(77).name, "dev0", "a refused move changes nothing");
        rtnetlink::move_as(77, red.as_fd(), 0, Some("free")).unwrap();
    });
    let arrived = inside(&red, || rtnetlink::find("free")).unwrap();
    assert_eq!(arrived.ifindex, 77, "K2.2(4): it keeps its index where that is free");
}

fn alternative_names() {
    let blue = space("blue");
    inside(&blue, || {
        rtnetlink::create("br", "bridge").unwrap();
        rtnetlink::create("dev0", "ifb").unwrap();
        let (br, dev0) = (rtnetlink::find("br").unwrap().ifindex, rtnetlink::find("dev0").unwrap().ifindex);
        let long = "x".repeat(127);
        for name in ["second", "with a space/%d", &long, ""] {
            rtnetlink::add_alt_name(br, name).unwrap_or_else(|refused| panic!("{name:?}: {refused}"));
        }
        assert_eq!(looks(br).alt_names, ["second", "with a space/%d", &long, ""]);
        refused(rtnetlink::add_alt_name(br, ""), libc::EEXIST, "");
        rtnetlink::del_alt_name(br, "").unwrap();
        assert_eq!(looks(br).alt_names, ["second", "with a space/%d", &long]);
        assert_eq!(rtnetlink::find("second").unwrap().ifindex, br);
        for taken in ["second", "dev0"] {
            refused(rtnetlink::add_alt_name(br, taken), libc::EEXIST, "");
        }
        refused(rtnetlink::add_alt_name(br, &"x".repeat(128)), libc::ERANGE, "");
        refused(rtnetlink::del_alt_name(br, "unknown"), libc::ENOENT, "");
        refused(rtnetlink::del_alt_name(dev0, "second"), libc::EINVAL, "");
        refused(rtnetlink::del_alt_name(br, "br"), libc::EINVAL, "");
        rtnetlink::del_alt_name(br, "second").unwrap();
        assert_eq!(looks(br).alt_names, ["with a space/%d", &long]);
        let dumped = rtnetlink::dump_links().unwrap();
        assert_eq!(dumped.iter().find(|link| link.ifindex == br).unwrap().alt_names, looks(br).alt_names);
    });
}

fn an_alias() {
    let blue = space("blue");
    inside(&blue, || {
        rtnetlink::create("br", "bridge").unwrap();
        let br = rtnetlink::find("br").unwrap().ifindex;
        rtnetlink::set_alias(br, "pernetd: wire").unwrap();
        assert_eq!(rtnetlink::look(br).unwrap().unwrap().alias, "pernetd: wire");
        rtnetlink::set_alias(br, "").unwrap();
        assert_eq!(rtnetlink::look(br).unwrap().unwrap().alias, "");
    });
}

fn queues() {
    let blue = space("blue");
    inside(&blue, || {
        link_create::create(&NewLink { kind: "veth", queues: 3, ..wanted() }).unwrap();
        // A fresh sysfs shows the namespace of whoever mounts it.
        mount("sysfs", "/tmp", "sysfs", MountFlags::empty(), None).unwrap();
        let queues = fs::read_dir("/tmp/class/net/dev0/queues").unwrap().flatten();
        let names: Vec<_> = queues.map(|entry| entry.file_name().into_string().unwrap()).collect();
        let of = |way: &str| names.iter().filter(|name| name.starts_with(way)).count();
        assert_eq!((of("tx"), of("rx")), (3, 3), "{names:?}");
        let many = NewLink { name: "x", kind: "veth", queues: 5000, ..NewLink::default() };
        refused(link_create::create(&many), libc::EINVAL, "queues");
    });
}

fn counters_of_a_veth() {
    let blue = space("blue");
    inside(&blue, || {
        let made = link_create::create(&NewLink { kind: "veth", ..wanted() }).unwrap();
        assert_eq!(link_stats::of(77).unwrap(), link_stats::Counters::default());
        let mut all: Vec<u32> = link_stats::dump().unwrap().into_iter().map(|(ifindex, _)| ifindex).collect();
        all.sort_unstable();
        let mut expected = [1, 77, made.lower];
        expected.sort_unstable();
        assert_eq!(all, expected);
        assert_eq!(link_stats::of(4711).unwrap_err().errno, libc::ENODEV);
    });
}

const MARK: &str = "pernetd: wire";

fn spec(name: &str, kind: &str) -> LinkSpec {
    LinkSpec { name: name.into(), kind: kind.into(), ..LinkSpec::default() }
}

fn wants<'a>(spec: &'a LinkSpec, name: &'a str) -> Wanted<'a> {
    Wanted { spec, name, alias: MARK }
}

/// The number of devices besides `lo`.
fn devices() -> usize {
    rtnetlink::dump_links().unwrap().len() - 1
}

#[track_caller]
fn not_made<T>(made: Result<T, Failure>, errno: i32, words: &str) {
    let failure = made.err().expect("a refusal");
    assert_eq!(failure.errno, errno, "{failure}");
    assert!(failure.message.contains(words), "{failure}");
}

fn a_wanted_device() {
    let blue = space("blue");
    inside(&blue, || {
        let wanted = LinkSpec {
            alt_names: vec!["other".into(), "another".into()],
            address: ADDRESS.into(),
            mtu: 1400,
            ifindex: 77,
            data: vxlan_id(7),
            ..spec("x%d", "vxlan")
        };
        let made = device::create(&wants(&wanted, "x0")).unwrap();
        assert!(!made.adopted && made.queues.is_none());
        assert_eq!((made.link.ifindex, made.link.name.as_str(), made.link.mtu), (77, "x0", 1400));
        assert_eq!((made.link.address.as_slice(), made.link.is_up()), (&ADDRESS[..], false));
        assert_eq!(made.link.alt_names, ["other", "another"]);
        assert_eq!(rtnetlink::look(77).unwrap().unwrap().alias, MARK);

        let second = LinkSpec { alt_names: vec!["free".into(), "other".into()], ..spec("br", "bridge") };
        not_made(device::create(&wants(&second, "br")), libc::EEXIST, "alternative name other");
        let third = LinkSpec { mtu: 67, ..spec("br", "bridge") };
        not_made(device::create(&wants(&third, "br")), libc::EINVAL, "mtu less than device minimum");
        assert_eq!(devices(), 1, "what could not be finished is not there");
    });
}

fn a_left_device() {
    let blue = space("blue");
    inside(&blue, || {
        let before = LinkSpec { data: vxlan_id(7), alt_names: vec!["kept".into()], ..spec("x", "vxlan") };
        let left = device::create(&wants(&before, "x")).unwrap().link.ifindex;
        rtnetlink::set_up(left).unwrap();
        let now = LinkSpec {
            alt_names: vec!["kept".into(), "new".into()],
            address: ADDRESS.into(),
            mtu: 1300,
            ..before.clone()
        };
        let taken = device::create(&wants(&now, "x")).unwrap();
        assert!(taken.adopted);
        assert_eq!((taken.link.ifindex, taken.link.mtu, taken.link.is_up()), (left, 1300, true), "up, as it was left");
        assert_eq!(taken.link.address, ADDRESS);
        assert_eq!(taken.link.alt_names, ["kept", "new"]);
        let other = LinkSpec { data: vxlan_id(8), ..before.clone() };
        not_made(device::create(&wants(&other, "x")), libc::EOPNOTSUPP, "Cannot change VNI");
        assert_eq!(looks(left).mtu, 1300);
        assert_eq!(devices(), 1);
    });
}

/// A vxlan as [`pernet_plugin_api::NetdevSpec::vxlan`] encodes it: 192.0.2.`last`.
fn vxlan(id: u32, last: u8, port: u16) -> Vec<u8> {
    const IFLA_VXLAN_GROUP: u16 = 2;
    const IFLA_VXLAN_PORT: u16 = 15;
    let [high, low] = port.to_be_bytes();
    let port = [&6u16.to_ne_bytes()[..], &IFLA_VXLAN_PORT.to_ne_bytes(), &[high, low, 0, 0]].concat();
    [vxlan_id(id), word(IFLA_VXLAN_GROUP, u32::from_ne_bytes([192, 0, 2, last])), port].concat()
}

fn settings_of_a_left_device() {
    let blue = space("blue");
    let told = |last: u8| {
        let data = rtnetlink::find_described("x").unwrap().unwrap().data;
        link::differing(&vxlan(7, last, 4789), &data)
    };
    inside(&blue, || {
        let first = LinkSpec { data: vxlan(7, 1, 4789), ..spec("x", "vxlan") };
        let left = device::create(&wants(&first, "x")).unwrap().link.ifindex;
        let again = device::create(&wants(&first, "x")).unwrap();
        assert_eq!((again.adopted, again.link.ifindex), (true, left));
        // What can be changed is, though the port is told again, which cannot.
        let moved = LinkSpec { data: vxlan(7, 2, 4789), ..first.clone() };
        assert!(!told(2).is_empty());
        assert!(device::create(&wants(&moved, "x")).unwrap().adopted);
        assert_eq!(told(2), [0u8; 0]);
        let other = LinkSpec { data: vxlan(7, 2, 8472), ..first.clone() };
        not_made(device::create(&wants(&other, "x")), libc::EOPNOTSUPP, "Cannot change port");
        assert_eq!(told(2), [0u8; 0], "and nothing was changed");

        // A veth neither tells its settings nor takes new ones.
        let peer = [&[0; 16][..], &[8, 0, 3, 0], b"far\0"].concat();
        let data = [&u16::try_from(peer.len() + 4).unwrap().to_ne_bytes()[..], &1u16.to_ne_bytes(), &peer].concat();
        let veth = LinkSpec { data, ..spec("near", "veth") };
        assert!(!device::create(&wants(&veth, "near")).unwrap().adopted);
        assert!(device::create(&wants(&veth, "near")).unwrap().adopted);
        assert_eq!(rtnetlink::find("far").unwrap().kind, "veth");
    });
}

fn not_ours() {
    let blue = space("blue");
    inside(&blue, || {
        let bridge = spec("br", "bridge");
        rtnetlink::create("br", "bridge").unwrap();
        let br = rtnetlink::find("br").unwrap().ifindex;
        not_made(device::create(&wants(&bridge, "br")), libc::EEXIST, "does not mark it");
        rtnetlink::set_alias(br, "pernetd: other").unwrap();
        not_made(device::create(&wants(&bridge, "br")), libc::EEXIST, "does not mark it");
        assert!(!device::is_marked(&wants(&bridge, "br")).unwrap(), "another plugin's");
        rtnetlink::set_alias(br, MARK).unwrap();
        assert!(device::is_marked(&wants(&bridge, "br")).unwrap());
        assert!(!device::is_marked(&wants(&bridge, "nobody")).unwrap());
        not_made(device::create(&wants(&spec("br", "ifb"), "br")), libc::EEXIST, "of another kind");
        not_made(device::create(&wants(&spec("br%d", "bridge"), "br")), libc::EEXIST, "has this name");
        let indexed = LinkSpec { ifindex: 77, ..bridge.clone() };
        not_made(device::create(&wants(&indexed, "br")), libc::EEXIST, "another index");
        rtnetlink::add_alt_name(br, "other").unwrap();
        not_made(device::create(&wants(&spec("other", "bridge"), "other")), libc::EEXIST, "has this name");
        assert!(device::create(&wants(&bridge, "br")).unwrap().adopted);
        assert_eq!(looks(br).name, "br");
    });
}

fn a_wanted_pair() {
    let (blue, red) = (space("blue"), space("red"));
    let near = LinkSpec { mtu: 1400, ..spec("near", "veth") };
    let far = LinkSpec { alt_names: vec!["other".into()], ..spec("far", "veth") };
    let make = || inside(&blue, || device::create_pair(&wants(&near, "near"), &wants(&far, "far"), &red));
    let alias = |pin: &Pin, ifindex: u32| inside(pin, || rtnetlink::look(ifindex)).unwrap().unwrap().alias;
    let made = make().unwrap();
    assert!(!made.0.adopted && !made.1.adopted);
    assert_eq!((made.0.link.mtu, made.1.link.name.as_str()), (1400, "far"));
    assert_eq!(made.1.link.alt_names, ["other"]);
    let (here, there) = (made.0.link.ifindex, made.1.link.ifindex);
    assert_eq!((alias(&blue, here), alias(&red, there)), (MARK.into(), MARK.into()));

    let again = make().unwrap();
    assert!(again.0.adopted && again.1.adopted);
    assert_eq!((again.0.link.ifindex, again.1.link.ifindex), (here, there));
    inside(&red, || rtnetlink::set_alias(there, "")).unwrap();
    not_made(make(), libc::EEXIST, "the veth link far");
    inside(&red, || rtnetlink::rename(there, "renamed")).unwrap();
    not_made(make(), libc::EEXIST, "without its other end");
    inside(&red, || rtnetlink::delete_index(there)).unwrap();

    inside(&red, || rtnetlink::create("other", "bridge")).unwrap();
    not_made(make(), libc::EEXIST, "alternative name other");
    assert_eq!((inside(&blue, devices), inside(&red, devices)), (0, 1), "neither end is left");
    let data = LinkSpec { data: vec![0; 4], ..near.clone() };
    let odd = inside(&blue, || device::create_pair(&wants(&data, "near"), &wants(&far, "far"), &red));
    not_made(odd, libc::EINVAL, "kind veth");
}

fn a_wanted_tap() {
    let blue = space("blue");
    inside(&blue, || {
        let wanted = LinkSpec {
            alt_names: vec!["other".into()],
            address: ADDRESS.into(),
            mtu: 9000,
            ifindex: 77,
            queues: 2,
            offloads: true,
            ..spec("wire0", "tap")
        };
        let made = device::create(&wants(&wanted, "wire0")).unwrap();
        assert_eq!((made.link.ifindex, made.link.mtu, made.link.address.as_slice()), (77, 9000, &ADDRESS[..]));
        assert_eq!((made.link.alt_names.as_slice(), made.link.is_up()), (&["other".to_owned()][..], false));
        assert_eq!(rtnetlink::look(77).unwrap().unwrap().alias, MARK);
        let queues = made.queues.unwrap().downcast::<tun::Queues>().unwrap();
        assert_eq!(queues.len(), 2);
        not_made(device::create(&wants(&wanted, "wire0")), libc::EEXIST, "a device of this name exists");
        drop(queues);
        assert_eq!(devices(), 0);

        let no_address = LinkSpec { address: ADDRESS.into(), ..spec("t", "tun") };
        not_made(device::create(&wants(&no_address, "t")), libc::EOPNOTSUPP, "set the address");
        let lower = LinkSpec { link: 1, ..spec("t", "tun") };
        not_made(device::create(&wants(&lower, "t")), libc::EINVAL, "lower device");
        assert_eq!(devices(), 0, "what could not be finished is not there");
    });
}

fn a_device_that_is_gone() {
    let blue = space("blue");
    inside(&blue, || {
        assert_eq!(rtnetlink::look(4711).unwrap(), None);
        assert_eq!(rtnetlink::find_described("absent").unwrap(), None);
        refused(rtnetlink::delete_index(4711), libc::ENODEV, "");
        refused(rtnetlink::set_up(4711), libc::ENODEV, "");
        refused(rtnetlink::add_alt_name(4711, "x"), libc::ENODEV, "");
    });
}

fn new_tun(kind: TunKind) -> NewTun<'static> {
    NewTun { kind, name: "dev0", queues: 1, offloads: false, ifindex: 77 }
}

fn life_of(kind: TunKind) {
    let (blue, red) = (space("blue"), space("red"));
    let name = if kind == TunKind::Tun { "tun" } else { "tap" };
    let queues = inside(&blue, || {
        let queues = tun::create(&new_tun(kind)).unwrap();
        let link = looks(77);
        assert_eq!((link.name.as_str(), link.kind.as_str(), link.flags & IFF_UP), ("dev0", "tun", 0));
        assert_eq!(link.address.is_empty(), kind == TunKind::Tun, "{name}: {:?}", link.address);
        queues
    });
    assert_eq!(queues.len(), 1);
    change_and_move(&blue, &red, if kind == TunKind::Tun { "tun" } else { "tap" });
    drop(queues);
}

fn a_tap_with_queues() {
    let blue = space("blue");
    inside(&blue, || {
        let queues = tun::create(&NewTun { queues: 3, ..new_tun(TunKind::Tap) }).unwrap();
        assert_eq!(queues.len(), 3);
        let refused = tun::create(&NewTun { name: "dev1", queues: 257, ifindex: 0, ..new_tun(TunKind::Tap) });
        assert_eq!(refused.unwrap_err().errno, libc::E2BIG);
        assert_eq!(rtnetlink::find_described("dev1").unwrap(), None, "nothing is left of it");
    });
}

fn frames_with_a_header() {
    let blue = space("blue");
    inside(&blue, || {
        let queues = tun::create(&NewTun { offloads: true, queues: 2, ..new_tun(TunKind::Tap) }).unwrap();
        rtnetlink::set_up(77).unwrap();
        // Of a protocol that nobody here takes.
        let frame = [&OTHER_ADDRESS[..], &ADDRESS, &[0x88, 0xb5], &[0; 46]].concat();
        let header = [0; 12];
        let mut queues: Vec<File> = queues.into_iter().map(File::from).collect();
        for queue in &mut queues {
            assert_eq!(queue.write(&[&header[..], &frame].concat()).unwrap(), 12 + 60);
        }
        let counted = link_stats::of(77).unwrap();
        assert_eq!((counted.rx_packets, counted.rx_bytes), (2, 120), "the header is none of the frame");
    });
}

fn a_tap_with_a_taken_name() {
    let blue = space("blue");
    inside(&blue, || {
        rtnetlink::create("br", "bridge").unwrap();
        rtnetlink::add_alt_name(rtnetlink::find("br").unwrap().ifindex, "other").unwrap();
        let queues = tun::create(&new_tun(TunKind::Tap)).unwrap();
        for name in ["dev0", "br", "other"] {
            for kind in [TunKind::Tap, TunKind::Tun] {
                let again = tun::create(&NewTun { name, ifindex: 0, ..new_tun(kind) });
                refused(again, libc::EEXIST, "a device of this name exists");
            }
        }
        drop(queues);
    });
}

fn a_tap_with_an_index() {
    let blue = space("blue");
    inside(&blue, || {
        let queues = tun::create(&new_tun(TunKind::Tap)).unwrap();
        let again = tun::create(&NewTun { name: "dev1", ..new_tun(TunKind::Tap) });
        refused(again, libc::EBUSY, "the index is taken");
        let any = tun::create(&NewTun { name: "dev1", ifindex: 0, ..new_tun(TunKind::Tap) }).unwrap();
        assert_ne!(rtnetlink::find("dev1").unwrap().ifindex, 77);
        drop((queues, any));
    });
}

fn a_tap_ends_with_its_descriptors() {
    let blue = space("blue");
    inside(&blue, || {
        let mut queues = tun::create(&NewTun { queues: 2, ..new_tun(TunKind::Tap) }).unwrap();
        drop(queues.pop());
        assert_eq!(looks(77).name, "dev0");
        drop(queues);
        assert_eq!(rtnetlink::look(77).unwrap(), None);
    });
}

/// A device of two or so queues, made in `blue`, moved to `red` and opened there.
fn reopened(blue: &Pin, red: &Pin, wanted: &LinkSpec) -> (u32, tun::Queues) {
    let (made, queues) = inside(blue, || {
        let made = device::create(&wants(wanted, "wire0")).unwrap();
        rtnetlink::move_as(made.link.ifindex, red.as_fd(), 99, Some("there")).unwrap();
        (made.link.ifindex, made.queues.unwrap())
    });
    assert_ne!(made, 99);
    let queues = inside(red, || device::reopen(99, wanted, queues)).unwrap();
    (99, Arc::into_inner(queues.downcast::<tun::Queues>().unwrap()).unwrap())
}

fn moved_and_reopened(kind: &str, queues: u32, offloads: bool) {
    let (blue, red, green) = (space("blue"), space("red"), space("green"));
    inside(&green, || rtnetlink::create_veth("witness", "there", Some(blue.as_fd()))).unwrap();
    let wanted = LinkSpec { queues, offloads, ..spec("wire0", kind) };
    let (ifindex, opened) = reopened(&blue, &red, &wanted);
    assert_eq!(opened.len(), usize::try_from(queues).unwrap());
    drop(blue);
    sandbox::netns_del("blue");
    let gone = || inside(&green, || rtnetlink::find_described("witness")).unwrap().is_none();
    sandbox::wait_until("the namespace that it left is gone", Duration::from_secs(15), gone);

    inside(&red, || {
        rtnetlink::set_up(ifindex).unwrap();
        assert_ne!(looks(ifindex).flags & 1 << 6, 0, "running");
        assert_eq!(rtnetlink::look(ifindex).unwrap().unwrap().alias, MARK);
        let header = if offloads { 12 } else { 0 };
        // An ARP request for nobody, or an IPv4 header.
        let frame = if kind == "tap" { vec![0xff; 60] } else { [&[0x45, 0, 0, 60][..], &[0; 56]].concat() };
        for queue in opened.iter().map(|queue| queue.try_clone().unwrap()) {
            let whole = [vec![0; header], frame.clone()].concat();
            assert_eq!(File::from(queue).write(&whole).unwrap(), header + 60);
        }
        let counted = link_stats::of(ifindex).unwrap();
        assert_eq!((counted.rx_packets, counted.rx_bytes), (u64::from(queues), u64::from(queues) * 60));
        drop(opened);
        assert_eq!(rtnetlink::look(ifindex).unwrap(), None, "it goes with its descriptors, as before");
    });
}

fn a_tap_that_cannot_be_reopened() {
    let (blue, red) = (space("blue"), space("red"));
    let wanted = LinkSpec { queues: 1, ..spec("wire0", "tap") };
    let made = |to: &Pin| {
        inside(&blue, || {
            let made = device::create(&wants(&wanted, "wire0")).unwrap();
            rtnetlink::move_as(made.link.ifindex, to.as_fd(), 99, None).unwrap();
            made.queues.unwrap()
        })
    };
    // Somebody has a duplicate: of a single queue the kernel gives no second one.
    let queues = made(&red);
    let duplicate = queues.downcast_ref::<tun::Queues>().unwrap()[0].try_clone().unwrap();
    not_made(inside(&red, || device::reopen(99, &wanted, queues)), libc::EBUSY, "open the queues of the tap link");
    assert_eq!(inside(&red, devices), 0);
    drop(duplicate);
    let queues = made(&red);
    let other = Arc::clone(&queues);
    not_made(inside(&red, || device::reopen(99, &wanted, queues)), libc::EBUSY, "its queues are in use");
    assert_eq!(inside(&red, devices), 0);
    drop(other);
    // It is not there.
    let queues = made(&red);
    inside(&red, || {
        rtnetlink::move_as(99, blue.as_fd(), 0, None).unwrap();
        not_made(device::reopen(99, &wanted, queues), libc::ENODEV, "somebody else deleted or moved it");
        assert_eq!(devices(), 0, "and none is made instead");
    });
    assert_eq!(inside(&blue, devices), 0);
}

fn a_tun_name_that_is_none() {
    let blue = space("blue");
    inside(&blue, || {
        for name in ["", "dev%d", "sixteen-bytes-xx", "a b", "a/b"] {
            let made = tun::create(&NewTun { name, ..new_tun(TunKind::Tun) });
            assert_eq!(made.unwrap_err().errno, libc::EINVAL, "{name:?}");
        }
        assert_eq!(rtnetlink::dump_links().unwrap().len(), 1);
    });
}

fn without_the_device_file() {
    let blue = space("blue");
    mount("tmpfs", "/dev", "tmpfs", MountFlags::empty(), None).unwrap();
    inside(&blue, || {
        let made = tun::create(&new_tun(TunKind::Tap));
        refused(made, libc::ENOENT, "/dev/net/tun is not there: load the module (modprobe tun)");
    });
}
