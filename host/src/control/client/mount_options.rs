//! What stands behind `-o`: whose each option is.
//!
//! Mirrors mount(8): some options are for whoever reads fstab (`nofail`, `x-systemd.…`), some for the mount as such
//! (`ro`), some for this client (`netns=`, `runtime_dir=`); the rest is the file system type's own.

use std::path::PathBuf;

use super::mount::Wanted;

/// Options that say nothing to a mount of pernetd's: who reads fstab has seen to them, or they are so anyway.
const IGNORED: [&str; 26] = [
    "defaults",
    "rw",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "noowner",
    "nogroup",
    "nosuid",
    "nodev",
    "noexec",
    "atime",
    "noatime",
    "relatime",
    "norelatime",
    "diratime",
    "nodiratime",
    "strictatime",
    "nostrictatime",
    "async",
    "silent",
];

/// Options that cannot be had.
const REFUSED: [(&str, &str); 7] = [
    ("suid", "its files are never set-uid"),
    ("dev", "it has no devices"),
    ("exec", "nothing in it is executed"),
    ("remount", "it cannot be mounted otherwise while it is mounted: unmount it, and mount it again"),
    ("bind", "bind it with mount(8) itself"),
    ("sync", "every write is carried out at once anyway: leave it out"),
    ("loop", "it is made from no file"),
];

/// What the options come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    netns: Option<String>,
    /// Where the daemon is.
    pub(super) runtime_dir: Option<PathBuf>,
    read_only: bool,
    /// The type's own.
    own: Vec<String>,
}

impl Options {
    /// Takes a list of options separated by commas; the last of a kind counts. An option that cannot be had is an error.
    pub(super) fn add(&mut self, list: &str) -> Result<(), String> {
        for option in list.split(',').filter(|option| !option.is_empty()) {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| *refused == option) {
                return Err(format!("option {option}: {why}"));
            }
            match key {
                "ro" => self.read_only = true,
                "rw" => self.read_only = false,
                "netns" if !value.is_empty() => self.netns = Some(value.to_owned()),
                "runtime_dir" if !value.is_empty() => self.runtime_dir = Some(value.into()),
                "netns" | "runtime_dir" => return Err(format!("option {key} needs a value: {key}=…")),
                "comment" => {}
                _ if key.starts_with("x-") || key.starts_with("X-") || IGNORED.contains(&option) => {}
                _ => self.own.push(option.to_owned()),
            }
        }
        Ok(())
    }

    /// A mount with these options.
    pub(super) fn into_wanted(self, fs: String, source: String, directory: PathBuf) -> Wanted {
        let Options { netns, read_only, own, .. } = self;
        Wanted { fs, netns, options: own.join(","), source, directory, read_only }
    }

    /// The namespace, where an option of its own said which.
    pub(super) fn set_netns(&mut self, netns: &str) {
        self.netns = Some(netns.to_owned());
    }

    pub(super) fn set_read_only(&mut self) {
        self.read_only = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &str) -> Result<Options, String> {
        let mut options = Options::default();
        options.add(list).map(|()| options)
    }

    #[test]
    fn each_option_goes_to_whose_it_is() -> Result<(), String> {
        let all =
            "rw,nosuid,netns=blue,_netdev,nofail,x-systemd.requires=a.service,size=1,,comment=x,runtime_dir=/r,big";
        let options = options(all)?;
        assert_eq!(options.runtime_dir, Some("/r".into()));
        let wanted = options.into_wanted("pernetfs".into(), "none".into(), "/mnt".into());
        assert_eq!((wanted.netns.as_deref(), &*wanted.options, wanted.read_only), (Some("blue"), "size=1,big", false));
        Ok(())
    }

    #[test]
    fn the_last_of_a_kind_counts_and_what_cannot_be_had_is_refused() {
        let read_only = |list: &str| options(list).map(|options| options.read_only);
        assert_eq!((read_only("ro"), read_only("ro,rw"), read_only("rw,ro")), (Ok(true), Ok(false), Ok(true)));
        for wrong in ["suid", "ro,exec", "netns", "netns=", "runtime_dir=", "remount,ro", "bind"] {
            assert!(options(wrong).is_err(), "{wrong}");
        }
        assert!(options("suid=1").is_ok(), "the type may have one of that name");
    }
}
