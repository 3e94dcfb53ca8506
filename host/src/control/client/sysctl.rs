//! `pernetctl sysctl`: in the habits of sysctl(8), over namespaces.
//!
//! Each argument is carried out by itself; what is wrong with one is told, and the rest goes on. What is printed of
//! several namespaces, or of a pattern, has the namespace before each key, as a file of `sysctl.d` may have it.

use std::io::{self, Read, Write};
use std::path::Path;

use serde::de::DeserializeOwned;

use super::arguments::SysctlArguments;
use super::connection::Connection;
use super::failure::Failure;
use super::{End, print};
use crate::config::{Asks, SysctlKey, SysctlLine, parse_sysctls};
use crate::control::wire::Sysctl;
use crate::control::wire::generated as call;

/// One thing to do.
struct Task {
    netns: Option<String>,
    /// None: all.
    key: Option<String>,
    /// To be set.
    value: Option<String>,
    /// What is wrong is no complaint (`-key = value` of a file).
    quietly: bool,
    /// The file and line that ask for it.
    place: Option<String>,
}

/// A run of the command, and what came of it so far.
struct Run<'a> {
    daemon: &'a mut Connection,
    arguments: &'a SysctlArguments,
    json: bool,
    found: Vec<Sysctl>,
    failed: bool,
}

pub(super) fn run(daemon: &mut Connection, json: bool, arguments: &SysctlArguments) -> Result<(), End> {
    let mut run = Run { daemon, arguments, json, found: Vec::new(), failed: false };
    if arguments.all {
        let task = Task { netns: arguments.netns.clone(), key: None, value: None, quietly: false, place: None };
        run.carry_out(&task)?;
    }
    for file in &arguments.files {
        run.load(file)?;
    }
    for argument in &arguments.keys {
        match task(argument, arguments) {
            Ok(task) => run.carry_out(&task)?,
            Err(failure) => run.complain(&failure),
        }
    }
    if json {
        print(true, &run.found, |_| String::new())?;
    }
    if run.failed { Err(End::Told) } else { Ok(()) }
}

/// What an argument asks for.
fn task(argument: &str, arguments: &SysctlArguments) -> Result<Task, Failure> {
    let (name, value) = match argument.split_once('=') {
        Some((name, value)) => (name.trim(), Some(value.trim().to_owned())),
        None => (argument, None),
    };
    if arguments.write && value.is_none() {
        return Err(Failure::new(format!("`{argument}`"), "it sets nothing", "write KEY=VALUE, or leave out --write"));
    }
    let (netns, key) = match name.rsplit_once(':') {
        Some((netns, key)) => (Some(netns.to_owned()), key),
        None => (arguments.netns.clone(), name),
    };
    Ok(Task { netns, key: Some(key.to_owned()), value, quietly: false, place: None })
}

