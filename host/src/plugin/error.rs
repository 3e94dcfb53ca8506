//! What can go wrong between a plugin's file and its running: one variant per step, so that the operator sees how far
//! it came, and what to do.

use super::load::AbiError;
use super::mapping::MapError;
use super::note::NoteError;
use super::trust::TrustError;
use crate::engine::Failure;
use std::io;
use std::path::PathBuf;

/// Why a plugin is refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// Step 1: the file cannot be opened.
    #[error("cannot open the plugin file {path}: {source}; check `file` and the plugin folder")]
    Open {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Step 2: somebody else could replace it.
    #[error("plugin file not trusted: {0}")]
    Trust(#[from] TrustError),
    /// Step 3: too large to be a plugin.
    #[error("the plugin file {path} has {size} bytes, more than 256 MiB: strip it, or name another file")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: u64,
    },
    /// Step 3: it cannot be read.
    #[error("cannot read the plugin file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Step 3: it changed while it was read.
    #[error("the plugin file {path} is being written: try again when that is done (replace it by a rename)")]
    BeingWritten {
        /// The file.
        path: PathBuf,
    },
    /// Step 4: not a plugin, or not for this host.
    #[error("the plugin file {path} is refused: {source}")]
    Note {
        /// The file.
        path: PathBuf,
        /// Why.
        source: NoteError,
    },
    /// Step 4: another plugin than the configured one.
    #[error(
        "the plugin file {path} holds the plugin `{found}`, not `{expected}`: correct `file`, or the name of the configuration file"
    )]
    Name {
        /// The file.
        path: PathBuf,
        /// The configured name.
        expected: String,
        /// The name in the file.
        found: String,
    },
    /// Step 5: it cannot be mapped.
    #[error("cannot load the plugin file {path}: {source}")]
    Load {
        /// The file.
        path: PathBuf,
        /// Why.
        source: MapError,
    },
    /// Step 6: its tables are not this host's.
    #[error("the plugin file {path} is refused: {source}")]
    Abi {
        /// The file.
        path: PathBuf,
        /// Why.
        source: AbiError,
    },
    /// Step 7: the author's `init` failed or panicked.
    #[error("plugin `{plugin}`: its init {}", how(failure))]
    Init {
        /// The plugin.
        plugin: String,
        /// What it answered.
        failure: Failure,
    },
    /// Step 7: what it registered makes no sense.
    #[error("plugin `{plugin}`: its registrations make no sense ({what}): this is a fault of the plugin")]
    Registrations {
        /// The plugin.
        plugin: String,
        /// What is wrong.
        what: String,
    },
    /// The end: a call does not come out.
    #[error("plugin `{plugin}` cannot end: {inside} does not return; restart the daemon to be rid of it")]
    Busy {
        /// The plugin.
        plugin: String,
        /// What is still running.
        inside: String,
    },
    /// The end: the author's `Drop` panicked.
    #[error("plugin `{plugin}`: its end {}; it is gone all the same", how(failure))]
    Drop {
        /// The plugin.
        plugin: String,
        /// What it answered.
        failure: Failure,
    },
}

fn how(failure: &Failure) -> String {
    // A panic's message says itself that and where it panicked.
    if failure.panicked { failure.message.clone() } else { format!("failed: {failure}") }
}
