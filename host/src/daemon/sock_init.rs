//! `sock_init`: what there must be before a plugin gets a socket.
//!
//! Mirrors `sock_init` of `net/socket.c`, step for step (K6.7): the sysctls, the caches, the file system type, its mount.
//! Where the kernel's unwinds in part, this does wholly. What the parts do is in `sockets.rs`.

use std::sync::Arc;
use std::time::Duration;

use super::filesystems::Filesystems;
use super::sockets::{Parts, Sockets};
use super::sysctls::{NetSysctl, OWN};
use crate::engine::{
    CtlAt, CtlData, CtlEntry, CtlKind, CtlTable, Failure, FileSystemType, MountRequest, Number, SockFs, Step, Undo,
    do_steps, sock_fs_type,
};
use crate::linux::socket;
use crate::linux::worker::Workers;
use crate::logging::catalog;

/// What the steps work on, and what one leaves for the next.
struct SockInit {
    sockets: Arc<Sockets>,
    sysctls: Arc<NetSysctl>,
    filesystems: Arc<Filesystems>,
    workers: Arc<Workers>,
    parts: Option<Arc<Parts>>,
    fs_type: Option<Arc<FileSystemType>>,
}

/// In the kernel's order.
const STEPS: [Step<SockInit>; 4] = [
    Step { what: "registering the sockets' sysctls", run: sysctl_init },
    Step { what: "starting what makes sockets", run: init_inodecache },
    Step { what: "registering sockfs", run: register_sockfs },
    Step { what: "mounting sockfs", run: mount_sockfs },
];

/// Has plugins get sockets, until what is returned is run or dropped.
///
/// # Errors
/// The failing step's; whatever was done before it is undone.
pub(super) fn sock_init(
    sockets: &Arc<Sockets>,
    sysctls: &Arc<NetSysctl>,
    filesystems: &Arc<Filesystems>,
    workers: &Arc<Workers>,
) -> Result<Undo, Failure> {
    let mut init = SockInit {
        sockets: Arc::clone(sockets),
        sysctls: Arc::clone(sysctls),
        filesystems: Arc::clone(filesystems),
        workers: Arc::clone(workers),
        parts: None,
        fs_type: None,
    };
    do_steps(&STEPS, &mut init)
}

fn sysctl_init(init: &mut SockInit) -> Result<Undo, Failure> {
    let entry = CtlEntry {
        name: "max_sockets".to_owned(),
        mode: 0o644,
        kind: CtlKind::Ulong,
        len: 1,
        min: Some(0),
        max: Some(Number::from(u32::MAX)),
    };
    let table = CtlTable { entries: vec![entry], data: Arc::new(MaxSockets(Arc::clone(&init.sockets))) };
    let header = init.sysctls.register(OWN, table)?;
    let sysctls = Arc::clone(&init.sysctls);
    Ok(Box::new(move || {
        // No handler of it waits for anything.
        if let Err(failure) = sysctls.init_net.unregister(&header, Duration::from_secs(1)) {
            tracing::warn!(message_id = catalog::OWN_MISTAKE, errno = failure.errno, "sock_init: {failure}");
        }
    }))
}

/// The knob's value.
struct MaxSockets(Arc<Sockets>);

impl CtlData for MaxSockets {
    fn load(&self, _: &CtlAt, _: usize) -> Result<Number, Failure> {
        Ok(self.0.most() as Number)
    }

    fn store(&self, _: &CtlAt, _: usize, most: Number) -> Result<(), Failure> {
        let beyond = |_| Failure::new(libc::EINVAL, "the number is too large");
        self.0.set_most(usize::try_from(most).map_err(beyond)?);
        Ok(())
    }
}

fn init_inodecache(init: &mut SockInit) -> Result<Undo, Failure> {
    let world =
        socket::Sockets::start().map_err(|e| Failure::new(e.raw_os_error().unwrap_or(libc::EIO), e.to_string()))?;
    let creator = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let fs = SockFs::new(init.sockets.most(), creator);
    init.parts = Some(Arc::new(Parts { fs, world, workers: Arc::clone(&init.workers) }));
    Ok(Box::new(|| {}))
}

fn register_sockfs(init: &mut SockInit) -> Result<Undo, Failure> {
    let parts = made(&init.parts)?;
    let fs_type = Arc::new(sock_fs_type(&parts.fs, OWN));
    init.filesystems.types.register_filesystem(&fs_type)?;
    init.fs_type = Some(Arc::clone(&fs_type));
    let filesystems = Arc::clone(&init.filesystems);
    Ok(Box::new(move || {
        if let Err(failure) = filesystems.types.unregister_filesystem(&fs_type) {
            tracing::warn!(message_id = catalog::OWN_MISTAKE, errno = failure.errno, "sock_init: {failure}");
        }
    }))
}

fn mount_sockfs(init: &mut SockInit) -> Result<Undo, Failure> {
    let mount = init.filesystems.types.kern_mount(&made(&init.fs_type)?, MountRequest::default())?;
    init.sockets.set_parts(Some(made(&init.parts)?));
    let (sockets, filesystems) = (Arc::clone(&init.sockets), Arc::clone(&init.filesystems));
    Ok(Box::new(move || {
        sockets.set_parts(None);
        filesystems.types.kern_unmount(Ok(mount));
    }))
}

