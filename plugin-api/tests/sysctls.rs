//! Sysctl tables of a plugin's own across its table: what is registered, knobs behind entries, own handlers, and the end.
#![forbid(unsafe_code)]

mod device_host;
mod stub_host;

use std::sync::{Arc, Mutex};

use device_host::*;
use pernet_plugin_api::abi::{CtlCall, CtlReturn};
use pernet_plugin_api::prelude::*;

const NET: NetCookie = NetCookie(3);
const READ: u8 = 0;
const WRITE: u8 = 1;

fn access(loaded: &Loaded, what: u8, entry: u32, index: u64, number: u64, bytes: &[u8]) -> CtlReturn {
    let call = CtlCall { what, entry, index, number, bytes: bytes.into() };
    (loaded.module.ctl().expect("there"))(loaded.instance, loaded.last_table(), &call)
}

fn number(loaded: &Loaded, entry: u32, index: u64) -> u64 {
    let answer = access(loaded, READ, entry, index, 0, &[]);
    assert_eq!(answer.status.errno, 0, "{:?}", answer.status);
    answer.number
}

fn set(loaded: &Loaded, entry: u32, index: u64, number: u64) -> i32 {
    access(loaded, WRITE, entry, index, number, &[]).status.errno
}

#[test]
fn a_table_is_told_entry_by_entry() {
    let loaded = loaded();
    let (int, uint, bool, ulong) = (IntKnob::new(-3), UintKnob::new(3), BoolKnob::new(true), UlongKnob::new(7));
    let (vector, text) = (IntKnob::vector([1, 2, 3]), TextKnob::new(15, "x"));
    let table = CtlTable::new()
        .int("int", &int, ..)
        .int("bounded", &int, -5..=5)
        .int("half", &int, -5..5)
        .uint("uint", &uint, 10..=60_000)
        .uint("from", &uint, 10..)
        .bool("bool", &bool)
        .mode(0o600)
        .ulong("ulong", &ulong, ..u64::MAX)
        .int("vector", &vector, ..=9)
        .text("text", &text)
        .own("own", || Ok(String::new()), |_| Ok(()))
        .show("show", || Ok(String::new()))
        .uint("empty", &uint, 5..5);
    let header = loaded.host.register_net_sysctl(NET, "a/b", table).expect("registered");
    let signed = |n: i64| n.cast_unsigned();
    assert_eq!(
        taken(),
        [
            "a/b/int 644 0 0 1 0 0".to_owned(),
            format!("a/b/bounded 644 0 3 1 {} 5", signed(-5)),
            format!("a/b/half 644 0 3 1 {} 4", signed(-5)),
            "a/b/uint 644 1 3 1 10 60000".to_owned(),
            "a/b/from 644 1 1 1 10 0".to_owned(),
            "a/b/bool 600 2 0 1 0 0".to_owned(),
            format!("a/b/ulong 644 3 2 1 0 {}", u64::MAX - 1),
            "a/b/vector 644 0 2 3 0 9".to_owned(),
            "a/b/text 644 4 0 16 0 0".to_owned(),
            "a/b/own 644 5 0 0 0 0".to_owned(),
            "a/b/show 444 5 0 0 0 0".to_owned(),
            "a/b/empty 644 1 3 1 5 4".to_owned(),
        ]
    );
    drop(header);
}

#[test]
fn a_range_without_numbers_is_told_the_wrong_way_round() {
    let loaded = loaded();
    let (int, uint) = (IntKnob::new(0), UintKnob::new(0));
    let table = CtlTable::new().int("low", &int, ..i32::MIN).uint("zero", &uint, ..0).uint(
        "high",
        &uint,
        (std::ops::Bound::Excluded(u32::MAX), std::ops::Bound::Unbounded),
    );
    let _header = loaded.host.register_net_sysctl(NET, "a", table).expect("the host refuses it, this one does not");
    for line in taken() {
        let words: Vec<&str> = line.split(' ').collect();
        let bound = |at: usize| words[at].parse::<u64>().expect("a bound").cast_signed();
        assert_eq!(words[3], "3");
        assert!(bound(5) > bound(6), "{line}");
    }
}

