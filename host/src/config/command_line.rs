//! What the command line says about files and folders, and where they are by default.

use std::path::PathBuf;

/// Options that move the daemon's paths, so that an ordinary user can run everything from a checkout.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct CommandLine {
    /// Main configuration file [default: /etc/pernetd/pernetd.toml]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Folder with plugins.d/ and sysctl.d/; may be repeated, the first wins
    /// [default: /etc/pernetd, /run/pernetd, /usr/lib/pernetd]
    #[arg(long = "config-dir", value_name = "DIR", global = true)]
    pub config_dirs: Vec<PathBuf>,
    /// Folder with the plugins' files [default: /usr/lib/pernetd/plugins]
    #[arg(long, value_name = "DIR", global = true)]
    pub plugin_dir: Option<PathBuf>,
    /// Folder of the control socket [default: $RUNTIME_DIRECTORY or /run/pernetd]
    #[arg(long, value_name = "DIR", global = true)]
    pub runtime_dir: Option<PathBuf>,
    /// Folder of what is kept over restarts [default: $STATE_DIRECTORY or /var/lib/pernetd]
    #[arg(long, value_name = "DIR", global = true)]
    pub state_dir: Option<PathBuf>,
}

/// Where everything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The main file.
    pub config: PathBuf,
    /// Whether somebody asked for this very file: then it must be there.
    pub config_is_given: bool,
    /// The folders with drop-ins, the first wins.
    pub config_dirs: Vec<PathBuf>,
    /// Whether somebody asked for these very folders: then they must be there.
    pub config_dirs_are_given: bool,
    /// The plugins' files.
    pub plugin_dir: PathBuf,
    /// Whether somebody asked for this very folder: then it must be there.
    pub plugin_dir_is_given: bool,
    /// The control socket's folder.
    pub runtime_dir: PathBuf,
    /// What is kept over restarts.
    pub state_dir: PathBuf,
}

impl CommandLine {
    /// The paths, with the defaults of those that were not given.
    #[must_use]
    pub fn paths(&self) -> Paths {
        let default_dirs = ["/etc/pernetd", "/run/pernetd", "/usr/lib/pernetd"];
        let given = !self.config_dirs.is_empty();
        Paths {
            config: self.config.clone().unwrap_or_else(|| "/etc/pernetd/pernetd.toml".into()),
            config_is_given: self.config.is_some(),
            config_dirs: if given { self.config_dirs.clone() } else { default_dirs.map(PathBuf::from).to_vec() },
            config_dirs_are_given: given,
            plugin_dir_is_given: self.plugin_dir.is_some(),
            plugin_dir: self.plugin_dir.clone().unwrap_or_else(|| "/usr/lib/pernetd/plugins".into()),
            runtime_dir: runtime_dir(self.runtime_dir.clone()),
            state_dir: or_variable(self.state_dir.clone(), "STATE_DIRECTORY", "/var/lib/pernetd"),
        }
    }
}

/// The runtime folder as the daemon and its client both find it.
#[must_use]
pub fn runtime_dir(given: Option<PathBuf>) -> PathBuf {
    or_variable(given, "RUNTIME_DIRECTORY", "/run/pernetd")
}

/// systemd separates several folders by colons; ours is the first.
fn or_variable(given: Option<PathBuf>, variable: &str, default: &str) -> PathBuf {
    let from_variable = || {
        let value = std::env::var(variable).ok()?;
        value.split(':').next().filter(|first| !first.is_empty()).map(PathBuf::from)
    };
    given.or_else(from_variable).unwrap_or_else(|| default.into())
}
