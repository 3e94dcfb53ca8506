//! `pernetctl`: one command, one answer, printed for people or as JSON.
//!
//! Owns the command line, the exit status and what is printed. It knows the daemon only through the control socket.

mod arguments;
mod boot;
mod chart;
mod connection;
mod failure;
mod mount;
mod mount_helper;
mod mount_options;
mod netns;
mod page;
mod plot;
mod svg;
mod sock;
mod status;
mod sysctl;
mod tables;
mod why;

use std::io::{self, Write};
use std::net::Shutdown;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{CommandFactory, Parser};
use serde::Serialize;
use serde_json::Value;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::wire::generated as call;
use super::wire::{Netns, NetnsState, ReloadResult};
use crate::config::runtime_dir;
use crate::logging::text::printable;
use arguments::{Arguments, Command, DevCommand, FsCommand, MountArguments, NetnsCommand, PluginCommand, SockCommand};
use connection::Connection;
pub use failure::Failure;
use mount_options::Options;
pub use sock::{SockType, sock_connect};

/// Reads a plugin file's metadata, as a JSON object, without running any of its code; or says why it cannot.
pub type PluginInfo = fn(&Path) -> Result<Value, String>;

/// The command line as it is defined, for the manual pages and the completions.
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs `pernetctl`, or the mount helper if it is called by such a name.
#[must_use]
pub fn run(plugin_info: PluginInfo) -> ExitCode {
    let mut words = std::env::args_os();
    if let Some(fs) = words.next().as_deref().and_then(mount_helper::type_of) {
        return mount_helper::run(&fs, words);
    }
    let arguments = Arguments::parse();
    let done = execute(&arguments, plugin_info);
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(End::Told) => ExitCode::FAILURE,
        Err(End::Failed(failure)) => {
            let _ = writeln!(io::stderr(), "pernetctl: {}", failure.line);
            ExitCode::from(failure.status)
        }
        // `pernetctl … | head` is a reader who has seen enough.
        Err(End::Print(e)) if e.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(End::Print(e)) => {
            let _ = writeln!(io::stderr(), "pernetctl: standard output: {e}; write it somewhere with room");
            ExitCode::FAILURE
        }
    }
}

/// Why a command ended early.
enum End {
    Failed(Failure),
    Print(io::Error),
    /// Something failed, and was told when it did.
    Told,
}

impl From<Failure> for End {
    fn from(failure: Failure) -> End {
        End::Failed(failure)
    }
}

impl From<io::Error> for End {
    fn from(e: io::Error) -> End {
        End::Print(e)
    }
}

