//! Whether a file may become code of the daemon: owner, mode, and the same of every folder on the way to it.
//!
//! Mirrors what the kernel asks before it loads a module (the caller's right to do so), for a daemon that loads on
//! somebody else's word: nobody but root or the daemon's user may be able to put code there. Judged is the opened
//! descriptor, never a path that could change its meaning later; the way to it is walked one component at a time.
//!
//! Not here: reading the file, signatures, and what is inside ([`super::note`]).

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat};
use rustix::io::Errno;
use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

/// The kernel's own limit on symlinks in one path.
const MAX_SYMLINKS: usize = 40;

/// Why a file is not trusted. Each says what is wrong with which file or folder, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// A folder, a device, a FIFO, …
    #[error("{path} is not a regular file: name a plugin's shared library")]
    NotRegular {
        /// What was opened.
        path: PathBuf,
    },
    /// Somebody else could change it, being its owner.
    #[error("{path} belongs to uid {uid}, who could replace the plugin: give it to root{me} (chown)")]
    Owner {
        /// The file, folder or symlink.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// ` or uid N` where the daemon is not root.
        me: String,
    },
    /// Somebody else could change it, by its mode.
    #[error("{path} (mode {mode:04o}) is writable by {who}, who could replace the plugin: chmod {fix} it")]
    Writable {
        /// The file or folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// `its group` or `everybody`.
        who: &'static str,
        /// The argument for chmod.
        fix: &'static str,
    },
    /// The path leads to another file than the one that is open.
    #[error("{path} was replaced while it was being opened: try again")]
    Changed {
        /// The path as given.
        path: PathBuf,
    },
    /// More symlinks than the kernel follows.
    #[error("{path} leads through more than {MAX_SYMLINKS} symlinks: name the file itself")]
    Symlinks {
        /// The path as given.
        path: PathBuf,
    },
    /// A component of the path cannot be looked at.
    #[error("cannot look at {path} on the way to the plugin: {source}")]
    Io {
        /// The component.
        path: PathBuf,
        /// The kernel's answer.
        source: Errno,
    },
}

/// Who may own what becomes code. Make it once, before any namespace is entered: owners look different inside.
#[derive(Debug)]
pub struct Judge {
    euid: u32,
    /// The group that only the (rootless) user is in; its write bit then says nothing about others.
    private_group: Option<u32>,
    /// Verdicts from before a user namespace was entered, by device and inode.
    vouched: HashMap<(u64, u64), Result<(), TrustError>>,
}

impl Default for Judge {
    fn default() -> Self {
        Self::new()
    }
}

impl Judge {
    /// A judge with the rights of the process as it is now.
    #[must_use]
    pub fn new() -> Self {
        let euid = rustix::process::geteuid().as_raw();
        Self::with_user(euid, rustix::process::getegid().as_raw())
    }

    fn with_user(euid: u32, egid: u32) -> Self {
        let text = |path| std::fs::read_to_string(path).unwrap_or_default();
        let private = euid != 0 && is_private_group(euid, egid, &text("/etc/passwd"), &text("/etc/group"));
        Judge { euid, private_group: private.then_some(egid), vouched: HashMap::new() }
    }

