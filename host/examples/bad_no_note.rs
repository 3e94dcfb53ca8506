//! A shared library that is no plugin: it forgot `export_plugin!`. For tests of the host.

/// Something to export.
#[allow(unsafe_code)] // An exported symbol of a fixed name.
#[unsafe(no_mangle)]
pub extern "C" fn not_a_plugin() -> i32 {
    7
}
