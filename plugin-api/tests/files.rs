//! File systems of a plugin's own across its table: registration, mounts, each file operation, and the end.
#![forbid(unsafe_code)]

mod device_host;
mod stub_host;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi_stable::std_types::{RSlice, RStr};
use device_host::{NOTHING, host, loaded, note, taken};
use pernet_plugin_api::abi::{
    CreateReturn, FileCall, FileReturn, InstanceHandle, MountCall, NumberReturn, PluginModRef, Status,
};
use pernet_plugin_api::prelude::*;

struct Files {
    mounted: Arc<AtomicU64>,
}

/// Marks its drop.
struct Super(u64);

impl Drop for Super {
    fn drop(&mut self) {
        note(format!("super {} dropped", self.0));
    }
}

struct Probe;

impl Plugin for Probe {
    type Config = NoConfig;

    fn init(reg: &mut Registrar, _: Host, _: NoConfig) -> Result<Self> {
        let mounted = Arc::new(AtomicU64::new(0));
        reg.filesystem("first", Files { mounted: Arc::clone(&mounted) })?;
        reg.internal_filesystem("second", Files { mounted })?;
        assert_eq!(reg.filesystem("", Bare).map_err(|e| e.errno()), Err(libc::EINVAL));
        reg.filesystem("bare", Bare)?;
        Ok(Probe)
    }
}

impl FileSystem for Files {
    type Super = Super;

    fn mount(&self, request: &MountRequest<'_>) -> Result<Super> {
        let MountRequest { net, internal, source, options } = *request;
        note(format!("mount {net:?} {internal} {source} {options} {:?}", request.option("size")));
        if request.option("panic").is_some() {
            panic!("as asked");
        }
        if let Some(errno) = request.option("fail") {
            return Err(Error::new(errno.parse().unwrap_or(0), "as asked"));
        }
        Ok(Super(self.mounted.fetch_add(1, Ordering::Relaxed) + 1))
    }

    fn kill_sb(&self, sb: Super) -> Result<()> {
        note(format!("kill_sb {}", sb.0));
        Ok(())
    }

    fn getattr(&self, sb: &Super, ino: u64) -> Result<FileAttr> {
        note(format!("getattr {ino} of {}", sb.0));
        Ok(FileAttr::file(ino, 0o640).with_size(9).with_owner(1, 2).with_mtime(-3))
    }

    fn lookup(&self, _: &Super, caller: FileCaller, parent: u64, name: &str) -> Result<FileAttr> {
        note(format!("lookup {name} in {parent} for {caller:?}"));
        Ok(FileAttr::directory(7, 0o755))
    }

    fn readdir(&self, _: &Super, _: FileCaller, _: u64) -> Result<Vec<DirEntry>> {
        Ok(vec![DirEntry::file(2, "f"), DirEntry::directory(3, "d"), DirEntry::symlink(4, "l")])
    }

    fn open(&self, _: &Super, _: FileCaller, _: u64, flags: i32) -> Result<u64> {
        note(format!("open {flags:#x}"));
        Ok(77)
    }

    fn read(&self, _: &Super, file: OpenFile, offset: u64, len: usize) -> Result<Vec<u8>> {
        note(format!("read {} {} {offset} {len}", file.ino, file.handle));
        Ok(b"bytes".to_vec())
    }

    fn write(&self, _: &Super, file: OpenFile, offset: u64, bytes: &[u8]) -> Result<usize> {
        note(format!("write {} {offset} {bytes:?}", file.handle));
        Ok(bytes.len())
    }

    fn truncate(&self, sb: &Super, _: FileCaller, ino: u64, size: u64) -> Result<FileAttr> {
        note(format!("truncate to {size}"));
        self.getattr(sb, ino)
    }

    fn readlink(&self, _: &Super, _: u64) -> Result<Vec<u8>> {
        panic!("as asked, in readlink")
    }

    fn release(&self, _: &Super, file: OpenFile) -> Result<()> {
        note(format!("release {}", file.handle));
        Err(Error::new(libc::EBUSY, "as asked"))
    }
}

/// Everything by default.
struct Bare;

impl FileSystem for Bare {
    type Super = ();

