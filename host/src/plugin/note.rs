//! A plugin's metadata: who it is, what it needs, which interface it was built for; read without running its code.
//!
//! Mirrors `modinfo` and vermagic. The export macro puts an ELF note into every plugin: name `pernet`, type 1, and as
//! its descriptor a JSON object. Fields that this version does not know are ignored, so that a newer plugin's note can
//! still be read, if only to say why it is refused.
//!
//! Not here: the file's shape ([`super::elf`]), and how the macro writes the note (the plugin interface).

use super::elf::{FormatError, Shape, build_id};
use pernet_plugin_api::abi::{API_MAJOR, API_MINOR};
use pernet_plugin_api::note::{LEVELS, OWNER, TARGET, TYPE};
use serde::{Deserialize, Serialize};

/// A descriptor larger than this is no metadata.
const MAX_DESCRIPTOR: usize = 64 * 1024;
/// A plugin's name is a file name, a word in tables and a key in configurations.
const MAX_NAME: usize = 64;

/// A plugin's metadata.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The plugin's name, which its configuration repeats.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// Version of the interface that it was built for: major, minor.
    pub api: (u32, u32),
    /// Its initcall level, as a word.
    pub level: String,
    /// Plugins, or initcalls of the host's own, that it comes after, where they are there.
    #[serde(default)]
    pub after: Vec<String>,
    /// Plugins, or initcalls of the host's own, that it needs.
    #[serde(default)]
    pub requires: Vec<String>,
    /// Its licence, as SPDX.
    #[serde(default)]
    pub license: String,
    /// One sentence on what it does.
    #[serde(default)]
    pub description: String,
    /// The compiler that built it.
    #[serde(default)]
    pub rustc: String,
    /// What it was built for.
    pub target: String,
    /// `unwind` or `abort`.
    pub panic: String,
    /// The linker's build id; not part of the note, but of the file.
    #[serde(default, skip_deserializing)]
    pub build_id: Option<String>,
}

/// Why a file is not a plugin that this host can run. Found without running any of its code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// The file as such.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A shared library, but no plugin.
    #[error("it has no pernet note, so it is no plugin: use export_plugin! in its crate")]
    Missing,
    /// Two plugins in one file.
    #[error("it has {0} pernet notes: use export_plugin! once per file")]
    Several(usize),
    /// The note is there, but cannot be understood.
    #[error("its pernet note cannot be read ({0}): rebuild it with a current plugin interface")]
    Unreadable(String),
    /// A field says something that cannot be.
    #[error("its pernet note has a bad `{field}` ({value:?}): {want}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What it says.
        value: String,
        /// What it may say.
        want: String,
    },
    /// Another version of the interface.
    #[error(
        "it was built for plugin interface {}.{}, this daemon has {API_MAJOR}.{API_MINOR}: {}",
        found.0, found.1, if found.0 < API_MAJOR { "rebuild the plugin" } else { "update pernetd" }
    )]
    Api {
        /// Its version: major, minor.
        found: (u32, u32),
    },
    /// A panic would end the daemon.
    #[error(
        "it was built with panic = \"{0}\", so its first panic would end the daemon: build it with panic = \"unwind\""
    )]
    Panic(String),
    /// Another platform.
    #[error("it was built for {found}, this daemon is {host}: rebuild it for {host}")]
    Target {
        /// Its target.
        found: String,
        /// The daemon's.
        host: String,
    },
}

impl Note {
    /// Reads the metadata of a plugin file and judges whether this host can run it.
    ///
    /// # Errors
    /// The first reason why it cannot.
    pub fn of_plugin(bytes: &[u8]) -> Result<Note, NoteError> {
        let shape = Shape::parse(bytes)?;
        let note = Self::read(&shape)?;
        note.check_host()?;
        shape.check_exports()?;
        Ok(note)
    }

    /// Reads the metadata of a file, for the operator's eyes: also of one that this host would refuse for its
    /// interface version.
    ///
    /// # Errors
    /// The file is no plugin at all, or its note cannot be understood.
    pub fn of_file(bytes: &[u8]) -> Result<Note, NoteError> {
        Self::read(&Shape::parse(bytes)?)
    }

    fn read(shape: &Shape<'_>) -> Result<Note, NoteError> {
        let notes = shape.notes()?;
        let ours: Vec<_> = notes.iter().filter(|n| n.name == OWNER.as_bytes() && n.kind == TYPE).collect();
        let [raw] = ours.as_slice() else {
            return Err(if ours.is_empty() { NoteError::Missing } else { NoteError::Several(ours.len()) });
        };
        if raw.descriptor.len() > MAX_DESCRIPTOR {
            return Err(NoteError::Unreadable(format!("{} bytes long", raw.descriptor.len())));
        }
        let mut note: Note =
            serde_json::from_slice(raw.descriptor).map_err(|e| NoteError::Unreadable(e.to_string()))?;
        note.check_fields()?;
        note.make_printable();
        note.build_id = build_id(&notes);
        Ok(note)
    }

    /// What must hold on any host.
    fn check_fields(&self) -> Result<(), NoteError> {
        let field = |field, value: &str, want: String| Err(NoteError::Field { field, value: value.to_owned(), want });
        let rule = format!("a plugin's name is 1 to {MAX_NAME} of a-z, 0-9 and `-`");
        if !is_plugin_name(&self.name) {
            return field("name", &self.name, rule);
        }
        for (which, names) in [("after", &self.after), ("requires", &self.requires)] {
            // The host's own initcalls have `_` in their names.
            if let Some(bad) = names.iter().find(|n| !is_plugin_name(&n.replace('_', "-"))) {
                return field(which, bad, rule);
            }
        }
        if !LEVELS.contains(&self.level.as_str()) {
            return field("level", &self.level, format!("one of {}", LEVELS.join(", ")));
        }
        Ok(())
    }

    /// These are shown on terminals as they are.
    fn make_printable(&mut self) {
        let texts = [
            &mut self.version,
            &mut self.license,
            &mut self.description,
            &mut self.rustc,
            &mut self.target,
            &mut self.panic,
        ];
        for text in texts {
            if text.contains(char::is_control) {
                *text = text.replace(char::is_control, " ");
            }
        }
    }

    /// What must hold on this host.
    fn check_host(&self) -> Result<(), NoteError> {
        if self.api.0 != API_MAJOR || self.api.1 > API_MINOR {
            return Err(NoteError::Api { found: self.api });
        }
        if self.target != TARGET {
            return Err(NoteError::Target { found: self.target.clone(), host: TARGET.into() });
        }
        if self.panic == "unwind" { Ok(()) } else { Err(NoteError::Panic(self.panic.clone())) }
    }
}

/// Whether a word can be a plugin's name.
#[must_use]
pub fn is_plugin_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(allowed)
}
