//! Generates the Rust side of the control interface from its IDL, into the build's own output folder.

fn main() {
    // Every number of the interface is a count, an index or a size: none can be negative.
    let options = varlink_generator::GeneratorOptions { int_type: Some("u64"), ..Default::default() };
    varlink_generator::cargo_build_options("src/control/io.pernetd.varlink", &options);
}
