//! The journal: what the daemon and its plugins say can be asked for by namespace, plugin and event, and is explained.

use std::fs;
use std::path::Path;

use super::{chapter, install_and_enable, netns_add};
use crate::debian::container::Container;
use crate::debian::keeper::Chapter;
use crate::sandbox::example_cdylib;

pub(super) const CHAPTERS: [Chapter; 1] = [chapter(
    "15-journal",
    "journalctl by PERNET_NETNS, PERNET_PLUGIN and MESSAGE_ID; journalctl -x explains what an operator meets.",
    run,
)];

fn run(c: &Container) {
    install_and_enable(c);
    fields(c);
    catalog(c);
}

fn fields(c: &Container) {
    c.step("a plugin that says something in each namespace");
    c.put(&example_cdylib("smallest"), "/usr/lib/pernetd/plugins/libpernet_low_ports.so");
    c.write("/etc/pernetd/plugins.d/70-low-ports.toml", "# What is built in will do.\n");
    c.ok("systemctl reload pernetd");
    netns_add(c, "blue");
    netns_add(c, "green");
    c.step("by namespace");
    let said = c.until("journalctl -q --no-pager PERNET_NETNS=blue | grep .");
    c.assert_has(&said, &["low ports are open to all"]);
    c.assert(!said.contains("green"), "another namespace's");
    c.step("by plugin");
    let said = c.until("journalctl -q --no-pager PERNET_PLUGIN=low-ports | grep .");
    c.assert(said.lines().filter(|line| line.contains("low ports are open")).count() >= 2, "not both namespaces'");
    c.step("with their fields");
    let entry = c.json("journalctl -q -o json -n 1 PERNET_NETNS=blue PERNET_PLUGIN=low-ports");
    for (field, value) in [("PERNET_HOOK", "pernet.init"), ("PERNET_NETNS", "blue"), ("SYSLOG_IDENTIFIER", "pernetd")] {
        c.assert(entry[field] == value, &format!("{field} is not {value}: {entry}"));
    }
    c.assert(entry["PRIORITY"] == "6", &format!("an info is of priority 6: {entry}"));
}

/// The event of a reload that failed: its id never changes.
const RELOAD_FAILED: &str = "683c0f90f7ab4e1db228c1bdc9f8fcc7";

fn catalog(c: &Container) {
    c.step("a reload fails");
    c.write("/etc/pernetd/pernetd.toml", "[log]\nlevel = \"loud\"\n");
    c.fails("systemctl reload pernetd");
    c.step("journalctl -x says what that means");
    let said = c.until(&format!("journalctl -q --no-pager -x MESSAGE_ID={RELOAD_FAILED} | grep ."));
    c.assert_has(&said, &["/etc/pernetd/pernetd.toml:2:9", &subject(RELOAD_FAILED)]);
    let field = c.json(&format!("journalctl -q -o json -n 1 MESSAGE_ID={RELOAD_FAILED}"));
    c.assert(field["PRIORITY"] == "3", &format!("an error is of priority 3: {field}"));
    c.step("the whole catalog is known");
    let listed = c.ok("journalctl --no-pager --list-catalog | grep -c pernetd");
    let entries = shipped().lines().filter(|line| line.starts_with("-- ")).count();
    c.assert(listed.trim().parse().is_ok_and(|listed: usize| listed >= entries), &format!("{listed} of {entries}"));
}

fn shipped() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd/pernetd.catalog");
    fs::read_to_string(file).expect("the catalog is there")
}

/// What the shipped catalog calls the event.
fn subject(id: &str) -> String {
    let text = shipped();
    let entry = text.lines().skip_while(|line| *line != format!("-- {id}"));
    entry.into_iter().nth(1).expect("the event is in the catalog").to_owned()
}
