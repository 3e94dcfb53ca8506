//! `pernetctl netns add` and `del` in a sandbox: what they do to the names, in which order with the daemon's part.
#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod fake_daemon;
mod sandbox;

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, Output, Stdio};

use fake_daemon::{FakeDaemon, answer, netns, text, wait_until};
use pernetd::control::wire::{Netns, NetnsState};
use pernetd::control::{Limits, NetnsAdd, Reply, Request};
use rustix::process::{Pid, Signal, kill_process};
use sandbox::{RUN_NETNS, netns_add, trial};
use serde_json::Value;

fn main() -> ExitCode {
    sandbox::main(vec![
        trial("the_name_is_bound_after_the_inits", the_name_is_bound_after_the_inits),
        trial("a_failed_init_leaves_no_name", a_failed_init_leaves_no_name),
        trial("a_taken_name_is_refused_before_any_work", a_taken_name_is_refused_before_any_work),
        trial("names_that_cannot_be_are_refused", names_that_cannot_be_are_refused),
        trial("an_interrupted_add_leaves_no_name", an_interrupted_add_leaves_no_name),
        trial("a_daemon_that_goes_leaves_no_name", a_daemon_that_goes_leaves_no_name),
        trial("special_names_are_written_and_found_in_the_operators_form", special_names),
        trial("del_removes_the_name_and_waits_for_the_exits", del_removes_the_name_and_waits_for_the_exits),
        trial("del_leaves_the_host_alone", del_leaves_the_host_alone),
    ])
}

fn path(name: &str) -> PathBuf {
    Path::new(RUN_NETNS).join(name)
}

/// The inode of what is mounted on a name: of a namespace, not of a placeholder.
fn namespace_at(path: &Path) -> Option<u64> {
    let meta = fs::metadata(path).ok()?;
    let nsfs = File::open("/proc/self/ns/net").unwrap().metadata().unwrap().dev();
    (meta.dev() == nsfs).then(|| meta.ino())
}

fn start(daemon: &FakeDaemon, arguments: &[&str]) -> Child {
    daemon.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Serves the folders, then takes the add.
fn take_add(daemon: &FakeDaemon) -> NetnsAdd {
    answer(daemon.next());
    match daemon.next() {
        Request::NetnsAdd(add) => add,
        other => panic!("{other:?}"),
    }
}

fn result(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), text(&output.stderr))
}

fn the_name_is_bound_after_the_inits() {
    let daemon = FakeDaemon::silent(Limits::default());
    let child = start(&daemon, &["--json", "netns", "add", "new"]);
    let add = take_add(&daemon);
    assert_eq!((add.name.as_str(), add.path.as_path()), ("new", path("new").as_path()));
    let ns = File::from(add.ns).metadata().unwrap().ino();
    assert_ne!(ns, File::open("/proc/self/ns/net").unwrap().metadata().unwrap().ino());
    assert!(path("new").exists() && namespace_at(&path("new")).is_none(), "the name is taken, and no more");
    add.inits.send(Ok(netns("new", NetnsState::live)));
    wait_until("the name is bound", || namespace_at(&path("new")) == Some(ns));
    add.seen.send(Ok(netns("new", NetnsState::live)));
    let output = child.wait_with_output().unwrap();
    assert_eq!(result(&output), (Some(0), String::new()));
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["name"], "new");
    assert_eq!(namespace_at(&path("new")), Some(ns));
}

fn a_failed_init_leaves_no_name() {
    let daemon = FakeDaemon::silent(Limits::default());
    let child = start(&daemon, &["netns", "add", "new"]);
    let add = take_add(&daemon);
    add.inits.send(Ok(netns("new", NetnsState::failed)));
    let (code, line) = result(&child.wait_with_output().unwrap());
    assert_eq!(code, Some(1));
    assert!(line.starts_with("pernetctl: namespace new: sysctl pernet.init: net.x: no such key; "), "{line}");
    assert!(!path("new").exists());
}

fn a_taken_name_is_refused_before_any_work() {
    let daemon = FakeDaemon::silent(Limits::default());
    let there = namespace_at(&netns_add("there"));
    fs::write(path("placeholder"), "").unwrap();
    for name in ["there", "placeholder"] {
        let child = start(&daemon, &["netns", "add", name]);
        answer(daemon.next());
        let (code, line) = result(&child.wait_with_output().unwrap());
        assert_eq!(code, Some(1));
        let what = if name == "there" { "the name is taken; " } else { "the name is taken, and is no namespace; " };
        assert!(line.starts_with(&format!("pernetctl: /run/netns/{name}: {what}")), "{line}");
        assert!(daemon.requests.is_empty(), "nothing was asked of the daemon");
    }
    assert_eq!(namespace_at(&path("there")), there);
    assert!(path("placeholder").exists());
}

