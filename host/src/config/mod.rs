//! Configuration: files as written → a validated [`Config`].
//!
//! Two passes. Each file is checked strictly by itself ([`section`]), so that an unknown key or a wrong type is named
//! with its line and column; then the layers of the main file are merged ([`main_file`]). It reads files and touches
//! nothing else of the world: whether a group, a folder or a library exists is for the one who uses it.

mod blacklist;
mod command_line;
mod drop_ins;
mod globs;
mod main_file;
mod plugin_file;
mod section;
mod source;
mod sysctl_file;
mod sysctl_key;
mod sysctls;

use std::fmt;
use std::path::Path;

pub use blacklist::{Blacklisted, initcall_of};
pub use command_line::{CommandLine, Paths, runtime_dir};
pub use drop_ins::{DropIn, drop_ins_of, masks};
pub use globs::{Selected, Selector};
pub use main_file::{Control, ControlRead, Discovery, Log, LogLevel, Main, Method, Netlink};
pub use plugin_file::{OnInitFailure, OnStop, PluginConfig};
pub use source::{ConfigError, Position};
pub use sysctl_file::{Asks, SysctlLine, parse_sysctls};
pub use sysctl_key::{KeyFault, SysctlKey, dotted, is_kernels};
pub use sysctls::Sysctls;

use source::Source;

/// The validated configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The main file's keys.
    pub main: Main,
    /// The plugins in the order of their file names, also those that are not enabled.
    pub plugins: Vec<PluginConfig>,
    /// What `sysctl.d` says of the sysctls of pernetd and its plugins.
    pub sysctls: Sysctls,
}

/// All that is wrong with the configuration, one line each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if n == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl Config {
    /// Reads and validates everything, with the process's own environment.
    pub fn load(paths: &Paths) -> Result<Config, ConfigErrors> {
        // A variable that is not UTF-8 is refused like any other wrong value, not skipped.
        let lossy = |s: std::ffi::OsString| s.to_string_lossy().into_owned();
        let environment: Vec<_> = std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value))).collect();
        Config::load_with(paths, &environment)
    }

    /// Reads and validates everything, with a given environment.
    pub fn load_with(paths: &Paths, environment: &[(String, String)]) -> Result<Config, ConfigErrors> {
        let mut errors = missing_folders(paths);
        let main = match main_source(paths).map_err(|e| vec![e]) {
            Ok(source) => main_file::load(source.as_ref(), environment),
            Err(e) => Err(e),
        };
        let main = main.map_err(|found| errors.extend(found)).ok();
        let plugins = drop_ins::load(&paths.config_dirs, &paths.plugin_dir, &mut errors);
        let sysctls = drop_ins::load_sysctls(&paths.config_dirs, &mut errors);
        match main {
            Some(main) if errors.is_empty() => Ok(Config { main, plugins, sysctls }),
            _ => Err(ConfigErrors(errors)),
        }
    }

    /// The configuration when nothing is written anywhere.
    pub fn built_in() -> Result<Config, ConfigErrors> {
        let main = main_file::load(None, &[]).map_err(ConfigErrors)?;
        Ok(Config { main, plugins: Vec::new(), sysctls: Sysctls::default() })
    }

    /// The number of worker threads: what is configured, or one per core.
    #[must_use]
    pub fn workers(&self) -> usize {
        match self.main.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        }
    }
}

/// The main file may be absent unless it was asked for by name.
fn main_source(paths: &Paths) -> Result<Option<Source>, ConfigError> {
    match Source::read(&paths.config)? {
        None if paths.config_is_given => Err(missing(&paths.config, "file")),
        source => Ok(source),
    }
}

fn missing_folders(paths: &Paths) -> Vec<ConfigError> {
    let asked = paths.config_dirs.iter().filter(|_| paths.config_dirs_are_given);
    asked.filter(|dir| !dir.is_dir()).map(|dir| missing(dir, "folder")).collect()
}

fn missing(path: &Path, kind: &str) -> ConfigError {
    ConfigError::whole(path, format!("there is no such {kind}"), "correct the option, or create it")
}
