//! Real mounts in sandboxes: made by `pernetctl` or `mount`, served by the daemon, used by ordinary programs.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;
mod shell;

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use machine::{Machine, SOON, one};
use rustix::mount::{MountFlags, mount, mount_bind};
use rustix::process::Signal;
use sandbox::{netns_add, netns_del, wait_until};
use serde_json::Value;
use shell::{errno_of, fuse_is_lacking, is_mounted, run, text};

fn main() -> ExitCode {
    let trials = [
        one("pernetfs: what is running, as files", pernetfs),
        one("pernetfs: read by find, grep and tar", pernetfs_programs),
        one("pernetfs: nobody writes, and control.read says who reads", pernetfs_rights),
        one("pernetfs: of one namespace, with which it ends", pernetfs_of_one),
        one("mount: what is refused, and why", refused),
        one("mount: without /dev/fuse", no_device),
        one("mount: twice at one place, one after the other and at once", twice),
        one("mount: nothing shows before the type agrees, and a client that goes leaves nothing", client_goes),
        one("umount: busy, lazily, and by others", umounts),
        one("a daemon that was killed leaves a mount that the next one's takes the place of", stale),
        one("a daemon that stops ends its mounts", stops),
        one("mount(8), fstab and the helper's exit status", helper),
    ];
    let lacking = fuse_is_lacking();
    sandbox::main(trials.into_iter().flatten().map(|trial| trial.ignored_if(lacking)).collect())
}

/// A machine with a probe and a namespace, and `/mnt`.
fn begin(m: &mut Machine) {
    m.probe(10, "a", "", "");
    m.probe(20, "fs", "", "filesystems = [{ name = \"probefs\" }, { name = \"hidden\", internal = true }]");
    m.start();
    netns_add("blue");
    m.wait_state("blue", "live");
    fs::create_dir("/mnt").unwrap();
}

fn pernetfs(mut m: Machine) {
    begin(&mut m);
    let mounted = m.ctl(["mount", "-t", "pernetfs", "/mnt"]);
    assert_eq!(
        (&mounted["fs"], &mounted["target"], &mounted["owner"]),
        (&"pernetfs".into(), &"/mnt".into(), &"pernetd".into())
    );
    let line = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = line.lines().find(|line| line.contains(" /mnt ")).unwrap().to_owned();
    assert!(line.contains(" - fuse.pernetfs none ") && line.contains("nosuid,nodev,noexec"), "{line}");

    let blue = m.netns("blue");
    let value = |name: &str| text(format!("/mnt/namespaces/blue/{name}"));
    assert_eq!(value("state"), "live\n");
    assert_eq!(value("cookie"), format!("{}\n", blue["cookie"]));
    assert_eq!((value("generation"), value("names"), value("error")), ("1\n".into(), "blue\n".into(), String::new()));
    assert_eq!(value("subsystems"), "probe-a\nprobe-fs\n");
    let lo = |name: &str| text(format!("/mnt/namespaces/blue/devices/lo/{name}"));
    assert_eq!(
        (lo("ifindex"), lo("mtu"), lo("up"), lo("owner")),
        ("1\n".into(), "65536\n".into(), "0\n".into(), "kernel\n".into())
    );
    let plugin = |name: &str| text(format!("/mnt/plugins/probe-a/{name}"));
    assert_eq!((plugin("state"), plugin("order"), plugin("namespaces")), ("live\n".into(), "0\n".into(), "1\n".into()));
    assert_eq!(plugin("sha256").trim(), m.plugin("a")["sha256"].as_str().unwrap());
    assert_eq!(
        text("/mnt/filesystems"),
        "nodev\tsockfs\nnodev\tpernetfs\nnodev\tnetctl\nnodev\tprobefs\nnodev\thidden\n"
    );
    assert_eq!(text("/mnt/mounts"), "none /mnt fuse.pernetfs rw 0 0\n");
    assert!(text("/mnt/status").contains("\nState:\trunning\n"));
    assert_eq!(m.ctl(["mount"]).as_array().unwrap().len(), 1);

    // Nothing is kept: what comes shows at once, and what goes is gone.
    netns_add("red");
    m.wait_state("red", "live");
    assert_eq!(text("/mnt/namespaces/red/state"), "live\n");
    let mut open = File::open("/mnt/namespaces/red/state").unwrap();
    netns_del("red");
    m.wait_gone("red");
    assert_eq!(errno_of(fs::metadata("/mnt/namespaces/red")), libc::ENOENT);
    assert_eq!(errno_of(open.read(&mut [0; 10])), libc::ENOENT, "an open file tells of nothing else");
    drop(open);
    m.ctl(["umount", "/mnt"]);
    assert!(!is_mounted("/mnt") && !Path::new("/mnt/namespaces").exists());
    assert_eq!(m.ctl(["mount"]), Value::Array(Vec::new()));
    m.stop();
}

