//! The real daemon in a sandbox: started, configured, asked and signalled as an operator does it.
//!
//! A [`Machine`] has a folder for everything (`/pernet`), plugin files in `/plugins`, and at most one `pernetd`. It is
//! asked by the real `pernetctl --json`. What the probe plugins record is read back as [`Call`]s. A test binary has
//! both `mod sandbox;` and `mod machine;`.
#![allow(dead_code, unreachable_pub)] // Each test binary uses its own part of this.
#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

mod calls;
mod netdevs;

use std::cell::Cell;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use pernetd::linux::{netns, ns};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::sandbox::{self, RUN_NETNS, Trial, tie, trial, wait_until};

#[allow(unused_imports)] // each theme uses what it needs
pub use calls::{Call, of, traces};
#[allow(unused_imports)] // each theme uses what it needs
pub use netdevs::{has_tun, link, links};

/// Everything of the machine's.
pub const HOME: &str = "/pernet";
/// Where the probes record.
pub const CALLS: &str = "/pernet/calls";
/// For what happens at once, on a slow machine.
pub const SOON: Duration = Duration::from_secs(15);

/// How the daemon finds namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Fanotify,
    Inotify,
}

impl Method {
    /// As it is configured and shown.
    pub fn word(self) -> &'static str {
        match self {
            Method::Fanotify => "fanotify",
            Method::Inotify => "inotify",
        }
    }

    /// The trial's name has the method in front; ignored where the kernel lacks it.
    pub fn trial(self, name: &str, test: impl FnOnce(Machine) + Send + 'static) -> Trial {
        let trial = trial(format!("{}: {name}", self.word()), move || test(Machine::new(self)));
        if self == Method::Fanotify { trial.needs(sandbox::mount_events()) } else { trial }
    }
}

/// A trial by each method.
pub fn both(name: &str, test: fn(Machine)) -> Vec<Trial> {
    [Method::Fanotify, Method::Inotify].map(|method| method.trial(name, test)).into()
}

/// A trial that has nothing to do with how namespaces are found: by the better method that the kernel has.
pub fn one(name: &str, test: impl FnOnce(Machine) + Send + 'static) -> Vec<Trial> {
    let method = if sandbox::mount_events().is_ok() { Method::Fanotify } else { Method::Inotify };
    vec![method.trial(name, test)]
}

/// What `pernetctl` answered.
#[derive(Debug)]
pub struct Answer {
    /// The exit status.
    pub code: i32,
    /// Its JSON document; null if it printed none.
    pub json: Value,
    /// What it complained about.
    pub stderr: String,
}

/// The machine. Dropping it kills its daemon.
pub struct Machine {
    method: Method,
    daemon: Option<Child>,
    /// Calls before this are forgotten.
    from: Cell<usize>,
    /// What the daemon's environment has besides.
    pub environment: Vec<(&'static str, &'static str)>,
}

impl Machine {
    /// An empty one: no plugins, a main configuration with the method, no daemon.
    pub fn new(method: Method) -> Machine {
        for folder in ["plugins.d", "run", "state"] {
            fs::create_dir_all(Path::new(HOME).join(folder)).unwrap();
        }
        let machine = Machine { method, daemon: None, from: Cell::new(0), environment: Vec::new() };
        machine.main("");
        fs::write(CALLS, "").unwrap();
        machine
    }

    /// The main file: the method, the folder, and what is given (further keys or tables).
    pub fn main(&self, more: &str) {
        let method = self.method.word();
        let text = format!("discovery.method = \"{method}\"\ndiscovery.folders = [\"{RUN_NETNS}\"]\n{more}\n");
        self.write("pernetd.toml", &text);
    }

    /// A file in the machine's folder.
    pub fn write(&self, path: &str, text: &str) {
        fs::write(self.path(path), text).unwrap();
    }

    /// Removes a file of the machine's folder.
    pub fn remove(&self, path: &str) {
        fs::remove_file(self.path(path)).unwrap();
    }

    /// A path in the machine's folder.
    pub fn path(&self, path: &str) -> PathBuf {
        Path::new(HOME).join(path)
    }

    /// Installs and configures the probe `letter` at place `nn`: its file's keys, and those of its `[config]`.
    pub fn probe(&self, nn: u32, letter: &str, keys: &str, config: &str) {
        self.install(&format!("probe_{letter}"), letter);
        let text = format!("{keys}\n[config]\nrecord = \"{CALLS}\"\n{config}\n");
        self.write(&probe_file(nn, letter), &text);
    }

    /// Takes the probe out of the configuration.
    pub fn no_probe(&self, nn: u32, letter: &str) {
        self.remove(&probe_file(nn, letter));
    }

