//! Bad surroundings, and what they get: a message that says what to do and an exit code of `sysexits.h`, or service without
//! what is missing, which `status` says.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};

use machine::{Machine, SOON, both, name_path, one};
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::process::{Signal, getuid};
use sandbox::{RUN_NETNS, Trial, netns_add, netns_del, tie, wait_until};
use serde_json::Value;

fn main() -> ExitCode {
    let ignored = |trials: Vec<Trial>, lacking: bool| -> Vec<Trial> {
        trials.into_iter().map(|trial| trial.ignored_if(lacking)).collect()
    };
    let trials = vec![
        one("a wrong command line is 64", usage),
        one("a configuration that is missing or wrong is 78, and 1 for --check", configuration),
        one("a plugin folder that is missing is 78", plugin_dir),
        one("a second one in the same runtime folder is 69, before any plugin is called", second),
        one("a second one with another runtime folder runs, and says that it is one", second_elsewhere),
        one("a socket that a killed one left is nothing", stale),
        one("a runtime folder that others can write to, or that is none, is 73", runtime_folder),
        ignored(one("a runtime folder of somebody else's is 73", foreign_folder), !is_real_root()),
        one("a state folder that cannot be used costs only what it is for", state_folder),
        both("no folder of names is nothing: it may come", no_folder),
        both("leftovers in the folder of names are left alone", leftovers),
        one("a private folder of names is told, in a service", private_folder),
        one("without CAP_SYS_ADMIN it is 77", no_right),
        one("without /proc it is 72", no_proc),
        one("without descriptors to start with it is 75", no_start),
        both("namespaces without a descriptor are named, and set up when there is one", no_room),
        one("without descriptors clients are still let in", no_room_for_clients),
        ignored(
            one("a method that the kernel lacks is 69, or 77 where it does not say so", no_mount_events),
            sandbox::mount_events().is_ok(),
        ),
        ignored(
            one("without mount events folders are watched, and status says why", fallback),
            sandbox::mount_events().is_ok(),
        ),
    ];
    sandbox::main(trials.into_iter().flatten().collect())
}

/// Without a user namespace around.
fn is_real_root() -> bool {
    getuid().is_root() && std::env::var_os("PERNET_SANDBOX_USERNS").is_some_and(|v| v == "0")
}

/// Runs a daemon that is not to come up.
fn start(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = tie(command.stdin(Stdio::null())).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[track_caller]
fn refused(command: &mut Command, code: i32, said: &str) {
    let (exit, stderr) = start(command);
    assert!(exit == Some(code) && stderr.contains(said), "{exit:?} instead of {code} with {said:?}:\n{stderr}");
}

/// The row of a facility in `status`.
#[track_caller]
fn facility(status: &Value, name: &str) -> Value {
    let all = status["facilities"].as_array().unwrap();
    all.iter().find(|row| row["name"] == name).cloned().unwrap_or_default()
}

fn usage(m: Machine) {
    refused(m.command().arg("--wroong"), 64, "--wroong");
    refused(m.command().args(["--check", "demo"]), 64, "leave one of them out");
    let (exit, _) = start(m.command().arg("--help"));
    assert_eq!(exit, Some(0));
}

fn configuration(m: Machine) {
    m.main("wrokers = 2");
    refused(&mut m.command(), 78, "/pernet/pernetd.toml:3:1: unknown key \"wrokers\"");
    assert_eq!(m.check().0, 1);
    m.remove("pernetd.toml");
    refused(&mut m.command(), 78, "/pernet/pernetd.toml: there is no such file; correct the option, or create it");
    assert_eq!(m.check().0, 1);
}

fn plugin_dir(m: Machine) {
    fs::remove_dir_all("/plugins").unwrap();
    refused(&mut m.command(), 78, "/plugins: there is no such folder; correct the option, or create it");
    assert_eq!(m.check().0, 1);
}

fn second(mut m: Machine) {
    m.probe(10, "a", "", "");
    m.start();
    m.forget();
    refused(&mut m.command(), 69, "/pernet/run/io.pernetd: another pernetd runs here; stop it");
    assert_eq!(m.trace(), [""; 0], "no plugin of the second is called");
    assert_eq!(m.status()["state"], "running");
    m.stop();
}

fn second_elsewhere(mut m: Machine) {
    let second = |m: &Machine| {
        let mut command = m.command();
        command.args(["--runtime-dir", "/pernet/other"]);
        let arguments: Vec<_> = command.get_args().filter(|it| *it != "/pernet/run").map(ToOwned::to_owned).collect();
        // The option is given once: the machine's own goes.
        let at = arguments.iter().position(|it| it == "--runtime-dir").unwrap();
        let mut second = Command::new(command.get_program());
        second.args(&arguments[..at]).args(&arguments[at + 1..]).stdin(Stdio::null()).stderr(Stdio::null());
        tie(&mut second).spawn().unwrap()
    };
    let ask = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pernetctl"));
        let output = command.args(["--json", "--runtime-dir", "/pernet/other", "status"]).output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default()
    };
    m.start();
    assert_eq!(facility(&m.status(), "this host alone"), Value::Null);
    let mut other = second(&m);
    wait_until("the second one runs", SOON, || ask()["state"] == "running");
    let row = facility(&ask(), "this host alone");
    assert_eq!(row["used"], false, "{row}");
    assert!(row["remedy"].as_str().unwrap().contains("stop one of them"), "{row}");
    other.kill().unwrap();
    other.wait().unwrap();
    m.stop();
}

