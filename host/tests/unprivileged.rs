//! Who is neither root nor the daemon's user: reads what `control.read` says, and changes nothing, by no method of the interface.
//!
//! The methods are those that `io.pernetd.varlink` declares, so that a new one without a case here fails. Other users take
//! the real root's rights (`PERNET_SANDBOX_USERNS=0`); those trials are ignored elsewhere.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode};

use machine::{Machine, SOON, one};
use rustix::fs::{Gid, Uid};
use rustix::process::getuid;
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};
use sandbox::{Trial, netns_add};
use serde_json::{Value, json};

const INTERFACE: &str = include_str!("../src/control/io.pernetd.varlink");

/// A group that every Debian has, and its number.
const GROUP: (&str, u32) = ("daemon", 1);

fn main() -> ExitCode {
    let one_user = !getuid().is_root() || std::env::var_os("PERNET_SANDBOX_USERNS").is_none_or(|v| v != "0");
    let several = |trials: Vec<Trial>| trials.into_iter().map(move |trial| trial.ignored_if(one_user));
    let mut trials = one("every method of the interface has a case, and root may call it", root);
    trials.extend(several(one("control.read = root: nobody else reads", |m| judged(m, "root", [false; 4]))));
    trials.extend(several(one("control.read = a group: who is in it reads, by either kind of membership", |m| {
        judged(m, GROUP.0, [false, true, true, false]);
    })));
    trials.extend(several(one("control.read = all: everybody reads", |m| judged(m, "all", [true; 4]))));
    trials.extend(several(one("a reload counts for connections that are open already", reloaded)));
    trials.extend(several(one("a group that does not exist has nobody in it", |m| {
        judged(m, "no-such-group", [false; 4])
    })));
    sandbox::main(trials)
}

/// What a method does, and what it is called with. Without `more`, and without the descriptors that some of them need: who may
/// not call it is told so before anything else is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Does {
    Read,
    Change,
}

fn case(method: &str) -> Option<(Does, Value)> {
    use Does::{Change, Read};
    Some(match method {
        "Status" | "NetnsList" | "PluginList" | "Monitor" | "FilesystemList" | "MountList" => (Read, json!({})),
        "NetnsGet" => (Read, json!({ "name": "blue" })),
        "NetnsWait" => (Read, json!({ "name": "blue", "timeout": 1 })),
        "NetnsWaitGone" => (Read, json!({ "name": "blue", "cookie": 1, "timeout": 1 })),
        "DevList" | "Boot" | "SockList" | "SysctlList" | "SysctlRead" => (Read, json!({ "netns": "blue" })),
        "DevShow" => (Read, json!({ "name": "lo", "netns": "blue" })),
        "Why" => (Read, json!({ "name": "blue" })),
        "NetnsRetry" => (Change, json!({ "name": "blue" })),
        "NetnsAdd" => (Change, json!({ "name": "new", "path": "/run/netns/new" })),
        "Reload" => (Change, json!({})),
        "SockConnect" => (Change, json!({ "netns": "blue", "family": "f", "type": "stream" })),
        "Mount" => {
            (Change, json!({ "fs": "pernetfs", "netns": null, "source": "none", "target": "/mnt", "options": "" }))
        }
        "SysctlWrite" => (Change, json!({ "netns": "@host", "key": "pernetd.log_level", "value": "debug" })),
        _ => return None,
    })
}

/// All methods that are declared, each with its case.
fn methods() -> Vec<(&'static str, Does, Value)> {
    let declared = INTERFACE.lines().filter_map(|line| line.strip_prefix("method ")?.split('(').next());
    let with_case = |method| {
        let (does, parameters) = case(method).unwrap_or_else(|| panic!("{method} has no case here: what does it do?"));
        (method, does, parameters)
    };
    let all: Vec<_> = declared.map(with_case).collect();
    assert!(all.len() > 20, "the interface is not read right");
    all
}

/// A user and his groups.
#[derive(Clone, Copy)]
struct User {
    uid: u32,
    gid: u32,
    groups: &'static [u32],
}

/// A stranger, two in the group, and one whose number is the group's.
const USERS: [User; 4] = [
    User { uid: 4242, gid: 4242, groups: &[4242, 7] },
    User { uid: 4243, gid: 4243, groups: &[7, GROUP.1] },
    User { uid: 4244, gid: GROUP.1, groups: &[] },
    User { uid: GROUP.1, gid: 4245, groups: &[] },
];