impl Run<'_> {
    /// Sets what a file says, as it is said.
    fn load(&mut self, file: &Path) -> Result<(), End> {
        let text = match read(file) {
            Ok(text) => text,
            Err(e) => {
                self.complain(&Failure::new(file.display(), format!("cannot be read: {e}"), "name a file in UTF-8"));
                return Ok(());
            }
        };
        let lines = match parse_sysctls(file, &text) {
            Ok(lines) => lines,
            Err(errors) => {
                let told = errors.iter().map(|e| Failure::told(e, "nothing of the file is set"));
                told.for_each(|failure| self.complain(&failure));
                return Ok(());
            }
        };
        for line in &lines {
            self.set(line, &lines)?;
        }
        Ok(())
    }

    /// Sets what one line is about: a key, or every one that a pattern matches and no other line names.
    fn set(&mut self, line: &SysctlLine, all: &[SysctlLine]) -> Result<(), End> {
        let Asks::Set { value, quietly } = &line.asks else { return Ok(()) };
        let netns = line.netns.clone().or_else(|| self.arguments.netns.clone()).unwrap_or_else(|| "*".to_owned());
        let (quietly, place) = (*quietly, line.place());
        let one = |netns: String, key: String| Task {
            netns: Some(netns),
            key: Some(key),
            value: Some(value.clone()),
            quietly,
            place: Some(place.clone()),
        };
        if !line.key.is_pattern() {
            return self.carry_out(&one(netns, line.key.to_string()));
        }
        let arguments = call::SysctlList_Args { netns: Some(netns), key: None };
        let listed: Option<call::SysctlList_Reply> = self.ask("SysctlList", &arguments, quietly, Some(&place))?;
        for sysctl in listed.map(|reply| reply.sysctls).unwrap_or_default() {
            let Ok(found) = SysctlKey::parse(&sysctl.key) else { continue };
            let named = || all.iter().any(|other| other.names(&sysctl.netns, found.path()));
            if line.key.means(found.path()) && !named() {
                self.carry_out(&one(sysctl.netns.clone(), sysctl.key))?;
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, task: &Task) -> Result<(), End> {
        let (netns, key) = (task.netns.clone(), task.key.clone());
        let place = task.place.as_deref();
        let sysctls = match (&task.value, key) {
            (Some(value), Some(key)) => {
                let arguments = call::SysctlWrite_Args { netns, key, value: value.clone() };
                let reply: Option<call::SysctlWrite_Reply> =
                    self.ask("SysctlWrite", &arguments, task.quietly, place)?;
                reply.map(|reply| reply.sysctls)
            }
            (_, key) if self.arguments.names => {
                let arguments = call::SysctlList_Args { netns, key };
                let reply: Option<call::SysctlList_Reply> = self.ask("SysctlList", &arguments, task.quietly, place)?;
                reply.map(|reply| reply.sysctls)
            }
            (_, key) => {
                let arguments = call::SysctlRead_Args { netns, key };
                let reply: Option<call::SysctlRead_Reply> = self.ask("SysctlRead", &arguments, task.quietly, place)?;
                reply.map(|reply| reply.sysctls)
            }
        };
        for sysctl in sysctls.unwrap_or_default() {
            self.show(task, sysctl)?;
        }
        Ok(())
    }

    /// Asks the daemon. A refusal is told, or passed over where it was asked for; without a daemon nothing goes on.
    fn ask<T: DeserializeOwned>(
        &mut self,
        method: &str,
        arguments: &impl serde::Serialize,
        quietly: bool,
        place: Option<&str>,
    ) -> Result<Option<T>, End> {
        match self.daemon.call(method, arguments) {
            Ok(reply) => Ok(Some(reply)),
            Err(failure) if failure.is_final() => Err(failure.into()),
            Err(failure) => {
                if !(quietly || self.arguments.ignore && failure.is_of_missing("sysctl")) {
                    self.complain(&failure.at(place));
                }
                Ok(None)
            }
        }
    }

    fn show(&mut self, task: &Task, sysctl: Sysctl) -> Result<(), End> {
        let key = self.shown_key(task, &sysctl);
        if let (Some(errno), Some(error)) = (&sysctl.errno, &sysctl.error) {
            if !task.quietly {
                let place = format!("{}:{}", sysctl.netns, sysctl.key);
                let what = if task.value.is_some() { "cannot be set" } else { "cannot be read" };
                let failure = Failure::told(place, format!("{what}: {errno}: {error}"));
                self.complain(&failure.at(task.place.as_deref()));
            }
        } else if task.value.is_none() || !self.arguments.quiet {
            self.print(&key, &sysctl)?;
        }
        if let Some(left) = &sysctl.left_over {
            // As the kernel has it, but for being told.
            let _ = writeln!(io::stderr(), "pernetctl: {key}: `{left}` was left over: it takes fewer numbers");
        }
        if self.json {
            self.found.push(sysctl);
        }
        Ok(())
    }

    /// With its namespace, where it is not plain which that is.
    fn shown_key(&self, task: &Task, sysctl: &Sysctl) -> String {
        let plain = task.netns.as_ref().is_none_or(|netns| *netns == sysctl.netns) && task.place.is_none();
        if plain { sysctl.key.clone() } else { format!("{}:{}", sysctl.netns, sysctl.key) }
    }

    fn print(&self, key: &str, sysctl: &Sysctl) -> Result<(), End> {
        if self.json {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        if self.arguments.names {
            return Ok(writeln!(out, "{key}")?);
        }
        let value = sysctl.value.as_deref().unwrap_or_default();
        // Several lines are several values.
        for line in value.split('\n') {
            if self.arguments.values {
                writeln!(out, "{line}")?;
            } else {
                writeln!(out, "{key} = {line}")?;
            }
        }
        Ok(out.flush()?)
    }

    fn complain(&mut self, failure: &Failure) {
        self.failed = true;
        let _ = writeln!(io::stderr(), "pernetctl: {}", failure.line);
    }
}

fn read(file: &Path) -> io::Result<String> {
    if file != Path::new("-") {
        return std::fs::read_to_string(file);
    }
    let mut text = String::new();
    io::stdin().lock().read_to_string(&mut text)?;
    Ok(text)
}
