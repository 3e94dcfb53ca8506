//! K2.1 and K2.2: names, alternative names and indices of devices of plugins' own.

use pernet_plugin_api::{RegState, Verdict};

use super::kernel::{EBUSY, EEXIST, EINVAL};
use super::lab::*;
use super::ndo::*;
use super::recorder::ODD;
use crate::engine::*;

const ENOENT: i32 = 2;
const ENFILE: i32 = 23;
const ERANGE: i32 = 34;

/// What a device that asks for this name is called, or why it is not.
fn called(lab: &Lab, name: &str) -> Result<String, i32> {
    // Some names are refused as early as at the allocation.
    let dev = lab.try_own(tap(name)).map_err(|failure| failure.errno)?;
    let answer = lab.register(&dev);
    lab.take();
    answer.map_err(|failure| failure.errno)?;
    Ok(dev.device().unwrap().link.name.clone())
}

fn other(lab: &Lab, name: &str) -> u32 {
    let ifindex = lab.world.kernel.other_adds(1, name, "ifb").unwrap();
    lab.settle();
    lab.take();
    ifindex
}

#[test]
fn k2_1_1_a_valid_name_is_one_to_fifteen_bytes_without_slash_colon_and_latin_1_blanks() {
    let lab = lab(1);
    for good in ["a", "-x", "123456789012345", "é", "x.y", "...", "@", "[]", "ü#"] {
        assert_eq!(called(&lab, good), Ok(good.to_owned()));
    }
    let bad = [
        "",
        ".",
        "..",
        "a/b",
        "a:b",
        "a b",
        " ",
        "a\tb",
        "a\n",
        "\u{b}",
        "\u{c}x",
        "x\r",
        "à",
        "1234567890123456",
        "a\0b",
    ];
    for bad in bad {
        assert_eq!(called(&lab, bad), Err(EINVAL), "{bad:?}");
    }
}

#[test]
fn k2_1_2_a_name_that_is_too_long_in_bytes_is_refused_whatever_its_characters() {
    let lab = lab(1);
    assert_eq!(called(&lab, "ééééééé"), Ok("ééééééé".to_owned()), "14 bytes");
    assert_eq!(called(&lab, "éééééééé"), Err(EINVAL), "16 bytes");
}

#[test]
fn k2_1_3_a_pattern_has_one_percent_d_and_no_other_percent() {
    let lab = lab(1);
    for (pattern, name) in [("%d", "0"), ("t%d", "t0"), ("x%dy", "x0y"), ("-%d", "-0")] {
        assert_eq!(called(&lab, pattern), Ok(name.to_owned()));
    }
    for bad in ["%", "t%", "%s", "%%", "%05d", "%d%d", "t%d%", "%%d", "a%b%d", "%D", "% d", "%di%"] {
        assert_eq!(called(&lab, bad), Err(EINVAL), "{bad:?}");
    }
}

#[test]
fn k2_1_4_a_pattern_takes_the_lowest_free_unit_and_alternative_names_count() {
    let lab = lab(1);
    assert_eq!(called(&lab, "z%d"), Ok("z0".into()));
    other(&lab, "z01");
    assert_eq!(called(&lab, "z%d"), Ok("z1".into()), "z01 is not the unit 1");
    let ifindex = other(&lab, "eth0");
    lab.world.kernel.other(1, ifindex, &LinkChange::AddAltName("z2"));
    lab.settle();
    assert_eq!(called(&lab, "z%d"), Ok("z3".into()));
    other(&lab, "z+4");
    other(&lab, "z5");
    assert_eq!(called(&lab, "z%d"), Ok("z4".into()));
    assert_eq!(called(&lab, "z%d"), Ok("z6".into()));
    let dev = lab.registered(tap("y%d"));
    lab.unregister(&dev).unwrap();
    assert_eq!(called(&lab, "y%d"), Ok("y0".into()), "what is gone is free");
}

#[test]
fn k2_1_4_no_unit_is_left() {
    let lab = lab(1);
    let links = lab.world.links_of(1);
    let more = (0..32768u32).map(|n| super::recorder::link(n + 2, &format!("f{n}")));
    links.lock().unwrap().extend(more);
    let all = links.lock().unwrap().clone();
    super::recorder::see(&lab.list, lab.net(1), LinkObservation::Dump(all));
    lab.take();
    assert_eq!(called(&lab, "f%d"), Err(ENFILE));
    links.lock().unwrap().retain(|link| link.name != "f777");
    let all = links.lock().unwrap().clone();
    super::recorder::see(&lab.list, lab.net(1), LinkObservation::Dump(all));
    assert_eq!(called(&lab, "f%d"), Ok("f777".into()));
}

