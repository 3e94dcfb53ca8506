//! What of the kernel and the system is used, as `status` shows it, and what to do where service is degraded without it.
//!
//! A facility that is missing and has a good replacement (mount events before Linux 6.15) has no remedy: nothing needs to be
//! done. What cannot be done without ends the start instead, with a [`Fault`](super::fault::Fault).

use std::collections::HashSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};

use crate::config::Paths;
use crate::control::wire::Facility;
use crate::discovery::NamedNs;
use crate::linux::{alone, descriptors, mount_table};
use crate::logging::catalog;
use crate::systemd;

use super::Daemon;

/// So many names are listed.
const NAMED: usize = 5;

/// What is found out at the start, and stays so.
pub(super) struct Surroundings {
    state_folder: Facility,
    /// None if no other daemon is here.
    others: Option<Facility>,
    /// Tells the next daemon that this one is here.
    _name: Option<OwnedFd>,
}

impl Surroundings {
    /// Looks, and complains of what is wrong.
    pub(super) fn look(paths: &Paths) -> Surroundings {
        let state_folder = state_folder(&paths.state_dir);
        let (others, name) = match alone::take_name() {
            Ok(Some(name)) => (None, Some(name)),
            Ok(None) => (Some(others()), None),
            Err(e) => {
                tracing::warn!(
                    message_id = catalog::FACILITY_MISSING,
                    "it cannot be told whether another pernetd is at work here: {e}"
                );
                (None, None)
            }
        };
        [Some(&state_folder), others.as_ref()].into_iter().flatten().for_each(complain);
        Surroundings { state_folder, others, _name: name }
    }
}

fn complain(facility: &Facility) {
    if let Some(remedy) = &facility.remedy {
        let Facility { name, detail, .. } = facility;
        let message_id = catalog::FACILITY_MISSING;
        tracing::warn!(message_id, "{name}: {}; {remedy}", detail.as_deref().unwrap_or_default());
    }
}

fn used(name: &str, detail: String) -> Facility {
    Facility { name: name.to_owned(), used: true, detail: Some(detail), remedy: None }
}

fn degraded(name: &str, used: bool, detail: String, remedy: String) -> Facility {
    Facility { name: name.to_owned(), used, detail: Some(detail), remedy: Some(remedy) }
}

/// Without it mounts do not outlive a restart; everything else runs.
fn state_folder(folder: &Path) -> Facility {
    let make = || -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(accessat(CWD, folder, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)?)
    };
    let shown = folder.display();
    match make() {
        Ok(()) => used("state folder", shown.to_string()),
        Err(e) => degraded(
            "state folder",
            false,
            format!("{shown}: {e}; mounts end with this daemon, where they would outlive a restart"),
            "make it a folder that pernetd can write to, or give another with --state-dir".to_owned(),
        ),
    }
}

fn others() -> Facility {
    let what = "another pernetd is at work in this network namespace: both run their plugins in the same namespaces";
    let remedy = "stop one of them (`ss -xlp`, or `ss -xap 'src @io.pernetd'`, shows the other's process), and restart the other";
    degraded("this host alone", false, what.to_owned(), remedy.to_owned())
}

/// Folders that are private mounts, in a service with a mount namespace of its own: it would never see a new name there. Reads
/// the mount table, so not on the loop.
pub(super) fn private_folders(folders: &[PathBuf]) -> Vec<Facility> {
    let own = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
    if !systemd::is_there() || own("1").is_some_and(|first| own("self") == Some(first)) {
        return Vec::new();
    }
    let private = |folder: &&PathBuf| mount_table::is_private(folder).unwrap_or(false);
    let row = |folder: &PathBuf| {
        let shown = folder.display();
        degraded(
            &format!("names in {shown}"),
            false,
            "it is in a private mount: what is named there outside of this service does not show here".to_owned(),
            format!("`pernetctl netns prepare {shown}` as root on the host, then `systemctl restart pernetd`"),
        )
    };
    folders.iter().filter(private).map(row).collect()
}

impl Daemon {
    pub(super) fn facilities(&self) -> Vec<Facility> {
        let links = Facility {
            used: self.links.listening(),
            ..used("all-nsid link events", "opened only while some plugin wants device events".to_owned())
        };
        let mut all = vec![used("mount discovery", self.discovery.why.clone()), links, self.descriptors()];
        all.push(self.surroundings.state_folder.clone());
        all.extend(self.surroundings.others.clone());
        all
    }

    /// How many there may be, and who has to wait for one.
    fn descriptors(&self) -> Facility {
        let limit = descriptors::limit();
        let missing = |path: &&PathBuf| self.names.at(path).is_none();
        let waiting: Vec<&PathBuf> = self.without_room.iter().filter(missing).collect();
        if waiting.is_empty() {
            return used("descriptors", format!("at most {limit}, one for each namespace"));
        }
        let names: Vec<String> = waiting.iter().take(NAMED).map(|path| path.display().to_string()).collect();
        let more = if waiting.len() > NAMED { format!(" and {} more", waiting.len() - NAMED) } else { String::new() };
        degraded(
            "descriptors",
            true,
            format!("none of {limit} is left for {}{more}: no plugin acts there; tried again every second", names.join(", ")),
            "raise LimitNOFILE= of the service and restart it, or at once with `prlimit --nofile=N --pid PID`; or remove namespaces"
                .to_owned(),
        )
    }

    /// No descriptor is left for this namespace.
    pub(super) fn no_room(&mut self, path: PathBuf) {
        if self.without_room.is_empty() {
            let (limit, path) = (descriptors::limit(), path.display());
            tracing::error!(
                message_id = catalog::DESCRIPTORS_EXHAUSTED,
                "{path}: of {limit} descriptors none is left for this namespace, nor for others to come: no plugin acts there; raise LimitNOFILE= of the service; it is tried again every second"
            );
        }
        self.without_room.insert(path);
    }

    /// These names are there, and no others.
    pub(super) fn room_for_all_but(&mut self, all: &[NamedNs]) {
        if !self.without_room.is_empty() {
            let there: HashSet<&PathBuf> = all.iter().map(|named| &named.path).collect();
            self.without_room.retain(|path| there.contains(path));
        }
    }

    /// This one has a descriptor, or needs none any more.
    pub(super) fn room_for(&mut self, path: &Path) {
        if self.without_room.remove(path) && self.without_room.is_empty() {
            tracing::info!("there are descriptors for all namespaces again");
        }
    }
}