fn execute(arguments: &Arguments, plugin_info: PluginInfo) -> Result<(), End> {
    let json = arguments.json;
    let open = || Connection::open(&runtime_dir(arguments.runtime_dir.clone()));
    match &arguments.command {
        Command::Netns(NetnsCommand::Prepare { folder }) => Ok(netns::prepare(folder)?),
        Command::Status { check } => status::run(&mut open()?, json, *check),
        Command::Why(arguments) => why::run(&mut open()?, json, arguments),
        Command::Netns(command) => netns_command(&mut open()?, json, command),
        Command::Plugin(PluginCommand::List) => {
            let reply: call::PluginList_Reply = open()?.call("PluginList", &call::PluginList_Args {})?;
            print(json, &reply.plugins, |plugins| tables::plugin_list(plugins))
        }
        Command::Plugin(PluginCommand::Info { file }) => {
            let remedy = "give the path of a plugin built for this machine and this version of pernetd";
            let metadata = plugin_info(file).map_err(|e| Failure::new(file.display(), e, remedy))?;
            print(json, &metadata, tables::plugin_info)
        }
        Command::Dev(DevCommand::List { netns }) => {
            let arguments = call::DevList_Args { netns: netns.clone() };
            let reply: call::DevList_Reply = open()?.call("DevList", &arguments)?;
            print(json, &reply.devices, |devices| tables::dev_list(devices))
        }
        Command::Dev(DevCommand::Show { name, netns }) => {
            let arguments = call::DevShow_Args { name: name.clone(), netns: netns.clone() };
            let reply: call::DevShow_Reply = open()?.call("DevShow", &arguments)?;
            match reply.devices.as_slice() {
                [only] => print(json, only, |only| tables::dev_show(std::slice::from_ref(only))),
                _ => print(json, &reply.devices, |devices| tables::dev_show(devices)),
            }
        }
        Command::Boot(arguments) => boot::run(&mut open()?, json, arguments),
        Command::Sock(command) => sock_command(arguments, command),
        Command::Fs(FsCommand::List) => {
            let reply: call::FilesystemList_Reply = open()?.call("FilesystemList", &call::FilesystemList_Args {})?;
            print(json, &reply.filesystems, |all| tables::fs_list(all))
        }
        Command::Mount(wanted) => mount_command(arguments, wanted),
        Command::Umount { lazy, directory } => {
            // What a daemon that is gone has left is taken away without one.
            let unmounted = mount::umount(open().ok().as_mut(), directory, *lazy)?;
            print(json, &unmounted, |_| String::new())
        }
        Command::Sysctl(arguments) => sysctl::run(&mut open()?, json, arguments),
        Command::Monitor => monitor(open()?, json),
        Command::Reload => {
            let reply: call::Reload_Reply = open()?.call("Reload", &call::Reload_Args {})?;
            print(json, &reply.result, tables::reload)?;
            Ok(reload_failure(&reply.result).map_or(Ok(()), Err)?)
        }
    }
}

fn sock_command(arguments: &Arguments, command: &SockCommand) -> Result<(), End> {
    let runtime_dir = runtime_dir(arguments.runtime_dir.clone());
    match command {
        SockCommand::List { netns } => {
            let wanted = call::SockList_Args { netns: netns.clone() };
            let reply: call::SockList_Reply = Connection::open(&runtime_dir)?.call("SockList", &wanted)?;
            print(arguments.json, &reply.sockets, |sockets| tables::sock_list(sockets))
        }
        SockCommand::Connect { netns, kind, family } => {
            let socket = sock_connect(&runtime_dir, netns, family, *kind)?;
            Ok(sock::relay(&socket, *kind)?)
        }
    }
}

/// Mounts; without a directory it lists.
fn mount_command(arguments: &Arguments, wanted: &MountArguments) -> Result<(), End> {
    let MountArguments { fs, netns, options, read_only, places } = wanted;
    let mut given = Options::default();
    for list in options {
        given.add(list).map_err(|what| Failure::usage("mount", &what))?;
    }
    netns.iter().for_each(|netns| given.set_netns(netns));
    if *read_only {
        given.set_read_only();
    }
    let at = arguments.runtime_dir.clone().or_else(|| given.runtime_dir.clone());
    let mut daemon = Connection::open(&runtime_dir(at))?;
    let (Some(fs), Some((directory, source))) = (fs, places.split_last()) else {
        let reply: call::MountList_Reply = daemon.call("MountList", &call::MountList_Args {})?;
        return print(arguments.json, &reply.mounts, |all| tables::mount_list(all));
    };
    let source = source.first().map_or_else(|| "none".into(), |source| source.display().to_string());
    let wanted = given.into_wanted(fs.clone(), source, directory.clone());
    let mounted = mount::mount(&mut daemon, &wanted).map_err(mount::Refused::failure)?;
    print(arguments.json, &mounted, |mounted| tables::mount_list(std::slice::from_ref(mounted)))
}

