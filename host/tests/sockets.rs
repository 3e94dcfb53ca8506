//! Sockets inside namespaces and protocol families of plugins', on the real daemon: made from wherever, listed, closed by
//! the host where a plugin leaves them open, and connected to by `pernetctl` and by programs.
#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{ExitCode, Stdio};

use machine::{Call, Machine, SOON, inside, name_path, one};
use pernetd::control::client::{SockType, sock_connect};
use pernetd::linux::{ns, rtnetlink};
use sandbox::{netns_add, netns_del, wait_until};
use serde_json::Value;

fn main() -> ExitCode {
    let trials = [
        one("a hook and a thread of the plugin's own make sockets inside", made_inside),
        one("a stream is relayed both ways, and ends when either side does", relayed),
    ];
    sandbox::main(trials.into_iter().flatten().collect())
}

const AF_INET: i32 = libc::AF_INET;

/// A `sockets` key with these.
fn sockets(wanted: &[&str]) -> String {
    format!("sockets = [{}]", wanted.join(", "))
}

fn find(m: &Machine, hook: &str) -> Vec<Call> {
    m.calls().into_iter().filter(|c| c.hook == hook).collect()
}

/// `ino=… fd=…`
fn made(call: &Call) -> (u64, i32) {
    assert_eq!(call.errno, Some(0), "{:?}", call.message);
    let message = call.message.as_deref().unwrap();
    let (ino, fd) = message.split_once(' ').unwrap();
    (ino.strip_prefix("ino=").unwrap().parse().unwrap(), fd.strip_prefix("fd=").unwrap().parse().unwrap())
}

fn list(m: &Machine) -> Vec<Value> {
    m.ctl(["sock", "list"]).as_array().unwrap().clone()
}

fn made_inside(mut m: Machine) {
    let hook = format!("{{ hook = \"pernet.init\", family = {AF_INET}, kind = 2 }}");
    let thread = format!("{{ hook = \"pernet.init\", family = {AF_INET}, kind = 1, own_thread = true }}");
    m.probe(10, "a", "", &sockets(&[&hook, &thread]));
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    wait_until("both are made", SOON, || find(&m, "sock.create").len() == 2);
    eprintln!("{:?}", m.ctl(["sock", "list"]));
    netns_del("blue");
    m.wait_gone("blue");
    assert_eq!(list(&m), Vec::<Value>::new());
    m.stop();
}

fn relayed(mut m: Machine) {
    m.probe(10, "a", "", "families = [\"echo\"]");
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    let mut command = m.pernetctl_for_people(["sock", "connect", "--netns", "blue", "echo"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"there and back").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, b"there and back");
    m.stop();
}