    /// Puts the file of an example where the probe `letter` is loaded from.
    pub fn install(&self, example: &str, letter: &str) {
        let to = plugin_file(letter);
        if example != format!("probe_{letter}") || !to.exists() {
            self.install_file(&sandbox::example_cdylib(example), &to);
        }
    }

    /// Copies a plugin's file; as a package manager does: the old one is replaced, never written over.
    pub fn install_file(&self, from: &Path, to: &Path) {
        let new = to.with_extension("new");
        fs::copy(from, &new).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
        fs::rename(new, to).unwrap();
    }

    /// The daemon's command line.
    pub fn command(&self) -> Command {
        self.command_by(&[])
    }

    /// The same, executed by another program that is given before it (`prlimit --nofile=64`).
    pub fn command_by(&self, wrapper: &[&str]) -> Command {
        let mut words = wrapper.iter().copied().chain([env!("CARGO_BIN_EXE_pernetd")]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words);
        command.args(["--config", "/pernet/pernetd.toml", "--config-dir", HOME, "--plugin-dir", "/plugins"]);
        command.args(["--runtime-dir", "/pernet/run", "--state-dir", "/pernet/state"]);
        command.envs(self.environment.iter().copied());
        command
    }

    /// `pernetd --check`: its exit status and what it complained about.
    pub fn check(&self) -> (i32, String) {
        let output = self.command().arg("--check").output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    /// Starts the daemon, without waiting for anything.
    pub fn spawn(&mut self) {
        self.spawn_by(&[]);
    }

    /// The same by another program, which becomes the daemon.
    pub fn spawn_by(&mut self, wrapper: &[&str]) {
        let log = File::options().append(true).create(true).open(self.path("log")).unwrap();
        let mut command = self.command_by(wrapper);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.daemon = Some(tie(&mut command).spawn().unwrap());
    }

    /// Starts the daemon with another standard error than the log's file, as the stream of a journal if one is told.
    pub fn spawn_logging_to(&mut self, stderr: OwnedFd, is_journal: bool) {
        let mut command = self.command();
        if is_journal {
            let stream = rustix::fs::fstat(&stderr).unwrap();
            command.env("JOURNAL_STREAM", format!("{}:{}", stream.st_dev, stream.st_ino));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        self.daemon = Some(tie(&mut command).spawn().unwrap());
    }

    /// Starts the daemon as a service manager does: with somebody to notify, and with descriptors that it kept.
    pub fn spawn_as_unit(&mut self, notify: &Path, kept: &[(String, OwnedFd)]) {
        let daemon = self.command();
        let log = File::options().append(true).create(true).open(self.path("log")).unwrap();
        // LISTEN_PID is the daemon's own, which only it knows before it runs: the shell becomes the daemon.
        let mut line = "LISTEN_PID=$$ exec \"$0\" \"$@\"".to_owned();
        // Far from where they are to be, and closed there.
        let copies: Vec<OwnedFd> = kept.iter().map(|(_, fd)| fcntl_dupfd_cloexec(fd, 50).unwrap()).collect();
        for (at, copy) in copies.iter().enumerate() {
            fcntl_setfd(copy, FdFlags::empty()).unwrap();
            line += &format!(" {}<&{number} {number}<&-", at + 3, number = copy.as_raw_fd());
        }
        let mut command = Command::new("bash");
        command.args(["-c", &line]).arg(daemon.get_program()).args(daemon.get_args());
        let names: Vec<&str> = kept.iter().map(|(name, _)| name.as_str()).collect();
        command.env("NOTIFY_SOCKET", notify);
        command.env("LISTEN_FDS", kept.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.daemon = Some(tie(&mut command).spawn().unwrap());
    }

    /// Starts the daemon and waits until what is there is set up.
    pub fn start(&mut self) {
        self.spawn();
        self.wait_running();
    }

    /// Waits until what is there is set up.
    #[track_caller]
    pub fn wait_running(&self) {
        let running = || {
            let answer = self.ask(["status"]);
            answer.code == 0 && answer.json["state"] == "running"
        };
        wait_until("the daemon runs", SOON, || {
            assert!(self.alive(), "pernetd has ended");
            running()
        });
    }

    /// The daemon's process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(self.daemon.as_ref().unwrap())
    }

    /// Whether the daemon has not ended.
    pub fn alive(&self) -> bool {
        // Waited for in `end`: until then an ended one is a zombie.
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid().as_raw_pid())).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with(['Z', 'X']) && !rest.is_empty())
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Waits until the daemon ends.
    pub fn end(&mut self) -> ExitStatus {
        wait_until("the daemon ends", SOON, || !self.alive());
        self.daemon.take().unwrap().wait().unwrap()
    }

