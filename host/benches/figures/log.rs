//! What a line of the log costs who logs: one below the level, one to a journal, one to a file.
//!
//! The journal is a stand-in that reads and throws away; who logs is a process of its own, as it is settled once where a
//! process logs to. Costs are that process's CPU time, the kernel's part included, and the time by the clock.

use std::hint::black_box;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use pernetd::config::LogLevel;
use pernetd::logging;
use pernetd::plugin::LogLine;
use rustix::time::{ClockId, clock_gettime};

/// Tells the process which is to log.
const LOGS: &str = "PERNET_FIGURES_LOGS";
const SOCKET: &str = "/run/systemd/journal/socket";
const FILE: &str = "/tmp/log";
const LINES: u32 = 50_000;
const DISABLED: u32 = 100_000_000;

/// The exit code, if this is the process which is to log.
pub(crate) fn logs() -> Option<ExitCode> {
    env::var_os(LOGS)?;
    logging::start(LogLevel::Info);
    let where_to = if logging::is_journal() { "the journal" } else { "a file" };
    let own =
        || tracing::info!(plugin = "sysctl", netns = "blue", errno = 5, "pernet.init failed: {}", black_box("why"));
    let line = LogLine {
        plugin: "neighbour".into(),
        generation: 1,
        netns: Some("blue".into()),
        hook: Some("netdev.up"),
        device: Some("eth0".into()),
        level: 3,
        target: "pernet_neighbour::announcer",
        message: "announced",
        fields: r#"{"address":"192.0.2.1","tries":3}"#,
    };
    println!("{}", cost(&format!("of the daemon's own to {where_to}"), LINES, own));
    println!("{}", cost(&format!("of a plugin's to {where_to}"), LINES, || logging::plugin_line(black_box(&line))));
    println!("{}", cost("below the level", DISABLED, || tracing::debug!(answer = black_box(42), "never")));
    Some(ExitCode::SUCCESS)
}

fn cost(what: &str, lines: u32, log: impl Fn()) -> String {
    let cpu = || Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default();
    let (began, before) = (Instant::now(), cpu());
    (0..lines).for_each(|_| log());
    let each = |time: Duration| time.as_secs_f64() * 1e9 / f64::from(lines);
    format!("a line {what}: {:.1} ns of CPU, {:.1} ns by the clock", each(cpu() - before), each(began.elapsed()))
}

pub(crate) fn measure() {
    fs::create_dir_all("/run/systemd/journal").unwrap();
    let journal = UnixDatagram::bind(SOCKET).unwrap();
    thread::spawn(move || {
        let mut entry = vec![0; 1 << 16];
        while journal.recv(&mut entry).is_ok() {}
    });
    for is_journal in [true, false] {
        let file = fs::File::create(FILE).unwrap();
        let stream = rustix::fs::fstat(&file).unwrap();
        let mut command = Command::new("/proc/self/exe");
        command.env(LOGS, "1").stdin(Stdio::null()).stderr(file);
        if is_journal {
            command.env("JOURNAL_STREAM", format!("{}:{}", stream.st_dev, stream.st_ino));
        }
        let output = command.output().unwrap_or_else(|e: io::Error| panic!("{e}"));
        println!("\n{}", String::from_utf8_lossy(&output.stdout).trim_end());
        assert!(output.status.success());
        let lines = fs::read_to_string(FILE).unwrap().lines().count();
        assert_eq!(lines, if is_journal { 0 } else { 2 * LINES as usize }, "all of them, where they belong");
    }
}
