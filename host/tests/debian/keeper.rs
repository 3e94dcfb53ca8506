//! Runs each chapter of a booted system in a process that everything of the machine's ends with.
//!
//! The test binary executes itself again as the first process of a pid namespace, with a mount namespace of its own. When
//! that process ends, for whatever reason, the kernel kills what is left in the first and unmounts what is in the second;
//! and it ends when the test does. Where no machine can be booted the chapters are counted as ignored, with the reason.

use std::env;
use std::fs;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use libtest_mimic::{Arguments, Failed};
use rustix::mount::{MountFlags, mount};
use rustix::process::getuid;

use super::container::Container;
use super::transcript::Transcript;
use super::{RELEASES, Release, cgroup, packages, roots, transcript};
use crate::sandbox::{tie, watch};

/// Tells the re-executed binary which chapter to run …
const ENV: &str = "PERNET_BOOTED_CHAPTER";
/// … and in which control group.
const GROUP: &str = "PERNET_BOOTED_GROUP";
/// A chapter's commands have deadlines of their own; this one ends a chapter that has lost its way.
const DEADLINE: Duration = Duration::from_secs(600);
/// The chapter that is tried first: whether this machine boots anything.
const PROBE: &str = "00-boot";

/// What is done in a freshly booted machine. It fails by panicking.
#[derive(Clone, Copy)]
pub struct Chapter {
    /// Its place and name: `03-reload`.
    pub name: &'static str,
    /// What it shows, for who reads the transcript.
    pub about: &'static str,
    /// Where it can be.
    pub releases: &'static [Release],
    /// The session.
    pub run: fn(&Container),
}

/// The `main` of a test binary: runs the chapters in each release, or, in a re-executed child, the one that it is for.
pub fn main(chapters: &[Chapter]) -> ExitCode {
    if let Ok(name) = env::var(ENV) {
        return run_inside(&name, chapters);
    }
    let args = Arguments::from_args();
    if is_wanted()
        && !args.list
        && let Err(why) = packages::lacking()
    {
        // Whoever asks for these tests has to bring what they test: to pass over that would be to test nothing, unseen.
        eprintln!("booted: {why}");
        return ExitCode::FAILURE;
    }
    let prepared = if args.list { Ok(None) } else { prepare().map(Some) };
    if let Err(why) = &prepared {
        eprintln!("booted: IGNORED, nothing is tested on a booted system: {why}");
    }
    let unfit: Vec<Release> = match &prepared {
        Ok(Some(_)) => RELEASES.into_iter().filter(|release| !fits(*release)).collect(),
        _ => Vec::new(),
    };
    let mut trials = Vec::new();
    for chapter in chapters {
        for release in chapter.releases {
            let (name, chapter) = (format!("{}: {}", release.name, chapter.name), *chapter);
            let trial = libtest_mimic::Trial::test(name, move || run_outside(*release, chapter.name));
            trials.push(trial.with_ignored_flag(prepared.is_err() || unfit.contains(release)));
        }
    }
    let conclusion = libtest_mimic::run(&args, trials);
    if prepared.is_ok() && !args.list {
        match transcript::join() {
            Ok(files) => files.iter().for_each(|file| eprintln!("booted: transcript: {}", file.display())),
            Err(e) => eprintln!("booted: the transcripts are not put together: {e}"),
        }
    }
    conclusion.exit_code()
}

fn is_wanted() -> bool {
    env::var_os("PERNET_BOOTED").is_some_and(|value| value == "1")
}

fn fits(release: Release) -> bool {
    let fits = packages::fit(release);
    if let Err(why) = &fits {
        eprintln!("booted: IGNORED, nothing is tested on {}: {why}", release.name);
    }
    fits.is_ok()
}