fn stale(mut m: Machine) {
    m.start();
    m.signal(Signal::KILL);
    m.end();
    assert!(m.path("run/io.pernetd").exists());
    m.start();
    assert_eq!(facility(&m.status(), "this host alone"), Value::Null, "the killed one is not here any more");
    m.stop();
    assert!(!m.path("run/io.pernetd").exists());
}

fn runtime_folder(m: Machine) {
    let run = m.path("run");
    for mode in [0o777, 0o1777, 0o757] {
        fs::set_permissions(&run, Permissions::from_mode(mode)).unwrap();
        refused(&mut m.command(), 73, "/pernet/run: it is writable by others");
    }
    fs::remove_dir(&run).unwrap();
    fs::write(&run, "").unwrap();
    refused(&mut m.command(), 73, "make it a folder that pernetd can write to, or give another with --runtime-dir");
    fs::remove_file(&run).unwrap();
    fs::create_dir(&run).unwrap();
    fs::write(run.join("io.pernetd"), "precious").unwrap();
    refused(&mut m.command(), 73, "there is something here that is not a socket; move it away");
    assert_eq!(fs::read_to_string(run.join("io.pernetd")).unwrap(), "precious");
}

fn foreign_folder(m: Machine) {
    std::os::unix::fs::chown(m.path("run"), Some(4242), None).unwrap();
    refused(
        &mut m.command(),
        73,
        "/pernet/run: it belongs to uid 4242, who could put another socket there; give it to root",
    );
}

fn state_folder(mut m: Machine) {
    fs::remove_dir(m.path("state")).unwrap();
    m.write("state", "a file");
    m.probe(10, "a", "", "");
    m.start();
    let row = facility(&m.status(), "state folder");
    assert_eq!(row["used"], false);
    assert!(row["remedy"].as_str().unwrap().contains("--state-dir"), "{row}");
    assert!(m.log().contains("state folder: /pernet/state: "), "{}", m.log());
    netns_add("blue");
    m.wait_state("blue", "live");
    m.stop();
    assert_eq!(fs::read_to_string(m.path("state")).unwrap(), "a file");
}

fn no_folder(mut m: Machine) {
    assert!(!Path::new(RUN_NETNS).exists());
    m.start();
    assert_eq!(m.netns("@host")["state"], "live");
    netns_add("blue");
    m.wait_state("blue", "live");
    m.stop();
}

fn leftovers(mut m: Machine) {
    fs::create_dir(RUN_NETNS).unwrap();
    for name in ["file", "folder"] {
        let path = name_path(name);
        if name == "file" { fs::write(&path, "left") } else { fs::create_dir(&path) }.unwrap();
    }
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    assert_eq!(m.ctl(["netns", "list"]).as_array().unwrap().len(), 2, "only namespaces count");
    let add = m.ask(["netns", "add", "file"]);
    assert_eq!(add.code, 1);
    assert!(add.stderr.contains("/run/netns/file: the name is taken, and is no namespace"), "{}", add.stderr);
    m.stop();
    assert_eq!(fs::read_to_string(name_path("file")).unwrap(), "left");
    assert!(name_path("folder").is_dir());
}

/// In the sandbox every mount is private, as on a host without systemd.
fn private_folder(mut m: Machine) {
    fs::create_dir(RUN_NETNS).unwrap();
    mount_bind(RUN_NETNS, RUN_NETNS).unwrap();
    mount_change(RUN_NETNS, MountPropagationFlags::PRIVATE).unwrap();
    m.start();
    assert_eq!(facility(&m.status(), "names in /run/netns"), Value::Null, "names are made where this one is");
    m.stop();
    let notify = m.path("notify");
    let _manager = std::os::unix::net::UnixDatagram::bind(&notify).unwrap();
    m.spawn_as_unit(&notify, &[]);
    m.wait_running();
    let row = facility(&m.status(), "names in /run/netns");
    assert_eq!(row["used"], false, "{row}");
    assert!(row["remedy"].as_str().unwrap().starts_with("`pernetctl netns prepare /run/netns`"), "{row}");
    let prepare = || Command::new(env!("CARGO_BIN_EXE_pernetctl")).args(["netns", "prepare"]).status().unwrap();
    assert!(prepare().success() && prepare().success(), "twice is as good as once");
    assert_eq!(facility(&m.status(), "names in /run/netns"), Value::Null);
    netns_add("blue");
    m.wait_state("blue", "live");
    m.stop();
}

