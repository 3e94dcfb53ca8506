//! How a command ends that is not done: one line that says where, what, and what to do; and an exit status.

use std::fmt::{self, Display};

use serde_json::Value;

use crate::logging::text::printable;

/// Failed, for whatever reason.
const FAILED: u8 = 1;
/// The command line is wrong.
const USAGE: u8 = 2;
/// The daemon cannot be reached.
const UNREACHABLE: u8 = 3;

/// Why a command is not done.
#[derive(Debug)]
pub struct Failure {
    /// The exit status.
    pub(super) status: u8,
    /// For stderr.
    pub(super) line: String,
    /// Something is not there: what it is about.
    missing: Option<String>,
}

/// What comes from elsewhere may have several lines, or what a terminal would take for a command; this has not.
fn one_line(text: &str) -> String {
    printable(&text.replace('\n', " | "))
}

impl Failure {
    /// Something failed.
    pub(super) fn new(place: impl Display, what: impl Display, remedy: impl Display) -> Failure {
        let line = one_line(&format!("{place}: {what}; {remedy}"));
        Failure { status: FAILED, line, missing: None }
    }

    /// Something failed, and what failed says itself what to do.
    pub(super) fn told(place: impl Display, what: impl Display) -> Failure {
        let line = one_line(&format!("{place}: {what}"));
        Failure { status: FAILED, line, missing: None }
    }

    /// The same, with the place that asked for what failed.
    pub(super) fn at(self, place: Option<&str>) -> Failure {
        match place {
            Some(place) => Failure { line: format!("{place}: {}", self.line), ..self },
            None => self,
        }
    }

    /// Whether nothing can be asked any more.
    pub(super) fn is_final(&self) -> bool {
        self.status == UNREACHABLE
    }

    /// Whether the daemon knows no such thing of this kind.
    pub(super) fn is_of_missing(&self, kind: &str) -> bool {
        self.missing.as_ref().is_some_and(|what| what.split(' ').next() == Some(kind))
    }

    /// The command line asks for what cannot be.
    pub(super) fn usage(command: &str, what: &str) -> Failure {
        let remedy = format!("see `pernetctl {command} --help`");
        Failure { status: USAGE, ..Failure::new(command, what, remedy) }
    }

    /// The daemon is not there, or went away.
    pub(super) fn unreachable(place: &str, what: &str) -> Failure {
        let remedy = "start it (systemctl start pernetd), or name its folder with --runtime-dir";
        Failure { status: UNREACHABLE, ..Failure::new(place, what, remedy) }
    }

    /// The daemon answered with an error.
    pub(super) fn refused(error: &str, parameters: &Value) -> Failure {
        let field = |name: &str| parameters.get(name).and_then(Value::as_str);
        match (field("where"), field("what"), field("remedy")) {
            (Some(place), Some(what), Some(remedy)) => {
                let missing = (error == "io.pernetd.NotFound").then(|| place.to_owned());
                Failure { missing, ..Failure::new(place, what, remedy) }
            }
            _ => Failure::new(error, parameters, "compare `pernetctl --version` with the daemon's"),
        }
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl std::error::Error for Failure {}