fn names_that_cannot_be_are_refused() {
    let daemon = FakeDaemon::silent(Limits::default());
    for name in ["@host", "#1", "", ".", "..", "a/b", "/run/netns/x", r"a\x00", r"\", &"n".repeat(256)] {
        let (code, line) = result(&daemon.ctl(&["netns", "add", name]));
        assert_eq!(code, Some(1), "{name}");
        assert!(line.contains("this cannot be a namespace's name"), "{line}");
    }
    assert!(daemon.requests.is_empty() && !Path::new(RUN_NETNS).exists());
}

fn an_interrupted_add_leaves_no_name() {
    let daemon = FakeDaemon::silent(Limits::default());
    let child = start(&daemon, &["netns", "add", "new"]);
    let add = take_add(&daemon);
    assert!(path("new").exists());
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_ne!(child.wait_with_output().unwrap().status.code(), Some(0));
    assert!(!path("new").exists());
    assert!(matches!(daemon.next(), Request::LeaseEnded { lease } if lease == add.lease));
}

fn a_daemon_that_goes_leaves_no_name() {
    let mut daemon = FakeDaemon::silent(Limits::default());
    let child = start(&daemon, &["netns", "add", "new"]);
    let add = take_add(&daemon);
    add.inits.send(Ok(netns("new", NetnsState::live)));
    wait_until("the name is bound", || namespace_at(&path("new")).is_some());
    daemon.server.take();
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(3));
    assert!(!path("new").exists());
}

fn special_names() {
    let daemon = FakeDaemon::silent(Limits::default());
    use std::os::unix::ffi::OsStrExt;
    let name = r"\x40host \xff\x5c";
    let file = Path::new(RUN_NETNS).join(std::ffi::OsStr::from_bytes(b"@host \xff\\"));
    let child = start(&daemon, &["netns", "add", name]);
    let add = take_add(&daemon);
    assert_eq!(add.name, name);
    add.inits.send(Ok(netns(name, NetnsState::live)));
    add.seen.send(Ok(netns(name, NetnsState::live)));
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
    assert!(namespace_at(&file).is_some());

    let child = start(&daemon, &["netns", "del", name]);
    let gone = serve_del(&daemon, netns(name, NetnsState::live));
    wait_until("the name is gone", || !file.exists());
    gone.send(Ok(netns(name, NetnsState::dying)));
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
}

/// Serves a del until the daemon watches; the rest is the test's.
fn serve_del(daemon: &FakeDaemon, known: Netns) -> Reply<Netns> {
    let mut gone = None;
    for _ in 0..4 {
        match daemon.next() {
            Request::NetnsGet { reply, .. } => reply.send(Ok(known.clone())),
            Request::NetnsWaitGone { cookie: 4711, reply, .. } => gone = Some(reply),
            status @ Request::Status { .. } => answer(status),
            other => panic!("{other:?}"),
        }
    }
    gone.unwrap()
}

fn del_removes_the_name_and_waits_for_the_exits() {
    let daemon = FakeDaemon::silent(Limits::default());
    netns_add("old");
    let mut child = start(&daemon, &["--json", "netns", "del", "old"]);
    let gone = serve_del(&daemon, netns("old", NetnsState::live));
    wait_until("the name is gone", || !path("old").exists());
    assert!(child.try_wait().unwrap().is_none(), "it waits for the exits");
    gone.send(Ok(netns("old", NetnsState::dying)));
    let output = child.wait_with_output().unwrap();
    assert_eq!(result(&output), (Some(0), String::new()));
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["state"], "dying");
}

fn del_leaves_the_host_alone() {
    let daemon = FakeDaemon::silent(Limits::default());
    let before = namespace_at(&netns_add("default"));
    for name in ["@host", "default"] {
        let child = start(&daemon, &["netns", "del", name]);
        let Request::NetnsGet { reply, .. } = daemon.next() else { panic!("another request") };
        reply.send(Ok(netns("@host", NetnsState::live)));
        let (code, line) = result(&child.wait_with_output().unwrap());
        assert_eq!(code, Some(1));
        assert!(line.contains("this is the host's own namespace"), "{line}");
    }
    assert_eq!(namespace_at(&path("default")), before);
    assert!(daemon.requests.is_empty());
}
