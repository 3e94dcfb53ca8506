//! Discovery of namespaces, by either method, against the kernel of this machine.

mod sandbox;

use std::process::ExitCode;

use sandbox::{netns_add, netns_del, trial};

fn main() -> ExitCode {
    sandbox::main(vec![trial("a name is made and removed", || {
        let path = netns_add("blue");
        assert!(path.exists());
        netns_del("blue");
        assert!(!path.exists());
    })])
}
