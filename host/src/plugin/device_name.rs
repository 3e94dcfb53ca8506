//! A device's name where nothing may be allocated for it: every call of a device's hook keeps one.

/// A device's name, in place: the kernel's have at most 15 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceName([u8; 15], u8);

impl DeviceName {
    /// Of a longer one as much as has room.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let mut place = [0; 15];
        let len = (0..=name.len().min(place.len())).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
        place[..len].copy_from_slice(&name.as_bytes()[..len]);
        DeviceName(place, u8::try_from(len).unwrap_or_default())
    }

    /// None for no name.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        let name = std::str::from_utf8(&self.0[..usize::from(self.1)]).ok()?;
        (!name.is_empty()).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices_are_kept_in_place() {
        let kept = |name: &str| DeviceName::new(name).as_str().map(str::to_owned);
        assert_eq!(kept("eth0"), Some("eth0".into()));
        assert_eq!(kept("fifteen-bytes-x"), Some("fifteen-bytes-x".into()));
        assert_eq!(kept("fourteen-bytes\u{e4}"), Some("fourteen-bytes".into()), "cut between characters");
        assert_eq!(kept(""), None);
    }
}