/// Another program takes a name in the same moment: nobody has read of it.
fn takes(lab: &Lab, name: &str) {
    lab.world.kernel.other_adds(1, name, "ifb").unwrap();
}

/// How often the kernel was asked to make something.
fn creates(lab: &Lab) -> usize {
    lab.take().iter().filter(|call| call.starts_with("k.create")).count()
}

fn name(dev: &OwnDevice) -> String {
    dev.device().unwrap().link.name.clone()
}

#[test]
fn k2_1_4_a_patterns_name_that_another_program_takes_in_the_same_moment_is_the_next_one() {
    let lab = lab(1);
    takes(&lab, "t0");
    takes(&lab, "t2");
    let devs = ["t%d", "t%d"].map(|pattern| lab.own(tap(pattern)));
    lab.register(&devs[0]).unwrap();
    assert_eq!((name(&devs[0]), creates(&lab)), ("t1".into(), 2));
    lab.register(&devs[1]).unwrap();
    assert_eq!((name(&devs[1]), creates(&lab)), ("t3".into(), 2));
    assert_eq!((lab.calls("t%d").init, lab.calls("t%d").uninit), (1, 0), "initialised once, whatever its name");
    lab.settle();
    lab.assert_agrees();
}

#[test]
fn k2_1_4_the_next_one_is_neither_a_name_nor_an_alternative_name_of_the_kernels_list() {
    let lab = lab(1);
    let ifindex = other(&lab, "eth0");
    for alt in ["t0", "t1", "t3"] {
        // Which the kernel announces to nobody (K2.1(9)).
        lab.world.kernel.other(1, ifindex, &LinkChange::AddAltName(alt));
    }
    takes(&lab, "t2");
    let dev = lab.own(LinkSpec { alt_names: vec!["t4".into()], ..tap("t%d") });
    lab.register(&dev).unwrap();
    assert_eq!((name(&dev), creates(&lab)), ("t5".into(), 2), "the first refusal shows them all, and its own is taken");
    lab.settle();
    lab.assert_agrees();
}

#[test]
fn k2_1_4_a_rename_to_a_pattern_whose_name_was_just_taken_is_the_next_one() {
    let lab = lab(1);
    let dev = lab.registered(tap("d0"));
    takes(&lab, "t0");
    lab.rename(&dev, "t%d").unwrap();
    assert_eq!(name(&dev), "t1");
    assert_eq!(
        lab.take(),
        ["k.name(d0=t0)@1", "k.name(d0=t1)@1", "w.n0.changename(d0>t1)@1", "x.n0.changename(d0>t1)@1"]
    );
    lab.settle();
    lab.assert_agrees();
}

#[test]
fn k2_1_4_either_end_of_a_pair_whose_name_was_just_taken_is_the_next_one() {
    for (taken, named) in [("p0", ("n0", "p1")), ("n0", ("n1", "p0"))] {
        let lab = lab(1);
        takes(&lab, taken);
        let (peer, near) = lab.pair("p%d", "n%d");
        lab.register_pair(&near, &peer, 1).unwrap();
        assert_eq!((name(&near), name(&peer)), (named.0.into(), named.1.into()));
        assert_eq!(creates(&lab), 2);
        lab.settle();
        lab.assert_agrees();
    }
    // Of the same pattern, and in the same namespace: neither takes the other's.
    let lab = lab(1);
    takes(&lab, "v1");
    let (peer, near) = lab.pair("v%d", "v%d");
    lab.register_pair(&near, &peer, 1).unwrap();
    assert_eq!((name(&peer), name(&near)), ("v0".into(), "v2".into()));
}

