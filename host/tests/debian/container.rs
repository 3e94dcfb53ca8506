//! A booted system, driven from outside: a line of shell goes in, its exit code and output come back.
//!
//! The system is an ordinary systemd-nspawn container. A line is run by entering the namespaces of its first process, which
//! needs no agent inside, no bus and no login; whatever is run is in the transcript.

use std::cell::RefCell;
use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::Release;
use super::transcript::{Transcript, part};

/// A command inside is killed after this.
const COMMAND_DEADLINE: u32 = 90;
/// A condition holds by then.
const SOON: Duration = Duration::from_secs(60);
/// A release without anything else on it is up in a second or two.
const BOOT_DEADLINE: Duration = Duration::from_secs(90);
const CONSOLE: &str = "/run/console";

/// What a command answered.
#[derive(Debug)]
pub struct Answer {
    /// The command.
    pub line: String,
    /// Its exit code; 124 if it was not done in time.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "# {}\nexit {}\n{}{}", self.line, self.code, self.stdout, self.stderr)
    }
}

/// The system.
pub struct Container {
    /// What it is.
    pub release: Release,
    chapter: &'static str,
    nspawn: Child,
    leader: String,
    transcript: Transcript,
    step: RefCell<String>,
}

impl Container {
    /// Boots what is in the folder; returns when the boot is done.
    pub fn boot(
        release: Release,
        chapter: &'static str,
        root: &Path,
        transcript: Transcript,
    ) -> Result<Container, String> {
        let console = File::create(CONSOLE).map_err(|e| format!("{CONSOLE}: {e}"))?;
        let errors = console.try_clone().map_err(|e| format!("{CONSOLE}: {e}"))?;
        let mut nspawn = Command::new("systemd-nspawn");
        nspawn.arg("--directory").arg(root).args(["--boot", "--register=no", "--keep-unit", "--private-network"]);
        // It is nobody's business to load modules into the kernel of whoever runs tests.
        nspawn.args(["--capability=all", "--drop-capability=CAP_SYS_MODULE", "--bind=/dev/fuse"]);
        // A machine has no filter of system calls. An older nspawn could not even be told to let the newest ones pass.
        nspawn.env("SYSTEMD_SECCOMP", "0");
        nspawn.args(["--console=pipe", "--resolv-conf=off", "--timezone=off", "--link-journal=no"]);
        let name = format!("debian{}", release.number);
        nspawn.args([format!("--machine={name}"), format!("--hostname={name}")]);
        nspawn.stdin(Stdio::null()).stdout(console).stderr(errors);
        let nspawn = nspawn.spawn().map_err(|e| format!("systemd-nspawn: {e}"))?;
        let step = RefCell::new("boot".to_owned());
        let mut container = Container { release, chapter, nspawn, leader: String::new(), transcript, step };
        container.await_boot()?;
        Ok(container)
    }

    fn await_boot(&mut self) -> Result<(), String> {
        let start = Instant::now();
        let console = || fs::read_to_string(CONSOLE).unwrap_or_default();
        while start.elapsed() < BOOT_DEADLINE {
            if let Ok(Some(status)) = self.nspawn.try_wait() {
                return Err(format!("systemd-nspawn ended: {status}\n{}", console()));
            }
            self.leader = self.first_process();
            // Before its bus is there it says "offline" and does not wait.
            if !self.leader.is_empty() && self.enter("systemctl is-system-running --wait", None).is_ok_and(is_up) {
                self.step("boot");
                self.ok(
                    "cat /etc/debian_version; systemctl --version | head -n 1; uname -r; systemctl is-system-running",
                );
                return Ok(());
            }
            thread::park_timeout(Duration::from_millis(20));
        }
        let failed = self.enter("systemctl --failed --no-pager; systemctl list-jobs --no-pager", None);
        let failed = failed.map(|answer| answer.to_string()).unwrap_or_default();
        Err(format!("not up within {BOOT_DEADLINE:?}\n{failed}\n{}", console()))
    }

    /// The container's pid 1, a child of nspawn's. Empty until it is there.
    fn first_process(&self) -> String {
        let id = self.nspawn.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        children.split_whitespace().next().unwrap_or_default().to_owned()
    }

    /// What follows is this; a failure names it.
    pub fn step(&self, what: &str) {
        what.clone_into(&mut self.step.borrow_mut());
        self.transcript.step(what);
    }

    /// Runs a line of shell inside, as root. Whatever it answers is in the transcript.
    pub fn run(&self, line: &str) -> Answer {
        self.transcript.command(line);
        let answer = self.enter(line, None).unwrap_or_else(|e| self.fail(&format!("nsenter: {e}")));
        self.write_down(&answer);
        answer
    }

    /// Runs what must end well; what it said.
    pub fn ok(&self, line: &str) -> String {
        let answer = self.run(line);
        self.assert(answer.code == 0, &answer.to_string());
        answer.stdout
    }

    /// Runs what must end well and says too much for a transcript.
    pub fn run_quietly(&self, line: &str) -> String {
        self.transcript.command(line);
        let answer = self.enter(line, None).unwrap_or_else(|e| self.fail(&format!("nsenter: {e}")));
        self.note(&format!("{} lines", answer.stdout.lines().count()));
        answer.stdout
    }

    /// Runs what must fail.
    pub fn fails(&self, line: &str) -> Answer {
        let answer = self.run(line);
        self.assert(answer.code != 0 && answer.code != 124, &format!("this must fail:\n{answer}"));
        answer
    }

