//! The name of a setting: from what an operator writes to a path below `/proc/sys`.
//!
//! Owns the refusals that need no kernel: what is outside of `net.`, and what would leave the tree.

use std::cmp::Ordering;
use std::fmt;

/// What stands for a device in the key of a device setting.
const DEVICE: &str = "<dev>";

/// A key below `net`, perhaps still without its device. Ordered as settings are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    path: String,
}

impl Key {
    /// Reads a key with dots or slashes; the first of either that occurs is the separator, and in a key with dots a
    /// slash stands for a dot within a component, as in sysctl(8). The error is a sentence for the operator.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let dotted = text.chars().find(|c| matches!(c, '.' | '/')) == Some('.');
        let path = if dotted { swapped(text) } else { text.to_owned() };
        let mut parts = path.split('/');
        if parts.next() != Some("net") || !path.contains('/') {
            return Err(format!(
                "`{text}` is not below `net.`: other sysctls belong to the whole host, not to a network namespace; \
                 set them in /etc/sysctl.d"
            ));
        }
        match parts.find(|part| !is_component(part)) {
            None => Ok(Key { path }),
            Some("") => Err(format!("`{text}` has an empty component")),
            Some(bad) => Err(format!("`{text}` has the component `{}`, which no key has", bad.escape_debug())),
        }
    }

    /// Whether a device is still to be named.
    pub(crate) fn wants_device(&self) -> bool {
        self.path.split('/').any(|part| part == DEVICE)
    }

    /// The key for one device. Names of devices have no slash, so they stay one component.
    pub(crate) fn for_device(&self, name: &str) -> Key {
        let part = |part| if part == DEVICE { name } else { part };
        Key { path: self.path.split('/').map(part).collect::<Vec<_>>().join("/") }
    }

    /// The path below `/proc/sys`.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The path of the folder that is the device's, if this key is about devices.
    pub(crate) fn device_folder(&self, name: &str) -> Option<String> {
        let (before, _) = self.path.split_once(DEVICE)?;
        Some(format!("{before}{name}"))
    }

    /// Forwarding resets other settings of the kernel's, `all` writes to each device, and `default` is what later
    /// devices begin with: whatever is more particular comes after.
    fn rank(&self) -> u8 {
        match self.path.as_str() {
            "net/ipv4/ip_forward" | "net/ipv4/conf/all/forwarding" | "net/ipv6/conf/all/forwarding" => 0,
            path if path.contains("/conf/all/") => 1,
            path if path.contains("/conf/default/") => 2,
            _ => 3,
        }
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank()).then_with(|| self.path.cmp(&other.path))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// With dots, as sysctl(8) prints it.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&swapped(&self.path))
    }
}

fn swapped(text: &str) -> String {
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    text.chars().map(swap).collect()
}

fn is_component(part: &str) -> bool {
    !matches!(part, "" | "." | "..") && !part.chars().any(|c| c.is_control() || c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> String {
        Key::parse(text).map(|key| key.path().to_owned()).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn dots_and_slashes_are_read_as_by_sysctl() {
        assert_eq!(path("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(path("net/ipv4/ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(path("net/ipv4/conf/eth0.100/rp_filter"), "net/ipv4/conf/eth0.100/rp_filter");
        assert_eq!(path("net.ipv4.conf.eth0/100.rp_filter"), "net/ipv4/conf/eth0.100/rp_filter");
        let printed = Key::parse("net/ipv4/conf/eth0.100/rp_filter").map(|key| key.to_string());
        assert_eq!(printed.as_deref(), Ok("net.ipv4.conf.eth0/100.rp_filter"));
    }

    #[test]
    fn what_is_not_a_namespace_s_own_is_refused() {
        for (text, reason) in [
            ("kernel.hostname", "whole host"),
            ("vm/swappiness", "whole host"),
            ("net", "not below"),
            ("network.x", "not below"),
            ("", "not below"),
            ("/net/ipv4/x", "not below"),
            ("net..ipv4", "empty component"),
            ("net.ipv4.", "empty component"),
            ("net/", "empty component"),
            ("net/../kernel/hostname", "`..`"),
            ("net.//.kernel", "`..`"),
            ("net/ipv4/./x", "`.`"),
            ("net.ipv4.a b", "which no key has"),
            ("net.ipv4.a\nb", "\\n"),
        ] {
            let refusal = Key::parse(text).expect_err(text);
            assert!(refusal.contains(reason), "{text}: {refusal}");
        }
    }

    #[test]
    fn a_device_is_one_component_whatever_its_name() {
        let key = Key::parse("net.ipv4.conf.<dev>.rp_filter").expect("a key");
        assert!(key.wants_device());
        assert_eq!(key.for_device("eth0.100").path(), "net/ipv4/conf/eth0.100/rp_filter");
        assert_eq!(key.device_folder("eth0.100").as_deref(), Some("net/ipv4/conf/eth0.100"));
        assert!(!key.for_device("eth0").wants_device());
        assert!(!Key::parse("net.ipv4.conf.x<dev>.rp_filter").expect("a key").wants_device());
    }

    #[test]
    fn keys_that_reset_others_come_first() {
        let mut keys: Vec<Key> = [
            "net.core.somaxconn",
            "net.ipv4.conf.default.rp_filter",
            "net.ipv4.conf.all.accept_redirects",
            "net.ipv4.ip_forward",
        ]
        .map(|text| Key::parse(text).expect(text))
        .into();
        keys.sort();
        let order: Vec<_> = keys.iter().map(ToString::to_string).collect();
        let expected = [
            "net.ipv4.ip_forward",
            "net.ipv4.conf.all.accept_redirects",
            "net.ipv4.conf.default.rp_filter",
            "net.core.somaxconn",
        ];
        assert_eq!(order, expected);
    }
}