fn pernetfs_programs(mut m: Machine) {
    begin(&mut m);
    m.ctl(["mount", "-t", "pernetfs", "/mnt"]);
    let found = run("find /mnt -type f");
    let files: Vec<&str> = found.lines().collect();
    assert!(files.contains(&"/mnt/namespaces/blue/devices/lo/mtu") && files.contains(&"/mnt/status"), "{found}");
    assert_eq!(run("grep -rl live /mnt/namespaces/blue"), "/mnt/namespaces/blue/state\n");
    assert_eq!(run("cat /mnt/namespaces/@host/state /mnt/plugins/*/state"), "live\nlive\nlive\n");
    // The sizes are right, so an archive has what the files have, and nobody complains.
    assert_eq!(run("tar -C /mnt -cf /pernet/all.tar . 2>&1"), "");
    fs::create_dir("/pernet/all").unwrap();
    run("tar -C /pernet/all -xf /pernet/all.tar");
    assert_eq!(run("cd /pernet/all && find . -type f | sort"), run("cd /mnt && find . -type f | sort"));
    assert_eq!(text("/pernet/all/namespaces/blue/state"), "live\n");
    assert_eq!(run("diff -r /mnt/plugins /pernet/all/plugins"), "");
    m.stop();
}

fn pernetfs_rights(mut m: Machine) {
    begin(&mut m);
    m.ctl(["mount", "-t", "pernetfs", "/mnt"]);
    let file = "/mnt/namespaces/blue/state";
    for (what, expected) in [
        ("echo x > /mnt/namespaces/blue/state", "Permission denied"),
        ("mkdir /mnt/new", "Operation not permitted"),
        ("touch /mnt/new", "Operation not permitted"),
        ("rm /mnt/status", "Operation not permitted"),
        ("mv /mnt/status /mnt/x", "Operation not permitted"),
        ("ln -s x /mnt/y", "Operation not permitted"),
        ("chmod 777 /mnt/status", "Operation not permitted"),
        ("chown 0 /mnt/status", "Operation not permitted"),
        ("truncate -s 1 /mnt/status", "Permission denied"),
    ] {
        let said = run(&format!("({what}) 2>&1; true"));
        assert!(said.contains(expected), "{what}: {said}");
    }
    assert_eq!(text(file), "live\n");
    run("touch /mnt/status");
    let mode = || format!("{:o} {}", fs::metadata(file).unwrap().mode() & 0o777, fs::metadata(file).unwrap().gid());
    assert_eq!(mode(), "400 0", "by default for root only");
    m.main("control.read = \"all\"");
    assert_eq!(m.reload().code, 0);
    assert_eq!(mode(), "444 0");
    m.main("control.read = \"root\"");
    assert_eq!(m.reload().code, 0);
    assert_eq!(mode(), "400 0");
    // Mounted for reading, the kernel says so before anybody is asked.
    m.ctl(["umount", "/mnt"]);
    m.ctl(["mount", "-t", "pernetfs", "-o", "ro", "/mnt"]);
    assert!(run("(echo x > /mnt/status) 2>&1; true").contains("Read-only file system"));
    m.stop();
}

fn pernetfs_of_one(mut m: Machine) {
    begin(&mut m);
    let mounted = m.ctl(["mount", "-t", "pernetfs", "--netns", "blue", "/mnt"]);
    assert_eq!(mounted["netns"], "blue");
    assert_eq!(text("/mnt/state"), "live\n");
    assert_eq!(run("ls /mnt"), "cookie\ndevices\nerror\ngeneration\nnames\nnsid\nstate\nsubsystems\n");
    netns_del("blue");
    wait_until("the mount has ended", SOON, || errno_of(fs::metadata("/mnt")) == libc::ENOTCONN);
    m.wait_gone("blue");
    assert_eq!(m.ctl(["mount"]), Value::Array(Vec::new()));
    m.ctl(["umount", "/mnt"]);
    assert!(!is_mounted("/mnt"));
    m.stop();
}