#[test]
fn numbers_are_got_and_set_element_by_element() {
    let loaded = loaded();
    let (int, uint, bool, ulong) =
        (IntKnob::vector([-1, 2]), UintKnob::new(3), BoolKnob::new(false), UlongKnob::vector([4, u64::MAX]));
    let table = CtlTable::new().int("i", &int, ..).uint("u", &uint, ..).bool("b", &bool).ulong("l", &ulong, ..);
    let _header = loaded.host.register_net_sysctl(NET, "a", table).expect("registered");
    assert_eq!(number(&loaded, 0, 0).cast_signed(), -1);
    assert_eq!((number(&loaded, 0, 1), number(&loaded, 1, 0), number(&loaded, 2, 0)), (2, 3, 0));
    assert_eq!((number(&loaded, 3, 0), number(&loaded, 3, 1)), (4, u64::MAX));
    assert_eq!(set(&loaded, 0, 1, (-7i64).cast_unsigned()), 0);
    assert_eq!((set(&loaded, 1, 0, 9), set(&loaded, 2, 0, 1), set(&loaded, 3, 1, 8)), (0, 0, 0));
    assert_eq!((int.values(), int.get(), int.element(1), int.element(2)), (vec![-1, -7], -1, Some(-7), None));
    assert_eq!((uint.get(), bool.get(), ulong.values()), (9, true, vec![4, 8]));
    // What the plugin sets is what is read.
    int.set(5);
    assert_eq!(number(&loaded, 0, 0), 5);
    // Only a host that makes mistakes asks for these.
    for (entry, index, value) in [(0, 2, 0), (3, 2, 0), (0, 0, 1 << 40), (1, 0, 1 << 32), (4, 0, 0)] {
        assert_eq!(set(&loaded, entry, index, value), libc::EINVAL, "{entry} {index} {value}");
    }
    assert_eq!(access(&loaded, 7, 0, 0, 0, &[]).status.errno, libc::EOPNOTSUPP);
}

#[test]
fn a_text_is_judged_before_it_is_changed() {
    let loaded = loaded();
    let plain = TextKnob::new(5, "hello world");
    assert_eq!(&*plain.get(), "hello");
    let checked = TextKnob::checked(20, "ok", |text| match text {
        "bad" => Err(Error::new(libc::EINVAL, "that is bad")),
        _ => Ok(()),
    });
    let table = CtlTable::new().text("plain", &plain).text("checked", &checked);
    let _header = loaded.host.register_net_sysctl(NET, "a", table).expect("registered");
    let write = |entry, text: &[u8]| access(&loaded, WRITE, entry, 0, 0, text).status;
    assert_eq!(write(1, b"bad").message.as_str(), "that is bad");
    assert_eq!(&*checked.get(), "ok");
    assert_eq!(write(1, b"good").errno, 0);
    assert_eq!((&*checked.get(), access(&loaded, READ, 1, 0, 0, &[]).bytes.as_slice()), ("good", b"good".as_slice()));
    assert_eq!(write(0, b"\xff").errno, libc::EINVAL, "no text");
    assert_eq!(write(0, "abcdä".as_bytes().split_at(5).0).errno, 0, "a character that was cut off with the rest");
    assert_eq!(&*plain.get(), "abcd");
    plain.set("a\nb");
    assert_eq!(&*plain.get(), "a");
}