    /// Ends the daemon as an operator does, and expects it to end well.
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        assert_eq!(self.end().code(), Some(0), "{}", self.log());
    }

    /// What the daemon has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// How its daemon finds namespaces.
    pub fn method(&self) -> Method {
        self.method
    }

    /// A command that asks the daemon, and prints JSON.
    pub fn pernetctl<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        self.pernetctl_for_people(["--json"].into_iter().chain(arguments))
    }

    /// A command that asks the daemon, and prints tables.
    pub fn pernetctl_for_people<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pernetctl"));
        command.args(["--runtime-dir", "/pernet/run"]).args(arguments).stdin(Stdio::null());
        tie(&mut command);
        command
    }

    /// Asks the daemon, whatever comes of it.
    pub fn ask<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Answer {
        let output = self.pernetctl(arguments).output().unwrap();
        Answer {
            code: output.status.code().unwrap(),
            json: serde_json::from_slice(&output.stdout).unwrap_or_default(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Asks the daemon, and expects an answer.
    #[track_caller]
    pub fn ctl<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Value {
        let answer = self.ask(arguments);
        assert_eq!(answer.code, 0, "{}", answer.stderr);
        answer.json
    }

    /// `pernetctl status`.
    #[track_caller]
    pub fn status(&self) -> Value {
        self.ctl(["status"])
    }

    /// The namespace of this name as `netns list` shows it; null if there is none.
    #[track_caller]
    pub fn netns(&self, name: &str) -> Value {
        let all = self.ctl(["netns", "list"]);
        let named = |n: &&Value| n["names"].as_array().is_some_and(|names| names.iter().any(|it| it == name));
        all.as_array().unwrap().iter().find(named).cloned().unwrap_or_default()
    }

    /// The plugin's row of `plugin list`; null if there is none.
    #[track_caller]
    pub fn plugin(&self, letter: &str) -> Value {
        let all = self.ctl(["plugin", "list"]);
        let name = format!("probe-{letter}");
        all.as_array().unwrap().iter().find(|p| p["name"] == name.as_str()).cloned().unwrap_or_default()
    }

    /// Waits until the namespace is in this state.
    #[track_caller]
    pub fn wait_state(&self, name: &str, state: &str) {
        wait_until(&format!("{name} is {state}"), SOON, || self.netns(name)["state"] == state);
    }

    /// Waits until no namespace has this name.
    #[track_caller]
    pub fn wait_gone(&self, name: &str) {
        wait_until(&format!("{name} is gone"), SOON, || self.netns(name).is_null());
    }

    /// `pernetctl reload`, whatever comes of it.
    pub fn reload(&self) -> Answer {
        self.ask(["reload"])
    }

    /// Sends SIGHUP and waits for the result, which is what `status` then shows as the last reload.
    #[track_caller]
    pub fn hup(&self) -> Value {
        let before = self.status()["last_reload"].clone();
        self.signal(Signal::HUP);
        let mut last = Value::Null;
        wait_until("the reload is done", SOON, || {
            last = self.status()["last_reload"].clone();
            last != before
        });
        last
    }

    /// What the probes recorded since the start, or since `forget`.
    pub fn calls(&self) -> Vec<Call> {
        calls::read(CALLS).split_off(self.from.get())
    }

    /// Forgets the calls so far.
    pub fn forget(&self) {
        self.from.set(self.from.get() + self.calls().len());
    }

    /// The calls so far in short; see [`Call::trace`].
    pub fn trace(&self) -> Vec<String> {
        traces(&self.calls())
    }

    /// Waits until a call is recorded whose trace is this.
    #[track_caller]
    pub fn wait_call(&self, trace: &str) {
        wait_until(trace, SOON, || self.trace().iter().any(|t| t == trace));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}--- the calls\n{}", self.log(), self.trace().join("\n"));
        }
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// The probe's drop-in.
pub fn probe_file(nn: u32, letter: &str) -> String {
    format!("plugins.d/{nn:02}-probe-{letter}.toml")
}

/// The probe's shared library.
pub fn plugin_file(letter: &str) -> PathBuf {
    PathBuf::from(format!("/plugins/libpernet_probe_{letter}.so"))
}

/// The path of a name.
pub fn name_path(name: &str) -> PathBuf {
    Path::new(RUN_NETNS).join(name)
}

/// Gives a namespace that has a name another one.
pub fn second_name(of: &str, name: &str) {
    let path = name_path(name);
    netns::take_name(&path).unwrap();
    rustix::mount::mount_bind(name_path(of), &path).unwrap();
}

/// Acts inside the namespace, on a thread of its own.
pub fn inside<T: Send>(name: &str, act: impl FnOnce() -> T + Send) -> T {
    let path = name_path(name);
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            ns::take_seat_here().unwrap();
            let (_, pin) = ns::identify(&path).unwrap();
            let _ = pin.as_fd();
            ns::enter(&pin).unwrap();
            act()
        });
        thread.join().unwrap()
    })
}
