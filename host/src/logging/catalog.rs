//! The events that an operator meets, each by an id that never changes.
//!
//! In the journal the id is the field `MESSAGE_ID`; what the event means and what to do about it is the entry of that id
//! in `systemd/pernetd.catalog`, which `journalctl -x` shows. An id is drawn once (`systemd-id128 new`), never used for
//! another event, and stays when its text is reworded. `host/tests/catalog.rs` holds this table, its users and the
//! catalog together.

/// Constants by name, and all of them as one table.
macro_rules! message_ids {
    ($($(#[$doc:meta])* $name:ident = $id:literal;)*) => {
        $($(#[$doc])* pub const $name: &str = $id;)*

        /// Every id with its name.
        pub const ALL: &[(&str, &str)] = &[$((stringify!($name), $name)),*];
    };
}

message_ids! {
    /// The namespaces that existed at the start are set up.
    READY = "dbe356c83f6d49df8c47e5546822f7a9";
    /// The exits begin.
    STOPPING = "bbeddd9f16a14c98a448c6435bf84f63";
    /// The start ended before the loop ran.
    NOT_STARTED = "ee18d5e67bf641bd9b18ec0c3dcfe416";
    /// The daemon ends without the plugins' exits.
    EXITS_NOT_RUN = "fd2724365e8a4676b5abfe911840a816";
    /// One of the daemon's own parts did not start.
    PART_FAILED = "025f5a0ce80b429280dff24994e82a12";
    /// The new configuration is in force.
    RELOADED = "66592222bb9046e4bced7a60a5f32ebc";
    /// A reload changed nothing; one entry for each thing that is wrong.
    RELOAD_FAILED = "683c0f90f7ab4e1db228c1bdc9f8fcc7";
    /// A reload added, replaced or removed a plugin.
    PLUGIN_CHANGED = "68c911e19f57409e91498991fa34425b";
    /// A key has changed that only a start reads.
    NEEDS_RESTART = "9a8cb63fc5374c818a17930df56444fa";
    /// The configuration says something that has no effect.
    CONFIG_DOUBTFUL = "f96fd6e039aa46e290343d06d77486a1";
    /// A line of `sysctl.d` could not be carried out.
    SYSCTL_REFUSED = "7ff9242452684aa3a38c5e8230fe2ef3";
    /// A plugin's file or configuration is not acceptable.
    PLUGIN_REFUSED = "3f00fd3a1d2d44a4a944d4202f3bcf13";
    /// A plugin or a part of the daemon's is not called, because of the blacklist or for want of another.
    NOT_CALLED = "49536d49dfc2449ca35ad5d86669832d";
    /// A plugin's init failed, and it does not run.
    PLUGIN_FAILED = "f58363a1185949128c104927ad4798fb";
    /// A plugin panicked and is taken out.
    PLUGIN_PANICKED = "7c90eacf4e1d497fa5c2cf751e408b8b";
    /// A plugin that has to go does not come out of a call.
    PLUGIN_STUCK = "d08341270e40461392cae12b856c26de";
    /// A hook answered with an error.
    HOOK_FAILED = "9c4405fe6469422a9df38fa87c5b58f1";
    /// A hook has been running for very long.
    HOOK_HANGS = "7bbec0c8d2ce4fa5a493719a04971c7b";
    /// A hook that was told to hang has come out.
    HOOK_RETURNED = "0dabf3e6ad724f939f4890d93c7b2af1";
    /// Work that a plugin deferred failed.
    WORK_FAILED = "c8cad4af55c94638aecf4aadb8d9363a";
    /// The setup of a namespace failed and was undone.
    NETNS_FAILED = "0a5d2054d3544de7b472b82014d21afe";
    /// A namespace lives without one of its plugins.
    NETNS_DEGRADED = "a2847eac51164b088e527fec247e9288";
    /// A namespace that was failed or degraded is live.
    NETNS_MENDED = "a8c7ad5901c9491a803679b10373b40f";
    /// A namespace's name is there, and what it shows cannot be opened.
    NAME_UNREADABLE = "163d6d4616dd45f3a36fdda29df24605";
    /// Some names of namespaces may be seen late, or not.
    DISCOVERY_IMPAIRED = "feeb70cd9d924b0690934a80d3c91391";
    /// Namespaces are no longer discovered.
    DISCOVERY_ENDED = "07e196d16df94bc5bb8132dffea78ad5";
    /// Link events were lost.
    LINKS_LOST = "4049db4be9da49db8211cda9e0cd02e4";
    /// What was lost of link events has been made up for.
    LINKS_RESYNCED = "b1fcee7fc4284c33b2627c9c1cc6311c";
    /// An unregistered device waits for those who hold it.
    DEVICE_WAITS = "2ceae9cde83447f59335168c8caf48cf";
    /// An unregistered device was given up on.
    DEVICE_LEAKED = "24ebb3dd107347ae813d4bfa174b4da3";
    /// It is not known where a plugin's device was moved to, or it cannot be freed.
    DEVICE_ASTRAY = "f5a52f91ad7d4417a2ae6e92f926aceb";
    /// A mount ended with its plugin or its namespace.
    MOUNT_ENDED = "8609e2cfa6f04d2ca75f745b57f22aa1";
    /// A mount cannot be served, or not any more.
    MOUNT_DEAD = "6b11ffc13bcf43be8492a19f8bc13c69";
    /// A mount of the daemon before is served again.
    MOUNT_SERVED_AGAIN = "2b29fee413ef4cdea1567622ee205ac1";
    /// A file operation was given up on.
    FILE_CALL_HANGS = "89c547dc957e4ed0884d4bde73afec1b";
    /// A file system answered what nobody can use, or does not end well.
    FILE_SYSTEM_AT_FAULT = "7b55c088f16548bd9c6c36a139e2dbeb";
    /// A plugin left a socket open in a namespace that it has left.
    SOCKET_LEFT_OPEN = "91ddbc2b07f34bf8ad1d5c8f559fa5da";
    /// Something is missing without which service is degraded.
    FACILITY_MISSING = "2f79ae9b1d6345f6848de44e3ca25539";
    /// There are no descriptors left.
    DESCRIPTORS_EXHAUSTED = "e0fa73ba82a34e218f3548917d387d8e";
    /// A thread cannot be started, or cannot be used any more.
    THREADS_EXHAUSTED = "f17278f4c3154ad5af1fc6a40e443172";
    /// The control socket is closed.
    CONTROL_CLOSED = "32bea4b658284657a38afe9d152ae226";
    /// The service manager could not be told something, or gave something unusable.
    MANAGER_DEAF = "beb45af9a0564db79f331a31987f31cf";
    /// Lines of the log were lost.
    LINES_LOST = "c0db229acf224289a24a93c6bb3cde59";
    /// pernetd itself made a mistake.
    OWN_MISTAKE = "9c8e72113084434aa496dfcf3edc9f60";
}