    fn mount(&self, _: &MountRequest<'_>) -> Result<()> {
        Ok(())
    }

    fn getattr(&self, (): &(), ino: u64) -> Result<FileAttr> {
        Ok(FileAttr::directory(ino, 0o555))
    }
}

/// The plugin as a host has it.
struct Plugged {
    module: PluginModRef,
    instance: InstanceHandle,
}

impl Plugged {
    fn new() -> (Plugged, CreateReturn) {
        let module = pernet_plugin_api::__private::module::<Probe>();
        let created = module.create()(host(), 5, "{}".into());
        assert_eq!(created.status.errno, 0, "{:?}", created.status);
        (Plugged { module, instance: created.instance }, created)
    }

    fn mount(&self, fs: u32, options: &str) -> NumberReturn {
        let call = MountCall { cookie: 9, internal: 1, source: "none".into(), options: options.into() };
        (self.module.fs_mount().expect("there"))(self.instance, fs, &call)
    }

    fn kill_sb(&self, fs: u32, sb: u64) -> Status {
        (self.module.fs_kill_sb().expect("there"))(self.instance, fs, sb)
    }

    fn file(&self, fs: u32, sb: u64, call: &FileCall<'_>) -> FileReturn {
        (self.module.file().expect("there"))(self.instance, fs, sb, call)
    }
}

const CALL: FileCall<'static> = FileCall {
    op: 0,
    ino: 4,
    offset: 6,
    number: 0,
    handle: 77,
    uid: 10,
    gid: 20,
    pid: 30,
    text: RStr::empty(),
    bytes: RSlice::EMPTY,
};

#[test]
fn what_is_registered_is_told_in_order_and_who_cannot_mount_it() {
    let _one_at_a_time = loaded();
    let (plugged, created) = Plugged::new();
    let told: Vec<_> =
        created.registrations.iter().map(|r| (r.class, r.number, r.priority, r.name.to_string())).collect();
    assert_eq!(told, [(3, 0, 0, "first".to_owned()), (3, 1, 1, "second".to_owned()), (3, 2, 0, "bare".to_owned())]);
    assert_eq!(plugged.module.destroy()(plugged.instance).errno, 0);
}