#[test]
fn k2_1_6_eexist_of_a_pattern_that_is_not_about_its_name_is_not_tried_again() {
    // An alternative name that only the kernel knows to be taken.
    let lab = lab(2);
    let ifindex = other(&lab, "eth0");
    lab.world.kernel.other(1, ifindex, &LinkChange::AddAltName("front"));
    let dev = lab.own(LinkSpec { alt_names: vec!["front".into()], ..tap("t%d") });
    assert_eq!(refused(lab.register(&dev)), EEXIST);
    assert_eq!(creates(&lab), 1);
    // The literal name of the other end.
    takes(&lab, "p0");
    for (first, second) in [("p0", "n%d"), ("n%d", "p0")] {
        let (peer, near) = lab.pair(first, second);
        assert_eq!(refused(lab.register_pair(&near, &peer, 1)), EEXIST);
        assert_eq!(creates(&lab), 1, "{first} {second}");
    }
    assert_eq!(lab.world.kernel.ours(), []);
    lab.settle();
    lab.assert_agrees();
    lab.world.ledger.assert_balanced();
}

#[test]
fn k2_1_6_the_two_ends_of_a_pair_in_one_namespace_share_no_name_of_either_sort() {
    let with = |name: &str, alt: &str| LinkSpec { alt_names: vec![alt.into()], ..spec("veth", name) };
    let clashes = [
        (with("a0", "front"), with("b%d", "front")),
        (with("a0", "b0"), spec("veth", "b0")),
        (spec("veth", "a0"), with("b%d", "a0")),
    ];
    for (first, second) in clashes {
        for there in [1, 2] {
            let lab = lab(2);
            let peer = lab.own(first.clone());
            let near = lab.world.own_peered(&lab.a, "near", second.clone(), Some(peer.clone()));
            let answer = lab.register_pair(&near, &peer, there).map_err(|failure| failure.errno);
            assert_eq!(answer, if there == 1 { Err(EEXIST) } else { Ok(()) }, "{first:?} {second:?}");
            assert!(there == 2 || lab.take().is_empty(), "before anything is done");
        }
    }
}

#[test]
fn k2_1_6_a_device_does_not_take_its_own_name_a_second_time() {
    let lab = lab(1);
    let dev = lab.own(LinkSpec { alt_names: vec!["t0".into()], ..tap("t0") });
    assert_eq!(refused(lab.register(&dev)), EEXIST);
    assert_eq!(lab.take(), Vec::<String>::new());
}

#[test]
fn k2_1_5_a_name_that_is_cut_at_fifteen_bytes_is_looked_for_again() {
    let lab = lab(1);
    for unit in 0..100 {
        let name: String = format!("1234567890123{unit}").chars().take(15).collect();
        assert_eq!(called(&lab, "1234567890123%d"), Ok(name));
    }
    assert_eq!(called(&lab, "1234567890123%d"), Err(EEXIST), "1234567890123100 is cut to 123456789012310");
}

#[test]
fn k2_1_6_a_literal_name_in_use_as_name_or_alternative_name_is_eexist() {
    let lab = lab(2);
    let ifindex = other(&lab, "eth0");
    lab.world.kernel.other(1, ifindex, &LinkChange::AddAltName("wan"));
    lab.settle();
    let dev = lab.registered(tap("t0"));
    lab.held(1, |held| altname_add(held, &dev, "uplink")).unwrap();
    for taken in ["eth0", "wan", "t0", "uplink", "lo"] {
        assert_eq!(called(&lab, taken), Err(EEXIST), "{taken}");
        if taken != "t0" {
            assert_eq!(refused(lab.rename(&dev, taken)), EEXIST, "{taken}");
        }
    }
    let elsewhere = lab.own(tap("t0"));
    lab.register_in(2, &elsewhere).unwrap();
    assert_eq!(dev.device().unwrap().link.name, "t0");
}

#[test]
fn k2_1_6_an_alternative_name_wanted_at_registration_is_in_the_same_table() {
    let lab = lab(1);
    other(&lab, "eth0");
    let dev = lab.own(LinkSpec { alt_names: vec!["eth0".into()], ..tap("t0") });
    assert_eq!(refused(lab.register(&dev)), EEXIST);
    assert_eq!(lab.world.kernel.ours(), []);
    let dev = lab.own(LinkSpec { alt_names: vec!["long name/with %".into(), "t9".into()], ..tap("t1") });
    lab.register(&dev).unwrap();
    assert_eq!(called(&lab, "t9"), Err(EEXIST));
    assert_eq!(dev.device().unwrap().link.alt_names, ["long name/with %", "t9"]);
    lab.assert_agrees();
}