/// What it takes to boot; holding the result keeps the roots.
fn prepare() -> Result<roots::Roots, String> {
    if !is_wanted() {
        return Err("PERNET_BOOTED=1 is not set; .ci/run as root sets it".to_owned());
    }
    if !getuid().is_root() {
        return Err("only root can boot a system".to_owned());
    }
    for (tool, package) in [("systemd-nspawn", "systemd-container"), ("debootstrap", "debootstrap")] {
        let found = Command::new("sh").args(["-c", &format!("command -v {tool}")]).stdout(Stdio::null()).status();
        if !found.is_ok_and(|status| status.success()) {
            return Err(format!("{tool} is missing; install {package}"));
        }
    }
    cgroup::sweep();
    let roots = roots::prepare()?;
    transcript::clear().map_err(|e| format!("{}: {e}", transcript::folder().display()))?;
    for release in RELEASES {
        run_outside(release, PROBE).map_err(|failed| {
            let why = failed.message().unwrap_or("?").trim().to_owned();
            format!("{} does not boot on this machine: {why}", release.name)
        })?;
    }
    Ok(roots)
}

fn run_outside(release: Release, chapter: &str) -> Result<(), Failed> {
    let group = cgroup::name(&format!("{}-{chapter}", release.name));
    let result = keep(release, chapter, &group);
    cgroup::remove(&group);
    result
}

fn keep(release: Release, chapter: &str, group: &str) -> Result<(), Failed> {
    let (reader, writer) = io::pipe()?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc"]).arg(env::current_exe()?);
    command
        .env(ENV, format!("{}: {chapter}", release.name))
        .env(GROUP, group)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null());
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = tie(&mut command).spawn()?;
    // The command holds the pipe's write end: with it open, the end of the output would never be seen.
    drop(command);
    let (output, status) = watch(&mut child, reader, DEADLINE)?;
    let output = String::from_utf8_lossy(&output);
    match status {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!("{status}\n{output}").into()),
        None => Err(format!("not done after {DEADLINE:?}; killed\n{output}").into()),
    }
}

fn run_inside(name: &str, chapters: &[Chapter]) -> ExitCode {
    let boot = Chapter { name: PROBE, about: "The release boots.", releases: &RELEASES, run: |_| {} };
    let all = chapters.iter().chain([&boot]);
    let each = all.flat_map(|chapter| chapter.releases.iter().map(move |release| (chapter, *release)));
    let Some((chapter, release)) =
        each.into_iter().find(|(chapter, release)| format!("{}: {}", release.name, chapter.name) == name)
    else {
        eprintln!("no chapter is called {name}");
        return ExitCode::from(4);
    };
    let container = match machine(release, chapter) {
        Ok(container) => container,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| (chapter.run)(&container)));
    container.close(outcome.is_err());
    ExitCode::from(if outcome.is_ok() { 0 } else { 101 })
}

/// The machine's place, and the machine in it.
fn machine(release: Release, chapter: &Chapter) -> Result<Container, String> {
    let transcript =
        Transcript::new(release, chapter.name, chapter.about).map_err(|e| format!("no transcript: {e}"))?;
    let group = env::var(GROUP).map_err(|e| format!("{GROUP}: {e}"))?;
    let root = place(release, &group).map_err(|e| format!("no place for a machine: {e}"))?;
    Container::boot(release, chapter.name, &root, transcript)
}

/// An overlay over the release's root, and a hierarchy of control groups with one for the machine.
fn place(release: Release, group: &str) -> io::Result<std::path::PathBuf> {
    let tmpfs = |at: &Path| mount("tmpfs", at, "tmpfs", MountFlags::empty(), Some(c"mode=0755"));
    // What nspawn notes of its machines goes with the mount.
    tmpfs(Path::new("/run"))?;
    // The unified one alone, whatever the host has there: nspawn then gives its machine the same.
    let hierarchy = Path::new("/sys/fs/cgroup");
    mount("cgroup2", hierarchy, "cgroup2", MountFlags::empty(), None)?;
    cgroup::enter(hierarchy, group)?;
    let place = Path::new("/run/machine");
    for folder in ["upper", "work", "root"] {
        fs::create_dir_all(place.join(folder))?;
    }
    let lower = roots::root(release);
    let options = format!("lowerdir={},upperdir=/run/machine/upper,workdir=/run/machine/work", lower.display());
    let options = std::ffi::CString::new(options).map_err(io::Error::other)?;
    mount("overlay", place.join("root"), "overlay", MountFlags::empty(), Some(options.as_c_str()))?;
    Ok(place.join("root"))
}