fn refused(mut m: Machine) {
    begin(&mut m);
    fs::write("/file", "").unwrap();
    for (arguments, expected) in [
        (&["-t", "nofs", "/mnt"][..], "ENODEV: it is not registered; there are: pernetfs, netctl, probefs"),
        (&["-t", "sockfs", "/mnt"], "EINVAL: it is for internal mounts only"),
        (&["-t", "hidden", "/mnt"], "EINVAL: it is for internal mounts only"),
        (&["-t", "pernetfs", "/none"], "ENOENT: there is no such directory; make it first"),
        (&["-t", "pernetfs", "/file"], "ENOTDIR: it is no directory"),
        (&["-t", "pernetfs", "-o", "size=1", "/mnt"], "EINVAL: pernetfs has no option `size=1`"),
        (&["-t", "pernetfs", "--netns", "nobody", "/mnt"], "there is no such namespace"),
        (&["-t", "pernetfs", "-o", "remount,ro", "/mnt"], "remount: it cannot be mounted otherwise"),
        (&["-t", "probefs", "-o", "refuse=28", "/mnt"], "ENOSPC: as the options ask"),
    ] {
        let answer = m.ask(["mount"].into_iter().chain(arguments.iter().copied()));
        assert!(answer.code != 0 && answer.stderr.contains(expected), "{arguments:?}: {}", answer.stderr);
        assert_eq!(answer.stderr.lines().count(), 1, "{}", answer.stderr);
        assert!(!is_mounted("/mnt"));
    }
    // A subtype is the type's.
    m.ctl(["mount", "-t", "probefs.sub", "/mnt"]);
    m.ctl(["umount", "/mnt"]);
    let answer = m.ask(["umount", "/mnt"]);
    assert!(answer.code == 1 && answer.stderr.contains("EINVAL: nothing is mounted there"), "{}", answer.stderr);
    mount("tmpfs", "/mnt", "tmpfs", MountFlags::empty(), None).unwrap();
    let answer = m.ask(["umount", "/mnt"]);
    assert!(answer.stderr.contains("a mount of tmpfs is no mount of pernetd's"), "{}", answer.stderr);
    assert!(is_mounted("/mnt"), "and stays");
    // On another's mount it can lie, as any mount can.
    m.ctl(["mount", "-t", "probefs", "/mnt"]);
    assert_eq!(text("/mnt/hello"), "hello\n");
    m.ctl(["umount", "/mnt"]);
    assert!(is_mounted("/mnt"));
    assert_eq!(m.ask(["mount", "-t", "pernetfs"]).code, 2, "usage");
    m.stop();
}

/// From here on there is no device but `/dev/null`.
fn hide_fuse() {
    let null = File::open("/dev/null").unwrap();
    mount("tmpfs", "/dev", "tmpfs", MountFlags::empty(), None).unwrap();
    fs::write("/dev/null", "").unwrap();
    mount_bind(format!("/proc/self/fd/{}", null.as_raw_fd()), "/dev/null").unwrap();
}

fn no_device(mut m: Machine) {
    begin(&mut m);
    hide_fuse();
    let answer = m.ask(["mount", "-t", "pernetfs", "/mnt"]);
    assert!(
        answer.code == 1 && answer.stderr.contains("/dev/fuse: this kernel or container has no FUSE"),
        "{}",
        answer.stderr
    );
    fs::write("/dev/fuse", "not it").unwrap();
    let answer = m.ask(["mount", "-t", "pernetfs", "/mnt"]);
    assert!(answer.code == 1 && !is_mounted("/mnt"), "{}", answer.stderr);
    m.stop();
}