    /// Runs what prints one JSON document.
    pub fn json(&self, line: &str) -> Value {
        let said = self.ok(line);
        serde_json::from_str(&said).unwrap_or_else(|e| self.fail(&format!("{line}: no JSON ({e}):\n{said}")))
    }

    /// Repeats a line until it ends well. Only the last one is in the transcript.
    pub fn until(&self, line: &str) -> String {
        let start = Instant::now();
        self.transcript.command(&format!("until {line}"));
        loop {
            let answer = self.enter(line, None).unwrap_or_else(|e| self.fail(&format!("nsenter: {e}")));
            if answer.code == 0 {
                self.write_down(&answer);
                return answer.stdout;
            }
            if start.elapsed() > SOON {
                self.write_down(&answer);
                self.fail(&format!("not within {SOON:?}:\n{answer}"));
            }
            thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Writes a file inside.
    pub fn write(&self, path: &str, text: &str) {
        self.transcript.command(&format!("cat > {path} <<'END'\n{}\nEND", text.trim_end()));
        self.install(path, "644", text.as_bytes());
    }

    /// Copies a file of the host's into the system.
    pub fn put(&self, file: &Path, path: &str) {
        self.transcript.command(&format!("install -D -m 644 {} {path}", file.file_name().unwrap().display()));
        let bytes = fs::read(file).unwrap_or_else(|e| self.fail(&format!("{}: {e}", file.display())));
        self.install(path, "644", &bytes);
    }

    fn install(&self, path: &str, mode: &str, bytes: &[u8]) {
        let answer = self.enter(&format!("install -D -m {mode} /dev/stdin '{path}'"), Some(bytes));
        let answer = answer.unwrap_or_else(|e| self.fail(&format!("nsenter: {e}")));
        self.assert(answer.code == 0, &answer.to_string());
    }

    /// A remark for who reads the transcript.
    pub fn note(&self, text: &str) {
        self.transcript.line(&format!("          ({text})"));
    }

    /// Goes on only if this holds.
    #[track_caller]
    pub fn assert(&self, holds: bool, otherwise: &str) {
        if !holds {
            self.fail(otherwise);
        }
    }

    /// Goes on only if the text has all of these.
    #[track_caller]
    pub fn assert_has(&self, text: &str, parts: &[&str]) {
        for part in parts {
            self.assert(text.contains(part), &format!("\"{part}\" is not in:\n{text}"));
        }
    }

    /// Ends the chapter.
    #[track_caller]
    pub fn fail(&self, why: &str) -> ! {
        let text = format!("FAILED at \"{}\": {why}", self.step.borrow());
        self.transcript.line(&text);
        panic!("{text}");
    }

    /// Keeps the journal beside the transcript; its end is shown when the chapter has failed.
    pub fn close(mut self, failed: bool) {
        let journal = self.enter("journalctl --no-pager -o short-precise", None).map(|answer| answer.stdout);
        let journal = journal.unwrap_or_else(|e| format!("no journal: {e}"));
        let path = part(self.release, self.chapter, "journal.txt");
        if let Err(e) = fs::write(&path, &journal) {
            eprintln!("booted: {}: {e}", path.display());
        }
        if failed {
            let lines: Vec<&str> = journal.lines().collect();
            let last = &lines[lines.len().saturating_sub(60)..];
            eprintln!("the journal's end (all of it: {}):\n{}", path.display(), last.join("\n"));
        }
        // Its first process ends with it, and everything else with that.
        let _ = self.nspawn.kill();
        let _ = self.nspawn.wait();
    }

    fn write_down(&self, answer: &Answer) {
        for text in [&answer.stdout, &answer.stderr] {
            // Of a line that was written over again and again, as it was at last.
            let at_last = |line: &str| line.rsplit('\r').find(|part| !part.is_empty()).unwrap_or_default().to_owned();
            let lines: Vec<String> = text.trim_end().lines().map(at_last).collect();
            if !lines.is_empty() {
                self.transcript.line(&lines.join("\n"));
            }
        }
        if answer.code != 0 {
            self.transcript.line(&format!("          (exit {})", answer.code));
        }
    }

    /// In all namespaces of the first process, with an environment as a login has it.
    fn enter(&self, line: &str, stdin: Option<&[u8]>) -> std::io::Result<Answer> {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.leader, "--all", "--", "timeout", "--kill-after=5"]);
        command.args([&COMMAND_DEADLINE.to_string(), "bash", "-c", line]);
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        let environment = [("PATH", path), ("HOME", "/root"), ("USER", "root"), ("LANG", "C.UTF-8"), ("TERM", "dumb")];
        command.env_clear().envs(environment).env("DEBIAN_FRONTEND", "noninteractive");
        command.stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        if let (Some(bytes), Some(mut pipe)) = (stdin, child.stdin.take()) {
            pipe.write_all(bytes)?;
        }
        let mut errors = child.stderr.take().expect("it is piped");
        let errors = thread::spawn(move || {
            let mut text = Vec::new();
            errors.read_to_end(&mut text).map(|_| text)
        });
        let output = child.wait_with_output()?;
        let errors = errors.join().expect("it only reads")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = output.status.code().unwrap_or(-1);
        Ok(Answer { line: line.to_owned(), code, stdout: text(&output.stdout), stderr: text(&errors) })
    }
}

fn is_up(answer: Answer) -> bool {
    answer.stdout.trim() == "running"
}
