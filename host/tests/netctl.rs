//! `netctl`: the sysctls as files, as programs use them, and beside the kernel's own files in `/proc/sys`.
//!
//! Who may what beside root takes several users: those trials run where root keeps the real root's rights
//! (`PERNET_SANDBOX_USERNS=0`), and are ignored elsewhere.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod machine;
mod sandbox;
mod shell;
mod sysctls;

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use machine::{Machine, SOON, one};
use sandbox::{netns_add, netns_del, wait_until};
use shell::{errno_of, fuse_is_lacking, run, text};
use sysctls::{FILE, add, started, value};

fn main() -> ExitCode {
    let one_user =
        !rustix::process::getuid().is_root() || env::var_os("PERNET_SANDBOX_USERNS").is_none_or(|v| v != "0");
    let several = one("k7_5 beside root: by mode, and by CAP_NET_ADMIN", other_users);
    let mut trials = vec![
        one("read and written by cat, echo, find, grep and tar", programs),
        one("as the kernel's own files, access by access", beside_the_kernels),
        one("k7_5 the mode counts for root too, and nobody makes or changes files", rights),
        one("k7_6 a file of a table that has gone is ENOENT", tables_go),
        one("a namespace's sysctls come and go with it", namespaces_go),
        one("a handler that hangs or panics is EIO to who asked", handlers),
    ];
    trials.push(several.into_iter().map(|trial| trial.ignored_if(one_user)).collect());
    let lacking = fuse_is_lacking();
    sandbox::main(trials.into_iter().flatten().map(|trial| trial.ignored_if(lacking)).collect())
}

/// The probe in `blue`, with its sysctls below `/mnt`, and all below `/all`.
fn begin(m: &mut Machine) {
    started(m, "");
    for (at, options) in [("/mnt", &["--netns", "blue"][..]), ("/all", &[])] {
        fs::create_dir(at).unwrap();
        m.ctl(["mount", "-t", "netctl", at].into_iter().chain(options.iter().copied()));
    }
}

fn programs(mut m: Machine) {
    begin(&mut m);
    assert_eq!(run("cat /mnt/probe/int /all/blue/probe/vector"), "3\n4096\t131072\t6291456\n");
    run("echo 7 > /mnt/probe/int; echo '1 2' > /mnt/probe/vector; echo loud > /mnt/probe/text");
    assert_eq!(value(&m, "blue", "probe.int"), "7", "it is the same knob");
    assert_eq!(run("cat /mnt/probe/vector /mnt/probe/text"), "1\t2\t6291456\nloud\n");
    run("echo 8 >> /mnt/probe/int");
    assert_eq!(text("/mnt/probe/int"), "8\n", "to append is to write, as in /proc/sys");
    assert_eq!(run("echo debug > /all/@host/pernetd/log_level; cat /all/@host/pernetd/log_level"), "debug\n");
    assert_eq!(m.status()["state"], "running");
    let names =
        "bool\nbounded\nfixed\nglobs\nint\ninterval\nown\nsecret\nsink\ntext\nuint\nulong\nulongs\nvector\nwhere\n";
    assert_eq!(run("ls /mnt/probe"), names);
    assert_eq!(run("ls /all /all/@host"), "/all:\n@host\nblue\n\n/all/@host:\npernetd\n");
    assert_eq!(run("find /mnt -type f | wc -l"), "15\n");
    assert_eq!(run("cd /mnt; grep -rs ^8$ .; true"), "./probe/int:8\n");
    assert_eq!(run("tar -C /mnt -cf /pernet/all.tar --exclude sink . 2>&1"), "");
    assert_eq!(run("tar -xOf /pernet/all.tar ./probe/int ./probe/vector ./probe/where").lines().count(), 3);
    assert_eq!(fs::metadata("/mnt/probe/vector").unwrap().len(), 12, "1, 2, 6291456");
    let workers = text("/all/@host/pernetd/workers");
    assert_eq!(workers.trim(), m.ctl(["sysctl", "-n", "pernetd.workers"])[0]["value"].as_str().unwrap());
    m.stop();
}

