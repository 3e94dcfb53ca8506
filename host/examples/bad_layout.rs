//! A plugin whose table has another layout under the same name. For tests of the host.

// The derive of the ABI library expands to such code; the tables are private to this file.
#![allow(unsafe_code, missing_docs, non_camel_case_types)]

use abi_stable::StableAbi;
use abi_stable::library::{CheckTypeLayout, LibHeader, RootModule, RootModuleError, RootModuleResult};
use abi_stable::sabi_types::VersionStrings;
use abi_stable::std_types::RResult;
use pernet_plugin_api::note::{Metadata, Note};

const METADATA: Metadata = Metadata::new("0.1.0", "unwind").name(&"layout").checked();

#[used]
#[unsafe(link_section = ".note.pernet")]
static NOTE: Note<{ METADATA.note_len() }> = Note::encode(&METADATA);

#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginModRef)))]
#[sabi(missing_field(option))]
pub struct PluginMod {
    pub check_config: extern "C" fn(config: u64) -> u64,
    #[sabi(last_prefix_field)]
    pub create: extern "C" fn() -> u64,
}

impl RootModule for PluginModRef {
    abi_stable::declare_root_module_statics! {PluginModRef}
    const BASE_NAME: &'static str = "pernet_plugin";
    const NAME: &'static str = "pernet_plugin";
    const VERSION_STRINGS: VersionStrings = VersionStrings::new("1.0.0");
}

extern "C" fn constructor() -> RootModuleResult {
    RResult::RErr(RootModuleError::Unwound)
}

// SAFETY: the constructor never makes a module, so none of another type.
#[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
static HEADER: LibHeader = unsafe { LibHeader::from_constructor::<PluginModRef>(constructor, CheckTypeLayout::Yes) };
