//! A plugin that also exports a function of the C library. For tests of the host.

#![allow(unsafe_code)]

use pernet_plugin_api::prelude::*;

struct Greedy;

impl Plugin for Greedy {
    type Config = NoConfig;

    fn init(_reg: &mut Registrar, _host: Host, _config: NoConfig) -> Result<Self> {
        Ok(Greedy)
    }
}

/// Not the real one.
#[unsafe(no_mangle)]
pub extern "C" fn setns(_fd: i32, _kind: i32) -> i32 {
    0
}

export_plugin!(Greedy, name = "defines-libc");