fn netns_command(daemon: &mut Connection, json: bool, command: &NetnsCommand) -> Result<(), End> {
    let netns = match command {
        NetnsCommand::List => {
            let reply: call::NetnsList_Reply = daemon.call("NetnsList", &call::NetnsList_Args {})?;
            return print(json, &reply.namespaces, |all| tables::netns_list(all));
        }
        NetnsCommand::Add { name } => {
            // An interrupt ends the wait for the daemon, and the name is given back on the way out.
            let interrupted = hang_up_on_interrupt(daemon)?;
            netns::add(daemon, name).map_err(|failure| match interrupted.load(Ordering::Acquire) {
                true => Failure::new(format!("namespace {name}"), "interrupted, and undone", "add it again"),
                false => failure,
            })?
        }
        NetnsCommand::Del { name } => {
            let last = netns::del(daemon, name)?;
            return print(json, &last, |last| tables::netns_list(std::slice::from_ref(last)));
        }
        NetnsCommand::Wait { name, timeout } => {
            let arguments = call::NetnsWait_Args { name: name.clone(), timeout: Some(*timeout) };
            daemon.call::<call::NetnsWait_Reply>("NetnsWait", &arguments)?.namespace
        }
        NetnsCommand::Retry { name } => {
            let arguments = call::NetnsRetry_Args { name: name.clone() };
            daemon.call::<call::NetnsRetry_Reply>("NetnsRetry", &arguments)?.namespace
        }
        NetnsCommand::Prepare { folder } => return Ok(netns::prepare(folder)?),
    };
    print(json, &netns, |netns| tables::netns_list(std::slice::from_ref(netns)))?;
    Ok(netns_failure(&netns).map_or(Ok(()), Err)?)
}

/// A namespace that failed is a command that failed, with the plugin, the hook and what it said.
fn netns_failure(netns: &Netns) -> Option<Failure> {
    let failed = netns.state == NetnsState::failed;
    let remedy = "correct the cause, then `pernetctl netns retry` or add it again";
    failed.then(|| match &netns.error {
        Some(e) => {
            Failure::new(format!("namespace {}", netns.name), format!("{} {}: {}", e.plugin, e.hook, e.message), remedy)
        }
        None => Failure::new(format!("namespace {}", netns.name), "its setup failed", remedy),
    })
}

fn reload_failure(result: &ReloadResult) -> Option<Failure> {
    let errors = result.plugins.iter().filter_map(|p| Some(format!("plugin {}: {}", p.name, p.error.as_ref()?)));
    let remedy = "correct that and reload again; the old set runs on";
    (!result.ok).then(|| Failure::new("reload", errors.collect::<Vec<_>>().join(" | "), remedy))
}

/// Lines until the daemon goes or somebody interrupts.
fn monitor(mut daemon: Connection, json: bool) -> Result<(), End> {
    let interrupted = hang_up_on_interrupt(&daemon)?;
    daemon.send("Monitor", &call::Monitor_Args {}, true, None)?;
    let mut out = io::stdout().lock();
    loop {
        let hook = match daemon.receive::<call::Monitor_Reply>() {
            Ok(line) => line.reply.hook,
            Err(_) if interrupted.load(Ordering::Acquire) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        let line = if json { compact(&hook) } else { printable(&tables::hook(&hook)) };
        out.write_all(line.as_bytes())?;
        out.flush()?;
    }
}

/// On SIGINT or SIGTERM the connection is closed, which ends whatever waits for the daemon.
fn hang_up_on_interrupt(daemon: &Connection) -> Result<Arc<AtomicBool>, Failure> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let failed = |e| Failure::new("signals", e, "try again");
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
    let stream = daemon.handle().map_err(failed)?;
    let flag = Arc::clone(&interrupted);
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            flag.store(true, Ordering::Release);
            let _ = stream.shutdown(Shutdown::Both);
        }
    });
    Ok(interrupted)
}

/// One line of JSON.
fn compact(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default() + "\n"
}

/// For people it is made harmless to a terminal: a device's name may be a container's to choose.
fn print<T: Serialize>(json: bool, value: &T, table: impl FnOnce(&T) -> String) -> Result<(), End> {
    let text =
        if json { serde_json::to_string_pretty(value).unwrap_or_default() + "\n" } else { printable(&table(value)) };
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
