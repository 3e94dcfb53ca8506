//! What a process may, as procfs tells: its groups, and whether it has a capability here.
//!
//! For who uses a mounted file: FUSE says only his user, his group and his thread. He waits for the answer meanwhile, so
//! his number is not another's. Decides nothing.

use std::fs;
use std::os::unix::fs::MetadataExt;

/// Bit of `CAP_NET_ADMIN` in a set of capabilities.
const CAP_NET_ADMIN: u32 = 12;

/// What counts of a thread beside its user and group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Whether it has `CAP_NET_ADMIN` in the daemon's own user namespace.
    pub net_admin: bool,
}

/// The rights of a thread; none where it cannot be seen from here (number 0), or has ended.
#[must_use]
pub fn rights(thread: u32) -> Rights {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let Rights { groups, net_admin } = understood(&status);
    // In another user namespace the set says what it may there.
    let user = |process: &str| fs::metadata(format!("/proc/{process}/ns/user")).map(|ns| ns.ino()).ok();
    let here = net_admin && user("self").is_some_and(|own| user(&thread.to_string()) == Some(own));
    Rights { groups, net_admin: here }
}

fn understood(status: &str) -> Rights {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    let effective = u64::from_str_radix(field("CapEff:"), 16).unwrap_or_default();
    let groups = field("Groups:").split_whitespace().filter_map(|group| group.parse().ok()).collect();
    Rights { groups, net_admin: effective >> CAP_NET_ADMIN & 1 == 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_understood() {
        let status = "Name:\tx\nGroups:\t4 24 0 \nCapInh:\t0000000000000000\nCapEff:\t0000000000001000\n";
        assert_eq!(understood(status), Rights { groups: vec![4, 24, 0], net_admin: true });
        assert_eq!(understood("CapEff:\t0000000000000fff\n"), Rights::default());
        assert_eq!(understood(""), Rights::default());
    }

    #[test]
    fn this_thread_is_seen_and_none_is_not() {
        let mut groups = rights(std::process::id()).groups;
        let mut expected: Vec<u32> =
            rustix::process::getgroups().unwrap_or_default().into_iter().map(|group| group.as_raw()).collect();
        groups.sort_unstable();
        expected.sort_unstable();
        assert_eq!(groups, expected);
        assert_eq!(rights(0), Rights::default());
    }
}
