//! Entering namespaces, and the threads that do.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod sandbox;

use std::fs;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use pernet_plugin_api::NetCookie;
use pernetd::linux::ns::{self, Pin};
use pernetd::linux::worker::Workers;
use pernetd::linux::{netns, nsfs};
use rustix::mount::{UnmountFlags, unmount};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use sandbox::{netns_add, trial, wait_until};

const SOON: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    sandbox::main(vec![
        trial("a job acts inside and its thread comes home", inside_and_home),
        trial("a thread that forgets to come home is brought home", brought_home),
        trial("a thread that cannot come home is replaced", replaced),
        trial("both ways of identifying agree", both_ways_agree),
        trial("what is no namespace is not identified", no_namespace),
        trial("a pin does not make umount busy", pin_and_umount),
        trial("making a namespace leaves the caller where it is", create_leaves_the_caller),
        trial("a name is taken once", taken_once),
        trial("a descriptor that was handed over is adopted", adopted),
        trial("the sandbox's folders belong to its root", sandbox_belongs_to_root),
    ])
}

/// Runs on a worker thread and returns the result.
fn on_worker<T: Send + 'static>(workers: &Workers, job: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = mpsc::channel();
    assert!(workers.queue(NetCookie(1), Box::new(move || drop(send.send(job())))));
    receive.recv_timeout(SOON).unwrap()
}

/// The namespace that a thread is in, and its interfaces: one that was just made has only `lo`.
fn here() -> (u64, usize) {
    let interfaces = fs::read_to_string("/proc/thread-self/net/dev").unwrap().lines().count() - 2;
    (ns::current().unwrap().0.0, interfaces)
}

fn inside_and_home() {
    let workers = Workers::new(2).unwrap();
    let home = here();
    let pin = Pin::from(netns::create().unwrap());
    let (inside, away, after, at_home) = on_worker(&workers, move || {
        ns::enter(&pin).unwrap();
        let (inside, away) = (here(), ns::is_away());
        ns::home().unwrap();
        (inside, away, here(), !ns::is_away())
    });
    assert!(away && at_home);
    assert_ne!(inside.0, home.0);
    assert_eq!(after, home);
}

fn brought_home() {
    let workers = Workers::new(1).unwrap();
    let home = here();
    let pin = Pin::from(netns::create().unwrap());
    let inside = on_worker(&workers, move || {
        ns::enter(&pin).unwrap();
        here()
    });
    assert_ne!(inside.0, home.0);
    assert_eq!(on_worker(&workers, here), home);
    let other = Pin::from(netns::create().unwrap());
    workers.run_anywhere(Box::new(move || {
        ns::enter(&other).unwrap();
        panic!("inside, on purpose");
    }));
    assert_eq!(on_worker(&workers, here), home);
}

fn replaced() {
    let workers = Workers::new(1).unwrap();
    let home = here();
    let pin = Pin::from(netns::create().unwrap());
    let thread = || std::thread::current().id();
    let lost = on_worker(&workers, move || {
        ns::enter(&pin).unwrap();
        let none = rustix::thread::CapabilitySets { effective: CapabilitySet::empty(), ..capabilities(None).unwrap() };
        set_capabilities(None, none).unwrap();
        assert!(ns::home().is_err());
        assert!(ns::enter(&pin).is_err(), "a lost thread enters nothing");
        thread()
    });
    let (next, at) = on_worker(&workers, move || (thread(), here()));
    assert_ne!(next, lost);
    assert_eq!(at, home);
    let tasks = || fs::read_dir("/proc/self/task").unwrap().count();
    wait_until("the lost thread has ended", SOON, || tasks() == 3);
}

