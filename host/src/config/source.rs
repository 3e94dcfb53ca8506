//! A configuration file as text, positions in it, and what can be wrong with it.
//!
//! Every error of the configuration is a [`ConfigError`]: where (file, line, column), what, and what to write instead.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Larger than any configuration that somebody writes; guards against a wrong path, such as a device.
const MAX_BYTES: u64 = 1 << 20;

/// A place in a file, both counted from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The character in it.
    pub column: usize,
}

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The file, folder or environment variable.
    pub file: PathBuf,
    /// Where in it, if it is about a place.
    pub position: Option<Position>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(at) = self.position {
            write!(f, "{}:{}:", at.line, at.column)?;
        }
        write!(f, " {}; {}", self.message, self.hint)
    }
}

impl ConfigError {
    /// An error about a file as a whole.
    pub(super) fn whole(file: &Path, message: impl Into<String>, hint: impl Into<String>) -> ConfigError {
        ConfigError { file: file.to_owned(), position: None, message: message.into(), hint: hint.into() }
    }
}

/// A file's text.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    /// A text that came from a file.
    pub(super) fn new(path: impl Into<PathBuf>, text: impl Into<String>) -> Source {
        Source { path: path.into(), text: text.into() }
    }

    /// Reads a file; `None` if there is none.
    pub(super) fn read(path: &Path) -> Result<Option<Source>, ConfigError> {
        match read_bounded(path) {
            Ok(text) => Ok(Some(Source::new(path, text))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => {
                let hint = "make it a readable text file in UTF-8 of at most 1 MiB";
                Err(ConfigError::whole(path, format!("cannot be read: {e}"), hint))
            }
        }
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Its text.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The place of a byte.
    pub(super) fn position(&self, byte: usize) -> Position {
        let byte = (0..=byte.min(self.text.len())).rev().find(|b| self.text.is_char_boundary(*b)).unwrap_or(0);
        let before = &self.text[..byte];
        let line_start = before.rfind('\n').map_or(0, |n| n + 1);
        Position { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }

    /// An error about the place of a byte.
    pub(super) fn error(&self, byte: usize, message: impl Into<String>, hint: impl Into<String>) -> ConfigError {
        ConfigError { position: Some(self.position(byte)), ..ConfigError::whole(&self.path, message, hint) }
    }
}

/// Character devices pass because of `/dev/null`, the usual way to mask a file; a FIFO would block for ever.
fn read_bounded(path: &Path) -> io::Result<String> {
    use std::os::unix::fs::FileTypeExt;
    let kind = fs::metadata(path)?.file_type();
    if !kind.is_file() && !kind.is_char_device() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    Ok(text)
}