fn twice(mut m: Machine) {
    begin(&mut m);
    m.ctl(["mount", "-t", "pernetfs", "/mnt"]);
    let answer = m.ask(["mount", "-t", "pernetfs", "/mnt"]);
    assert!(
        answer.code == 1 && answer.stderr.contains("EBUSY: fuse.pernetfs is mounted there already"),
        "{}",
        answer.stderr
    );
    assert_eq!(text("/mnt/namespaces/blue/state"), "live\n");
    m.ctl(["umount", "/mnt"]);
    let all: Vec<_> = (0..8)
        .map(|_| {
            m.pernetctl(["mount", "-t", "pernetfs", "/mnt"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    let codes = all.into_iter().map(|mut child| child.wait().unwrap().code().unwrap());
    assert_eq!(codes.filter(|code| *code == 0).count(), 1, "one of them has it");
    assert_eq!(m.ctl(["mount"]).as_array().unwrap().len(), 1);
    m.ctl(["umount", "/mnt"]);
    assert!(!is_mounted("/mnt"));
    m.stop();
}

fn client_goes(mut m: Machine) {
    let fault = "faults = [{ hook = \"fs.mount\", nth = 1, action = { until = \"/pernet/go\" } }]";
    m.probe(20, "fs", "", &format!("filesystems = [{{ name = \"probefs\" }}]\n{fault}"));
    m.start();
    fs::create_dir("/mnt").unwrap();
    let mut client = m.pernetctl(["mount", "-t", "probefs", "/mnt"]).spawn().unwrap();
    m.wait_call("fs fs.mount none");
    assert!(!is_mounted("/mnt"), "nothing shows before the type agrees");
    assert_eq!(m.ctl(["mount"]), Value::Array(Vec::new()));
    client.kill().unwrap();
    client.wait().unwrap();
    File::create(m.path("go")).unwrap();
    m.wait_call("fs fs.kill_sb 0");
    wait_until("no mount is left", SOON, || m.ctl(["mount"]) == Value::Array(Vec::new()));
    assert!(!is_mounted("/mnt"));
    // The directory is nobody's.
    m.ctl(["mount", "-t", "probefs", "/mnt"]);
    assert_eq!(text("/mnt/hello"), "hello\n");
    m.stop();
}

fn umounts(mut m: Machine) {
    begin(&mut m);
    m.ctl(["mount", "-t", "probefs", "/mnt"]);
    let mut open = File::open("/mnt/hello").unwrap();
    let answer = m.ask(["umount", "/mnt"]);
    assert!(
        answer.code == 1 && answer.stderr.contains("EBUSY: it is in use") && answer.stderr.contains("-l"),
        "{}",
        answer.stderr
    );
    assert!(is_mounted("/mnt"));
    m.ctl(["umount", "-l", "/mnt"]);
    assert!(!is_mounted("/mnt") && !Path::new("/mnt/hello").exists());
    let mut content = String::new();
    open.read_to_string(&mut content).unwrap();
    assert_eq!(content, "hello\n", "it is usable until it is closed");
    assert!(m.calls().iter().all(|call| call.hook != "fs.kill_sb"));
    assert_eq!(m.ctl(["mount"]).as_array().unwrap().len(), 1);
    drop(open);
    m.wait_call("fs fs.kill_sb 0");
    wait_until("it is forgotten", SOON, || m.ctl(["mount"]) == Value::Array(Vec::new()));
    // By others' means, and with the connection's other descriptors closed.
    m.forget();
    m.ctl(["mount", "-t", "probefs", "/mnt"]);
    run("umount /mnt");
    m.wait_call("fs fs.kill_sb 0");
    m.forget();
    m.ctl(["mount", "-t", "probefs", "/mnt"]);
    m.ctl(["umount", "/mnt"]);
    m.wait_call("fs fs.kill_sb 0");
    assert_eq!(m.calls().iter().filter(|call| call.hook == "fs.kill_sb").count(), 1, "once");
    m.stop();
}

fn stale(mut m: Machine) {
    begin(&mut m);
    m.ctl(["mount", "-t", "pernetfs", "/mnt"]);
    fs::create_dir("/other").unwrap();
    m.ctl(["mount", "-t", "probefs", "/other"]);
    let open = File::open("/mnt/status").unwrap();
    m.signal(Signal::KILL);
    m.end();
    assert_eq!(errno_of(fs::metadata("/mnt")), libc::ENOTCONN);
    assert_eq!(errno_of((&open).read(&mut [0; 10])), libc::ENOTCONN);
    // One is removed without a daemon; of another type, it is not taken for one's own.
    m.ctl(["umount", "/other"]);
    assert!(!is_mounted("/other"));
    m.start();
    let answer = m.ask(["mount", "-t", "probefs", "/mnt"]);
    assert!(answer.code == 1 && answer.stderr.contains("a dead mount of fuse.pernetfs"), "{}", answer.stderr);
    let answer = m.ask(["mount", "-t", "pernetfs", "/mnt"]);
    assert_eq!(answer.code, 0, "{}", answer.stderr);
    assert!(answer.stderr.contains("daemon is gone is taken away"), "it says so: {}", answer.stderr);
    assert!(text("/mnt/status").contains("running"));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(mounts.lines().filter(|line| line.contains(" /mnt ")).count(), 1, "the dead one is gone, though in use");
    // A busy dead one, too, is removed when that is asked for.
    let open = File::open("/mnt/status").unwrap();
    m.signal(Signal::KILL);
    m.end();
    assert!(m.ask(["umount", "/mnt"]).stderr.contains("EBUSY"));
    m.ctl(["umount", "-l", "/mnt"]);
    assert!(!is_mounted("/mnt"));
    drop(open);
}

fn stops(mut m: Machine) {
    begin(&mut m);
    m.ctl(["mount", "-t", "pernetfs", "/mnt"]);
    fs::create_dir("/other").unwrap();
    m.ctl(["mount", "-t", "probefs", "/other"]);
    let _open = File::open("/other/hello").unwrap();
    m.stop();
    assert_eq!(errno_of(fs::metadata("/mnt")), libc::ENOTCONN);
    assert_eq!(errno_of(fs::metadata("/other")), libc::ENOTCONN);
    let trace = m.trace();
    let at = |what: &str| {
        trace.iter().position(|line| line.starts_with(what)).unwrap_or_else(|| panic!("{what}: {trace:?}"))
    };
    assert!(at("fs fs.kill_sb") < at("fs pre_exit blue Stopped"), "users go first: {trace:?}");
}

/// The helper where mount(8) looks for it: in `/sbin`, which is a folder of the sandbox's own from here on.
fn install_helper() {
    mount("tmpfs", "/usr/sbin", "tmpfs", MountFlags::empty(), None).unwrap();
    symlink(env!("CARGO_BIN_EXE_pernetctl"), "/usr/sbin/mount.pernetfs").unwrap();
    symlink(env!("CARGO_BIN_EXE_pernetctl"), "/usr/sbin/mount.probefs").unwrap();
}

fn helper(mut m: Machine) {
    begin(&mut m);
    install_helper();
    let at = "runtime_dir=/pernet/run";
    run(&format!("mount -t pernetfs none /mnt -o {at},nofail,_netdev,x-systemd.requires=pernetd.service"));
    assert_eq!(text("/mnt/namespaces/blue/state"), "live\n");
    assert!(run("mount").contains("none on /mnt type fuse.pernetfs (rw,nosuid,nodev,noexec"));
    run("umount /mnt");
    fs::write("/pernet/fstab", format!("some /mnt pernetfs ro,netns=blue,{at} 0 0\n")).unwrap();
    run("mount -T /pernet/fstab /mnt");
    assert_eq!(text("/mnt/state"), "live\n");
    assert!(run("mount").contains("some on /mnt type fuse.pernetfs (ro,"));
    run("umount /mnt");
    run(&format!("mount -t probefs none /mnt -o {at},size=7"));
    assert!(text("/mnt/mount").contains("options=size=7\n"));
    run("umount /mnt");
    // Called as mount(8) does it.
    let status = |arguments: &str| {
        let output = Command::new("/usr/sbin/mount.pernetfs").args(arguments.split(' ')).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = status(&format!("none /mnt -f -o {at}"));
    assert_eq!((code, said.as_str(), is_mounted("/mnt")), (0, "", false), "-f does all but mount");
    assert_eq!(status(&format!("none /mnt -sn -v -o rw,{at}")).0, 0);
    for (arguments, expected, why) in [
        ("none", 1, "a source and a directory are needed"),
        ("none /mnt -Z", 1, "option -Z is unknown"),
        ("none /mnt -o suid", 1, "never set-uid"),
        (&format!("none /mnt -o {at}"), 32, "mounted there already"),
        (&format!("none /none -o {at}"), 32, "no such directory"),
        (&format!("none /none -f -o {at}"), 32, "no such directory"),
        (&format!("none /pernet -o {at},netns=nobody"), 32, "no such namespace"),
        ("none /pernet -o runtime_dir=/none", 32, "cannot reach pernetd"),
    ] {
        let (code, said) = status(arguments);
        assert!(
            code == expected && said.starts_with("mount.pernetfs: ") && said.contains(why),
            "{arguments}: {code} {said}"
        );
    }
    hide_fuse();
    assert_eq!(status(&format!("none /pernet -o {at}")).0, 2, "a fault of the system");
    m.stop();
}
