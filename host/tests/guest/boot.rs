//! One boot in qemu: by KVM where that works, else emulated; it has a deadline, and ends with the test.
//!
//! The console is the first serial line, the results are the second. Both are files in the transcripts' folder.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::kernel::Kernel;

const QEMU: &str = "qemu-system-x86_64";
/// A kernel has printed its first line by then, or does not run: there are machines whose /dev/kvm opens and hangs.
const FIRST_LINE: Duration = Duration::from_secs(15);

/// No trial takes so long: who has said nothing since then hangs.
const SILENCE: Duration = Duration::from_secs(300);

/// What a boot left.
#[derive(Debug)]
pub struct Boot {
    /// The second serial line.
    pub results: String,
    /// The console's last lines, and why the boot was ended if it was.
    pub tail: String,
    pub accelerator: &'static str,
    pub took: Duration,
}

/// Boots the kernel until it powers off or its time is up.
pub fn boot(name: &str, kernel: &Kernel, initramfs: &Path, at_most: Duration) -> Result<Boot, String> {
    let folder = transcripts();
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let line = |what: &str| folder.join(format!("older_kernels-{name}.{what}"));
    let qemu = Qemu { kernel, initramfs, console: line("console"), results: line("results") };
    static HANGS: AtomicBool = AtomicBool::new(false);
    if !HANGS.load(Ordering::Relaxed) && File::options().read(true).write(true).open("/dev/kvm").is_ok() {
        match qemu.run("kvm", at_most)? {
            boot if boot.results.is_empty() => HANGS.store(true, Ordering::Relaxed),
            boot => return Ok(boot),
        }
        eprintln!("older_kernels: no KVM here, by what a boot did; emulated");
    }
    qemu.run("tcg", at_most)
}

/// Whether there is anything to boot with.
pub fn available() -> Result<(), String> {
    let there = Command::new(QEMU).arg("--version").stdout(Stdio::null()).status();
    there.map(drop).map_err(|e| format!("{QEMU}: {e}"))
}

/// Where the transcripts go.
fn transcripts() -> PathBuf {
    let target = Path::new(env!("CARGO_BIN_EXE_pernetd")).ancestors().nth(2).unwrap_or(Path::new("target"));
    env::var_os("PERNET_TRANSCRIPTS").map_or_else(|| target.join("transcripts"), PathBuf::from)
}

struct Qemu<'a> {
    kernel: &'a Kernel,
    initramfs: &'a Path,
    console: PathBuf,
    results: PathBuf,
}

/// Ends its process when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Qemu<'_> {
    fn run(&self, accelerator: &'static str, at_most: Duration) -> Result<Boot, String> {
        let start = Instant::now();
        for line in [&self.console, &self.results] {
            File::create(line).map_err(|e| format!("{}: {e}", line.display()))?;
        }
        let mut qemu = Running(self.command(accelerator).spawn().map_err(|e| format!("{QEMU}: {e}"))?);
        let (mut said, mut heard) = (0, start);
        let ended = loop {
            if let Some(status) = qemu.0.try_wait().map_err(|e| format!("{QEMU}: {e}"))? {
                break if status.success() { None } else { Some(format!("{QEMU}: {status}")) };
            }
            if start.elapsed() > at_most {
                break Some(format!("not done after {at_most:?}; ended"));
            }
            if start.elapsed() > FIRST_LINE && accelerator == "kvm" && !self.has_begun() {
                break Some(format!("no line of the kernel's within {FIRST_LINE:?}; ended"));
            }
            let so_far = length(&self.console) + length(&self.results);
            if so_far > said {
                (said, heard) = (so_far, Instant::now());
            } else if heard.elapsed() > SILENCE {
                break Some(format!("silent for {SILENCE:?}; ended"));
            }
            thread::park_timeout(Duration::from_millis(50));
        };
        drop(qemu);
        let console = read(&self.console);
        let lines: Vec<&str> = console.lines().collect();
        let tail =
            lines[lines.len().saturating_sub(40)..].join("\n") + &ended.map_or(String::new(), |e| format!("\n{e}"));
        Ok(Boot { results: read(&self.results), tail, accelerator, took: start.elapsed() })
    }

    fn has_begun(&self) -> bool {
        read(&self.console).contains("Linux version")
    }

    fn command(&self, accelerator: &str) -> Command {
        let mut command = Command::new(QEMU);
        command.args(["-accel", accelerator, "-cpu", "qemu64", "-smp", "2", "-m", "2G"]);
        command.args(["-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-monitor", "none"]);
        command.arg("-kernel").arg(&self.kernel.image).arg("-initrd").arg(self.initramfs);
        for line in [&self.console, &self.results] {
            command.arg("-serial").arg(format!("file:{}", line.display()));
        }
        // A fault is an end, and an end is no reboot.
        command.arg("-append").arg("console=ttyS0 panic=-1 oops=panic");
        command.stdin(Stdio::null()).stdout(Stdio::null());
        crate::sandbox::tie(&mut command);
        command
    }
}

fn length(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |meta| meta.len())
}

fn read(file: &Path) -> String {
    String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned()
}
