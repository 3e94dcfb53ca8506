//! K5.1 and beyond: the order of initcalls.

use crate::engine::*;

struct Row(&'static str, Level, &'static [&'static str], &'static [&'static str]);

/// Orders rows whose file names are their positions.
fn sort(rows: &[Row]) -> Result<Vec<&'static str>, OrderError> {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let lists: Vec<_> =
        rows.iter().enumerate().map(|(n, r)| (format!("{n:02}-{}.toml", r.0), owned(r.2), owned(r.3))).collect();
    let items: Vec<Item<'_>> = rows
        .iter()
        .zip(&lists)
        .map(|(r, (file_name, after, requires))| Item { name: r.0, level: r.1, file_name, after, requires })
        .collect();
    order(&items).map(|order| order.into_iter().map(|n| rows[n].0).collect())
}

use Level::{Core, Device, Late, Pure, Subsys};

#[test]
fn k5_1_levels_come_before_file_names() {
    let rows =
        [Row("d", Late, &[], &[]), Row("c", Subsys, &[], &[]), Row("b", Subsys, &[], &[]), Row("a", Pure, &[], &[])];
    assert_eq!(sort(&rows).unwrap(), ["a", "c", "b", "d"]);
}

#[test]
fn who_waits_moves_behind_and_the_others_keep_their_order() {
    let rows = [
        Row("a", Subsys, &["c"], &[]),
        Row("b", Subsys, &[], &[]),
        Row("c", Subsys, &[], &["d"]),
        Row("d", Subsys, &[], &[]),
        Row("e", Subsys, &[], &[]),
    ];
    assert_eq!(sort(&rows).unwrap(), ["b", "d", "c", "a", "e"]);
}

#[test]
fn after_an_unknown_one_is_ignored_and_requires_is_refused() {
    assert_eq!(sort(&[Row("a", Subsys, &["nobody"], &[])]).unwrap(), ["a"]);
    let error = sort(&[Row("a", Subsys, &[], &["nobody"])]).unwrap_err();
    assert_eq!(error, OrderError::MissingRequires { chain: ["a", "nobody"].map(String::from).into() });
    assert_eq!((error.plugin(), error.other()), ("a", Some("nobody")));
}

#[test]
fn what_is_missing_is_written_out_from_the_far_end() {
    let rows = [
        Row("z", Subsys, &["a"], &[]),
        Row("a", Subsys, &[], &["b"]),
        Row("b", Subsys, &[], &["c"]),
        Row("other", Subsys, &[], &["b"]),
    ];
    let error = sort(&rows).unwrap_err();
    assert_eq!(error, OrderError::MissingRequires { chain: ["a", "b", "c"].map(String::from).into() });
    assert_eq!((error.plugin(), error.other()), ("b", Some("c")), "its configuration is to be changed");
    assert_eq!(error.to_string(), "plugin `a` requires `b` requires `c`, which is not configured, or not enabled");
    let round = [Row("a", Subsys, &[], &["b"]), Row("b", Subsys, &[], &["a", "c"])];
    let error = sort(&round).unwrap_err();
    assert_eq!(error, OrderError::MissingRequires { chain: ["a", "b", "c"].map(String::from).into() }, "it ends");
}

#[test]
fn k5_1_the_daemons_own_come_first_in_their_level_in_the_order_given() {
    let none: &[String] = &[];
    let item = |name, level, file_name| Item { name, level, file_name, after: none, requires: none };
    let items = [
        item("z_init", Core, ""),
        item("a_init", Core, ""),
        item("net_ns_init", Pure, ""),
        item("early", Pure, "00-early.toml"),
        item("core", Core, "00-core.toml"),
    ];
    let names: Vec<&str> = order(&items).unwrap().into_iter().map(|i| items[i].name).collect();
    assert_eq!(names, ["net_ns_init", "early", "z_init", "a_init", "core"]);
}

#[test]
fn a_name_is_given_once() {
    let error = sort(&[Row("a", Subsys, &[], &[]), Row("a", Late, &[], &[])]).unwrap_err();
    assert_eq!(error, OrderError::Duplicate { name: "a".into() });
}

#[test]
fn a_cycle_is_written_out() {
    let rows = [
        Row("free", Subsys, &[], &[]),
        Row("tail", Subsys, &["a"], &[]),
        Row("a", Subsys, &["b"], &[]),
        Row("b", Subsys, &[], &["c"]),
        Row("c", Subsys, &["a"], &[]),
    ];
    let error = sort(&rows).unwrap_err();
    assert_eq!(error, OrderError::Cycle { chain: ["a", "b", "c", "a"].map(String::from).into() });
    assert!(error.to_string().contains("`a` after `b` after `c` after `a`"), "{error}");
    let own = sort(&[Row("a", Subsys, &["a"], &[])]).unwrap_err();
    assert_eq!(own, OrderError::Cycle { chain: ["a", "a"].map(String::from).into() });
}

#[test]
fn nothing_comes_after_a_later_level() {
    let rows = [Row("a", Core, &[], &["b"]), Row("b", Device, &[], &[])];
    let error = sort(&rows).unwrap_err();
    assert!(matches!(&error, OrderError::AfterLaterLevel { plugin, after, .. } if plugin == "a" && after == "b"));
    assert!(error.to_string().contains("level device"), "{error}");
}

#[test]
fn a_level_is_its_word_and_back() {
    for level in Level::ALL {
        assert_eq!(level.as_str().parse(), Ok(level));
    }
    assert!("early".parse::<Level>().unwrap_err().contains("pure, core"));
}
