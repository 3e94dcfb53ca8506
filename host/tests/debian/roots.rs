//! The releases' file systems, as debootstrap makes them: kept in a folder outside the checkout, made anew when they
//! are missing, incomplete, old, or of another recipe.
//!
//! A root is made aside and renamed whole, its recipe written last, so that what is there is complete. Who makes one
//! holds the folder's lock alone; who uses them shares it, so that nobody takes a root away under a running machine.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{FlockOperation, flock};

use super::{RELEASES, Release};
use crate::sandbox::tie;

/// What a root has besides the base: what a server has anyway, and nothing of pernetd's needs but libc.
const INCLUDE: &str = "systemd,systemd-sysv,dbus,iproute2,iputils-ping,procps,man-db,bash-completion";
/// Debian changes: so does what a fresh root is.
const OLD: Duration = Duration::from_secs(14 * 24 * 60 * 60);
/// Another run may just be making the roots.
const LOCK_DEADLINE: Duration = Duration::from_secs(15 * 60);

/// The roots, which stay as they are as long as this lives.
pub struct Roots {
    _lock: File,
}

/// Where they are, and what else tests keep.
pub fn cache() -> PathBuf {
    env::var_os("PERNET_TEST_CACHE").map_or_else(|| PathBuf::from("/var/cache/pernetd-tests"), PathBuf::from)
}

/// A release's root. To be read only: machines put an overlay over it.
pub fn root(release: Release) -> PathBuf {
    cache().join(release.name).join("root")
}

/// Sees to it that all roots are there.
pub fn prepare() -> Result<Roots, String> {
    let cache = cache();
    let at = |e: io::Error| format!("{}: {e}", cache.display());
    fs::create_dir_all(&cache).map_err(at)?;
    let file = File::create(cache.join("roots.lock")).map_err(at)?;
    lock(&file)?;
    let wanted: Vec<Release> = RELEASES.into_iter().filter(|release| !is_good(&cache, *release)).collect();
    // At the same time: debootstrap mostly waits, for the network and for dpkg's syncs.
    let made: Vec<Result<(), String>> = std::thread::scope(|scope| {
        let makers: Vec<_> = wanted.iter().map(|release| scope.spawn(|| make(&cache, *release))).collect();
        makers.into_iter().map(|maker| maker.join().unwrap_or_else(|_| Err("its maker panicked".into()))).collect()
    });
    made.into_iter().collect::<Result<(), String>>()?;
    // Not at once: another one may have it in between, and will find nothing to do.
    flock(&file, FlockOperation::LockShared).map_err(|e| at(e.into()))?;
    Ok(Roots { _lock: file })
}

fn lock(file: &File) -> Result<(), String> {
    let start = Instant::now();
    let mut told = false;
    while flock(file, FlockOperation::NonBlockingLockExclusive).is_err() {
        // Whoever uses the roots, and will for a while, needs no change of them; neither do we then.
        if RELEASES.iter().all(|release| is_good(&cache(), *release)) {
            return Ok(());
        }
        if !told {
            eprintln!("booted: waiting for another run to let go of {}", cache().display());
            told = true;
        }
        if start.elapsed() > LOCK_DEADLINE {
            return Err(format!("{} is locked by another run for {LOCK_DEADLINE:?}", cache().display()));
        }
        std::thread::park_timeout(Duration::from_millis(200));
    }
    Ok(())
}

fn recipe(release: Release) -> String {
    format!("debootstrap --variant=minbase --include={INCLUDE} {}\n", release.name)
}

fn is_good(cache: &Path, release: Release) -> bool {
    let folder = cache.join(release.name);
    let stamp = folder.join("recipe");
    let age = || fs::metadata(&stamp).and_then(|meta| meta.modified()).ok()?.elapsed().ok();
    fs::read_to_string(&stamp).is_ok_and(|made_by| made_by == recipe(release))
        && age().is_some_and(|age| age < OLD)
        && folder.join("root/usr/lib/systemd/systemd").exists()
}

/// A release's root is made: aside, then put in its place.
fn make(cache: &Path, release: Release) -> Result<(), String> {
    let start = SystemTime::now();
    eprintln!("booted: making a root of {} in {}", release.name, cache.display());
    let (aside, place) = (cache.join(format!("{}.new", release.name)), cache.join(release.name));
    let old = cache.join(format!("{}.old", release.name));
    let at = |e: io::Error| format!("{}: {e}", aside.display());
    // Of a run that did not get to its end; nobody else makes one, the lock says.
    for leftover in [&aside, &old] {
        remove(leftover).map_err(at)?;
    }
    fs::create_dir_all(&aside).map_err(at)?;
    debootstrap(&aside, release)?;
    fs::write(aside.join("recipe"), recipe(release)).map_err(at)?;
    if place.exists() {
        fs::rename(&place, &old).map_err(at)?;
    }
    fs::rename(&aside, &place).map_err(at)?;
    remove(&old).map_err(at)?;
    eprintln!("booted: {} made in {:.0?}", release.name, start.elapsed().unwrap_or_default());
    Ok(())
}

/// In namespaces of its own: what it mounts and starts goes with it, also when it is interrupted.
fn debootstrap(aside: &Path, release: Release) -> Result<(), String> {
    let log = aside.join("debootstrap.log");
    let file = File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc", "debootstrap"]);
    command.args(["--variant=minbase", &format!("--include={INCLUDE}"), release.name]).arg(aside.join("root"));
    let error = file.try_clone().map_err(|e| format!("{}: {e}", log.display()))?;
    command.stdin(Stdio::null()).stdout(file).stderr(error);
    let status = tie(&mut command).status().map_err(|e| format!("unshare: {e}"))?;
    if status.success() {
        return Ok(());
    }
    let said = fs::read_to_string(&log).unwrap_or_default();
    let last: Vec<&str> = said.lines().rev().take(5).collect();
    Err(format!("debootstrap {}: {status}: {}", release.name, last.into_iter().rev().collect::<Vec<_>>().join("; ")))
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