/// Acts with the user's rights: a thread has its own.
fn as_user<T: Send>(user: User, act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
            set_thread_groups(&groups).unwrap();
            set_thread_gid(Gid::from_raw(user.gid)).unwrap();
            set_thread_uid(Uid::from_raw(user.uid)).unwrap();
            act()
        });
        thread.join().unwrap()
    })
}

struct Client(BufReader<UnixStream>);

impl Client {
    fn connect() -> Client {
        let stream = UnixStream::connect("/pernet/run/io.pernetd").unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        Client(BufReader::new(stream))
    }

    fn call(&mut self, method: &str, parameters: &Value) -> Value {
        let mut message = serde_json::to_vec(&json!({ "method": method, "parameters": parameters })).unwrap();
        message.push(0);
        self.0.get_mut().write_all(&message).unwrap();
        let mut answer = Vec::new();
        self.0.read_until(0, &mut answer).unwrap();
        serde_json::from_slice(answer.strip_suffix(&[0]).unwrap_or_default()).unwrap()
    }

    /// Whether the daemon let the caller call it; what came of it is not asked.
    #[track_caller]
    fn may(&mut self, method: &str, parameters: &Value) -> bool {
        let answer = self.call(&format!("io.pernetd.{method}"), parameters);
        if answer["error"] != "io.pernetd.NotPermitted" {
            return true;
        }
        let (what, place) = (answer["parameters"]["what"].to_string(), &answer["parameters"]["where"]);
        assert!(what.contains("may not call it: that is for root"), "{answer}");
        assert_eq!(*place, format!("method {method}"), "{answer}");
        assert!(answer["parameters"]["remedy"].is_string(), "{answer}");
        false
    }
}

fn root(mut m: Machine) {
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    let mut client = Client::connect();
    for (method, _, parameters) in methods() {
        assert!(client.may(method, &parameters), "{method}");
    }
    m.stop();
}

/// What may not change by what others call.
fn fingerprint(m: &Machine) -> Value {
    let status = m.status();
    let kept = ["generation", "namespaces", "plugins", "last_reload", "state"].map(|field| status[field].clone());
    json!([kept, m.ctl(["netns", "list"]), m.ctl(["sysctl", "-a"]), m.ctl(["mount"])])
}

/// Each user calls each method: those that only tell are answered as the table says, the others never.
fn judged(mut m: Machine, read: &str, may_read: [bool; 4]) {
    m.main(&format!("[control]\nread = \"{read}\""));
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    let before = fingerprint(&m);
    for (user, may_read) in USERS.into_iter().zip(may_read) {
        as_user(user, || {
            let mut client = Client::connect();
            for (method, does, parameters) in methods() {
                let may = client.may(method, &parameters);
                assert_eq!(may, may_read && does == Does::Read, "{method} by uid {}, gid {}", user.uid, user.gid);
            }
            // What the interface is, is no secret.
            let info = client.call("org.varlink.service.GetInfo", &json!({}));
            assert!(info["parameters"]["interfaces"].as_array().unwrap().contains(&json!("io.pernetd")), "{info}");
        });
    }
    assert_eq!(fingerprint(&m), before, "nobody has changed anything");
    let mut tool = Command::new("setpriv");
    tool.args(["--reuid=4242", "--regid=4242", "--clear-groups", env!("CARGO_BIN_EXE_pernetctl")]);
    let output = tool.args(["--runtime-dir", "/pernet/run", "reload"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let expected =
        "method Reload: uid 4242 may not call it: that is for root and the daemon's own user; call it as root";
    assert!(output.status.code() == Some(1) && said.contains(expected), "{:?} {said}", output.status);
    m.stop();
}

fn reloaded(mut m: Machine) {
    m.main("[control]\nread = \"all\"");
    m.start();
    let user = USERS[0];
    let mut client = as_user(user, Client::connect);
    assert!(client.may("Status", &json!({})));
    m.main("[control]\nread = \"root\"");
    assert_eq!(m.reload().code, 0);
    assert!(!client.may("Status", &json!({})), "what was open is judged anew");
    m.stop();
}