fn both_ways_agree() {
    let workers = Workers::new(1).unwrap();
    let path = netns_add("blue");
    let by_entering = on_worker(&workers, {
        let path = path.clone();
        move || ns::identify_by_entering(&path).unwrap()
    });
    let inode = |pin: &Pin| rustix::fs::fstat(pin.as_fd()).unwrap().st_ino;
    if let Some(by_handle) = ns::identify_without_entering(&path) {
        let by_handle = by_handle.unwrap();
        assert_eq!(by_handle.0, by_entering.0);
        assert_eq!(inode(&by_handle.1), inode(&by_entering.1));
    }
    assert_ne!(by_entering.0, ns::current().unwrap().0);
    let (cookie, told) = (by_entering.0, inode(&by_entering.1));
    let again = on_worker(&workers, move || (ns::identify_as(&path, told), ns::identify_as(&path, told + 1)));
    assert_eq!(again.0.unwrap().0, cookie);
    assert_eq!(again.1.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

fn no_namespace() {
    let workers = Workers::new(1).unwrap();
    fs::create_dir_all(sandbox::RUN_NETNS).unwrap();
    let path = |name: &str| std::path::Path::new(sandbox::RUN_NETNS).join(name);
    netns::take_name(&path("placeholder")).unwrap();
    std::os::unix::fs::symlink("/proc/self/ns/net", path("link")).unwrap();
    netns::take_name(&path("uts")).unwrap();
    rustix::mount::mount_bind("/proc/self/ns/uts", path("uts")).unwrap();
    for (name, error) in
        [("none", libc::ENOENT), ("placeholder", libc::EINVAL), ("link", libc::ELOOP), ("uts", libc::EINVAL)]
    {
        let path = path(name);
        let by_handle = ns::identify_without_entering(&path).map(|found| found.map(drop).map_err(|e| e.raw_os_error()));
        let handle_error = if error == libc::ELOOP { libc::EINVAL } else { error };
        assert!(by_handle.is_none_or(|found| found == Err(Some(handle_error))), "{name}");
        let by_entering = on_worker(&workers, move || ns::identify_by_entering(&path).map(drop));
        assert_eq!(by_entering.map_err(|e| e.raw_os_error()), Err(Some(error)), "{name}");
        assert!(on_worker(&workers, || !ns::is_away()));
    }
}

fn pin_and_umount() {
    let workers = Workers::new(1).unwrap();
    let (first, second) = (netns_add("one"), netns_add("two"));
    let path = first.clone();
    let pins = [
        on_worker(&workers, move || ns::identify_by_entering(&path).unwrap()),
        on_worker(&workers, move || ns::identify(&second).unwrap()),
    ];
    for name in ["one", "two"] {
        unmount(first.with_file_name(name), UnmountFlags::empty()).unwrap();
    }
    // The namespaces live on, for the exits.
    for (cookie, pin) in pins {
        let inside = on_worker(&workers, move || {
            ns::enter(&pin).unwrap();
            here().0
        });
        assert_eq!(inside, cookie.0);
    }
}

fn create_leaves_the_caller() {
    let before = here();
    let made = Arc::new(netns::create().unwrap());
    assert_eq!(here(), before);
    if nsfs::available().is_ok() {
        let own = ns::current().unwrap().1;
        let inode = |fd: std::os::fd::BorrowedFd<'_>| rustix::fs::fstat(fd).unwrap().st_ino;
        assert_ne!(inode(made.as_fd()), inode(own.as_fd()));
    }
}

fn taken_once() {
    let path = netns_add("blue");
    let folder = path.parent().unwrap();
    let again = netns::add(folder, "blue".as_ref());
    assert_eq!(again.unwrap_err().raw_os_error(), Some(libc::EEXIST));
    netns::remove(&path).unwrap();
    netns::remove(&path).unwrap();
    assert!(!path.exists());
    netns::add(folder, "blue".as_ref()).unwrap();
}

fn adopted() {
    let workers = Workers::new(1).unwrap();
    let path = netns_add("blue");
    let known = ns::identify_without_entering(&path);
    let through_mount = fs::File::open(&path).unwrap();
    let (cookie, _pin) = on_worker(&workers, move || ns::adopt(through_mount.into()).unwrap());
    assert!(known.is_none_or(|known| known.unwrap().0 == cookie));
    unmount(&path, UnmountFlags::empty()).unwrap();
    for other in ["/dev/null", "/proc/self/ns/uts", "/run"] {
        let file = fs::File::open(other).unwrap();
        let refused = on_worker(&workers, move || ns::adopt(file.into()).map(drop));
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EINVAL), "{other}");
    }
}

fn sandbox_belongs_to_root() {
    use std::os::unix::fs::MetadataExt;
    let plugins = sandbox::plugins_dir(&[std::env::current_exe().unwrap()]);
    let file = plugins.join(std::env::current_exe().unwrap().file_name().unwrap());
    for path in ["/", "/run", "/tmp", "/var", "/plugins"].iter().map(std::path::Path::new).chain([file.as_path()]) {
        let meta = fs::metadata(path).unwrap();
        assert_eq!(meta.uid(), 0, "{}", path.display());
        assert!(meta.mode() & 0o022 == 0 || meta.mode() & 0o1000 != 0, "{}: {:o}", path.display(), meta.mode());
    }
}