/// What came of an access: bytes, or an errno.
fn outcome<T>(result: io::Result<T>) -> Result<T, i32> {
    result.map_err(|error| error.raw_os_error().unwrap())
}

/// Does the same to a file as to another, from the same beginning; what came of each access, and what is left.
fn try_all(path: &str, begin: &str) -> Vec<String> {
    let set = || fs::write(path, begin).unwrap();
    let mut said = Vec::new();
    let writes: [&[u8]; 22] = [
        b"64abc",
        b" ",
        b"\n",
        b"",
        b"9999999999999",
        b"-1",
        b"0x20",
        b"010",
        b" 7\n",
        b"\t8 ",
        b"1 2 3 4",
        b"12 x",
        b"0",
        b"-0",
        b"5\0",
        b"2147483647",
        b"2147483648",
        b"4294967295",
        b"4294967296",
        b"+1",
        b"99999999999999999999",
        b"1,2",
    ];
    for bytes in writes {
        set();
        let mut file = OpenOptions::new().write(true).open(path).unwrap();
        let first = outcome(file.write(bytes));
        let second = outcome(file.write(b"30\n"));
        said.push(format!("{:?}: {first:?} {second:?} {:?}", String::from_utf8_lossy(bytes), text(path)));
    }
    let zeros = |len: usize| [&b"6"[..], &vec![b' '; len - 1]].concat();
    for len in [1000, 4095, 4096] {
        set();
        let mut file = OpenOptions::new().write(true).open(path).unwrap();
        said.push(format!("{len}: {:?} {:?}", outcome(file.write(&zeros(len))), text(path)));
    }
    set();
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut bytes = [0; 64];
    for step in [
        outcome(file.write_at(b"9\n", 5)),
        outcome(file.write_at(b"9\n", 0)),
        outcome(file.read_at(&mut bytes, 0)),
        outcome(file.read_at(&mut bytes, 1)),
        outcome((&file).read(&mut bytes)),
        outcome((&file).read(&mut bytes)),
        outcome((&file).write(b"4")),
    ] {
        said.push(format!("{step:?} {:?}", text(path)));
    }
    set();
    let mut file = OpenOptions::new().append(true).open(path).unwrap();
    said.push(format!(
        "append: {:?} {:?} {:?}",
        outcome(file.write(b"11\n")),
        outcome(file.write(b"12\n")),
        text(path)
    ));
    let truncated = OpenOptions::new().write(true).truncate(true).open(path).map(drop);
    said.push(format!("truncate: {:?} {:?}", outcome(truncated), text(path)));
    said
}

fn beside_the_kernels(mut m: Machine) {
    begin(&mut m);
    for (ours, kernels, begin) in [
        ("int", "ipv4/igmp_max_memberships", "20\n"),
        ("uint", "ipv4/tcp_notsent_lowat", "20\n"),
        ("vector", "ipv4/tcp_rmem", "10 20 30\n"),
    ] {
        let (ours, kernels) = (format!("/mnt/probe/{ours}"), format!("/proc/sys/net/{kernels}"));
        assert_eq!(try_all(&ours, begin), try_all(&kernels, begin), "{ours} and {kernels}");
    }
    // More than a page is refused whole, also where the kernel hands it over in pieces.
    fs::write("/mnt/probe/int", "20\n").unwrap();
    for len in [4097, 5000, 70_000, 300_000, 2_000_000] {
        let mut file = OpenOptions::new().write(true).open("/mnt/probe/int").unwrap();
        assert_eq!(errno_of(file.write(&[&b"6"[..], &vec![b' '; len - 1]].concat())), libc::ENOMEM);
        assert_eq!(text("/mnt/probe/int"), "20\n");
    }
    m.stop();
}