    /// Judges an open file and the way that `path` takes to it.
    ///
    /// # Errors
    /// The first thing on the way, or about the file itself, that somebody else could use to replace the code.
    pub fn judge(&self, fd: BorrowedFd<'_>, path: &Path) -> Result<(), TrustError> {
        let stat = fstat(fd).map_err(|source| TrustError::Io { path: path.to_owned(), source })?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(TrustError::NotRegular { path: path.to_owned() });
        }
        if let Some(verdict) = self.vouched.get(&identity(&stat)) {
            return verdict.clone();
        }
        self.judge_entry(path, &stat)?;
        let end = self.walk(path)?;
        let found = fstat(&end).map_err(|source| TrustError::Io { path: path.to_owned(), source })?;
        if identity(&found) == identity(&stat) { Ok(()) } else { Err(TrustError::Changed { path: path.to_owned() }) }
    }

    /// Judges a folder and every plugin file in it now, and keeps the verdicts: in a user namespace that is entered
    /// later, where their owners look like nobody, those very files are still known, by device and inode.
    ///
    /// # Errors
    /// The folder itself is not trusted or cannot be read. A file that is not trusted is no error here: it gets its
    /// verdict when it is judged.
    pub fn vouch(&mut self, folder: &Path) -> Result<(), TrustError> {
        let end = self.walk(folder)?;
        let stat = fstat(&end).map_err(|source| TrustError::Io { path: folder.to_owned(), source })?;
        let io = |e: std::io::Error| TrustError::Io { path: folder.to_owned(), source: errno_of(&e) };
        let mut verdicts = vec![(identity(&stat), Ok(()))];
        for entry in std::fs::read_dir(folder).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.extension() != Some(OsStr::new("so")) {
                continue;
            }
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let Ok(fd) = openat(CWD, &path, flags, Mode::empty()) else { continue };
            let Ok(stat) = fstat(&fd) else { continue };
            verdicts.push((identity(&stat), self.judge(fd.as_fd(), &path)));
        }
        self.vouched.extend(verdicts);
        Ok(())
    }

    /// Walks `path` from the root, judging every folder and symlink that is passed, and returns its end, unjudged
    /// unless it is a folder. A vouched folder answers for the way that leads to it.
    fn walk(&self, path: &Path) -> Result<OwnedFd, TrustError> {
        let io = |at: &Path, source| TrustError::Io { path: at.to_owned(), source };
        let absolute = std::path::absolute(path).map_err(|e| io(path, errno_of(&e)))?;
        let mut todo: VecDeque<OsString> = components(&absolute);
        let root_path = PathBuf::from("/");
        let root = open_component(CWD, root_path.as_os_str()).map_err(|e| io(&root_path, e))?;
        let mut stat = fstat(&root).map_err(|e| io(&root_path, e))?;
        let (mut at, mut here) = (root_path.clone(), root.try_clone().map_err(|e| io(path, errno_of(&e)))?);
        let mut symlinks = 0;
        let mut verdict = self.judge_entry(&at, &stat);
        while let Some(name) = todo.pop_front() {
            let next_at = if name == ".." { at.parent().unwrap_or(&at).to_owned() } else { at.join(&name) };
            let next = open_component(here.as_fd(), &name).map_err(|e| io(&next_at, e))?;
            stat = fstat(&next).map_err(|e| io(&next_at, e))?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Symlink => {
                    verdict = verdict.and_then(|()| self.judge_owner(&next_at, &stat));
                    symlinks += 1;
                    if symlinks > MAX_SYMLINKS {
                        return Err(TrustError::Symlinks { path: path.to_owned() });
                    }
                    let target = readlinkat(&next, c"", Vec::new()).map_err(|e| io(&next_at, e))?;
                    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                    components(&target).into_iter().rev().for_each(|c| todo.push_front(c));
                    if target.is_absolute() {
                        (at, here) = (root_path.clone(), root.try_clone().map_err(|e| io(path, errno_of(&e)))?);
                    }
                }
                FileType::Directory => {
                    let vouched = self.vouched.get(&identity(&stat)) == Some(&Ok(()));
                    verdict = if vouched { Ok(()) } else { verdict.and_then(|()| self.judge_entry(&next_at, &stat)) };
                    (here, at) = (next, next_at);
                }
                _ => (here, at) = (next, next_at),
            }
        }
        verdict.map(|()| here)
    }

    /// Owner and mode of a file or a folder.
    fn judge_entry(&self, path: &Path, stat: &Stat) -> Result<(), TrustError> {
        self.judge_owner(path, stat)?;
        let mode = Mode::from_raw_mode(stat.st_mode);
        // What lies in a sticky folder can only be renamed or removed by its owner, who is judged on its own.
        let folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if folder && stat.st_uid == 0 && mode.contains(Mode::SVTX) {
            return Ok(());
        }
        let error = |who, fix| TrustError::Writable { path: path.to_owned(), mode: mode.bits() & 0o7777, who, fix };
        if mode.contains(Mode::WOTH) {
            return Err(error("everybody", "o-w"));
        }
        // With a POSIX ACL these bits are its mask, so a grant to another user shows here too.
        if mode.contains(Mode::WGRP) && self.private_group != Some(stat.st_gid) {
            return Err(error("its group", "g-w"));
        }
        Ok(())
    }

    fn judge_owner(&self, path: &Path, stat: &Stat) -> Result<(), TrustError> {
        if stat.st_uid == 0 || stat.st_uid == self.euid {
            return Ok(());
        }
        let me = if self.euid == 0 { String::new() } else { format!(" or uid {}", self.euid) };
        Err(TrustError::Owner { path: path.to_owned(), uid: stat.st_uid, me })
    }
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn errno_of(e: &std::io::Error) -> Errno {
    Errno::from_io_error(e).unwrap_or(Errno::IO)
}

