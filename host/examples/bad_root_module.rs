//! A plugin whose root module cannot be made: its constructor panics. For tests of the host.

#![allow(unsafe_code)]

use abi_stable::library::{CheckTypeLayout, LibHeader, RootModuleError, RootModuleResult};
use abi_stable::std_types::RResult;
use pernet_plugin_api::abi::PluginModRef;
use pernet_plugin_api::note::{Metadata, Note};

const METADATA: Metadata = Metadata::new("0.1.0", "unwind").name(&"root-module").checked();

#[used]
#[unsafe(link_section = ".note.pernet")]
static NOTE: Note<{ METADATA.note_len() }> = Note::encode(&METADATA);

extern "C" fn constructor() -> RootModuleResult {
    let made = std::panic::catch_unwind(|| panic!("as asked, in the constructor"));
    match made {
        Ok(never) => never,
        Err(_) => RResult::RErr(RootModuleError::Unwound),
    }
}

// SAFETY: the constructor never makes a module, so none of another type.
#[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
static HEADER: LibHeader = unsafe { LibHeader::from_constructor::<PluginModRef>(constructor, CheckTypeLayout::Yes) };
