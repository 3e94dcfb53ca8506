//! Protocol families that plugins offer, on the real daemon: connected to by `pernetctl`, by a program, by other plugins.
#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;

use std::fs::File;
use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Child, ExitCode, ExitStatus, Stdio};
use std::thread;

use machine::{Call, Machine, SOON, inside, one};
use pernetd::control::client::{SockType, sock_connect};
use pernetd::linux::{ns, rtnetlink};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use sandbox::{netns_add, netns_del, wait_until};
use serde_json::{Value, json};

fn main() -> ExitCode {
    let trials = [
        one("standard input and output are relayed, for each type", relayed),
        one("a megabyte there and back", megabyte),
        one("the command ends when the plugin's side does", plugin_ends),
        one("a program connects, and its credentials are told", program),
        one("what cannot be connected is said, where and what to do", refused),
        one("only a connected Unix socket of the type is taken", descriptors),
        one("a plugin that panics when somebody connects harms nobody else", panics),
        one("a plugin that hangs when somebody connects holds up only its namespace", hangs),
        one("a name belongs to one plugin", taken),
        one("a namespace's end closes its connections", namespace_ends),
        one("plugins connect to each other", plugins),
    ];
    sandbox::main(trials.into_iter().flatten().collect())
}

const RUN: &str = "/pernet/run";

fn find(m: &Machine, hook: &str) -> Vec<Call> {
    m.calls().into_iter().filter(|c| c.hook == hook).collect()
}

fn list(m: &Machine) -> Vec<Value> {
    m.ctl(["sock", "list"]).as_array().unwrap().clone()
}

/// With a family `echo` in blue.
fn start(m: &mut Machine, more: &str) {
    m.probe(10, "a", "", &format!("families = [\"echo\"]\n{more}"));
    m.probe(20, "b", "", "");
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
}

