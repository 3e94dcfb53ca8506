//! A private machine for each test: its own user, mount and network namespaces, and a root folder that belongs to it.
//!
//! A test binary (`harness = false`) calls [`main`] with its trials. Each trial runs in a process of its own: the binary
//! executes itself again, prepares while it still has one thread, and runs that one trial. So nothing needs root, and
//! nothing a trial does outlives it. Where the machine forbids this and the user is not root, trials are reported as
//! ignored, never as passed. Set `PERNET_SANDBOX_USERNS=0` as root to keep the real root's rights inside.
#![allow(unsafe_code)] // unshare(2) before the first thread; pre_exec of children.
#![allow(dead_code, unreachable_pub)] // Each test binary uses its own part of this.
#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io::{self, PipeReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};
use std::{env, panic};

use libtest_mimic::{Arguments, Failed};
use pernetd::discovery;
use pernetd::linux::{netns, nsfs};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind_recursive, mount_change, unmount,
};
use rustix::process::{
    Pid, PidfdFlags, Signal, getgid, getppid, getuid, kill_process_group, pidfd_open, pivot_root,
    set_parent_process_death_signal,
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Where `ip netns` keeps its names.
pub const RUN_NETNS: &str = "/run/netns";
/// Tells the re-executed binary which trial to run.
const ENV: &str = "PERNET_SANDBOX";
const PROBE: &str = "(probe)";
/// What a kernel may lack: asked by this name, and where it lacks it, told to every trial by a variable of this name.
const MOUNT_EVENTS: &str = "PERNET_SANDBOX_NO_MOUNT_EVENTS";
const NSFS_HANDLES: &str = "PERNET_SANDBOX_NO_NSFS_HANDLES";
static ASKED_MOUNT_EVENTS: OnceLock<Result<(), String>> = OnceLock::new();
static ASKED_NSFS_HANDLES: OnceLock<Result<(), String>> = OnceLock::new();
const DEADLINE: Duration = Duration::from_secs(60);

/// One test: a name, a deadline, and what to do inside its sandbox. It fails by panicking.
pub struct Trial {
    name: String,
    deadline: Duration,
    /// Why it is not run.
    ignored: Option<String>,
    run: Box<dyn FnOnce() + Send>,
}

/// A trial with the usual deadline.
pub fn trial(name: impl Into<String>, run: impl FnOnce() + Send + 'static) -> Trial {
    Trial { name: name.into(), deadline: DEADLINE, ignored: None, run: Box::new(run) }
}

impl Trial {
    /// Another deadline.
    pub fn deadline(self, deadline: Duration) -> Trial {
        Trial { deadline, ..self }
    }

    /// Reported as ignored: this machine lacks what it is about.
    pub fn ignored_if(self, lacking: bool) -> Trial {
        self.needs(&if lacking { Err("this machine lacks what it is about".to_owned()) } else { Ok(()) })
    }

    /// Reported as ignored, with the reason, where what it is about is not there.
    pub fn needs(self, facility: &Result<(), String>) -> Trial {
        Trial { ignored: self.ignored.or(facility.clone().err()), ..self }
    }
}

/// The `main` of a test binary: runs the trials, or, in a re-executed child, the one that it is for.
pub fn main(trials: Vec<Trial>) -> ExitCode {
    if let Ok(name) = env::var(ENV) {
        return run_inside(&name, trials);
    }
    let args = Arguments::from_args();
    let forbidden = probe().err();
    let root = getuid().is_root();
    if let Some(why) = &forbidden {
        eprintln!("sandbox: this machine forbids it: {why}");
    }
    let ignore = forbidden.is_some() && !root;
    let outer = trials.into_iter().map(|trial| {
        let (name, deadline) = (trial.name.clone(), trial.deadline);
        if let Some(why) = &trial.ignored {
            eprintln!("ignored: {name} -- {why}");
        }
        libtest_mimic::Trial::test(trial.name, move || run_outside(&name, deadline))
            .with_ignored_flag(ignore || trial.ignored.is_some())
    });
    libtest_mimic::run(&args, outer.collect()).exit_code()
}

/// The whole way once, in a child: namespaces, mounts, a named network namespace.
fn probe() -> Result<(), String> {
    run_outside(PROBE, Duration::from_secs(20)).map_err(|failed| failed.message().unwrap_or("?").trim().to_owned())
}

/// Whether the kernel has mount events.
pub fn mount_events() -> &'static Result<(), String> {
    ASKED_MOUNT_EVENTS.get_or_init(|| ask(MOUNT_EVENTS))
}

/// Whether the kernel has nsfs file handles.
pub fn nsfs_handles() -> &'static Result<(), String> {
    ASKED_NSFS_HANDLES.get_or_init(|| ask(NSFS_HANDLES))
}

