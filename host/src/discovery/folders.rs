//! The folders in which names count, as configured and as they really are.
//!
//! The kernel reports real paths; the operator is shown the configured one. A folder may be a symbolic link
//! (`/var/run/netns`), or not exist yet. Watches nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug)]
struct Folder {
    shown: PathBuf,
    real: PathBuf,
    exists: bool,
}

#[derive(Debug)]
pub(super) struct Folders(Vec<Folder>);

impl Folders {
    pub(super) fn new(shown: Vec<PathBuf>) -> Folders {
        let resolved = |shown: PathBuf| {
            let (real, exists) = resolve(&shown);
            Folder { shown, real, exists }
        };
        Folders(shown.into_iter().map(resolved).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The configured path.
    pub(super) fn shown(&self, index: usize) -> &Path {
        &self.0[index].shown
    }

    /// Looks again at folders that did not exist. True when one turns out to be elsewhere than expected.
    pub(super) fn refresh_missing(&mut self) -> bool {
        let mut moved = false;
        for folder in self.0.iter_mut().filter(|folder| !folder.exists) {
            // The usual answer, at the price of one system call.
            if fs::symlink_metadata(&folder.shown).is_ok() {
                moved |= folder.refresh();
            }
        }
        moved
    }

    /// Looks again at all.
    pub(super) fn refresh(&mut self) {
        for folder in &mut self.0 {
            folder.refresh();
        }
    }

    /// The name, as shown, of what is mounted at this real path, if that is directly inside a folder. Where two folders
    /// are really one, the first has it.
    pub(super) fn name_at(&self, point: &Path) -> Option<PathBuf> {
        let (parent, name) = (point.parent()?, point.file_name()?);
        self.0.iter().find(|folder| folder.real == parent).map(|folder| folder.shown.join(name))
    }

    /// Whether a mount at this real path hides or shows a folder, or something above it.
    pub(super) fn covered_by(&self, point: &Path) -> bool {
        self.0.iter().any(|folder| folder.real.starts_with(point))
    }
}

impl Folder {
    fn refresh(&mut self) -> bool {
        let (real, exists) = resolve(&self.shown);
        self.exists = exists;
        let moved = real != self.real;
        self.real = real;
        moved
    }
}

/// The real path, and whether all of it exists: what does not is appended to what does.
fn resolve(shown: &Path) -> (PathBuf, bool) {
    for existing in shown.ancestors() {
        match fs::canonicalize(existing) {
            Ok(real) => {
                let rest = shown.strip_prefix(existing).unwrap_or(Path::new(""));
                // Joining an empty path would append a slash, which is no difference to the kernel but one to us.
                let all = rest.as_os_str().is_empty();
                return (if all { real } else { real.join(rest) }, all);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => break,
        }
    }
    (shown.to_owned(), false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_is_shown_as_configured() {
        let dir = tempfile::tempdir().expect("a folder");
        let real = dir.path().canonicalize().expect("it exists");
        fs::create_dir(real.join("run")).expect("a folder");
        symlink("run", real.join("var")).expect("a link");
        let mut folders = Folders::new(vec![real.join("var/netns"), real.join("run/netns")]);
        assert_eq!(folders.name_at(&real.join("run/netns/a b")), Some(real.join("var/netns/a b")));
        assert_eq!(folders.name_at(&real.join("run/netns/a/b")), None);
        assert!(folders.covered_by(&real.join("run")) && folders.covered_by(Path::new("/")));
        assert!(!folders.covered_by(&real.join("ru")));
        assert!(!folders.refresh_missing());
        symlink("elsewhere", real.join("run/netns")).expect("a link");
        fs::create_dir(real.join("run/elsewhere")).expect("a folder");
        assert!(folders.refresh_missing());
        assert_eq!(folders.name_at(&real.join("run/elsewhere/x")), Some(real.join("var/netns/x")));
    }
}