fn connect(m: &Machine, kind: &str) -> Child {
    let arguments = ["sock", "connect", "--netns", "blue", "--type", kind, "echo"];
    let mut command = m.pernetctl_for_people(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// In time, or it is killed and the test fails.
fn ends(child: &mut Child) -> ExitStatus {
    let mut status = None;
    wait_until("the command ends", SOON, || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap()
}

fn relayed(mut m: Machine) {
    start(&mut m, "");
    // Datagrams last: the plugin does not see that the other side has ended.
    for kind in ["stream", "seqpacket", "dgram"] {
        m.forget();
        let mut child = connect(&m, kind);
        let (mut input, mut output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        // Both ways while it lasts, not only at the end.
        for said in ["one\n", "another\n"] {
            input.write_all(said.as_bytes()).unwrap();
            let mut heard = String::new();
            output.read_line(&mut heard).unwrap();
            assert_eq!(heard, said, "{kind}");
        }
        let rows = list(&m);
        let (family, of) = (&rows[0]["family"], &rows[0]["type"]);
        assert_eq!((rows.len(), family, of), (1, &json!("echo"), &json!(kind)));
        assert_eq!((&rows[0]["owner"], &rows[0]["netns"]), (&json!("probe-a"), &json!("blue")));
        drop(input);
        assert!(ends(&mut child).success());
        let connected = find(&m, "sock.connected").pop().unwrap();
        let number = [("stream", 1), ("dgram", 2), ("seqpacket", 5)].into_iter().find(|(name, _)| *name == kind);
        assert!(connected.message.unwrap().starts_with(&format!("echo kind={} ", number.unwrap().1)));
        if kind != "dgram" {
            wait_until("the plugin's side ends, too", SOON, || !find(&m, "sock.echo").is_empty());
            assert_eq!(list(&m), Vec::<Value>::new());
        }
    }
    m.stop();
}

fn megabyte(mut m: Machine) {
    start(&mut m, "");
    let mut child = connect(&m, "stream");
    let content: Vec<u8> = (0..1u32 << 20).map(|n| u8::try_from(n * 31 % 251).unwrap()).collect();
    let (mut input, said) = (child.stdin.take().unwrap(), content.clone());
    let writer = thread::spawn(move || input.write_all(&said).unwrap());
    let mut heard = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut heard).unwrap();
    writer.join().unwrap();
    assert!(heard == content, "{} bytes came back", heard.len());
    assert!(ends(&mut child).success());
    m.stop();
}

fn plugin_ends(mut m: Machine) {
    start(&mut m, "");
    for kind in ["stream", "seqpacket"] {
        let mut child = connect(&m, kind);
        wait_until("it is connected", SOON, || !list(&m).is_empty());
        m.no_probe(10, "a");
        assert_eq!(m.reload().code, 0);
        // Standard input is open still.
        assert!(ends(&mut child).success(), "{kind}");
        assert_eq!(list(&m), Vec::<Value>::new());
        m.probe(10, "a", "", "families = [\"echo\"]");
        assert_eq!(m.reload().code, 0);
    }
    m.stop();
}

fn program(mut m: Machine) {
    start(&mut m, "");
    let socket = sock_connect(Path::new(RUN), "blue", "echo", SockType::Stream).unwrap();
    let mut stream = UnixStream::from(socket);
    stream.write_all(b"hello").unwrap();
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"hello");
    let told = find(&m, "sock.connected").pop().unwrap();
    assert_eq!(told.message.unwrap(), format!("echo kind=1 uid=0 pid={}", std::process::id()));
    // As a hook: inside, and on the monitor.
    assert_eq!((&*told.netns, told.inside), ("blue", inside("blue", own_namespace)));
    drop(stream);
    let datagrams = UnixDatagram::from(sock_connect(Path::new(RUN), "blue", "echo", SockType::Dgram).unwrap());
    datagrams.set_read_timeout(Some(SOON)).unwrap();
    datagrams.send(b"one").unwrap();
    datagrams.send(b"").unwrap();
    let mut heard = [0; 16];
    assert_eq!(datagrams.recv(&mut heard).unwrap(), 3);
    m.stop();
}

fn own_namespace() -> String {
    std::fs::read_link("/proc/thread-self/ns/net").unwrap().display().to_string()
}

fn refused(mut m: Machine) {
    m.probe(
        10,
        "a",
        "namespaces = { exclude = [\"green\"] }",
        "families = [\"echo\"]\nfaults = [{ hook = \"sock.connected\", netns = \"red\", action = { fail = 16 } }]",
    );
    m.start();
    for name in ["blue", "green", "red"] {
        netns_add(name);
        m.wait_state(name, "live");
    }
    for (netns, family, says) in [
        ("none", "echo", "there is no such namespace"),
        ("blue", "deaf", "no plugin offers protocol family `deaf`"),
        ("blue", "inet", "no plugin offers protocol family `inet`"),
        ("green", "echo", "plugin `probe-a` does not act in `green`"),
        ("@host", "echo", "plugin `probe-a` does not act in `@host`"),
        ("red", "echo", "as asked, in sock.connected of red (EBUSY)"),
    ] {
        let failure = sock_connect(Path::new(RUN), netns, family, SockType::Stream).unwrap_err().to_string();
        assert!(failure.contains(says) && failure.contains(netns), "{netns} {family}: {failure}");
        let answer = m.ask(["sock", "connect", "--netns", netns, family]);
        assert_eq!(answer.code, 1);
        assert!(answer.stderr.starts_with("pernetctl: ") && answer.stderr.contains(says), "{}", answer.stderr);
    }
    assert_eq!(m.ask(["sock", "connect", "--netns", "blue", "--type", "raw", "echo"]).code, 2);
    assert_eq!(m.ask(["sock", "connect", "echo"]).code, 2, "a namespace must be named");
    assert_eq!(list(&m), Vec::<Value>::new());
    let nowhere = sock_connect(Path::new("/nowhere"), "blue", "echo", SockType::Stream).unwrap_err().to_string();
    assert!(nowhere.contains("/nowhere/io.pernetd") && nowhere.contains("cannot reach pernetd"), "{nowhere}");
    m.stop();
}

fn descriptors(mut m: Machine) {
    start(&mut m, "");
    let (dgram, _other) = UnixDatagram::pair().unwrap();
    let alone = UnixDatagram::unbound().unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0");
    let file = File::open("/dev/null").unwrap();
    let mut wrong = vec![dgram.as_fd(), alone.as_fd(), file.as_fd()];
    wrong.extend(tcp.as_ref().ok().map(AsFd::as_fd));
    for fd in wrong {
        let call = json!({
            "method": "io.pernetd.SockConnect",
            "parameters": { "netns": "blue", "family": "echo", "type": "stream" },
        });
        let mut stream = UnixStream::connect(format!("{RUN}/io.pernetd")).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let rights = [fd];
        assert!(control.push(SendAncillaryMessage::ScmRights(&rights)));
        let text = format!("{call}\0");
        sendmsg(&stream, &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::empty()).unwrap();
        let mut reply = Vec::new();
        BufReader::new(&mut stream).read_until(0, &mut reply).unwrap();
        let reply: Value = serde_json::from_slice(reply.strip_suffix(&[0]).unwrap()).unwrap();
        assert_eq!(reply["error"], "io.pernetd.Invalid", "{reply}");
    }
    assert_eq!((find(&m, "sock.connected").len(), list(&m)), (0, vec![]));
    m.stop();
}

fn panics(mut m: Machine) {
    start(&mut m, "faults = [{ hook = \"sock.connected\", action = \"panic\" }]");
    let answer = m.ask(["sock", "connect", "--netns", "blue", "echo"]);
    assert_eq!(answer.code, 1);
    assert!(answer.stderr.contains("as asked, in sock.connected of blue"), "{}", answer.stderr);
    wait_until("the plugin is failed", SOON, || m.plugin("a")["state"] == "failed");
    assert_eq!((m.plugin("b")["state"].clone(), list(&m)), (json!("live"), vec![]));
    let answer = m.ask(["sock", "connect", "--netns", "blue", "echo"]);
    assert!(answer.stderr.contains("no plugin offers protocol family `echo`"), "{}", answer.stderr);
    m.probe(10, "a", "", "families = [\"echo\"]");
    assert_eq!(m.reload().code, 0);
    drop(sock_connect(Path::new(RUN), "blue", "echo", SockType::Stream).unwrap());
    m.stop();
}

fn hangs(mut m: Machine) {
    let until = m.path("go");
    let fault = format!("{{ hook = \"sock.connected\", netns = \"blue\", action = {{ until = {until:?} }} }}");
    start(&mut m, &format!("faults = [{fault}]"));
    netns_add("green");
    m.wait_state("green", "live");
    let mut child = connect(&m, "stream");
    wait_until("the hook hangs", SOON, || find(&m, "sock.connected").len() == 1);
    let mut stream = UnixStream::from(sock_connect(Path::new(RUN), "green", "echo", SockType::Stream).unwrap());
    stream.write_all(b"x").unwrap();
    stream.read_exact(&mut [0]).unwrap();
    wait_until("it is shown what hangs", SOON, || {
        let pinned = m.status()["pinned"].clone();
        pinned[0]["hook"] == "sock.connected" && pinned[0]["netns"] == "blue"
    });
    m.write("go", "");
    drop(child.stdin.take());
    assert!(ends(&mut child).success());
    m.stop();
}

fn taken(mut m: Machine) {
    m.probe(10, "a", "", "families = [\"echo\", \"own\"]");
    m.probe(20, "b", "", "families = [\"first\", \"echo\"]");
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    let b = m.plugin("b");
    assert_eq!((&b["state"], &b["error"]["hook"]), (&json!("failed"), &json!("sock.register")));
    let why = b["error"]["message"].as_str().unwrap();
    assert!(why.contains("plugin `probe-a` has it already") && why.contains("(EEXIST)"), "{why}");
    let log = m.log();
    let registered =
        |name: &str| log.lines().filter(|l| l.contains(&format!("registered protocol family {name}"))).count();
    assert_eq!((registered("echo"), registered("own"), registered("first")), (1, 1, 1), "{log}");
    // All of it or nothing: what it had registered before is not there either, nor any of its hooks.
    assert!(sock_connect(Path::new(RUN), "blue", "first", SockType::Stream).is_err());
    assert!(m.calls().iter().all(|call| call.plugin != "probe-b" || !call.hook.starts_with("pernet.")));
    m.probe(30, "c", "", "families = [\"packet\"]");
    let answer = m.reload();
    assert!(answer.stderr.contains("the kernel has it already"), "{}", answer.stderr);
    // The name is free when its plugin goes.
    m.no_probe(30, "c");
    m.no_probe(10, "a");
    assert_eq!(m.reload().code, 0);
    assert_eq!(m.plugin("b")["state"], "live");
    drop(sock_connect(Path::new(RUN), "blue", "echo", SockType::Stream).unwrap());
    m.stop();
}

fn namespace_ends(mut m: Machine) {
    start(&mut m, "");
    let (_, there) = inside("blue", ns::current).unwrap();
    rtnetlink::create_veth("near", "far", Some(there.as_fd())).unwrap();
    drop(there);
    let mut stream = UnixStream::from(sock_connect(Path::new(RUN), "blue", "echo", SockType::Stream).unwrap());
    let mut child = connect(&m, "seqpacket");
    wait_until("both are connected", SOON, || list(&m).len() == 2);
    netns_del("blue");
    m.wait_gone("blue");
    let mut rest = Vec::new();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.read_to_end(&mut rest).unwrap();
    assert!(ends(&mut child).success());
    wait_until("the namespace is gone", SOON, || rtnetlink::find("near").is_err());
    // The plugin's threads have seen the end of theirs, and let go.
    wait_until("nothing is left", SOON, || list(&m).is_empty());
    m.stop();
}

fn plugins(mut m: Machine) {
    m.probe(10, "a", "", "families = [\"echo\"]");
    let ask = |netns: &str, more: &str| {
        format!(
            "{{ hook = \"pernet.init\", netns = \"{netns}\", family = \"echo\", kind = 1, say = \"hi from {netns}\"{more} }}"
        )
    };
    // From the hook itself it would wait for itself.
    let connects =
        [ask("blue", ""), ask("blue", ", own_thread = true"), ask("green", ", to = \"blue\", own_thread = true")];
    m.probe(20, "b", "", &format!("connects = [{}]", connects.join(", ")));
    m.start();
    for name in ["blue", "green"] {
        netns_add(name);
        m.wait_state(name, "live");
    }
    wait_until("both are answered", SOON, || find(&m, "sock.heard").len() == 2);
    let errnos: Vec<_> = find(&m, "sock.connect").iter().map(|c| (c.netns.clone(), c.errno.unwrap())).collect();
    let of = |netns: &str| errnos.iter().filter(|(of, _)| of == netns).map(|(_, errno)| *errno).collect::<Vec<_>>();
    assert_eq!((of("blue").len(), of("blue").contains(&libc::EDEADLK), of("blue").contains(&0)), (2, true, true));
    assert_eq!(of("green"), [0]);
    let mut heard: Vec<_> = find(&m, "sock.heard").into_iter().map(|c| c.message.unwrap()).collect();
    heard.sort_unstable();
    assert_eq!(heard, ["hi from blue", "hi from green"]);
    for told in find(&m, "sock.connected") {
        assert_eq!((&*told.netns, &told.inside), ("blue", &inside("blue", own_namespace)));
        let pid = m.pid().as_raw_pid();
        assert!(told.message.unwrap().ends_with(&format!("uid=0 pid={pid}")));
    }
    // Both ends were released by now, or will be.
    wait_until("nothing is left", SOON, || list(&m).is_empty());
    m.stop();
}