fn no_right(m: Machine) {
    let bare = ["setpriv", "--bounding-set=-sys_admin", "--"];
    refused(&mut m.command_by(&bare), 77, "for which it needs CAP_SYS_ADMIN and setns: run it as root; in a container");
}

fn no_proc(m: Machine) {
    let bare = ["unshare", "--mount", "bash", "-c", "umount -l /proc && exec \"$@\"", "-"];
    refused(&mut m.command_by(&bare), 72, "cannot open the own network namespace; is /proc mounted?");
}

fn no_start(m: Machine) {
    for limit in ["--nofile=12", "--nofile=14", "--nofile=20"] {
        refused(
            &mut m.command_by(&["prlimit", limit]),
            75,
            "raise the limit of open files: LimitNOFILE= of the service",
        );
    }
}

/// Room for some, but not for all: what is left over is for the daemon itself, which goes on answering.
fn no_room(mut m: Machine) {
    m.probe(10, "a", "", "");
    let all: Vec<String> = (0..90).map(|n| format!("n{n:02}")).collect();
    let (before, late) = all.split_at(60);
    before.iter().for_each(|name| drop(netns_add(name)));
    m.spawn_by(&["prlimit", "--nofile=96"]);
    m.wait_running();
    late.iter().for_each(|name| drop(netns_add(name)));
    let live = || m.status()["namespaces"]["live"].as_u64().unwrap();
    let row = || facility(&m.status(), "descriptors");
    wait_until("it says that there are too many", SOON, || row()["remedy"].is_string());
    wait_until("and how many more than it names", SOON, || {
        let (detail, live) = (row()["detail"].as_str().unwrap().to_owned(), live());
        // @host is live, too.
        let without = 91 - live;
        detail.contains(&format!(" and {} more: no plugin acts there", without - 5))
    });
    let (detail, remedy) = (row()["detail"].to_string(), row()["remedy"].to_string());
    assert!(detail.contains("none of 96 is left for /run/netns/n"), "{detail}");
    assert!(remedy.contains("LimitNOFILE="), "{remedy}");
    assert!(m.log().contains("none is left for this namespace"), "{}", m.log());
    assert!(live() > 20, "there was room for some");
    let managed: Vec<&String> = all.iter().filter(|name| m.netns(name)["state"] == "live").collect();
    let waiting: Vec<&String> = all.iter().filter(|name| !managed.contains(name)).collect();
    // Those that have one go, and those that wait have their turn.
    managed.iter().take(waiting.len()).for_each(|name| netns_del(name));
    waiting.iter().take(managed.len()).for_each(|name| m.wait_state(name, "live"));
    all.iter().filter(|name| name_path(name).exists()).skip(20).for_each(|name| netns_del(name));
    wait_until("all have one", SOON, || row()["remedy"].is_null() && live() == 21);
    wait_until("that is logged", SOON, || m.log().contains("there are descriptors for all namespaces again"));
    m.stop();
}

fn no_room_for_clients(mut m: Machine) {
    m.spawn_by(&["prlimit", "--nofile=64"]);
    m.wait_running();
    let connect = || UnixStream::connect(m.path("run/io.pernetd"));
    let clients: Vec<UnixStream> = (0..100).map(|_| connect().unwrap()).collect();
    for _ in 0..3 {
        assert_eq!(m.status()["state"], "running", "one that is idle makes room");
    }
    wait_until("it is logged", SOON, || m.log().contains("a control connection could not be taken"));
    drop(clients);
    m.stop();
}

fn no_mount_events(m: Machine) {
    m.write("pernetd.toml", "discovery.method = \"fanotify\"\n");
    // In a user namespace such a kernel forbids it before it looks at the flags that it does not know.
    let code = if is_real_root() { 69 } else { 77 };
    refused(&mut m.command(), code, "set discovery.method to auto");
}

fn fallback(mut m: Machine) {
    m.write("pernetd.toml", "discovery.method = \"auto\"\n");
    m.start();
    let row = facility(&m.status(), "mount discovery");
    assert!(row["detail"].as_str().unwrap().contains("fanotify"), "{row}");
    assert!(row["remedy"].is_null(), "nothing needs to be done: {row}");
    m.stop();
}