#[test]
fn k2_1_7_the_same_name_is_no_change_and_the_own_name_is_in_use() {
    let lab = lab(1);
    let dev = lab.opened(tap("q0"));
    lab.rename(&dev, "q0").unwrap();
    assert_eq!(lab.take(), Vec::<String>::new());
    lab.rename(&dev, "q%d").unwrap();
    assert_eq!(dev.device().unwrap().link.name, "q1", "while it is up, too");
    assert_eq!(lab.take(), ["k.name(q0=q1)@1", "w.n0.changename(q0>q1)@1", "x.n0.changename(q0>q1)@1"]);
    for bad in ["", "a/b", "%s", "1234567890123456"] {
        assert_eq!(refused(lab.rename(&dev, bad)), EINVAL, "{bad:?}");
    }
    assert_eq!(lab.take(), Vec::<String>::new());
    lab.settle();
    assert_eq!(lab.take(), Vec::<String>::new(), "the echo is no event");
    lab.assert_agrees();
}

#[test]
fn k2_1_8_the_kernels_refusal_of_a_rename_restores_the_old_name_without_an_event() {
    let lab = lab(1);
    let dev = lab.registered(tap("t0"));
    lab.world.fail("k.name(t0=t9)@1");
    assert_eq!(refused(lab.rename(&dev, "t9")), ODD);
    assert_eq!(lab.take(), ["k.name(t0=t9)@1"]);
    assert_eq!(dev.device().unwrap().link.name, "t0");
    lab.assert_agrees();
    // A name that the kernel has and the mirror does not know yet.
    lab.world.kernel.other_adds(1, "t5", "ifb").unwrap();
    assert_eq!(refused(lab.rename(&dev, "t5")), EEXIST);
    lab.settle();
    lab.assert_agrees();
}

#[test]
fn k2_1_8_a_vetoed_rename_is_renamed_back_and_told_again_and_the_first_errno_is_given() {
    let lab = lab(1);
    let dev = lab.registered(tap("t0"));
    lab.world.verdict("x.n0.changename(t0>t9)@1", Verdict::Bad);
    assert_eq!(refused(lab.rename(&dev, "t9")), 1);
    assert_eq!(
        lab.take(),
        [
            "k.name(t0=t9)@1",
            "w.n0.changename(t0>t9)@1",
            "x.n0.changename(t0>t9)@1",
            "k.name(t9=t0)@1",
            "w.n0.changename(t9>t0)@1",
            "x.n0.changename(t9>t0)@1",
        ]
    );
    assert_eq!(dev.device().unwrap().link.name, "t0");
    lab.assert_agrees();
}

#[test]
fn k2_1_8_a_rollback_that_is_vetoed_too_stays_rolled_back() {
    let lab = lab(1);
    let dev = lab.registered(tap("t0"));
    lab.world.fail("w.n0.changename(t0>t9)@1");
    lab.world.verdict("x.n0.changename(t9>t0)@1", Verdict::Bad);
    assert_eq!(refused(lab.rename(&dev, "t9")), ODD, "the first errno");
    assert_eq!(dev.device().unwrap().link.name, "t0");
    lab.settle();
    lab.assert_agrees();
}

#[test]
fn k2_1_9_alternative_names_may_be_almost_anything_in_the_same_table() {
    let lab = lab(1);
    let dev = lab.registered(tap("t0"));
    other(&lab, "eth0");
    let add = |name: &str| lab.held(1, |held| altname_add(held, &dev, name)).map_err(|failure| failure.errno);
    let del = |name: &str| lab.held(1, |held| altname_del(held, &dev, name)).map_err(|failure| failure.errno);
    let long = "n".repeat(127);
    for good in ["with space", "a/b", "%", long.as_str(), ""] {
        assert_eq!(add(good), Ok(()), "{good:?}");
        assert_eq!(add(good), Err(EEXIST), "{good:?}");
    }
    assert_eq!(add("eth0"), Err(EEXIST));
    assert_eq!(add("t0"), Err(EEXIST));
    assert_eq!(add(&"n".repeat(128)), Err(ERANGE));
    assert_eq!(del("unknown"), Err(ENOENT));
    assert_eq!(del("t0"), Err(EINVAL), "a primary name");
    assert_eq!(del("eth0"), Err(EINVAL), "another device's");
    assert_eq!(add("a\0b"), Err(EINVAL));
    assert_eq!(del(""), Ok(()), "even that is one");
    assert_eq!(del("a/b"), Ok(()));
    assert_eq!(dev.device().unwrap().link.alt_names, ["with space", "%", long.as_str()]);
    assert_eq!(add("a/b"), Ok(()), "free again");
    lab.settle();
    lab.assert_agrees();
    lab.unregister(&dev).unwrap();
    assert_eq!(called(&lab, "%d"), Ok("0".into()));
}

