//! A name as one word of a shell's command line, for commands that an operator is told to type.
//!
//! A device is named by whoever is root in its namespace, which may be a container's: `$(reboot)` is a name that the kernel
//! takes. What is copied into a shell must stay a name there.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The name as one word: as it is, in quotes, or, with control characters in it, in `$'…'`.
pub(super) fn shell_word(name: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.,:/@%+=".contains(c);
    if !name.is_empty() && name.chars().all(plain) {
        return name.into();
    }
    if !name.contains(char::is_control) {
        return format!("'{}'", name.replace('\'', r"'\''")).into();
    }
    let mut word = String::from("$'");
    for c in name.chars() {
        // Writing to a String does not fail.
        let _ = match c {
            '\\' | '\'' => write!(word, "\\{c}"),
            c if c.is_control() => c.encode_utf8(&mut [0; 4]).bytes().try_for_each(|b| write!(word, "\\x{b:02x}")),
            c => write!(word, "{c}"),
        };
    }
    (word + "'").into()
}

/// The command that tells why.
pub(super) fn why_command(name: &str) -> String {
    format!("pernetctl why {}", operand(name))
}

/// The name as what a command acts on, whatever it begins with.
pub(super) fn operand(name: &str) -> String {
    let word = shell_word(name);
    if name.starts_with('-') { format!("-- {word}") } else { word.into_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_shell_takes_it_for_the_same_name() {
        for name in
            ["blue", "a b;$(touch x)", "it's", "`id`", "", "-x", "*", r"od\x1bd", "~root", "#1", "a\nb", "é\u{7f}\\'"]
        {
            // Its own quotes are the shell's; `printf` repeats the argument.
            let script = format!("printf %s {}", operand(name).trim_start_matches("-- "));
            let said = Command::new("bash").args(["-c", &script]).output().expect("a shell is there").stdout;
            assert_eq!(String::from_utf8_lossy(&said), name, "{script}");
        }
    }

    #[test]
    fn plain_names_are_plain_and_options_are_none() {
        assert_eq!(why_command("blue"), "pernetctl why blue");
        assert_eq!(why_command("/run/netns/b-1"), "pernetctl why /run/netns/b-1");
        assert_eq!(why_command("@host"), "pernetctl why @host");
        assert_eq!(why_command("-x"), "pernetctl why -- -x");
        assert_eq!(why_command("$(reboot)"), "pernetctl why '$(reboot)'");
    }
}
