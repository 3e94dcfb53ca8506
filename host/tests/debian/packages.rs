//! The packages that are put on the machines: what `.ci/packages` has left in `target/debian`, in two versions.
//!
//! The lower version is what is installed, the higher what is upgraded to.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::container::Container;
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

fn folder() -> PathBuf {
    profile_dir().parent().unwrap().join("debian")
}

/// What there is, the lowest version first.
pub fn versions() -> Vec<Version> {
    let mut versions: BTreeMap<String, Version> = BTreeMap::new();
    for entry in fs::read_dir(folder()).into_iter().flatten().flatten() {
        let file = entry.file_name();
        // pernetd_1.2.3-1_amd64.deb
        let Some(name) = file.to_str().and_then(|name| name.strip_suffix(".deb")) else { continue };
        let mut parts = name.split('_');
        let (Some(package), Some(version)) = (parts.next(), parts.next()) else { continue };
        let of = versions.entry(version.to_owned()).or_default();
        version.clone_into(&mut of.version);
        of.files.insert(package.to_owned(), entry.path());
    }
    let mut versions: Vec<Version> =
        versions.into_values().filter(|version| NAMES.iter().all(|name| version.files.contains_key(*name))).collect();
    versions.sort_by(|a, b| compare(&a.version, &b.version));
    versions
}

/// By dpkg, whose order it is.
fn compare(a: &str, b: &str) -> Ordering {
    let lower = Command::new("dpkg").args(["--compare-versions", a, "lt", b]).status();
    if a == b {
        Ordering::Equal
    } else if lower.is_ok_and(|status| status.success()) {
        Ordering::Less
    } else {
        Ordering::Greater
    }
}

/// What is missing for a test.
pub fn lacking() -> Result<(), String> {
    match versions().len() {
        2.. => Ok(()),
        n => Err(format!("{n} versions of the packages are in {}, two are needed; see .ci/run", folder().display())),
    }
}

/// The version that is installed.
pub fn current() -> Version {
    versions().into_iter().next().unwrap_or_default()
}

/// The version that is upgraded to.
pub fn next() -> Version {
    versions().into_iter().next_back().unwrap_or_default()
}
