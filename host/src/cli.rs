//! The command line of `pernetd`: run, `--check`, `demo`.

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::CommandLine;
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
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Some(_) if arguments.check => {
            eprintln!("pernetd: --check goes with no command; leave one of them out");
            return 2;
        }
        Some(Command::Demo { seconds }) => demo::run(arguments.command_line, seconds),
        None if arguments.check => start::check(&arguments.command_line),
        None => start::run(arguments.command_line, Judge::new(), None),
    };
    result.unwrap_or_else(|error| {
        error.tell();
        1
    })
}
