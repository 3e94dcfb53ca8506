//! The mount helper: what mount(8) calls for a type that it does not know itself, as `mount.TYPE`.
//!
//! The same program as `pernetctl`, told apart by its name: a link `/sbin/mount.pernetfs` makes `mount -t pernetfs none
//! DIR` work, and with it fstab and systemd's mount units. The command line and the exit status are mount(8)'s.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::connection::Connection;
use super::mount::{self, Refused, Wanted};
use super::mount_options::Options;
use crate::config::runtime_dir;

/// mount(8)'s own: wrong usage or rights, a fault of the system, and a mount that did not work.
const USAGE: u8 = 1;
const SYSTEM: u8 = 2;
const MOUNT: u8 = 32;

/// The type that a program of this name mounts, if it is a helper's name.
pub(super) fn type_of(program: &OsStr) -> Option<String> {
    let name = Path::new(program).file_name()?.to_str()?;
    name.strip_prefix("mount.").filter(|fs| !fs.is_empty()).map(str::to_owned)
}

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    wanted: Wanted,
    runtime_dir: Option<PathBuf>,
    /// `-f`: everything but the mount.
    fake: bool,
    verbose: bool,
}

/// Runs the helper.
pub(super) fn run(fs: &str, arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let complain = |line: &str| eprintln!("mount.{fs}: {line}");
    let asked = match parse(fs, arguments) {
        Ok(asked) => asked,
        Err(what) => {
            complain(&format!("{what}; usage: mount.{fs} SOURCE DIRECTORY [-sfnv] [-o OPTIONS] [-t TYPE.SUBTYPE]"));
            return ExitCode::from(USAGE);
        }
    };
    match carry_out(&asked) {
        Ok(()) => ExitCode::SUCCESS,
        Err(refused) => {
            let status = match &refused {
                Refused::Permission(_) => USAGE,
                Refused::System(_) => SYSTEM,
                Refused::Mount(_) => MOUNT,
            };
            complain(&refused.failure().line);
            ExitCode::from(status)
        }
    }
}

fn carry_out(asked: &Asked) -> Result<(), Refused> {
    let mut daemon = Connection::open(&runtime_dir(asked.runtime_dir.clone()))?;
    if asked.fake {
        return mount::check(&mut daemon, &asked.wanted);
    }
    let mounted = mount::mount(&mut daemon, &asked.wanted)?;
    if asked.verbose {
        println!("mount.{}: {} mounted on {}", mounted.fs, mounted.source, mounted.target);
    }
    Ok(())
}

fn parse(fs: &str, arguments: impl Iterator<Item = OsString>) -> Result<Asked, String> {
    let mut fs = fs.to_owned();
    let mut options = Options::default();
    let (mut places, mut fake, mut verbose) = (Vec::new(), false, false);
    let mut arguments = arguments.map(|a| a.into_string().map_err(|a| format!("{}: not text", a.to_string_lossy())));
    while let Some(argument) = arguments.next() {
        let argument = argument?;
        let Some(letters) = argument.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
            places.push(argument);
            continue;
        };
        for (at, letter) in letters.char_indices() {
            // The rest of the word, or the next one.
            let rest = &letters[at + letter.len_utf8()..];
            let mut value = || match rest {
                "" => arguments.next().unwrap_or_else(|| Err(format!("-{letter} needs a value"))),
                rest => Ok(rest.to_owned()),
            };
            match letter {
                'f' => fake = true,
                'v' => verbose = true,
                // Sloppy, and not to write into mtab: there is nothing to be sloppy about, and no mtab.
                's' | 'n' => {}
                'r' => options.set_read_only(),
                'w' => options.add("rw")?,
                'o' => options.add(&value()?)?,
                't' => fs = value()?,
                other => return Err(format!("option -{other} is unknown")),
            }
            if matches!(letter, 'o' | 't') {
                break;
            }
        }
    }
    let [source, directory] =
        <[String; 2]>::try_from(places).map_err(|_| "a source and a directory are needed".to_owned())?;
    let runtime_dir = options.runtime_dir.clone();
    Ok(Asked { wanted: options.into_wanted(fs, source, directory.into()), runtime_dir, fake, verbose })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Asked, String> {
        parse("pernetfs", line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_name_says_the_type() {
        assert_eq!(type_of(OsStr::new("/sbin/mount.pernetfs")).as_deref(), Some("pernetfs"));
        assert_eq!(type_of(OsStr::new("mount.a.b")).as_deref(), Some("a.b"));
        for no in ["pernetctl", "/sbin/mount", "mount.", "/mount.x/pernetctl"] {
            assert_eq!(type_of(OsStr::new(no)), None, "{no}");
        }
    }

    #[test]
    fn the_command_line_is_that_of_mount_8() -> Result<(), String> {
        let asked = parsed("none /mnt -s -fnv -o ro,netns=blue -o x=1 -t pernetfs.sub")?;
        let wanted = &asked.wanted;
        assert_eq!(
            (&*wanted.source, wanted.directory.as_path(), &*wanted.fs),
            ("none", Path::new("/mnt"), "pernetfs.sub")
        );
        assert_eq!((wanted.netns.as_deref(), &*wanted.options, wanted.read_only), (Some("blue"), "x=1", true));
        assert!(asked.fake && asked.verbose);
        let asked = parsed("-oro none -v /mnt")?;
        assert!(asked.wanted.read_only && asked.verbose && !asked.fake);
        for wrong in ["", "none", "none /mnt more", "none /mnt -x", "none /mnt -o", "none /mnt -o suid"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
        Ok(())
    }
}