#[test]
fn own_handlers_have_texts_or_bytes() {
    let loaded = loaded();
    let told = Arc::new(Mutex::new(Vec::new()));
    let (texts, bytes) = (Arc::clone(&told), Arc::clone(&told));
    let table = CtlTable::new()
        .own(
            "whole",
            || Ok("two\nlines".to_owned()),
            move |text| {
                lock(&texts).push(text.to_owned());
                Ok(())
            },
        )
        .own_at(
            "at",
            |position, count| Ok(vec![u8::try_from(position).unwrap_or(9) + b'0'; count + 3]),
            move |position, written| {
                lock(&bytes).push(format!("{position} {written:?}"));
                Ok(written.len() + 3)
            },
        )
        .show("show", || Err(Error::new(libc::ENODATA, "nothing yet")));
    let _header = loaded.host.register_net_sysctl(NET, "a", table).expect("registered");
    let read = |entry, position, count| access(&loaded, READ, entry, position, count, &[]).bytes.to_vec();
    assert_eq!(read(0, 0, 100), b"two\nlines\n");
    assert_eq!((read(0, 4, 3), read(0, 10, 3), read(0, 99, 3)), (b"lin".to_vec(), Vec::new(), Vec::new()));
    let write = |entry, position, text: &[u8]| access(&loaded, WRITE, entry, position, 0, text);
    assert_eq!(write(0, 0, b"a word\n").number, 7);
    assert_eq!(write(0, 7, b"another\n").number, 8, "swallowed");
    assert_eq!(write(0, 0, b"\xff").status.errno, libc::EINVAL);
    assert_eq!((read(1, 4, 2), write(1, 2, b"xy").number), (b"44".to_vec(), 2), "no more than was asked for, or given");
    assert_eq!(*lock(&told), ["a word", "2 [120, 121]"]);
    let refused = access(&loaded, READ, 2, 0, 10, &[]).status;
    assert_eq!((refused.errno, refused.message.as_str()), (libc::ENODATA, "nothing yet"));
    assert_eq!(write(2, 0, b"x").status.errno, libc::EPERM);
}

#[test]
fn a_handler_s_panic_stops_in_the_plugin() {
    let loaded = loaded();
    let table = CtlTable::new().show("x", || panic!("as told"));
    let _header = loaded.host.register_net_sysctl(NET, "a", table).expect("registered");
    let status = access(&loaded, READ, 0, 0, 10, &[]).status;
    assert_eq!((status.errno, status.panicked), (libc::EIO, 1));
    assert!(status.message.contains("as told"), "{}", status.message);
}

/// Leaves a trace when it is dropped.
struct Mark;

impl Drop for Mark {
    fn drop(&mut self) {
        note("dropped");
    }
}

fn marked() -> CtlTable {
    let mark = Mark;
    CtlTable::new().show("x", move || {
        let _ = &mark;
        Ok(String::new())
    })
}

#[test]
fn a_table_is_dropped_when_the_host_frees_it() {
    let loaded = loaded();
    let header = loaded.host.register_net_sysctl(NET, "a", marked()).expect("registered");
    assert_eq!(loaded.tables(), 1);
    taken();
    header.unregister().expect("unregistered");
    assert_eq!((taken(), loaded.tables()), (vec!["dropped".to_owned()], 0));
    drop(loaded.host.register_net_sysctl(NET, "a", marked()).expect("registered"));
    assert_eq!(taken().last().map(String::as_str), Some("dropped"));
    let refused = loaded.host.register_net_sysctl(NetCookie(404), "a", marked()).expect_err("not managed");
    assert_eq!(
        (refused.errno(), taken()),
        (libc::ENOENT, vec!["dropped".to_owned()]),
        "it stays the plugin's, and goes"
    );
}

#[test]
fn what_the_host_has_unregistered_or_cannot_is_no_trouble() {
    let loaded = loaded();
    let header = loaded.host.register_net_sysctl(NET, "a", marked()).expect("registered");
    loaded.tables_are_gone();
    assert_eq!(header.unregister().expect_err("gone").errno(), libc::ENOENT);
    let header = loaded.host.register_net_sysctl(NetCookie(406), "a", marked()).expect("registered");
    assert_eq!(header.unregister().expect_err("in a handler").errno(), libc::EDEADLK);
    assert_eq!(loaded.tables(), 1, "it stays, for whoever ends the namespace");
}

#[test]
fn an_instance_s_end_drops_what_is_left_and_takes_no_more() {
    let loaded = loaded();
    let header = loaded.host.register_net_sysctl(NET, "a", marked()).expect("registered");
    taken();
    assert_eq!(loaded.destroy().errno, 0);
    assert_eq!(taken(), ["dropped"]);
    let late = loaded.host.register_net_sysctl(NET, "a", marked()).expect_err("ended");
    assert_eq!(late.errno(), libc::ESTALE);
    loaded.tables_are_gone();
    drop(header);
}
