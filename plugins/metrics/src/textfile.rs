//! A file for node_exporter's textfile collector: written anew at intervals, whole or not at all, and gone with the plugin.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use pernet_plugin_api::prelude::*;

use crate::collect::Collector;
use crate::families::Body;

/// The first one comes when what exists has mostly been set up.
const FIRST: Duration = Duration::from_secs(1);
/// Whoever node_exporter runs as may read it.
const MODE: u32 = 0o644;

/// Writes until it is dropped.
pub(crate) struct Textfile {
    path: PathBuf,
    stopping: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Textfile {
    /// Starts to write. A path that cannot be written to is told now.
    pub(crate) fn start(path: PathBuf, every: Duration, host: &Host, collector: &Arc<Collector>) -> Result<Self> {
        let folder = path.parent().filter(|folder| folder.is_dir());
        folder.ok_or_else(|| {
            let what = format!("{}: there is no such folder; make it, or choose another `textfile`", path.display());
            Error::new(rustix::io::Errno::NOENT.raw_os_error(), what)
        })?;
        let stopping = Arc::<(Mutex<bool>, Condvar)>::default();
        let (host, collector) = (host.clone(), Arc::clone(collector));
        let (to, end) = (path.clone(), Arc::clone(&stopping));
        let run = move || host.attribute(|| write_on(&to, every, &collector, &end));
        let thread = Some(thread::Builder::new().name("metrics-file".into()).spawn(run)?);
        Ok(Textfile { path, stopping, thread })
    }
}

impl Drop for Textfile {
    fn drop(&mut self) {
        *self.stopping.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stopping.1.notify_all();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that writes {} had panicked", self.path.display());
        }
        // What is in it is no longer true, and node_exporter would tell it for ever.
        if let Err(e) = fs::remove_file(&self.path)
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("cannot remove {}: {e}", self.path.display());
        }
    }
}

fn write_on(path: &Path, every: Duration, collector: &Collector, (stopping, end): &(Mutex<bool>, Condvar)) {
    let (mut next, mut complained) = (Instant::now() + FIRST.min(every), None);
    let mut stops = stopping.lock().unwrap_or_else(PoisonError::into_inner);
    while !*stops {
        let left = next.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            stops = end.wait_timeout(stops, left).unwrap_or_else(PoisonError::into_inner).0;
            continue;
        }
        drop(stops);
        next = Instant::now() + every;
        if let Some(body) = collector.collect() {
            let failed = replace(path, &body).err().map(|e| refused(path, &e));
            if let Some(what) = failed.as_ref().filter(|what| complained.as_ref() != Some(*what)) {
                tracing::warn!("{what}; tried again every {every:?}");
            }
            complained = failed;
        }
        stops = stopping.lock().unwrap_or_else(PoisonError::into_inner);
    }
}

/// What to do about a file that cannot be written.
fn refused(path: &Path, error: &io::Error) -> String {
    let folder = path.parent().unwrap_or(path).display();
    let advice = match error.kind() {
        // The usual one: the service's sandbox.
        io::ErrorKind::ReadOnlyFilesystem => {
            format!("open the folder to the service: `systemctl edit pernetd`, [Service], ReadWritePaths={folder}")
        }
        io::ErrorKind::PermissionDenied => {
            format!("let root be the owner of {folder}: the service may not override it")
        }
        io::ErrorKind::StorageFull => "make room there, or choose another `textfile`".to_owned(),
        _ => format!("see to {folder}, or choose another `textfile`"),
    };
    format!("cannot write {}: {error}; {advice}", path.display())
}

/// Beside the file, by a name that node_exporter does not read, and then in its place.
fn replace(path: &Path, body: &Body) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    // Of a daemon that was killed. The name is always the same, so that no more than one is ever left.
    let _ = fs::remove_file(&new);
    // The folder may be somebody else's: nothing that is there is followed or written to.
    let file = File::options().write(true).create_new(true).mode(MODE).open(&new)?;
    fill(file, body).and_then(|()| fs::rename(&new, path)).inspect_err(|_| drop(fs::remove_file(&new)))
}

fn fill(mut file: File, body: &Body) -> io::Result<()> {
    file.set_permissions(fs::Permissions::from_mode(MODE))?;
    body.parts.iter().try_for_each(|part| file.write_all(part))
}

impl fmt::Debug for Textfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Textfile").field(&self.path).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn a_folder_that_the_sandbox_closes_is_to_be_opened() {
        let path = Path::new("/var/lib/node/a.prom");
        let told = refused(path, &io::Error::from_raw_os_error(rustix::io::Errno::ROFS.raw_os_error()));
        assert!(told.contains("ReadWritePaths=/var/lib/node") && told.contains(path.to_str().expect("text")), "{told}");
    }

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let folder = std::env::temp_dir().join(format!("pernet-metrics-{}", std::process::id()));
        fs::create_dir(&folder).expect("a folder of our own");
        let (path, elsewhere) = (folder.join("a.prom"), folder.join("elsewhere"));
        fs::write(&elsewhere, "untouched").expect("ours");
        symlink(&elsewhere, &path).expect("ours");
        fs::write(folder.join("a.prom.new"), "of one that was killed").expect("ours");
        replace(&path, &Body { parts: vec![b"a 1\n".to_vec(), b"b 2\n".to_vec()] }).expect("it can be written");
        let meta = fs::symlink_metadata(&path).expect("it is there");
        assert!(meta.is_file() && meta.mode() & 0o7777 == MODE, "{meta:?}");
        assert_eq!(fs::read_to_string(&path).expect("text"), "a 1\nb 2\n");
        assert_eq!(fs::read_to_string(&elsewhere).expect("text"), "untouched");
        assert_eq!(fs::read_dir(&folder).expect("ours").count(), 2, "nothing else is left");
        fs::remove_dir_all(&folder).expect("ours");
    }
}