fn rights(mut m: Machine) {
    begin(&mut m);
    let mode = |name: &str| {
        fs::metadata(format!("/mnt/probe/{name}")).map(|file| (file.mode() & 0o777, file.uid(), file.gid()))
    };
    assert_eq!(mode("int").unwrap(), (0o644, 0, 0));
    assert_eq!(mode("fixed").unwrap(), (0o444, 0, 0));
    assert_eq!(fs::metadata("/mnt/probe").unwrap().mode() & 0o7777, 0o555);
    let write = |path: &str| OpenOptions::new().write(true).open(path).map(drop);
    assert_eq!(errno_of(write("/mnt/probe/fixed")), libc::EACCES, "for root too");
    assert_eq!(errno_of(OpenOptions::new().read(true).write(true).open("/mnt/probe/fixed")), libc::EACCES);
    assert_eq!(errno_of(File::open("/mnt/probe/sink")), libc::EACCES);
    assert_eq!(fs::metadata("/mnt/probe/sink").unwrap().len(), 0, "nobody learns how long it is");
    write("/mnt/probe/sink").unwrap();
    run("test -w /mnt/probe/int && test -r /mnt/probe/int && ! test -x /mnt/probe/int");
    run("! test -w /mnt/probe/fixed && test -r /mnt/probe/fixed && ! test -r /mnt/probe/sink && ! test -w /mnt/probe");
    assert_eq!(errno_of(std::process::Command::new("/mnt/probe/int").spawn()), libc::EACCES);
    // The kernel's own answer to each of these is the same.
    for (what, errno) in
        [("mkdir", libc::ENOENT), ("create", libc::ENOENT), ("unlink", libc::EACCES), ("chmod", libc::EPERM)]
    {
        for at in ["/mnt/probe", "/proc/sys/net/core"] {
            let known = if at == "/mnt/probe" { "int" } else { "somaxconn" };
            let done = match what {
                "mkdir" => fs::create_dir(format!("{at}/new")),
                "create" => File::create(format!("{at}/new")).map(drop),
                "unlink" => fs::remove_file(format!("{at}/{known}")),
                _ => fs::set_permissions(format!("{at}/{known}"), std::os::unix::fs::PermissionsExt::from_mode(0o666)),
            };
            assert_eq!(errno_of(done), errno, "{what} in {at}");
        }
    }
    run("touch /mnt/probe/int; touch /proc/sys/net/core/somaxconn");
    assert!(run("(chown 0 /mnt/probe/int) 2>&1; true").contains("Operation not permitted"));
    assert_eq!(
        errno_of(OpenOptions::new().write(true).custom_flags(libc::O_DIRECTORY).open("/mnt/probe/int")),
        libc::ENOTDIR
    );
    // Mounted for reading.
    fs::create_dir("/ro").unwrap();
    m.ctl(["mount", "-t", "netctl", "-o", "ro", "/ro"]);
    assert_eq!(errno_of(write("/ro/blue/probe/int")), libc::EROFS);
    m.stop();
}

fn tables_go(mut m: Machine) {
    begin(&mut m);
    let open = OpenOptions::new().read(true).write(true).open("/mnt/probe/int").unwrap();
    let mut bytes = [0; 8];
    assert_eq!(open.read_at(&mut bytes, 0).unwrap(), 2);
    m.write(FILE, &format!("[config]\nrecord = \"{}\"\nlabel = \"new\"\n", sysctls::RECORD));
    assert_eq!(m.reload().code, 0);
    assert_eq!(errno_of(open.read_at(&mut bytes, 0)), libc::ENOENT, "it belongs to the table of its time");
    assert_eq!(errno_of((&open).write(b"4\n")), libc::ENOENT);
    assert_eq!(text("/mnt/probe/int"), "3\n", "and this is another one");
    assert_eq!(text("/mnt/probe/own"), "new\n");
    m.remove(FILE);
    assert_eq!(m.reload().code, 0);
    assert_eq!(errno_of(fs::metadata("/mnt/probe")), libc::ENOENT);
    assert_eq!(run("ls /mnt"), "", "the mount lives");
    m.stop();
}

