//! What plugins see of the lives of namespaces: order, reasons, names, and the daemon's own end.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;

use std::process::ExitCode;

use machine::{Machine, both};
use sandbox::{netns_add, netns_del};

fn main() -> ExitCode {
    let trials = [both("inits in order, exits in reverse", order)];
    sandbox::main(trials.into_iter().flatten().collect())
}

fn order(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.probe(20, "b", "", "device_op = true");
    m.start();
    assert_eq!(m.status()["discovery"], m.ctl(["status"])["discovery"]);
    m.forget();
    netns_add("blue");
    m.wait_state("blue", "live");
    netns_del("blue");
    m.wait_gone("blue");
    println!("{:#?}", m.calls());
    println!("{}", m.trace().join("\n"));
    m.stop();
}
