//! The metadata note: what a plugin file says of itself, readable without running any of its code.
//!
//! An ELF note in section [`SECTION`], owner [`OWNER`], type [`TYPE`], whose descriptor is UTF-8 JSON:
//! `{"name","version","api":[major,minor],"level","after":[],"requires":[],"license","description","rustc","target",
//! "panic"}`. `export_plugin!` encodes it at compile time, so a wrong name or level is an error of the compiler. This
//! file has the constants and the encoder; the daemon's loader has the reader.

use crate::abi::{API_MAJOR, API_MINOR};

/// Section that holds the note. The linker keeps it: its name makes it a note section, which is never collected.
pub const SECTION: &str = ".note.pernet";
/// Owner of the note, without the NUL that ends it in the file.
pub const OWNER: &str = "pernet";
/// Type of the note.
pub const TYPE: u32 = 1;
/// The initcall levels in their order.
pub const LEVELS: [&str; 8] = ["pure", "core", "postcore", "arch", "subsys", "fs", "device", "late"];

/// The target that this crate is built for.
pub const TARGET: &str = env!("PERNET_TARGET");
/// The compiler that builds this crate; empty if it did not say.
pub const RUSTC: &str = env!("PERNET_RUSTC");

/// Bytes of the note's header and of its owner, padded to four.
const HEADER_LEN: usize = 12 + 8;

/// What the note says. The methods are the keys of `export_plugin!`, each taking its value by reference, so that one
/// pattern of the macro serves them all, in any order.
#[derive(Clone, Copy, Debug)]
pub struct Metadata {
    name: &'static str,
    version: &'static str,
    level: &'static str,
    after: &'static [&'static str],
    requires: &'static [&'static str],
    license: &'static str,
    description: &'static str,
    panic: &'static str,
}

impl Metadata {
    /// Metadata with every default; the name is still to be given.
    #[must_use]
    pub const fn new(version: &'static str, panic: &'static str) -> Self {
        Metadata { name: "", version, level: "device", after: &[], requires: &[], license: "", description: "", panic }
    }

    /// The plugin's name: lower-case letters, digits and hyphens.
    #[must_use]
    pub const fn name(self, name: &&'static str) -> Self {
        Metadata { name, ..self }
    }

    /// The initcall level, one of [`LEVELS`].
    #[must_use]
    pub const fn level(self, level: &&'static str) -> Self {
        Metadata { level, ..self }
    }

    /// Plugins, or initcalls of the host's own, that come before this one if they are there.
    #[must_use]
    pub const fn after<const N: usize>(self, after: &'static [&'static str; N]) -> Self {
        Metadata { after, ..self }
    }

    /// Plugins, or initcalls of the host's own (`sock_init`), that must be there, and come before this one.
    #[must_use]
    pub const fn requires<const N: usize>(self, requires: &'static [&'static str; N]) -> Self {
        Metadata { requires, ..self }
    }

    /// The licence, as an SPDX expression.
    #[must_use]
    pub const fn license(self, license: &&'static str) -> Self {
        Metadata { license, ..self }
    }

    /// One line for the operator.
    #[must_use]
    pub const fn description(self, description: &&'static str) -> Self {
        Metadata { description, ..self }
    }

    /// Refuses what the daemon would refuse; run at compile time, where a panic is an error of the compiler.
    #[must_use]
    pub const fn checked(self) -> Self {
        assert!(!self.name.is_empty(), "export_plugin! needs the plugin's name: name = \"my-plugin\"");
        assert!(is_name(self.name), "export_plugin!: a plugin's name has only lower-case letters, digits and hyphens");
        assert!(
            is_level(self.level),
            "export_plugin!: level is one of pure, core, postcore, arch, subsys, fs, device, late"
        );
        assert!(are_names(self.after), "export_plugin!: `after` lists plugins, or initcalls of the host: [a-z0-9_-]+");
        assert!(
            are_names(self.requires),
            "export_plugin!: `requires` lists plugins, or initcalls of the host: [a-z0-9_-]+"
        );
        self
    }

    /// Bytes of the whole note.
    #[must_use]
    pub const fn note_len(&self) -> usize {
        HEADER_LEN + self.descriptor_len().next_multiple_of(4)
    }

    /// Bytes of the descriptor.
    const fn descriptor_len(&self) -> usize {
        let mut counter = Writer::<0>::new();
        counter.metadata(self);
        counter.len
    }
}

/// A note in the file. Four bytes of alignment are what readers of notes expect.
#[repr(C, align(4))]
#[derive(Debug)]
pub struct Note<const N: usize>([u8; N]);

impl<const N: usize> Note<N> {
    /// Encodes a note; `N` is [`Metadata::note_len`].
    #[must_use]
    pub const fn encode(metadata: &Metadata) -> Self {
        assert!(N == metadata.note_len());
        let mut out = Writer::<N>::new();
        out.word(OWNER.len() + 1);
        out.word(metadata.descriptor_len());
        out.word(TYPE as usize);
        out.raw(OWNER);
        out.pad(HEADER_LEN);
        out.metadata(metadata);
        Note(out.bytes)
    }

    /// The note as it stands in the file.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; N] {
        &self.0
    }
}

/// Writes into an array at compile time; what does not fit is counted only, so `Writer<0>` measures.
struct Writer<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Writer<N> {
    const fn new() -> Self {
        Writer { bytes: [0; N], len: 0 }
    }

    const fn byte(&mut self, byte: u8) {
        if self.len < N {
            self.bytes[self.len] = byte;
        }
        self.len += 1;
    }

    const fn pad(&mut self, to: usize) {
        while self.len < to {
            self.byte(0);
        }
    }