/// Asked inside of a sandbox: outside an ordinary user is refused, whatever the kernel has. Who is inside was told, since
/// the trials' names depend on it.
fn ask(facility: &str) -> Result<(), String> {
    if env::var_os(ENV).is_some() {
        return env::var(facility).map_or(Ok(()), Err);
    }
    let asked = run_outside(facility, Duration::from_secs(20));
    asked.map_err(|failed| failed.message().and_then(|said| said.lines().last()).unwrap_or("?").to_owned())
}

/// By what every deadline is multiplied (`PERNET_SANDBOX_PATIENCE`): an emulated processor is slow.
fn patience() -> u32 {
    env::var("PERNET_SANDBOX_PATIENCE").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

fn run_outside(name: &str, deadline: Duration) -> Result<(), Failed> {
    let (reader, writer) = io::pipe()?;
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", name, "--nocapture"]).env(ENV, name).stdin(Stdio::null());
    for (facility, asked) in [(MOUNT_EVENTS, &ASKED_MOUNT_EVENTS), (NSFS_HANDLES, &ASKED_NSFS_HANDLES)] {
        if let Some(Err(why)) = asked.get() {
            command.env(facility, why);
        }
    }
    command.stdout(writer.try_clone()?).stderr(writer).process_group(0);
    let mut child = command.spawn()?;
    // The command holds the pipe's write end: with it open, the end of the output would never be seen.
    drop(command);
    let (output, status) = watch(&mut child, reader, deadline)?;
    let output = String::from_utf8_lossy(&output);
    match status {
        Some(status) if status.success() => {
            if env::var_os("PERNET_SANDBOX_SHOW").is_some() {
                eprint!("{output}");
            }
            Ok(())
        }
        Some(status) => Err(format!("{status}\n{output}").into()),
        None => Err(format!("not done after {deadline:?}; killed\n{output}").into()),
    }
}

/// Collects the output until the child ends or its time is up (`None`); kills it and what it started.
pub fn watch(
    child: &mut Child,
    mut output: PipeReader,
    deadline: Duration,
) -> io::Result<(Vec<u8>, Option<ExitStatus>)> {
    let pid = Pid::from_child(child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let until = Instant::now() + deadline * patience();
    let mut collected = Vec::new();
    let mut ended = false;
    while !ended && Instant::now() < until {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN), PollFd::new(&output, PollFlags::IN)];
        poll(&mut fds, Some(&timeout))?;
        ended = !fds[0].revents().is_empty();
        if fds[1].revents().contains(PollFlags::IN) {
            let mut chunk = [0; 4096];
            let n = output.read(&mut chunk)?;
            collected.extend_from_slice(&chunk[..n]);
        } else if !fds[1].revents().is_empty() {
            // Output closed early: only the child's end is left to wait for.
            poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout))?;
            break;
        }
    }
    let in_time = Instant::now() < until || ended;
    let _ = kill_process_group(pid, Signal::KILL);
    let status = child.wait()?;
    output.read_to_end(&mut collected)?;
    Ok((collected, in_time.then_some(status)))
}

fn run_inside(name: &str, trials: Vec<Trial>) -> ExitCode {
    let parent = getppid();
    if let Err(why) = prepare() {
        eprintln!("sandbox cannot be made: {why}");
        return ExitCode::from(2);
    }
    // Asked only now: entering a user namespace may clear it.
    set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    if getppid() != parent {
        return ExitCode::from(3);
    }
    let facility = match name {
        PROBE => Some(netns::add(Path::new(RUN_NETNS), OsStr::new("probe")).map(drop).map_err(|e| e.to_string())),
        MOUNT_EVENTS => Some(discovery::available(discovery::Method::Fanotify).map_err(|e| e.to_string())),
        NSFS_HANDLES => Some(nsfs::available().clone()),
        _ => None,
    };
    match facility {
        Some(Ok(())) => return ExitCode::SUCCESS,
        Some(Err(why)) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
        None => {}
    }
    let Some(trial) = trials.into_iter().find(|trial| trial.name == name) else {
        eprintln!("no trial is called {name}");
        return ExitCode::from(4);
    };
    match panic::catch_unwind(panic::AssertUnwindSafe(trial.run)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(101),
    }
}

fn prepare() -> Result<(), String> {
    unshare()?;
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("no workspace folder")?;
    let target = target_dir();
    let keep = [("workspace", workspace), ("target folder", target.as_path())];
    // Held open: the new root is mounted over /tmp, which may be where they are.
    let keep = keep.map(|(what, path)| File::open(path).map(|dir| (path, dir)).map_err(|e| format!("{what}: {e}")));
    private_root(&keep.into_iter().collect::<Result<Vec<_>, _>>()?).map_err(|e| format!("private root: {e}"))
}

