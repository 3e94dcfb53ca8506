//! Mounts over a restart, under a service manager that keeps their connections: nobody mounts anew, and who asked while
//! there was no daemon has only waited. The manager is this test.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;
mod shell;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};

use machine::{Machine, SOON, one};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{PidfdFlags, Signal, getpid, pidfd_open};
use sandbox::{netns_add, netns_del, tie, wait_until};
use shell::{errno_of, fuse_is_lacking, run, text};

fn main() -> ExitCode {
    let trials = vec![
        one("a restart is no outage", restart),
        one("what cannot be served again is let go", let_go),
        one("what ends while the daemon runs is kept no more", ended),
        one("a killed daemon's unanswered requests are answered by the next, or fail", killed),
    ];
    let lacking = fuse_is_lacking();
    sandbox::main(trials.into_iter().flatten().map(|trial| trial.ignored_if(lacking)).collect())
}

/// What a service manager does with descriptors.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    store: BTreeMap<String, OwnedFd>,
}

impl Manager {
    fn new(m: &Machine) -> Manager {
        let path = m.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Manager { socket, path, store: BTreeMap::new() }
    }

    /// Takes what has come; the names in the store.
    fn turn(&mut self) -> Vec<String> {
        loop {
            let mut text = [0; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC;
            let Ok(received) = recvmsg(&self.socket, &mut [IoSliceMut::new(&mut text)], &mut control, flags) else {
                return self.store.keys().cloned().collect();
            };
            let message = String::from_utf8_lossy(&text[..received.bytes]).into_owned();
            let name = message.lines().find_map(|line| line.strip_prefix("FDNAME=")).map(str::to_owned);
            for rights in control.drain() {
                if let (RecvAncillaryMessage::ScmRights(descriptors), Some(name)) = (rights, &name) {
                    assert!(message.contains("FDSTORE=1"));
                    self.store.extend(descriptors.map(|descriptor| (name.clone(), descriptor)));
                }
            }
            if message.contains("FDSTOREREMOVE=1") {
                self.store.remove(&name.unwrap());
            }
        }
    }

    #[track_caller]
    fn wait_kept(&mut self, count: usize) {
        wait_until(&format!("{count} are kept"), SOON, || self.turn().len() == count);
    }

    /// Starts the daemon with all that is in the store, of which it keeps a copy.
    fn start(&mut self, m: &mut Machine) {
        self.turn();
        let kept: Vec<_> = self.store.iter().map(|(name, fd)| (name.clone(), fd.try_clone().unwrap())).collect();
        m.spawn_as_unit(&self.path, &kept);
        drop(kept);
        m.wait_running();
    }
}

fn reader(path: &str) -> Child {
    let mut command = Command::new("cat");
    tie(command.arg(path).stdout(Stdio::piped()).stderr(Stdio::piped())).spawn().unwrap()
}

fn said(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The line of the mount, by which it can be told from another at the same place.
fn line(at: &str) -> String {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().find(|line| line.split(' ').nth(4) == Some(at)).unwrap().to_owned()
}

fn begin(m: &mut Machine, faults: &str) -> Manager {
    let mut manager = Manager::new(m);
    m.probe(20, "fs", "", &format!("filesystems = [{{ name = \"probefs\" }}]\nfaults = [{faults}]"));
    manager.start(m);
    netns_add("blue");
    m.wait_state("blue", "live");
    for (at, fs, more) in
        [("/p", "pernetfs", &[][..]), ("/f", "probefs", &["-o", "a=1"]), ("/c", "netctl", &["--netns", "blue"])]
    {
        fs::create_dir(at).unwrap();
        m.ctl(["mount", "-t", fs].into_iter().chain(more.iter().copied()).chain([at]));
    }
    manager.wait_kept(3);
    manager
}

fn restart(mut m: Machine) {
    let mut manager = begin(&mut m, "");
    let before = ["/p", "/f", "/c"].map(line);
    let mut open = File::open("/p/status").unwrap();
    assert_eq!(run("ls /c; cat /f/hello"), "hello\n");
    m.stop();
    assert_eq!(manager.turn().len(), 3, "they stay kept");
    // There is no daemon now, and whoever asks waits.
    let asked = [reader("/p/namespaces/blue/state"), reader("/f/hello")];
    manager.start(&mut m);
    let [state, hello] = asked.map(said);
    assert!(["setup\n", "live\n"].contains(&&*state), "{state}");
    assert_eq!(hello, "hello\n");
    wait_until("all are served", SOON, || m.ctl(["mount"]).as_array().unwrap().len() == 3);
    assert_eq!(["/p", "/f", "/c"].map(line), before, "nobody has mounted anew");
    assert_eq!(text("/f/mount"), "source=none\noptions=a=1\ninternal=false\nnet=false\n");
    let mounts = m.ctl(["mount"]);
    let of_blue = mounts.as_array().unwrap().iter().find(|mount| mount["fs"] == "netctl").unwrap();
    assert_eq!((&of_blue["netns"], &of_blue["target"]), (&"blue".into(), &"/c".into()));
    // What was open shows the same file, or says that it has to be opened anew.
    let mut content = String::new();
    match open.read_to_string(&mut content) {
        Ok(_) => assert!(content.contains("State:\trunning")),
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ESTALE)),
    }
    drop(open);
    // And once more, by the same names.
    let names = manager.turn();
    m.stop();
    manager.start(&mut m);
    wait_until("all are served", SOON, || m.ctl(["mount"]).as_array().unwrap().len() == 3);
    assert_eq!((manager.turn(), text("/f/hello")), (names, "hello\n".to_owned()));
    for at in ["/p", "/f", "/c"] {
        m.ctl(["umount", at]);
    }
    manager.wait_kept(0);
    assert_eq!(fs::read_dir("/pernet/state/mounts").unwrap().count(), 0, "nothing is left written down");
    m.stop();
}

