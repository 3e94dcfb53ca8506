//! `pernetd demo`: the real daemon in a machine of its own, with namespaces and devices coming and going before it.
//!
//! Needs no root: the process enters its own user, mount and network namespaces first. What is shown is what the
//! daemon's monitor tells; the story that makes it happen is [`Story`]. Nothing outside is touched.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Signal, getpid, kill_process};

use crate::config::CommandLine;
use crate::control::monitor::Subscription;
use crate::control::wire::{Hook, HookResult, NetnsState};
use crate::control::{Reply, Request};
use crate::daemon::fault::{Failed, Fault};
use crate::daemon::start::{self, Inbox};
use crate::linux::{netns, ns, rtnetlink, userns};
use crate::plugin::trust::Judge;

const FOLDER: &str = "/run/netns";
const HOME: &str = "/run/pernetd-demo";
/// What the sysctl plugin is told at first: `red` gets a value that the kernel refuses, so its setup is rolled back.
const SYSCTL: &str = r#"
[[config.profile]]
name = "everywhere"
settings = { "net.ipv4.ip_forward" = 1 }
[[config.profile.device]]
include = ["eth*"]
settings = { "net.ipv4.conf.<dev>.arp_notify" = 1 }

[[config.profile]]
name = "a mistake"
include = ["red"]
settings = { "net.ipv4.ip_default_ttl" = 999 }
"#;
/// What a reload in the middle changes it to: `red` is right now, and everything gets a new time to live.
const SYSCTL_MENDED: &str = r#"
[[config.profile]]
name = "everywhere"
settings = { "net.ipv4.ip_forward" = 1, "net.ipv4.ip_default_ttl" = 99 }
[[config.profile.device]]
include = ["eth*"]
settings = { "net.ipv4.conf.<dev>.arp_notify" = 1 }
"#;

/// Runs the demo; the process's exit code.
pub(crate) fn run(mut command_line: CommandLine, seconds: Option<u64>) -> Result<i32, Failed> {
    let plugin_dir = match command_line.plugin_dir.clone() {
        Some(dir) => dir,
        None => own_folder()?,
    };
    // In the user namespace to come, owners cannot be told any more: who owns the plugins is judged here.
    let mut judge = Judge::new();
    judge.vouch(&plugin_dir).map_err(|e| Failed::new(Fault::NoPermission, e.to_string()))?;
    userns::enter_own_machine().map_err(|e| Failed::new(Fault::NoPermission, e.to_string()))?;
    write_configuration().map_err(|e| Failed::system(HOME, &e))?;
    command_line.plugin_dir = Some(plugin_dir);
    command_line.config = Some(format!("{HOME}/pernetd.toml").into());
    command_line.config_dirs = vec![HOME.into()];
    command_line.runtime_dir = Some(format!("{HOME}/run").into());
    command_line.state_dir = Some(format!("{HOME}/state").into());

    let inbox = Inbox::default();
    let ears = Arc::clone(&inbox.monitor).subscribe();
    let over = Arc::new(AtomicBool::new(false));
    let started = Instant::now();
    let watcher = std::thread::spawn({
        let over = Arc::clone(&over);
        move || watch(&ears, &over, started)
    });
    let story = Story {
        inbox: inbox.clone(),
        over: Arc::clone(&over),
        until: seconds.map(|s| started + Duration::from_secs(s)),
    };
    let teller = std::thread::spawn(move || story.tell(started));
    let code = start::run(command_line, judge, Some(inbox))?;
    over.store(true, Ordering::Release);
    let told = teller.join().unwrap_or_default();
    let seen = watcher.join().unwrap_or_default();
    println!(
        "summary: {} namespaces and {} veth pairs came and went, {} hooks were called, {} failed and were rolled back, {} reloads; nothing is left",
        told.namespaces, told.pairs, seen.hooks, seen.errors, told.reloads
    );
    Ok(if told.broke_off { 1 } else { code })
}

fn own_folder() -> Result<PathBuf, Failed> {
    let exe = std::env::current_exe().map_err(|e| Failed::system("/proc/self/exe", &e))?;
    Ok(exe.parent().unwrap_or(Path::new("/")).to_path_buf())
}

fn write_configuration() -> std::io::Result<()> {
    fs::create_dir_all(format!("{HOME}/plugins.d"))?;
    fs::create_dir_all(format!("{HOME}/run"))?;
    fs::write(format!("{HOME}/pernetd.toml"), "log.level = \"error\"\n")?;
    fs::write(format!("{HOME}/plugins.d/10-loopback.toml"), "enabled = true\n")?;
    fs::write(format!("{HOME}/plugins.d/20-sysctl.toml"), SYSCTL)
}

/// What the watcher counted.
#[derive(Default)]
struct Seen {
    hooks: u64,
    errors: u64,
}

/// Prints each hook call as it happens.
fn watch(ears: &Subscription, over: &AtomicBool, started: Instant) -> Seen {
    let mut seen = Seen::default();
    loop {
        match ears.lines().recv_timeout(Duration::from_millis(50)) {
            Ok(hook) => {
                seen.hooks += 1;
                seen.errors += u64::from(hook.result == HookResult::error);
                print_hook(&hook, started);
            }
            Err(_) if over.load(Ordering::Acquire) => return seen,
            Err(_) => {}
        }
    }
}

