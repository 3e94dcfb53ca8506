//! `boot`: what ran at the start and in each namespace's setup, as tables or as a chart.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::arguments::BootArguments;
use super::chart;
use super::connection::Connection;
use super::failure::Failure;
use super::tables::{or_dash, table, text};
use super::{End, call, print};
use crate::control::errno_name;
use crate::control::wire::{BootRecord, Initcall, InitcallResult, NetnsSetup, SetupHook};

/// Asks and prints.
pub(super) fn run(daemon: &mut Connection, json: bool, arguments: &BootArguments) -> Result<(), End> {
    let asked = call::Boot_Args { netns: arguments.netns.clone() };
    let boot = daemon.call::<call::Boot_Reply>("Boot", &asked)?.boot;
    if let Some(file) = &arguments.svg {
        write(file, &chart::draw(&boot))?;
        return if json { print(json, &boot, tables) } else { Ok(()) };
    }
    let Some(name) = &arguments.netns else {
        return print(json, &boot, tables);
    };
    let setup = boot.setups.first().ok_or_else(|| not_yet(name))?;
    print(json, setup, hooks)
}

/// As a whole or not at all: whoever looks at the file meanwhile sees what was there before.
fn write(file: &Path, text: &str) -> Result<(), Failure> {
    let failed = |e: io::Error| {
        let remedy = "name a file in a folder that you may write to";
        Failure::new(file.display(), format!("the chart cannot be written: {e}"), remedy)
    };
    // A link keeps being one. What is there and is no file (a folder, a terminal) is not replaced by one.
    let file = match fs::canonicalize(file) {
        Ok(there) if there.is_file() => there,
        Ok(_) => return Err(failed(io::Error::other("it is no regular file"))),
        Err(_) => file.to_owned(),
    };
    let name = file.file_name().ok_or_else(|| failed(io::Error::other("it has no file name")))?;
    let mut new = OsString::from(".");
    new.push(name);
    new.push(format!(".{}", std::process::id()));
    let new = file.with_file_name(new);
    let written = File::create_new(&new).and_then(|mut out| {
        out.write_all(text.as_bytes())?;
        out.sync_all()?;
        fs::rename(&new, &file)
    });
    written.map_err(|e| {
        let _ = fs::remove_file(&new);
        failed(e)
    })
}

fn not_yet(name: &str) -> Failure {
    let remedy = format!("wait for it with `pernetctl netns wait {name}`");
    Failure::new(format!("namespace {name}"), "its first setup is not over", remedy)
}

fn tables(boot: &BootRecord) -> String {
    let ready = boot.ready_us.map_or_else(|| "not ready yet".to_owned(), |us| format!("ready after {}", time(us)));
    let initcalls = format!("{} initcalls in {}, {ready}", boot.initcalls.len(), time(boot.initcalls_us));
    format!(
        "{} pernetd {}: {initcalls}\n\n{}\n{}",
        boot.time,
        boot.version,
        of_initcalls(boot),
        of_setups(&boot.setups)
    )
}

fn of_initcalls(boot: &BootRecord) -> String {
    let mut t = table(&["ORDER", "LEVEL", "INITCALL", "AT", "TIME", "PREPARED", "RESULT"]);
    for (order, call) in boot.initcalls.iter().enumerate() {
        t.add_row([
            order.to_string(),
            or_dash(call.level.clone()),
            call.name.clone(),
            or_dash(call.start_us.map(time)),
            or_dash(call.start_us.filter(|_| was_called(call)).map(|_| time(call.duration_us))),
            or_dash(call.prepare_us.map(time)),
            result(call),
        ]);
    }
    text(&t)
}

/// Blacklisted and refused ones took no time.
pub(super) fn was_called(call: &Initcall) -> bool {
    matches!(call.result, InitcallResult::ok | InitcallResult::failed)
}

fn result(call: &Initcall) -> String {
    let word = call.result.as_str();
    match (&call.error, call.errno, &call.result) {
        (None, ..) => word.to_owned(),
        // It says so itself.
        (Some(error), _, InitcallResult::blacklisted) => error.clone(),
        (Some(error), Some(errno), InitcallResult::failed) => {
            format!("{word} ({}): {error}", errno_name(i32::try_from(errno).unwrap_or_default()))
        }
        (Some(error), ..) => format!("{word}: {error}"),
    }
}

/// The slowest first: that is what one looks for.
fn of_setups(setups: &[NetnsSetup]) -> String {
    let mut slowest: Vec<&NetnsSetup> = setups.iter().collect();
    slowest.sort_by_key(|setup| std::cmp::Reverse(setup.total_us));
    let mut t = table(&["NETNS", "SETUP", "TIME", "HOOKS", "SLOWEST HOOK", "ERROR"]);
    for setup in slowest {
        let hook = setup.hooks.iter().max_by_key(|hook| hook.duration_us);
        let error = setup.hooks.iter().find_map(|hook| hook.error.as_ref().map(|e| format!("{}: {e}", called(hook))));
        t.add_row([
            setup.netns.clone(),
            setup.state.as_str().to_owned(),
            time(setup.total_us),
            (setup.hooks.len() as u64 + setup.left_off).to_string(),
            or_dash(hook.map(|hook| format!("{} {}", called(hook), time(hook.duration_us)))),
            or_dash(error),
        ]);
    }
    text(&t)
}

/// One namespace's setup, hook by hook.
fn hooks(setup: &NetnsSetup) -> String {
    let mut t = table(&["ORDER", "PLUGIN", "HOOK", "DEVICE", "AT", "TIME", "RESULT"]);
    for (order, hook) in setup.hooks.iter().enumerate() {
        t.add_row([
            order.to_string(),
            hook.plugin.clone(),
            hook.hook.clone(),
            or_dash(hook.device.clone()),
            time(hook.start_us),
            time(hook.duration_us),
            hook.error.as_ref().map_or_else(|| "ok".to_owned(), |error| format!("error: {error}")),
        ]);
    }
    let more = if setup.left_off > 0 { format!("and {} more\n", setup.left_off) } else { String::new() };
    let NetnsSetup { netns, time: began, state, total_us, .. } = setup;
    format!("{began} {netns}: {} in {}\n\n{}{more}", state.as_str(), time(*total_us), text(&t))
}

pub(super) fn called(hook: &SetupHook) -> String {
    let device = hook.device.as_ref().map(|device| format!(" {device}")).unwrap_or_default();
    format!("{} {}{device}", hook.plugin, hook.hook)
}

/// `830 µs`, `12.4 ms`, `1.20 s`
pub(super) fn time(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..10_000 => format!("{}.{:02} ms", us / 1_000, us % 1_000 / 10),
        10_000..1_000_000 => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
        _ => format!("{}.{:02} s", us / 1_000_000, us % 1_000_000 / 10_000),
    }
}
