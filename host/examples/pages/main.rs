//! The manual pages and the shells' completions, made of the same definitions as `--help`: `pages FOLDER [DATE]`.
//!
//! Owns what is generated: a new command, option or key of the configuration is in its page by itself. What no definition
//! says (examples, files, signals, the meaning of exit codes) is written by hand, in `text/`, a file for each page.

mod completions;
mod configuration;
mod man;
mod roff;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let Some(folder) = words.next().map(PathBuf::from) else {
        eprintln!("usage: pages FOLDER [DATE]");
        return ExitCode::from(2);
    };
    let date = words.next().map(|date| date.to_string_lossy().into_owned()).unwrap_or_default();
    match generate(&folder, &date) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("pages: {}: {e}", folder.display());
            ExitCode::FAILURE
        }
    }
}

/// In the folder they lie as below `/usr/share`.
fn generate(folder: &Path, date: &str) -> io::Result<()> {
    let write = |path: &str, text: &[u8]| {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        fs::write(path, text)
    };
    for page in man::pages(date)?.into_iter().chain([configuration::page(date)]) {
        write(&format!("man/man{}/{}.{0}", page.section, page.name), page.text.as_bytes())?;
    }
    for (path, text) in completions::all() {
        write(path, &text)?;
    }
    Ok(())
}
