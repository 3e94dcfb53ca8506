//! A file with a plugin's note but without its entry symbol. For tests of the host.

#![allow(unsafe_code)]

use pernet_plugin_api::note::{Metadata, Note};

const METADATA: Metadata = Metadata::new("0.1.0", "unwind").name(&"no-entry").checked();

#[used]
#[unsafe(link_section = ".note.pernet")]
static NOTE: Note<{ METADATA.note_len() }> = Note::encode(&METADATA);
