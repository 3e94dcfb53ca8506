//! The README's section of real use, tried as a new user would: its commands are read from the README itself.

use std::fs;
use std::path::Path;

use super::chapter;
use crate::debian::container::Container;
use crate::debian::keeper::Chapter;
use crate::debian::packages;

pub(super) const CHAPTERS: [Chapter; 1] =
    [chapter("01-readme", "What the README says about real use, typed in as it stands there.", run)];

const SECTION: &str = "## For real";
/// Where a new user has the checkout; he is there when he types.
const CHECKOUT: &str = "/root/pernetd";

/// The section's commands: its indented lines.
fn commands() -> Vec<String> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let text = fs::read_to_string(readme).expect("the README is there");
    let section = text.lines().skip_while(|line| *line != SECTION).skip(1).take_while(|line| !line.starts_with("## "));
    section
        .filter_map(|line| line.strip_prefix("    "))
        .filter(|line| !line.starts_with(' '))
        .map(str::to_owned)
        .collect()
}

fn run(c: &Container) {
    let commands = commands();
    c.assert(commands.len() > 5, "the README has no section of real use any more");
    c.step("the checkout, with the packages built");
    let version = packages::current();
    for name in packages::NAMES {
        let file = version.file(name).unwrap();
        c.put(file, &format!("{CHECKOUT}/target/debian/{}", file.file_name().unwrap().display()));
    }
    c.step("the section, as it stands in the README");
    for command in commands {
        typed(c, &command);
    }
}

/// A command as a user types it.
fn typed(c: &Container, command: &str) {
    if command.starts_with("cargo ") || command.starts_with(".ci/") {
        c.note(&format!("{command}: done before, on the machine that builds"));
    } else if command.starts_with("pernetctl monitor") {
        // It runs until it is interrupted; so it is, a moment later.
        let answer = c.run(&format!("cd {CHECKOUT} && timeout --signal=INT 1 {command}"));
        c.assert([0, 124, 130].contains(&answer.code), &answer.to_string());
    } else {
        c.ok(&format!("cd {CHECKOUT} && {command}"));
    }
}
