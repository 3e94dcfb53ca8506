//! What can go wrong between a plugin's file and its running: one variant per step, so that the operator sees how far
//! it came, and what to do.

use super::note::NoteError;
use super::trust::TrustError;
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
    #[error("the plugin file {path} holds the plugin `{found}`, not `{expected}`: correct `name` or `file`")]
    Name {
        /// The file.
        path: PathBuf,
        /// The configured name.
        expected: String,
        /// The name in the file.
        found: String,
    },
}