fn print_hook(hook: &Hook, started: Instant) {
    let device = hook.device.as_deref().unwrap_or("");
    let outcome = hook.error.as_deref().map_or_else(|| "ok".to_owned(), |e| format!("FAILED: {e}"));
    let at = started.elapsed().as_secs_f64();
    println!(
        "{at:7.3}  {:<8} {:<18} {:<8} {device:<8} {:>6} us  {outcome}",
        hook.netns, hook.hook, hook.plugin, hook.duration_us
    );
}

/// What the story did.
#[derive(Default)]
struct Told {
    namespaces: u64,
    pairs: u64,
    reloads: u64,
    /// Something that has to work did not.
    broke_off: bool,
}

/// Makes things happen, until told to stop.
struct Story {
    inbox: Inbox,
    over: Arc<AtomicBool>,
    until: Option<Instant>,
}

impl Story {
    fn tell(&self, started: Instant) -> Told {
        let mut told = Told::default();
        let say = |what: &str| println!("{:7.3}  -- {what}", started.elapsed().as_secs_f64());
        if let Err(e) = ns::take_seat_here() {
            say(&format!("cannot act: {e}"));
        }
        // The daemon's first answer comes when it is there to give one.
        let _ = self.ask(|reply| Request::Status { reply });
        while !self.ended() {
            if let Err(e) = self.round(&mut told, &say) {
                told.broke_off = !self.over.load(Ordering::Acquire);
                say(&format!("the story broke off: {e}"));
                break;
            }
        }
        // Interrupted, it is stopping already, and a second signal would end it without its exits.
        if !self.over.load(Ordering::Acquire) {
            let _ = kill_process(getpid(), Signal::TERM);
        }
        told
    }

    fn ended(&self) -> bool {
        self.over.load(Ordering::Acquire) || self.until.is_some_and(|t| Instant::now() >= t)
    }

    fn round(&self, told: &mut Told, say: &dyn Fn(&str)) -> std::io::Result<()> {
        say("ip netns add blue, green");
        for name in ["blue", "green"] {
            self.add(name, told)?;
        }
        if self.pause() {
            return Ok(());
        }
        say("a veth pair between blue and green, set up");
        connect("blue", "green")?;
        told.pairs += 1;
        if self.pause() {
            return Ok(());
        }
        say("ip netns add red, where one sysctl is a mistake: its setup is rolled back, nobody else notices");
        self.add("red", told)?;
        if self.pause() {
            return Ok(());
        }
        say("the mistake is mended; kill -HUP");
        self.reload(SYSCTL_MENDED, told)?;
        if self.pause() {
            return Ok(());
        }
        say("ip netns del blue, green, red");
        for name in ["blue", "green", "red"] {
            netns::remove(&Path::new(FOLDER).join(name))?;
            self.settle(name, false);
        }
        // Back to the beginning: the mistake is there again for the next round.
        self.reload(SYSCTL, told)?;
        self.pause();
        Ok(())
    }

    fn add(&self, name: &str, told: &mut Told) -> std::io::Result<()> {
        netns::add(Path::new(FOLDER), OsStr::new(name))?;
        told.namespaces += 1;
        self.settle(name, true);
        Ok(())
    }

    /// By signal, as an operator does; the reload that is asked for after it is the one more that it causes.
    fn reload(&self, sysctl: &str, told: &mut Told) -> std::io::Result<()> {
        fs::write(format!("{HOME}/plugins.d/20-sysctl.toml"), sysctl)?;
        kill_process(getpid(), Signal::HUP)?;
        let _ = self.ask(|reply| Request::Reload { reply });
        told.reloads += 1;
        Ok(())
    }

    /// Waits until the daemon is done with what was just added or removed.
    fn settle(&self, name: &str, there: bool) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !self.ended() && Instant::now() < deadline {
            let known = self.ask(|reply| Request::NetnsGet { name: name.to_owned(), count: false, reply });
            let done = match known {
                Some(netns) => there && netns.state != NetnsState::setup,
                None => !there,
            };
            if done {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Option<T> {
        let (reply, answer) = Reply::new();
        self.inbox.request(request(reply));
        answer.receiver().recv_timeout(Duration::from_secs(5)).ok()?.ok()
    }

    /// Long enough to read, short enough to watch. True when the end has come meanwhile.
    fn pause(&self) -> bool {
        let deadline = Instant::now() + Duration::from_millis(600);
        while !self.ended() && Instant::now() < deadline {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        self.ended()
    }
}

/// A veth pair with an end in each, both up.
fn connect(left: &str, right: &str) -> std::io::Result<()> {
    let pin = |name: &str| ns::identify(&Path::new(FOLDER).join(name)).map(|(_, pin)| pin);
    let (left, right) = (pin(left)?, pin(right)?);
    ns::enter(&left)?;
    rtnetlink::create_veth("eth0", "eth0", Some(right.as_fd()))?;
    for end in [&left, &right] {
        ns::enter(end)?;
        rtnetlink::set_up(rtnetlink::find("eth0")?.ifindex)?;
    }
    ns::home()
}
