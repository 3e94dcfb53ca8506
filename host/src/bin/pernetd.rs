//! The daemon: thin. The command line is `pernetd::cli`.

fn main() {
    std::process::exit(pernetd::cli::main());
}