/// What an earlier step has made.
fn made<T>(part: &Option<Arc<T>>) -> Result<Arc<T>, Failure> {
    part.clone().ok_or_else(|| Failure::new(libc::EIO, "a step before this one has not run"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // A test ends where something that must work does not.
mod tests {
    use super::*;
    use crate::config::Sysctls;
    use crate::engine::{Credentials, CtlAccess, CtlFile, CtlFound, CtlNode};

    fn init() -> SockInit {
        let sysctls = NetSysctl::new(&Sysctls::default());
        sysctls.set_open(true);
        SockInit {
            sockets: Sockets::new(),
            sysctls,
            filesystems: Arc::new(
                Filesystems::new(Duration::from_secs(1), std::path::Path::new("/nonexistent")).unwrap(),
            ),
            workers: Arc::new(Workers::new(1).unwrap()),
            parts: None,
            fs_type: None,
        }
    }

    fn start(init: &SockInit) -> Result<Undo, Failure> {
        sock_init(&init.sockets, &init.sysctls, &init.filesystems, &init.workers)
    }

    fn knob(init: &SockInit) -> Option<CtlNode> {
        match init.sysctls.init_net.look("pernetd/max_sockets") {
            Ok(CtlFound::Entry(node)) => Some(node),
            _ => None,
        }
    }

    fn value(init: &SockInit) -> String {
        let file = CtlFile::open(knob(init).unwrap(), &Credentials::DAEMON, CtlAccess::Read).unwrap();
        String::from_utf8(file.read(&Credentials::DAEMON, 100).unwrap()).unwrap()
    }

    fn copy(step: &Step<SockInit>) -> Step<SockInit> {
        Step { what: step.what, run: step.run }
    }

    /// What of it is there: the knob, the type, the mount, the sockets.
    fn there(init: &SockInit) -> [bool; 4] {
        let types = &init.filesystems.types;
        [
            knob(init).is_some(),
            types.get_fs_type("sockfs").is_ok(),
            types.internal_mounts() == 1,
            init.sockets.parts().is_ok(),
        ]
    }

    /// A start, its end, and the same again: nothing of the first is in the way.
    fn starts_and_ends(init: &SockInit) {
        for _ in 0..2 {
            let undo = start(init).unwrap();
            assert_eq!(there(init), [true; 4]);
            undo();
            assert_eq!(there(init), [false; 4]);
        }
    }

    #[test]
    fn k6_7_the_steps_have_the_kernels_order() {
        let mut init = init();
        let mut undo = Vec::new();
        for (done, step) in STEPS.iter().enumerate() {
            undo.push((step.run)(&mut init).unwrap());
            let expected =
                [[true, false, false, false], [true, false, false, false], [true, true, false, false], [true; 4]];
            assert_eq!(there(&init), expected[done], "{}", step.what);
        }
        undo.into_iter().rev().for_each(|undo| undo());
        assert_eq!(there(&init), [false; 4]);
    }

    #[test]
    fn k6_7_whichever_step_fails_nothing_is_left() {
        for done in 0..=STEPS.len() {
            let mut init = init();
            let failing = Step { what: "failing", run: |_: &mut SockInit| Err(Failure::new(libc::EMFILE, "no more")) };
            let steps: Vec<_> = STEPS.iter().take(done).map(copy).chain([failing]).collect();
            let failure = do_steps(&steps, &mut init).err().unwrap();
            assert_eq!((failure.errno, &*failure.message), (libc::EMFILE, "failing: no more"));
            assert_eq!(there(&init), [false; 4], "after {done} steps");
            assert_eq!(init.sockets.parts().err().unwrap().errno, libc::ENODEV);
            starts_and_ends(&init);
        }
    }

    #[test]
    fn k6_7_a_step_whose_place_is_taken_says_so() {
        let init = init();
        let undo = start(&init).unwrap();
        let again = start(&init).err().unwrap();
        assert_eq!(again.errno, libc::EEXIST, "{again}");
        assert!(again.message.starts_with("registering the sockets' sysctls: "), "{again}");
        assert_eq!(there(&init), [true; 4], "the first is as it was");
        undo();
        let other = Arc::new(sock_fs_type(&SockFs::new(1, (0, 0)), "somebody"));
        init.filesystems.types.register_filesystem(&other).unwrap();
        let taken = start(&init).err().unwrap();
        assert_eq!(taken.errno, libc::EBUSY, "{taken}");
        assert!(taken.message.starts_with("registering sockfs: "), "{taken}");
        assert_eq!(there(&init), [false, true, false, false], "somebody's type is there still");
        init.filesystems.types.unregister_filesystem(&other).unwrap();
        starts_and_ends(&init);
    }

    #[test]
    fn k6_7_a_failed_mount_unregisters_the_type_and_all_before_it() {
        let mut init = init();
        let spoil = |init: &mut SockInit| -> Result<Undo, Failure> {
            made(&init.fs_type)?.set_going(true);
            Ok(Box::new(|| {}))
        };
        let mut steps: Vec<_> = STEPS.iter().map(copy).collect();
        steps.insert(3, Step { what: "spoiling", run: spoil });
        let failure = do_steps(&steps, &mut init).err().unwrap();
        assert_eq!(failure.errno, libc::ENODEV, "{failure}");
        assert!(failure.message.starts_with("mounting sockfs: "), "{failure}");
        assert_eq!(there(&init), [false; 4]);
        starts_and_ends(&init);
    }

    #[test]
    fn the_bound_is_a_knob() {
        let init = init();
        let most = init.sockets.most();
        let undo = start(&init).unwrap();
        assert_eq!(value(&init), format!("{most}\n"));
        knob(&init).unwrap().set(b"7\n").unwrap();
        assert_eq!((init.sockets.most(), value(&init)), (7, "7\n".to_owned()));
        undo();
        let _undo = start(&init).unwrap();
        assert_eq!(value(&init), "7\n", "it outlives what it bounds");
        assert_eq!(knob(&init).unwrap().set(b"4294967296\n").unwrap_err().errno, libc::EINVAL);
    }
}
