//! Real mounts in sandboxes: made by `pernetctl`, served by the daemon, used by ordinary programs.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use machine::{Machine, one};
use sandbox::{Trial, netns_add};

fn main() -> ExitCode {
    let lacking = rustix::fs::open("/dev/fuse", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty()).is_err();
    let trials = [one("pernetfs: what is running, as files", pernetfs)];
    sandbox::main(trials.into_iter().flatten().map(|trial: Trial| trial.ignored_if(lacking)).collect())
}

fn text(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn pernetfs(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    fs::create_dir("/mnt").unwrap();
    let mounted = m.ctl(["mount", "-t", "pernetfs", "/mnt"]);
    assert_eq!((&mounted["fs"], &mounted["target"]), (&"pernetfs".into(), &"/mnt".into()));
    println!("{}", text("/proc/self/mountinfo"));
    assert_eq!(text("/mnt/namespaces/blue/state"), "live\n");
    let out = std::process::Command::new("sh").arg("-c").arg("find /mnt | head -100; grep -r . /mnt; ls -lR /mnt; tar cf /x.tar /mnt; tar tvf /x.tar").output().unwrap();
    println!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    m.ctl(["umount", "/mnt"]);
    assert!(!Path::new("/mnt/namespaces").exists());
    println!("{}", m.log());
    m.stop();
}
