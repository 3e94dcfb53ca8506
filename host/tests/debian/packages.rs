//! The packages that are put on the machines: what `.ci/packages` has left in `target/debian`, and those of a higher version,
//! to upgrade to, in `target/debian/next`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::container::Container;
use super::{Release, roots};
use crate::sandbox::profile_dir;

/// Those that an operator installs.
pub const NAMES: [&str; 2] = ["pernetd", "pernetd-plugins"];

/// A version of all packages, by their names.
#[derive(Clone, Debug, Default)]
pub struct Version {
    /// As dpkg reads it.
    pub version: String,
    files: BTreeMap<String, PathBuf>,
}

impl Version {
    /// The packages in a folder.
    fn of(folder: &Path) -> Option<Version> {
        let mut found = Version::default();
        for entry in fs::read_dir(folder).ok()?.flatten() {
            let file = entry.file_name();
            // pernetd_1.2.3-1_amd64.deb
            let Some(name) = file.to_str().and_then(|name| name.strip_suffix(".deb")) else { continue };
            let mut parts = name.split('_');
            let (Some(package), Some(version)) = (parts.next(), parts.next()) else { continue };
            version.clone_into(&mut found.version);
            found.files.insert(package.to_owned(), entry.path());
        }
        Some(found)
    }

    /// Puts the packages into root's home, as a download would, and returns their paths there.
    pub fn put(&self, c: &Container) -> String {
        let put = |name: &&str| {
            let file = self.files.get(*name).unwrap_or_else(|| c.fail(&format!("no package {name} {}", self.version)));
            let to = format!("/root/{}", file.file_name().unwrap().display());
            c.put(file, &to);
            to
        };
        NAMES.iter().map(put).collect::<Vec<_>>().join(" ")
    }

    /// Where on the host the package is.
    pub fn file(&self, name: &str) -> Option<&PathBuf> {
        self.files.get(name)
    }
}

/// What is installed.
pub fn current() -> Version {
    Version::of(&folder()).unwrap_or_default()
}

/// What is upgraded to.
pub fn next() -> Version {
    Version::of(&folder().join("next")).unwrap_or_default()
}

/// What is missing for a test.
pub fn lacking() -> Result<(), String> {
    for folder in [folder(), folder().join("next")] {
        let version = Version::of(&folder);
        if !version.is_some_and(|version| NAMES.iter().all(|name| version.files.contains_key(*name))) {
            let names = NAMES.join(", ");
            return Err(format!("{} lacks packages ({names}); build them as .ci/run does", folder.display()));
        }
    }
    Ok(())
}

/// Whether the release's C library is new enough for what was linked on this machine.
pub fn fit(release: Release) -> Result<(), String> {
    let current = current();
    let Some(file) = current.file(NAMES[0]) else { return Ok(()) };
    let depends = said(Command::new("dpkg-deb").arg("--field").arg(file).arg("Depends"));
    let Some(needed) = depends.split("libc6 (>= ").nth(1).and_then(|rest| rest.split(')').next()) else {
        return Ok(());
    };
    let mut query = Command::new("dpkg-query");
    query.arg(format!("--admindir={}", roots::root(release).join("var/lib/dpkg").display()));
    let there = said(query.args(["--show", "--showformat=${Version}", "libc6"]));
    let enough = Command::new("dpkg").args(["--compare-versions", &there, "ge", needed]).status();
    if enough.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    let name = release.name;
    Err(format!("the packages need libc6 {needed}, {name} has {there}; build them on a machine no newer than {name}"))
}

fn said(command: &mut Command) -> String {
    command.output().map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

fn folder() -> PathBuf {
    profile_dir().parent().unwrap().join("debian")
}