#[test]
fn each_operation_comes_with_what_it_is_about_and_its_answer_goes_back() {
    let _one_at_a_time = loaded();
    let (plugged, _) = Plugged::new();
    let sb = plugged.mount(0, "ro,size=7,size=8").number;
    assert_eq!(taken(), [r#"mount Some(NetCookie(9)) true none ro,size=7,size=8 Some("8")"#]);
    let ask = |op: u8, call: &FileCall<'_>| {
        let answer = plugged.file(0, sb, &FileCall { op, ..*call });
        (answer, taken().join("; "))
    };
    let (answer, told) = ask(0, &FileCall { text: "name".into(), ..CALL });
    assert_eq!((answer.attr.ino, answer.attr.mode), (7, 0o40_755));
    assert_eq!(told, "lookup name in 4 for FileCaller { uid: 10, gid: 20, pid: 30 }");
    let (answer, told) = ask(1, &CALL);
    let attr = answer.attr;
    assert_eq!((attr.ino, attr.mode, attr.nlink, attr.size), (4, 0o100_640, 1, 9));
    assert_eq!((attr.uid, attr.gid, attr.mtime, told.as_str()), (1, 2, -3, "getattr 4 of 1"));
    let (answer, _) = ask(2, &CALL);
    let entries: Vec<_> = answer.entries.iter().map(|e| (e.ino, e.mode, e.name.to_string())).collect();
    assert_eq!(entries, [(2, 0o100_000, "f".into()), (3, 0o40_000, "d".into()), (4, 0o120_000, "l".into())]);
    let (answer, told) = ask(3, &FileCall { number: 0x8001, ..CALL });
    assert_eq!((answer.number, told.as_str()), (77, "open 0x8001"));
    let (answer, told) = ask(4, &FileCall { number: 100, ..CALL });
    assert_eq!((answer.bytes.as_slice(), told.as_str()), (&b"bytes"[..], "read 4 77 6 100"));
    let (answer, told) = ask(5, &FileCall { bytes: b"ab"[..].into(), ..CALL });
    assert_eq!((answer.number, told.as_str()), (2, "write 77 6 [97, 98]"));
    let (answer, told) = ask(6, &FileCall { number: 3, ..CALL });
    assert_eq!((answer.attr.size, told.as_str()), (9, "truncate to 3; getattr 4 of 1"));
    let (answer, _) = ask(7, &CALL);
    assert_eq!((answer.status.errno, answer.status.panicked), (libc::EIO, 1), "the panic stops here");
    let (answer, told) = ask(8, &CALL);
    assert_eq!((answer.status.errno, told.as_str()), (libc::EBUSY, "release 77"));
    let (answer, _) = ask(9, &CALL);
    assert_eq!(answer.status.errno, libc::ENOSYS, "newer than this plugin");
    assert_eq!(plugged.kill_sb(0, sb).errno, 0);
    assert_eq!(taken(), ["kill_sb 1", "super 1 dropped"]);
    assert_eq!(plugged.module.destroy()(plugged.instance).errno, 0);
}

#[test]
fn the_defaults_are_an_empty_folder_that_nobody_writes() {
    let _one_at_a_time = loaded();
    let (plugged, _) = Plugged::new();
    let sb = plugged.mount(2, "").number;
    let errno = |op: u8| plugged.file(2, sb, &FileCall { op, ..CALL }).status.errno;
    assert_eq!([0, 1, 2, 3].map(errno), [libc::ENOENT, 0, 0, 0]);
    assert_eq!([4, 5, 6, 7, 8].map(errno), [libc::EINVAL, libc::EROFS, 0, libc::EINVAL, 0]);
    assert_eq!(plugged.kill_sb(2, sb).errno, 0);
    assert_eq!(plugged.module.destroy()(plugged.instance).errno, 0);
}

#[test]
fn a_mount_that_fails_is_none_and_what_the_host_confuses_is_refused() {
    let _one_at_a_time = loaded();
    let (plugged, _) = Plugged::new();
    let failed = plugged.mount(0, "fail=28");
    assert_eq!((failed.status.errno, failed.number), (libc::ENOSPC, 0));
    let panicked = plugged.mount(0, "panic");
    assert_eq!((panicked.status.errno, panicked.status.panicked, panicked.number), (libc::EIO, 1, 0));
    assert_eq!(plugged.mount(3, "").status.errno, libc::EINVAL, "there is no fourth");
    let (one, other) = (plugged.mount(0, "").number, plugged.mount(1, "").number);
    assert_ne!(one, other);
    taken();
    for (fs, sb) in [(1, one), (0, other), (2, one), (0, 0), (0, 99), (3, one)] {
        assert_eq!(plugged.file(fs, sb, &FileCall { op: 1, ..CALL }).status.errno, libc::EINVAL, "{fs} {sb}");
        assert_eq!(plugged.kill_sb(fs, sb).errno, libc::EINVAL, "{fs} {sb}");
    }
    assert_eq!(plugged.kill_sb(0, one).errno, 0);
    assert_eq!(plugged.kill_sb(0, one).errno, libc::EINVAL, "once");
    assert_eq!(plugged.file(0, one, &FileCall { op: 1, ..CALL }).status.errno, libc::EINVAL);
    assert_eq!(taken(), ["kill_sb 1", "super 1 dropped"]);
    // What the host did not end is dropped with the instance, without a call.
    assert_eq!(plugged.module.destroy()(plugged.instance).errno, 0);
    assert_eq!(taken(), ["super 2 dropped"]);
}

#[test]
fn an_internal_mount_is_there_for_as_long_as_its_value() {
    let loaded = loaded();
    stub_host::unmounted();
    let mount = loaded.host.kern_mount("known", Some(NetCookie(4)), "a=1").expect("mounted");
    let missing = loaded.host.kern_mount("unknown", None, "").map(drop).map_err(|e| (e.errno(), e.to_string()));
    assert_eq!(missing, Err((libc::ENODEV, "no such type (ENODEV)".to_owned())));
    assert!(stub_host::unmounted().is_empty());
    drop(mount);
    assert_eq!(stub_host::unmounted(), [4], "the host's number for it");
    assert_eq!(taken(), NOTHING);
}
