//! K6.5 and K6.6: sockfs as a file system, whose files are the sockets.

use pernet_plugin_api::FileCaller;

use super::kernel::EINVAL;
use super::sock::*;
use crate::engine::*;

const ENOENT: i32 = 2;
const ROOT: FileCaller = FileCaller { uid: 0, gid: 0, pid: 1 };

#[test]
fn k6_5_users_cannot_mount_it_and_its_root_is_a_pseudo_file_systems() {
    let room = room();
    let (systems, fs) = (FileSystems::new(Box::new(|_, _| ())), std::sync::Arc::new(sock_fs_type(&room.fs, "k")));
    systems.register_filesystem(&fs).unwrap();
    assert!(fs.no_user);
    assert_eq!(systems.mount("sockfs", MountRequest::default()).err().unwrap().errno, EINVAL);
    let mount = systems.kern_mount(&fs, MountRequest::default()).unwrap();
    assert_eq!((systems.mounts().len(), systems.internal_mounts()), (0, 1), "in no mount table");
    let root = mount.getattr(ROOT_INO).unwrap();
    assert_eq!((root.ino, root.mode, root.uid, root.gid), (1, 0o040_600, 5, 6));
    systems.kern_unmount(Ok(mount));
    assert_eq!(systems.internal_mounts(), 0);
}

#[test]
fn k6_6_its_files_are_the_sockets() {
    let room = room();
    let systems = FileSystems::new(Box::new(|_, _| ()));
    let mount = systems.kern_mount(&std::sync::Arc::new(sock_fs_type(&room.fs, "k")), MountRequest::default()).unwrap();
    let names = || {
        let entries = mount.readdir(ROOT, ROOT_INO).unwrap().into_iter();
        entries.map(|entry| (entry.ino, entry.mode, entry.name)).collect::<Vec<_>>()
    };
    assert_eq!(names(), []);
    let (one, two) = (room.made(1, &room.a).ino(), room.made(2, &room.b).ino());
    assert_eq!(names(), [(2, 0o140_777, "socket:[2]".to_owned()), (3, 0o140_777, "socket:[3]".to_owned())]);
    let attr = mount.lookup(ROOT, ROOT_INO, "socket:[3]").unwrap();
    assert_eq!((attr.ino, attr.mode, attr.uid, attr.gid), (two, 0o140_777, 5, 6), "whoever makes them has them");
    assert_eq!(mount.getattr(one).unwrap().ino, one);
    for none in ["socket:[1]", "socket:[4]", "socket:[]", "socket:[x]", "socket:[2", "2", "socket:[02]", "socket:[+2]"]
    {
        assert_eq!(mount.lookup(ROOT, ROOT_INO, none).unwrap_err().errno, ENOENT, "{none}");
    }
    room.release(&room.a, one).unwrap();
    assert_eq!(mount.getattr(one).unwrap_err().errno, ENOENT);
    assert_eq!(names().len(), 1);
}