fn unshare() -> Result<(), String> {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    let own = UnshareFlags::NEWNS | UnshareFlags::NEWNET;
    if uid == 0 && env::var_os("PERNET_SANDBOX_USERNS").is_some_and(|v| v == "0") {
        // SAFETY: as below.
        return unsafe { unshare_unsafe(own) }.map_err(|e| format!("unshare: {e}"));
    }
    // SAFETY: asks that nothing relies on what is unshared: this process has one thread and has opened nothing yet.
    unsafe { unshare_unsafe(own | UnshareFlags::NEWUSER) }.map_err(|e| format!("unshare: {e}"))?;
    let write = |file: &str, text: &str| fs::write(file, text).map_err(|e| format!("{file}: {e}"));
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", &format!("0 {gid} 1"))
}

/// A root of our own, so that `/` and the folders in it belong to uid 0 inside, whoever started the test.
fn private_root(keep: &[(&Path, File)]) -> io::Result<()> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private)?;
    let new = Path::new("/tmp");
    let old_entries = ["usr", "bin", "sbin", "lib", "lib64", "lib32", "etc", "proc", "dev", "sys"];
    let tmpfs = |at: &Path| mount("tmpfs", at, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=0755"));
    tmpfs(new)?;
    for entry in old_entries {
        keep_entry(&Path::new("/").join(entry), &new.join(entry))?;
    }
    // /sys shows the network namespace of whoever mounted it; where a fresh one is forbidden the old one stays.
    let _ = mount("sysfs", new.join("sys"), "sysfs", MountFlags::empty(), None);
    for (path, dir) in keep {
        let at = new.join(path.strip_prefix("/").map_err(io::Error::other)?);
        if !at.exists() {
            DirBuilder::new().recursive(true).mode(0o755).create(&at)?;
            mount_bind_recursive(format!("/proc/self/fd/{}", dir.as_raw_fd()), &at)?;
        }
    }
    for (folder, mode) in [("run", 0o755), ("tmp", 0o1777), ("var", 0o755), ("plugins", 0o755), ("old", 0o700)] {
        let at = new.join(folder);
        fs::create_dir_all(&at)?;
        if folder == "run" {
            tmpfs(&at)?;
        }
        fs::set_permissions(&at, fs::Permissions::from_mode(mode))?;
    }
    symlink("/run", new.join("var/run"))?;
    pivot_root(new, new.join("old"))?;
    env::set_current_dir("/")?;
    unmount("/old", UnmountFlags::DETACH)?;
    fs::remove_dir("/old")
}

fn keep_entry(old: &Path, new: &Path) -> io::Result<()> {
    let Ok(meta) = fs::symlink_metadata(old) else { return Ok(()) };
    if meta.is_symlink() {
        return symlink(fs::read_link(old)?, new);
    }
    fs::create_dir(new)?;
    Ok(mount_bind_recursive(old, new)?)
}

/// Waits until the condition holds; panics when it does not within the deadline.
#[track_caller]
pub fn wait_until(what: &str, deadline: Duration, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < deadline * patience(), "not within {deadline:?}: {what}");
        thread::park_timeout(Duration::from_millis(1));
    }
}

/// `ip netns add NAME`, without executing anything.
#[track_caller]
pub fn netns_add(name: impl AsRef<OsStr>) -> PathBuf {
    netns::add(Path::new(RUN_NETNS), name.as_ref()).unwrap()
}

/// `ip netns del NAME`.
#[track_caller]
pub fn netns_del(name: impl AsRef<OsStr>) {
    netns::remove(&Path::new(RUN_NETNS).join(name.as_ref())).unwrap();
}

/// The folder into which the profile is built: of this test binary, `target/<profile>`.
pub fn profile_dir() -> PathBuf {
    // target/<profile>/deps/<binary>-<hash>
    let exe = env::current_exe().unwrap();
    exe.parent().and_then(Path::parent).unwrap().to_owned()
}

fn target_dir() -> PathBuf {
    profile_dir().parent().unwrap().to_owned()
}

/// A cdylib that the workspace builds: `cdylib("loopback")` is `libpernet_loopback.so`.
pub fn cdylib(plugin: &str) -> PathBuf {
    profile_dir().join("deps").join(format!("libpernet_{}.so", plugin.replace('-', "_")))
}

/// A cdylib that is an example of the package, as the deliberately bad plugins are.
pub fn example_cdylib(name: &str) -> PathBuf {
    profile_dir().join("examples").join(format!("lib{}.so", name.replace('-', "_")))
}

/// Copies plugin files into /plugins, a folder that passes an ownership check, and returns it.
#[track_caller]
pub fn plugins_dir(files: &[PathBuf]) -> PathBuf {
    let folder = PathBuf::from("/plugins");
    for file in files {
        let to = folder.join(file.file_name().unwrap());
        fs::copy(file, &to).unwrap_or_else(|e| panic!("{} cannot be copied: {e}", file.display()));
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

/// The command's process dies when the thread that starts it does.
pub fn tie(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; prctl is one system call.
    unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) }
}

/// Lets a folder's mounts propagate, as systemd does with the whole tree.
#[track_caller]
pub fn make_shared(folder: &str) {
    mount_change(folder, MountPropagationFlags::SHARED | MountPropagationFlags::REC).unwrap();
}