fn namespaces_go(mut m: Machine) {
    begin(&mut m);
    add(&m, "red");
    assert_eq!(text("/all/red/probe/int"), "3\n");
    run("echo 5 > /all/red/probe/int");
    assert_eq!((text("/all/red/probe/int"), text("/all/blue/probe/int")), ("5\n".into(), "3\n".into()));
    let mut open = File::open("/all/red/probe/int").unwrap();
    netns_del("red");
    m.wait_gone("red");
    assert_eq!(errno_of(fs::metadata("/all/red")), libc::ENOENT);
    assert_eq!(errno_of(open.read(&mut [0; 4])), libc::ENOENT);
    netns_add("red");
    m.wait_state("red", "live");
    assert_eq!(text("/all/red/probe/int"), "3\n", "another one");
    netns_del("blue");
    wait_until("the mount of blue has ended", SOON, || errno_of(fs::metadata("/mnt")) == libc::ENOTCONN);
    m.stop();
}

fn handlers(mut m: Machine) {
    m.main("filesystem.timeout = 1");
    begin(&mut m);
    assert_eq!(errno_of(fs::write("/mnt/probe/own", "fail 28")), libc::ENOSPC);
    let before = Instant::now();
    assert_eq!(errno_of(fs::write("/mnt/probe/own", "until /pernet/go")), libc::EIO);
    assert!(before.elapsed() >= Duration::from_secs(1));
    assert_eq!(text("/mnt/probe/int"), "3\n", "others are answered");
    File::create(m.path("go")).unwrap();
    wait_until("it has come out", SOON, || m.status()["pinned"].as_array().unwrap().is_empty());
    // The knob of this very time is there as well.
    run("echo 3 > /all/@host/pernetd/filesystem_timeout");
    assert_eq!(text("/all/@host/pernetd/filesystem_timeout"), "3\n");
    assert_eq!(errno_of(fs::write("/mnt/probe/own", "run_in")), 0);
    assert!(text("/mnt/probe/own").starts_with("blue net:["));
    assert_eq!(errno_of(fs::write("/mnt/probe/own", "panic")), libc::EIO);
    wait_until("the plugin has failed", SOON, || errno_of(fs::metadata("/mnt/probe")) == libc::ENOENT);
    assert_eq!(text("/all/@host/pernetd/log_level"), "info\n", "the mounts live");
    m.stop();
}

fn other_users(mut m: Machine) {
    begin(&mut m);
    let said = |who: &str, what: &str| run(&format!("(setpriv {who} sh -c '{what}') 2>&1; true"));
    let nobody = "--reuid 65534 --regid 65534 --clear-groups";
    let denied = "Permission denied";
    assert_eq!(said(nobody, "cat /mnt/probe/int"), "3\n");
    assert!(said(nobody, "echo 4 > /mnt/probe/int").contains(denied));
    assert!(said(nobody, "cat /mnt/probe/secret").contains(denied));
    run("echo 3 > /mnt/probe/int");
    // CAP_NET_ADMIN has the owner's rights, whoever it is.
    let admin = "--reuid 65534 --regid 65534 --clear-groups --inh-caps +net_admin --ambient-caps +net_admin";
    assert_eq!(said(admin, "cat /mnt/probe/secret; echo 4 > /mnt/probe/int; cat /mnt/probe/int"), "42\n4\n");
    assert!(said(admin, "echo 4 > /mnt/probe/fixed").contains(denied));
    let other = "--reuid 65534 --regid 65534 --clear-groups --inh-caps +net_raw --ambient-caps +net_raw";
    assert!(said(other, "cat /mnt/probe/secret").contains(denied));
    // The same as of the kernel's own.
    let kernels = "/proc/sys/net/core/somaxconn";
    assert!(said(nobody, &format!("echo 4096 > {kernels}")).contains(denied));
    assert_eq!(said(admin, &format!("echo 4096 > {kernels}")), "");
    // In a user namespace of his own he has all capabilities, and none here.
    assert!(said(nobody, "unshare -U --map-root-user cat /mnt/probe/secret").contains(denied));
    // And nobody but root mounts.
    let mount = format!("{} --runtime-dir /pernet/run mount -t netctl /tmp", env!("CARGO_BIN_EXE_pernetctl"));
    fs::set_permissions("/pernet", std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let answer = said(nobody, &mount);
    assert!(answer.contains("uid 65534 may not call it") || answer.contains("EACCES"), "{answer}");
    m.stop();
}
