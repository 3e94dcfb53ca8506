//! The daemon: thin. The command line is `pernetd::daemon::command`.

fn main() {
    std::process::exit(pernetd::daemon::command::main());
}