/// Whether the kernel has FUSE_NOTIFY_RESEND. No call tells; the file system of pidfds came with the same release.
fn hands_over_again() -> bool {
    const PID_FS_MAGIC: u64 = 0x5049_4446;
    let own = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    u64::try_from(rustix::fs::fstatfs(own).unwrap().f_type) == Ok(PID_FS_MAGIC)
}

fn killed(mut m: Machine) {
    let fault = "{ hook = \"fs.read\", device = \"hello\", action = { until = \"/pernet/go\" } }";
    let mut manager = begin(&mut m, fault);
    let asked = reader("/f/hello");
    m.wait_call("fs fs.read hello");
    m.signal(Signal::KILL);
    m.end();
    m.forget();
    manager.start(&mut m);
    if !hands_over_again() {
        // What the killed one had taken nobody has any more: who waits for it must not wait for ever.
        manager.wait_kept(0);
        assert!(!asked.wait_with_output().unwrap().status.success());
        wait_until("the mount is dead", SOON, || errno_of(fs::metadata("/f")) == libc::ENOTCONN);
        assert!(m.log().contains("the mount of probefs on /f cannot be served again and is let go: "), "{}", m.log());
        return m.stop();
    }
    m.wait_call("fs fs.read hello");
    File::create(m.path("go")).unwrap();
    assert_eq!(said(asked), "hello\n", "the next daemon has answered it");
    assert_eq!(text("/p/namespaces/blue/state"), "live\n");
    m.stop();
}

fn let_go(mut m: Machine) {
    let mut manager = begin(&mut m, "");
    m.stop();
    // The type is there no more, nor is the namespace.
    m.no_probe(20, "fs");
    netns_del("blue");
    manager.start(&mut m);
    manager.wait_kept(1);
    assert!(text("/p/status").contains("running"));
    for at in ["/f", "/c"] {
        wait_until("the mount is dead", SOON, || errno_of(fs::metadata(at)) == libc::ENOTCONN);
    }
    assert!(m.log().contains("the mount of probefs on /f is not served again: ENODEV"), "{}", m.log());
    assert!(m.log().contains("the mount of netctl on /c is not served again: its namespace is gone"), "{}", m.log());
    m.stop();
}

fn ended(mut m: Machine) {
    let mut manager = begin(&mut m, "");
    // Its type goes, its namespace goes, and it is unmounted.
    m.no_probe(20, "fs");
    assert_eq!(m.reload().code, 0);
    manager.wait_kept(2);
    assert_eq!(errno_of(fs::metadata("/f")), libc::ENOTCONN);
    netns_del("blue");
    manager.wait_kept(1);
    assert_eq!(errno_of(fs::metadata("/c")), libc::ENOTCONN);
    run("umount /p");
    manager.wait_kept(0);
    m.stop();
}
