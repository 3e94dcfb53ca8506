//! The drop-in folders: which files there are, which of them count, and in which order.
//!
//! As systemd does it: over all configuration folders the first file of a name wins, an empty one masks, and the order
//! is by file name. So for `plugins.d/NN-name.toml` and for `sysctl.d/*.conf`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::plugin_file::{NAME_RULE, PluginConfig, is_plugin_name};
use super::source::{ConfigError, Source};
use super::sysctl_file;
use super::sysctls::Sysctls;

/// Reads all plugin files, in order; the errors are those of all of them.
pub(super) fn load(config_dirs: &[PathBuf], plugin_dir: &Path, errors: &mut Vec<ConfigError>) -> Vec<PluginConfig> {
    let mut plugins: Vec<PluginConfig> = Vec::new();
    for (file_name, path) in files(config_dirs, "plugins.d", ".toml", errors) {
        match load_one(&file_name, &path, plugin_dir) {
            Ok(None) => {}
            Ok(Some(plugin)) => match plugins.iter().find(|p| p.name == plugin.name) {
                Some(first) => errors.push(duplicate(first, &path)),
                None => plugins.push(plugin),
            },
            Err(found) => errors.extend(found),
        }
    }
    plugins
}

/// Reads all lines of `sysctl.d`, in order; the errors are those of all of them.
pub(super) fn load_sysctls(config_dirs: &[PathBuf], errors: &mut Vec<ConfigError>) -> Sysctls {
    let mut lines = Vec::new();
    for (_, path) in files(config_dirs, "sysctl.d", ".conf", errors) {
        match read(&path) {
            Ok(None) => {}
            Ok(Some(source)) => match sysctl_file::parse(&source) {
                Ok(found) => lines.extend(found),
                Err(found) => errors.extend(found),
            },
            Err(error) => errors.push(error),
        }
    }
    Sysctls { lines }
}

/// The drop-in files of one kind by name.
fn files(
    config_dirs: &[PathBuf],
    folder: &str,
    suffix: &str,
    errors: &mut Vec<ConfigError>,
) -> BTreeMap<String, PathBuf> {
    let mut files = BTreeMap::new();
    for folder in config_dirs.iter().map(|dir| dir.join(folder)) {
        let names = match file_names(&folder, suffix) {
            Ok(names) => names,
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => {
                let hint = "make it a folder that pernetd can read, or remove it";
                errors.push(ConfigError::whole(&folder, format!("cannot be listed: {e}"), hint));
                continue;
            }
        };
        for name in names {
            if let Entry::Vacant(free) = files.entry(name) {
                let path = folder.join(free.key());
                free.insert(path);
            }
        }
    }
    files
}

/// A plugin's file as it is in a folder now, whether or not it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropIn {
    /// The file.
    pub path: PathBuf,
    /// It says nothing, and so masks those of its name in later folders.
    pub masks: bool,
    /// The file in an earlier folder because of which it does not count.
    pub behind: Option<PathBuf>,
}

/// The files of the plugin of this name that there are now, those that count first in their order.
#[must_use]
pub fn drop_ins_of(config_dirs: &[PathBuf], name: &str) -> Vec<DropIn> {
    let mut found: Vec<DropIn> = Vec::new();
    for folder in config_dirs.iter().map(|dir| dir.join("plugins.d")) {
        let mut names = file_names(&folder, ".toml").unwrap_or_default();
        names.retain(|file_name| plugin_name(file_name).is_ok_and(|plugin| plugin == name));
        names.sort_unstable();
        for path in names.into_iter().map(|file_name| folder.join(file_name)) {
            let first = found.iter().find(|before| before.path.file_name() == path.file_name());
            let behind = first.map(|first| first.path.clone());
            found.push(DropIn { masks: matches!(read(&path), Ok(None)), path, behind });
        }
    }
    found
}

/// The plugins whose files are masked now, each with the empty file.
#[must_use]
pub fn masks(config_dirs: &[PathBuf]) -> Vec<(String, PathBuf)> {
    let found = files(config_dirs, "plugins.d", ".toml", &mut Vec::new()).into_iter();
    let masked = found.filter(|(_, path)| matches!(read(path), Ok(None)));
    masked.filter_map(|(file_name, path)| Some((plugin_name(&file_name).ok()?.to_owned(), path))).collect()
}

/// Only those that end as they must, and nothing hidden: editors and package managers leave other files behind.
fn file_names(folder: &Path, suffix: &str) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(suffix) && !name.starts_with('.') {
            names.push(name);
        }
    }
    Ok(names)
}

/// `None` if the file masks the name.
fn load_one(file_name: &str, path: &Path, plugin_dir: &Path) -> Result<Option<PluginConfig>, Vec<ConfigError>> {
    let name = plugin_name(file_name).map_err(|message| {
        let hint = format!("call it NN-name.toml, with two digits for its place; {NAME_RULE}");
        vec![ConfigError::whole(path, message, hint)]
    })?;
    match read(path).map_err(|e| vec![e])? {
        Some(source) => PluginConfig::parse(name, Arc::new(source), plugin_dir).map(Some),
        None => Ok(None),
    }
}

/// A file's text; `None` if it masks the name. One that went after the folder was listed is as good as none.
fn read(path: &Path) -> Result<Option<Source>, ConfigError> {
    match Source::read(path)? {
        Some(source) if !source.text().is_empty() => Ok(Some(source)),
        None if path.is_symlink() => {
            let hint = "correct the link; to mask a file of that name, link to /dev/null";
            Err(ConfigError::whole(path, "it is a link to a file that is not there", hint))
        }
        _ => Ok(None),
    }
}

/// The plugin's name in `NN-name.toml`. Exactly two digits, so that the order of the names is that of the numbers.
fn plugin_name(file_name: &str) -> Result<&str, String> {
    let stem = file_name.trim_end_matches(".toml");
    let (place, name) = stem.split_once('-').ok_or("its name has no place in the order")?;
    if place.len() != 2 || !place.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("{place:?} in its name is no place in the order"));
    }
    if !is_plugin_name(name) {
        return Err(format!("{name:?} is no plugin's name"));
    }
    Ok(name)
}

fn duplicate(first: &PluginConfig, second: &Path) -> ConfigError {
    let message = format!("plugin {} is configured by {} already", first.name, first.path().display());
    ConfigError::whole(second, message, "keep one of the two files, and remove or empty the other")
}
