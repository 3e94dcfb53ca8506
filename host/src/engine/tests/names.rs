//! The table of visible names: lives, names, deaths.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use pernet_plugin_api::NetCookie;

use crate::engine::NetChange::{Appeared, Died, Renamed};
use crate::engine::Observation::{Named, Snapshot, Unnamed};
use crate::engine::*;

const A: NetCookie = NetCookie(10);
const B: NetCookie = NetCookie(11);

fn table() -> Names {
    Names::new(vec!["/run/netns".into(), "/run/docker/netns".into()], None)
}

fn ip(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}

fn docker(name: &str) -> PathBuf {
    PathBuf::from("/run/docker/netns").join(name)
}

fn appeared(cookie: NetCookie, generation: u32, names: &[&str]) -> NetChange {
    Appeared { cookie, generation, names: names.iter().map(|n| (*n).into()).collect() }
}

fn renamed(cookie: NetCookie, generation: u32, names: &[&str]) -> NetChange {
    Renamed { cookie, generation, names: names.iter().map(|n| (*n).into()).collect() }
}

#[test]
fn a_life_lasts_from_the_first_name_to_the_last() {
    let mut names = table();
    assert_eq!(names.observe([Named(ip("x"), A)]), [appeared(A, 1, &["x"])]);
    assert_eq!(names.observe([Named(ip("x"), A)]), [], "the same mount seen twice is one");
    assert_eq!(names.observe([Named(ip("b"), A)]), [renamed(A, 1, &["b", "x"])]);
    assert_eq!(names.observe([Unnamed(ip("x"))]), [renamed(A, 1, &["b"])]);
    assert_eq!(names.observe([Unnamed(ip("nothing"))]), []);
    assert_eq!(names.observe([Unnamed(ip("b"))]), [Died { cookie: A, generation: 1 }]);
    assert_eq!((names.find("b"), names.find("x")), (None, None));
}

#[test]
fn named_again_it_is_a_next_life() {
    let mut names = table();
    names.observe([Named(ip("x"), A)]);
    names.observe([Unnamed(ip("x"))]);
    assert_eq!(names.observe([Named(ip("y"), A)]), [appeared(A, 2, &["y"])]);
    names.observe([Unnamed(ip("y"))]);
    assert_eq!(names.observe([Named(ip("y"), A)]), [appeared(A, 3, &["y"])]);
}

#[test]
fn a_move_within_a_batch_is_no_death() {
    let mut names = table();
    names.observe([Named(ip("x"), A)]);
    assert_eq!(names.observe([Unnamed(ip("x")), Named(ip("y"), A)]), [renamed(A, 1, &["y"])]);
    assert_eq!(names.observe([Unnamed(ip("y")), Named(ip("y"), A)]), []);
    assert_eq!(names.observe([Named(ip("z"), B), Unnamed(ip("z"))]), [], "it never lived");
}

#[test]
fn a_name_taken_again_at_once_is_a_death_and_a_birth() {
    let mut names = table();
    names.observe([Named(ip("x"), A)]);
    let changes = names.observe([Unnamed(ip("x")), Named(ip("x"), B)]);
    assert_eq!(changes, [Died { cookie: A, generation: 1 }, appeared(B, 1, &["x"])]);
    assert_eq!(names.find("x"), Some(B));
    // The same with a lost event in between.
    assert_eq!(names.observe([Named(ip("x"), A)]), [Died { cookie: B, generation: 1 }, appeared(A, 2, &["x"])]);
}

#[test]
fn a_name_that_changes_hands_is_found_at_its_new_holder() {
    let mut names = table();
    names.observe([Named(ip("x"), A), Named(ip("y"), B)]);
    let changes = names.observe([Named(ip("x"), B), Named(ip("y"), A)]);
    assert_eq!(changes, [renamed(A, 1, &["y"]), renamed(B, 1, &["x"])]);
    assert_eq!((names.find("x"), names.find("y")), (Some(B), Some(A)));
}

#[test]
fn a_snapshot_is_everything() {
    let mut names = table();
    names.observe([Named(ip("x"), A), Named(ip("y"), B)]);
    let changes = names.observe([Snapshot(vec![(ip("z"), B), (docker("q"), NetCookie(5))])]);
    assert_eq!(changes, [Died { cookie: A, generation: 1 }, renamed(B, 1, &["z"]), appeared(NetCookie(5), 1, &["q"])]);
    assert_eq!(names.observe([Snapshot(vec![])]).len(), 2);
}

#[test]
fn a_name_taken_in_an_earlier_folder_is_shown_as_its_path() {
    let mut names = table();
    assert_eq!(names.observe([Named(docker("x"), A)]), [appeared(A, 1, &["x"])]);
    assert_eq!(names.find("x"), Some(A));
    assert_eq!(names.observe([Named(ip("x"), B)]), [renamed(A, 1, &["/run/docker/netns/x"]), appeared(B, 1, &["x"])]);
    assert_eq!((names.find("x"), names.find("/run/docker/netns/x")), (Some(B), Some(A)));
    assert_eq!(names.find("/run/netns/x"), Some(B), "a path finds it too");
    assert_eq!(names.observe([Unnamed(ip("x"))]), [Died { cookie: B, generation: 1 }, renamed(A, 1, &["x"])]);
    // Folder order comes before bytes.
    assert_eq!(names.observe([Named(ip("z"), A)]), [renamed(A, 1, &["z", "x"])]);
    // Elsewhere, there is only the path.
    assert_eq!(names.observe([Named("/srv/n".into(), B)]), [appeared(B, 2, &["/srv/n"])]);
}

#[test]
fn the_host_is_first_always_lives_and_has_its_own_name() {
    let mut names = Names::new(vec!["/run/docker/netns".into()], Some(B));
    assert_eq!(names.observe([Named(docker("a"), A)]), [appeared(B, 1, &["@host"]), appeared(A, 1, &["a"])]);
    assert_eq!(names.observe([Named(docker("default"), B)]), [renamed(B, 1, &["@host", "default"])]);
    assert_eq!(names.observe([Snapshot(vec![])]), [Died { cookie: A, generation: 1 }, renamed(B, 1, &["@host"])]);
    assert_eq!(names.find("@host"), Some(B));
}

#[test]
fn names_are_escaped_where_they_could_be_mistaken() {
    let table: [(&[u8], &str); 12] = [
        (b"plain-1.x", "plain-1.x"),
        (b"with space", "with space"),
        ("äöü€".as_bytes(), "äöü€"),
        (b"@host", r"\x40host"),
        (b"#1", r"\x231"),
        (b"a@b#c", "a@b#c"),
        (b"back\\slash", r"back\x5cslash"),
        (b"tab\tnl\n", r"tab\x09nl\x0a"),
        (b"del\x7f", r"del\x7f"),
        (b"\xff\xfe@", r"\xff\xfe@"),
        (b"half\xc3", r"half\xc3"),
        ("c1\u{85}".as_bytes(), r"c1\xc2\x85"),
    ];
    for (bytes, text) in table {
        assert_eq!(escape(OsStr::from_bytes(bytes)), text);
    }
    let mut names = self::table();
    let path = PathBuf::from("/run/netns").join(OsStr::from_bytes(b"@host"));
    assert_eq!(names.observe([Named(path, A)]), [appeared(A, 1, &[r"\x40host"])]);
    assert_eq!((names.find(r"\x40host"), names.find("@host")), (Some(A), None));
    let long = "n".repeat(255);
    assert_eq!(names.observe([Named(ip(&long), B)]), [appeared(B, 1, &[&long])]);
}
