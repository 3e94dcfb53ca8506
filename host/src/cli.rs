//! The command line of `pernetd`: run, `--check`, `demo`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::CommandLine;
use crate::daemon::fault::{Failed, Fault};
use crate::daemon::start;
use crate::demo;
use crate::plugin::Judge;

/// Runs plugins in every network namespace of the host.
#[derive(Parser)]
#[command(name = "pernetd", version, about)]
struct Arguments {
    #[command(flatten)]
    command_line: CommandLine,
    /// Validate configuration and plugins as a start does, and exit 0 or 1
    #[arg(long)]
    check: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Show what happens to a few namespaces, in a machine of its own; needs no root
    Demo {
        /// End after so many seconds instead of at an interrupt
        #[arg(long, value_name = "N")]
        seconds: Option<u64>,
    },
}

/// The command line as it is defined, for the manual page and the completions.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// `pernetd`'s main; the process's exit code.
#[must_use]
pub fn main() -> i32 {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(said) => {
            let _ = said.print();
            return if said.use_stderr() { Fault::Usage.exit_code() } else { 0 };
        }
    };
    let check = arguments.check;
    // What panics has told so on standard error.
    let panicked = |_| Err(Failed::new(Fault::Software, "it panicked; see the lines above, and report this mistake"));
    let result = catch_unwind(AssertUnwindSafe(|| run(arguments))).unwrap_or_else(panicked);
    result.unwrap_or_else(|failed| {
        failed.tell();
        if check && failed.fault != Fault::Usage { 1 } else { failed.fault.exit_code() }
    })
}

fn run(arguments: Arguments) -> Result<i32, Failed> {
    match arguments.command {
        Some(_) if arguments.check => {
            Err(Failed::new(Fault::Usage, "--check goes with no command; leave one of them out"))
        }
        Some(Command::Demo { seconds }) => demo::run(arguments.command_line, seconds),
        None if arguments.check => start::check(&arguments.command_line),
        None => start::run(arguments.command_line, Judge::new(), None),
    }
}