    /// A word of the note's header, in the byte order of the machine that the file is for.
    const fn word(&mut self, value: usize) {
        assert!(value <= u32::MAX as usize);
        #[expect(clippy::cast_possible_truncation, reason = "asserted on the line above")]
        let bytes = (value as u32).to_ne_bytes();
        let mut i = 0;
        while i < bytes.len() {
            self.byte(bytes[i]);
            i += 1;
        }
    }

    const fn raw(&mut self, text: &str) {
        let bytes = text.as_bytes();
        let mut i = 0;
        while i < bytes.len() {
            self.byte(bytes[i]);
            i += 1;
        }
    }

    /// A JSON string with its quotes.
    const fn string(&mut self, text: &str) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let bytes = text.as_bytes();
        let mut i = 0;
        self.byte(b'"');
        while i < bytes.len() {
            match bytes[i] {
                b'"' => self.raw("\\\""),
                b'\\' => self.raw("\\\\"),
                control @ 0..=0x1f => {
                    self.raw("\\u00");
                    self.byte(HEX[(control >> 4) as usize]);
                    self.byte(HEX[(control & 15) as usize]);
                }
                plain => self.byte(plain),
            }
            i += 1;
        }
        self.byte(b'"');
    }

    const fn strings(&mut self, list: &[&str]) {
        let mut i = 0;
        self.byte(b'[');
        while i < list.len() {
            if i > 0 {
                self.byte(b',');
            }
            self.string(list[i]);
            i += 1;
        }
        self.byte(b']');
    }

    const fn number(&mut self, number: u32) {
        if number >= 10 {
            self.number(number / 10);
        }
        self.byte(b'0' + (number % 10) as u8);
    }

    const fn metadata(&mut self, m: &Metadata) {
        self.raw("{\"name\":");
        self.string(m.name);
        self.raw(",\"version\":");
        self.string(m.version);
        self.raw(",\"api\":[");
        self.number(API_MAJOR);
        self.raw(",");
        self.number(API_MINOR);
        self.raw("],\"level\":");
        self.string(m.level);
        self.raw(",\"after\":");
        self.strings(m.after);
        self.raw(",\"requires\":");
        self.strings(m.requires);
        self.raw(",\"license\":");
        self.string(m.license);
        self.raw(",\"description\":");
        self.string(m.description);
        self.raw(",\"rustc\":");
        self.string(RUSTC);
        self.raw(",\"target\":");
        self.string(TARGET);
        self.raw(",\"panic\":");
        self.string(m.panic);
        self.raw("}");
    }
}

const fn is_name(name: &str) -> bool {
    is_initcall(name) && !contains(name.as_bytes(), b'_')
}

/// A plugin's name, or that of an initcall of the host's own, which may have `_` in it.
const fn is_initcall(name: &str) -> bool {
    let bytes = name.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        if !matches!(bytes[i], b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_') {
            return false;
        }
        i += 1;
    }
    !bytes.is_empty()
}

const fn contains(bytes: &[u8], byte: u8) -> bool {
    let mut i = 0;
    while i < bytes.len() {
        if bytes[i] == byte {
            return true;
        }
        i += 1;
    }
    false
}

const fn are_names(names: &[&str]) -> bool {
    let mut i = 0;
    while i < names.len() {
        if !is_initcall(names[i]) {
            return false;
        }
        i += 1;
    }
    true
}

const fn is_level(level: &str) -> bool {
    let mut i = 0;
    while i < LEVELS.len() {
        if equal(level.as_bytes(), LEVELS[i].as_bytes()) {
            return true;
        }
        i += 1;
    }
    false
}

/// `==` of byte strings, which is not const.
const fn equal(a: &[u8], b: &[u8]) -> bool {
    let mut i = 0;
    while i < a.len() && i < b.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    a.len() == b.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const META: Metadata = Metadata::new("1.2.3", "unwind")
        .name(&"a-1")
        .level(&"subsys")
        .after(&["x", "y"])
        .description(&"says \"hi\"\\\n\u{e4}")
        .checked();
    const NOTE: Note<{ META.note_len() }> = Note::encode(&META);

    fn word(at: usize) -> usize {
        let bytes = NOTE.as_bytes();
        u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) as usize
    }

    #[test]
    fn the_note_is_an_elf_note_with_a_json_descriptor() {
        assert_eq!((word(0), word(8)), (7, 1));
        assert_eq!(&NOTE.as_bytes()[12..20], b"pernet\0\0");
        assert_eq!(NOTE.as_bytes().len() % 4, 0);
        let json: serde_json::Value = serde_json::from_slice(&NOTE.as_bytes()[20..20 + word(4)]).expect("JSON");
        assert_eq!(json["name"], "a-1");
        assert_eq!(json["version"], "1.2.3");
        assert_eq!(json["api"], serde_json::json!([crate::abi::API_MAJOR, crate::abi::API_MINOR]));
        assert_eq!(json["level"], "subsys");
        assert_eq!(json["after"], serde_json::json!(["x", "y"]));
        assert_eq!(json["requires"], serde_json::json!([]));
        assert_eq!(json["description"], "says \"hi\"\\\n\u{e4}");
        assert_eq!(json["panic"], "unwind");
        assert_eq!(json["target"], TARGET);
    }

    #[test]
    fn names_and_levels_are_checked() {
        assert!(is_name("l2-tp") && !is_name("L2") && !is_name("") && !is_name("a_b"));
        assert!(is_initcall("sock_init") && is_initcall("l2-tp") && !is_initcall("a.b") && !is_initcall(""));
        assert!(is_level("pure") && is_level("late") && !is_level("subsy") && !is_level("subsystem"));
    }
}