#[test]
fn k2_2_1_an_index_is_the_kernels_next_and_not_the_lowest() {
    let lab = lab(1);
    let first = lab.registered(tap("t0"));
    let index = first.device().unwrap().link.ifindex;
    lab.unregister(&first).unwrap();
    let second = lab.registered(tap("t0"));
    let next = second.device().unwrap().link.ifindex;
    assert_eq!(next, index + 1);
    assert!(second.device().unwrap().serial > 0);
}

#[test]
fn k2_2_2_an_index_in_use_is_ebusy_and_a_wanted_one_does_not_move_the_cursor() {
    let lab = lab(1);
    let wants = |name: &str, ifindex: u32| lab.own(LinkSpec { ifindex, ..tap(name) });
    let dev = wants("t0", 500);
    lab.register(&dev).unwrap();
    assert_eq!(dev.device().unwrap().link.ifindex, 500);
    assert_eq!(refused(lab.register(&wants("t1", 500))), EBUSY);
    assert_eq!(refused(lab.register(&wants("t2", 1))), EBUSY, "lo's");
    let wide = lab.try_own(LinkSpec { ifindex: 0x8000_0000, ..tap("t3") });
    assert_eq!(refused(wide.and_then(|dev| lab.register(&dev))), EINVAL, "31 bits");
    let auto = lab.registered(tap("t4"));
    assert!(auto.device().unwrap().link.ifindex < 500);
    lab.assert_agrees();
}

#[test]
fn k2_2_2_an_index_that_only_the_kernel_knows_to_be_in_use_fails_the_registration_whole() {
    let lab = lab(1);
    // Its message is still on the way.
    let ifindex = lab.world.kernel.other_adds(1, "eth0", "ifb").unwrap();
    let dev = lab.own(LinkSpec { ifindex, ..tap("t0") });
    assert_eq!(refused(lab.register(&dev)), EBUSY);
    assert_eq!((lab.calls("t0").init, lab.calls("t0").uninit, lab.calls("t0").destructor), (1, 1, 1));
    lab.settle();
    lab.assert_agrees();
    assert_ne!(dev.reg_state(), RegState::Registered);
}

#[test]
fn k2_2_3_a_registration_that_fails_once_the_kernel_has_made_it_uses_an_index_up() {
    let lab = lab(1);
    let index = |name: &str| {
        let dev = lab.registered(tap(name));
        dev.device().unwrap().link.ifindex
    };
    let first = index("t0");
    lab.world.fail("x.n0.register(t1)@1");
    lab.world.fail("x.n0.post_init(t2)@1");
    assert_eq!(refused(lab.register(&lab.own(tap("t1")))), ODD);
    assert_eq!(index("t3"), first + 2, "the one between was the refused one's");
    // Unlike in the kernel one that is refused at POST_INIT has used none: it was not made yet.
    assert_eq!(refused(lab.register(&lab.own(tap("t2")))), ODD);
    assert_eq!(index("t4"), first + 3);
}

#[test]
fn k2_2_4_a_move_keeps_the_index_where_it_is_free_and_a_wanted_one_that_is_taken_is_ebusy() {
    let lab = lab(2);
    let dev = lab.registered(LinkSpec { ifindex: 40, ..tap("t0") });
    lab.travel(&dev, 2, None, 0).unwrap();
    assert_eq!(dev.device().unwrap().link.ifindex, 40);
    let clash = lab.registered(LinkSpec { ifindex: 40, ..tap("t1") });
    assert_eq!(refused(lab.travel(&clash, 2, None, 40)), EBUSY);
    assert_eq!(clash.device().unwrap().link.ifindex, 40, "it is where it was");
    lab.travel(&clash, 2, None, 0).unwrap();
    assert_ne!(clash.device().unwrap().link.ifindex, 40);
    let wants = lab.registered(tap("t2"));
    lab.travel(&wants, 2, None, 77).unwrap();
    assert_eq!(wants.device().unwrap().link.ifindex, 77);
    lab.settle();
    lab.assert_agrees();
}