fn open_component(folder: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    openat(folder, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// The components of a path, root and `.` left out. `..` stays: it is walked as the kernel walks it.
fn components(path: &Path) -> VecDeque<OsString> {
    let keep = |c: Component<'_>| match c {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(keep).collect()
}

/// Whether `gid` is the private group of `uid`: by convention it has the user's number or name, and nobody else is in
/// it. Users that only a name service knows are judged by the number.
fn is_private_group(uid: u32, gid: u32, passwd: &str, group: &str) -> bool {
    let field = |line: &str, n: usize| line.split(':').nth(n).unwrap_or_default().to_owned();
    let number = |line: &str, n: usize| field(line, n).parse::<u32>().ok();
    let user = passwd.lines().find(|l| number(l, 2) == Some(uid)).map(|l| field(l, 0));
    let shared = passwd.lines().any(|l| number(l, 3) == Some(gid) && number(l, 2) != Some(uid));
    let entry = group.lines().find(|l| number(l, 2) == Some(gid));
    let named_so = entry.is_some_and(|l| user.as_deref() == Some(field(l, 0).as_str()));
    let others = entry.is_some_and(|l| {
        let members = field(l, 3);
        members.split(',').any(|m| !m.trim().is_empty() && user.as_deref() != Some(m.trim()))
    });
    (gid == uid || named_so) && !shared && !others
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\nbob:x:1001:100::/:/bin/sh\n\
                          cy:x:1002:100::/:/bin/sh\ndi:x:1003:1500::/:/bin/sh\n";

    #[test]
    fn a_private_group_has_the_users_number_or_name_and_nobody_else() {
        let group = "ann:x:1000:\nusers:x:100:\ndi:x:1500:di\n";
        assert!(is_private_group(1000, 1000, PASSWD, group));
        assert!(is_private_group(1003, 1500, PASSWD, group), "named as the user");
        assert!(!is_private_group(1001, 100, PASSWD, group), "two users have it as their primary group");
        assert!(!is_private_group(1000, 1000, PASSWD, "ann:x:1000:bob\n"), "another member");
        assert!(is_private_group(2000, 2000, PASSWD, ""), "only the number is known");
        assert!(!is_private_group(2000, 2001, PASSWD, ""));
    }

    #[test]
    fn components_keep_dot_dot() {
        let parts: Vec<_> = components(Path::new("/a/./b/../c")).into_iter().collect();
        assert_eq!(parts, ["a", "b", "..", "c"].map(OsString::from));
    }

    /// A folder with a file in it, both of the mode that an installation gives them.
    struct Installed {
        folder: tempfile::TempDir,
        file: PathBuf,
    }

    impl Installed {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let file = folder.path().join("a.so");
            std::fs::write(&file, "code").expect("write");
            let installed = Installed { folder, file };
            installed.chmod("", 0o755);
            installed.chmod("a.so", 0o644);
            installed
        }

        fn at(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn chmod(&self, name: &str, mode: u32) {
            std::fs::set_permissions(self.at(name), Permissions::from_mode(mode)).expect("chmod");
        }
    }

    fn judged(judge: &Judge, path: &Path) -> Result<(), TrustError> {
        let file = std::fs::File::open(path).expect("readable");
        judge.judge(file.as_fd(), path)
    }

    /// A judge for whom the files of this process are a stranger's. Root's are trusted whoever judges, so root gives
    /// them away first.
    fn stranger(installed: &Installed) -> Judge {
        let me = rustix::process::geteuid().as_raw();
        if me == 0 {
            std::os::unix::fs::chown(&installed.file, Some(4242), None).expect("chown");
        }
        Judge::with_user(if me == 0 { 0 } else { me + 1 }, me + 1)
    }

    #[test]
    fn a_strangers_file_is_refused() {
        let installed = Installed::new();
        judged(&Judge::new(), &installed.file).expect("one's own, below a sticky folder of root's");
        let error = judged(&stranger(&installed), &installed.file).expect_err("a stranger's");
        assert!(matches!(&error, TrustError::Owner { path, .. } if *path == installed.file), "{error}");
    }

    #[test]
    fn a_group_that_can_write_is_refused_unless_it_is_private() {
        let installed = Installed::new();
        installed.chmod("a.so", 0o664);
        installed.chmod("", 0o775);
        let mut judge = Judge::new();
        judge.private_group = None;
        let error = judged(&judge, &installed.file).expect_err("its group can write");
        assert!(matches!(error, TrustError::Writable { who: "its group", .. }), "{error}");
        judge.private_group = Some(fstat(std::fs::File::open(&installed.file).expect("open")).expect("stat").st_gid);
        judged(&judge, &installed.file).expect("nobody else is in that group");
    }

    #[test]
    fn a_symlink_is_followed_and_every_folder_on_the_way_judged() {
        use std::os::unix::fs::symlink;
        let (installed, elsewhere) = (Installed::new(), Installed::new());
        symlink("a.so", installed.at("relative.so")).expect("link");
        symlink(&elsewhere.file, installed.at("absolute.so")).expect("link");
        symlink("loop.so", installed.at("loop.so")).expect("link");
        let judge = Judge::new();
        std::fs::create_dir(installed.at("sub")).expect("mkdir");
        installed.chmod("sub", 0o755);
        for good in ["relative.so", "absolute.so", "sub/../relative.so"] {
            judged(&judge, &installed.at(good)).unwrap_or_else(|e| panic!("{good}: {e}"));
        }
        elsewhere.chmod("", 0o777);
        let error = judged(&judge, &installed.at("absolute.so")).expect_err("the target's folder");
        assert!(matches!(&error, TrustError::Writable { path, .. } if path == elsewhere.folder.path()), "{error}");
        installed.chmod("", 0o777);
        elsewhere.chmod("", 0o755);
        let error = judged(&judge, &installed.at("absolute.so")).expect_err("the symlink's folder");
        assert!(matches!(&error, TrustError::Writable { path, .. } if path == installed.folder.path()), "{error}");
        installed.chmod("", 0o755);
        let file = std::fs::File::open(&installed.file).expect("open");
        let error = judge.judge(file.as_fd(), &installed.at("loop.so")).expect_err("endless");
        assert!(matches!(error, TrustError::Symlinks { .. }), "{error}");
        let error = judge.judge(file.as_fd(), &elsewhere.file).expect_err("another file");
        assert!(matches!(error, TrustError::Changed { .. }), "{error}");
    }

    #[test]
    fn what_was_vouched_for_passes_when_owners_look_different_and_nothing_else_does() {
        let installed = Installed::new();
        std::fs::copy(&installed.file, installed.at("bad.so")).expect("copy");
        installed.chmod("bad.so", 0o666);
        let mut judge = Judge::new();
        judge.vouch(installed.folder.path()).expect("a good folder");
        std::fs::write(installed.at("later.so"), "code").expect("write");
        installed.chmod("later.so", 0o666);
        judge.euid = stranger(&installed).euid;
        judged(&judge, &installed.file).expect("known by its inode");
        let error = judged(&judge, &installed.at("bad.so")).expect_err("it was bad when it was judged");
        assert!(matches!(error, TrustError::Writable { .. }), "{error}");
        judged(&judge, &installed.at("later.so")).expect_err("not there when it was judged, and bad");

        installed.chmod("", 0o777);
        Judge::new().vouch(installed.folder.path()).expect_err("anybody can put files there");
    }
}
