//! Completions for bash, zsh and fish, at the places where Debian's shells look for them.

use clap_complete::{Generator, Shell, generate};

/// Every file, by its path below `/usr/share`.
pub(crate) fn all() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("bash-completion/completions/pernetd", pernetd(Shell::Bash)),
        ("bash-completion/completions/pernetctl", pernetctl(Shell::Bash)),
        ("zsh/vendor-completions/_pernetd", pernetd(Shell::Zsh)),
        ("zsh/vendor-completions/_pernetctl", pernetctl(Shell::Zsh)),
        ("fish/vendor_completions.d/pernetd.fish", pernetd(Shell::Fish)),
        ("fish/vendor_completions.d/pernetctl.fish", pernetctl(Shell::Fish)),
    ]
}

fn pernetd(shell: impl Generator) -> Vec<u8> {
    completion(shell, pernetd::cli::command(), "pernetd")
}

fn pernetctl(shell: impl Generator) -> Vec<u8> {
    completion(shell, pernetd::control::client::command(), "pernetctl")
}

fn completion(shell: impl Generator, mut command: clap::Command, name: &str) -> Vec<u8> {
    let mut text = Vec::new();
    generate(shell, &mut command, name, &mut text);
    text
}
