//! Names of namespaces and devices as names of files.

/// The longest name of a file.
const NAME_MAX: usize = 255;

/// A namespace that is called by its path has slashes in its name, which a file cannot have: they are escaped as other
/// bytes in such names are. A name that is too long is its number's.
pub(super) fn file_name(name: &str, number: u64) -> String {
    let escaped = name.replace('/', r"\x2f");
    if escaped.len() <= NAME_MAX { escaped } else { format!("#{number}") }
}

/// The name behind a file's.
pub(super) fn real_name(file: &str) -> String {
    file.replace(r"\x2f", "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_slashes_is_a_file_name_and_back() {
        assert_eq!(file_name("/run/docker/netns/a", 7), r"\x2frun\x2fdocker\x2fnetns\x2fa");
        assert_eq!(real_name(&file_name("/run/netns/a", 7)), "/run/netns/a");
        assert_eq!(file_name(&"/".repeat(64), 7), "#7", "too long for a file");
        assert_eq!(file_name(&"n".repeat(255), 7).len(), 255);
    }
}
