//! A plugin whose file has a constructor that leaves a mark: the dynamic loader runs it before any check of ours could.
//! For tests of the host.

// The constructor is put into the section that the dynamic loader runs.
#![allow(unsafe_code)]

use pernet_plugin_api::prelude::*;

struct Quiet;

impl Plugin for Quiet {
    type Config = NoConfig;

    fn init(_reg: &mut Registrar, _host: Host, _config: NoConfig) -> Result<Self> {
        Ok(Quiet)
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = {
    extern "C" fn leave_mark() {
        let name = format!("pernet-test-mark-{}", std::process::id());
        let _ = std::fs::write(std::env::temp_dir().join(name), "a constructor ran");
    }
    leave_mark
};

export_plugin!(Quiet, name = "leaves-mark", description = "runs code when it is loaded");
