//! What was done in a machine, with its output and when: a file that reads from top to bottom as a session.
//!
//! Each chapter writes its own, so that chapters may run at the same time; [`join`] puts them together by release.

use std::cell::RefCell;
use std::env;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::{Instant, SystemTime};

use super::{RELEASES, Release};
use crate::sandbox::profile_dir;

/// One chapter's.
pub struct Transcript {
    start: Instant,
    file: RefCell<File>,
}

/// Where they are kept.
pub fn folder() -> PathBuf {
    let target = || profile_dir().parent().unwrap().join("transcripts");
    env::var_os("PERNET_TRANSCRIPTS").map_or_else(target, PathBuf::from)
}

/// Where a chapter's files are; `end` is the ending of the one that is meant.
pub fn part(release: Release, chapter: &str, end: &str) -> PathBuf {
    folder().join(format!("booted-{}", release.name)).join(format!("{chapter}.{end}"))
}

impl Transcript {
    /// Begins a chapter's.
    pub fn new(release: Release, chapter: &str, about: &str) -> io::Result<Transcript> {
        let path = part(release, chapter, "txt");
        fs::create_dir_all(path.parent().unwrap())?;
        let transcript = Transcript { start: Instant::now(), file: RefCell::new(File::create(&path)?) };
        let now = humantime::format_rfc3339_seconds(SystemTime::now());
        let title = format!("Debian {} ({}): {chapter}", release.number, release.name);
        transcript.line(&format!("{}\n{title}\n{about}\n{now}\n{0}\n", "=".repeat(100)));
        Ok(transcript)
    }

    /// What comes is another step.
    pub fn step(&self, what: &str) {
        self.line(&format!("\n--- {what}\n"));
    }

    /// A command, before it runs.
    pub fn command(&self, line: &str) {
        let mut text = String::new();
        for (n, line) in line.lines().enumerate() {
            let lead = if n == 0 { format!("[{:7.3}] #", self.start.elapsed().as_secs_f64()) } else { " ".repeat(11) };
            writeln!(text, "{lead} {line}").unwrap();
        }
        self.line(text.trim_end());
    }

    /// Text as it came.
    pub fn line(&self, text: &str) {
        // A transcript that cannot be written is not the test's failure, but must not pass unseen.
        if let Err(e) = writeln!(self.file.borrow_mut(), "{text}") {
            eprintln!("booted: the transcript is not written: {e}");
        }
    }
}

/// One transcript for each release, of its chapters in order. Returns where.
pub fn join() -> io::Result<Vec<PathBuf>> {
    let mut joined = Vec::new();
    for release in RELEASES {
        let Ok(parts) = fs::read_dir(folder().join(format!("booted-{}", release.name))) else { continue };
        let mut parts: Vec<PathBuf> = parts.flatten().map(|entry| entry.path()).collect();
        parts
            .retain(|path| path.to_str().is_some_and(|name| name.ends_with(".txt") && !name.ends_with(".journal.txt")));
        parts.sort();
        let whole = folder().join(format!("booted-{}.txt", release.name));
        let mut file = File::create(&whole)?;
        for part in parts {
            io::copy(&mut File::open(part)?, &mut file)?;
            file.write_all(b"\n")?;
        }
        joined.push(whole);
    }
    Ok(joined)
}

/// What an earlier run has left would be read as this one's.
pub fn clear() -> io::Result<()> {
    for release in RELEASES {
        match fs::remove_dir_all(folder().join(format!("booted-{}", release.name))) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}
