//! The types that go over the control socket, as `io.pernetd.varlink` declares them.
//!
//! They are generated from the interface, so that the two cannot differ, and are the operator's contract: JSON fields,
//! their names and their units. They know nothing of the engine's types; the daemon fills them.

// Generated code: its names follow the interface, and it is documented there.
#[allow(
    missing_docs,
    unreachable_pub,
    non_camel_case_types,
    non_snake_case,
    unused_imports,
    clippy::all,
    clippy::unwrap_used,
    clippy::cast_possible_truncation
)]
pub(super) mod generated {
    include!(concat!(env!("OUT_DIR"), "/io.pernetd.rs"));
}

pub use generated::{
    BootRecord, Cause, DaemonState, DaemonStatus as Status, Device, DeviceCounter, DeviceDetails, DeviceHolder,
    DeviceStats, Facility, Fact, Filesystem, Happening, Hook, HookResult, Initcall, InitcallResult, LastReload,
    MountEntry, NamespaceCounts, Netns, NetnsError, NetnsSetup, NetnsState, Part, Pinned, Plugin, PluginCounts,
    PluginError, PluginState, ReloadAction, ReloadResult, ReloadedPlugin, SetupHook, Socket, Story, Sysctl, Trouble,
    Why_Reply as Stories,
};

/// The interface's text, as it is also given to clients that ask for it.
pub const INTERFACE: &str = include_str!("io.pernetd.varlink");

/// A point in time as the contract writes it: RFC 3339, UTC, microseconds.
#[must_use]
pub fn time(at: std::time::SystemTime) -> String {
    humantime::format_rfc3339_micros(at).to_string()
}

impl NetnsState {
    /// The operator's word.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::setup => "setup",
            Self::live => "live",
            Self::degraded => "degraded",
            Self::failed => "failed",
            Self::dying => "dying",
        }
    }
}

impl PluginState {
    /// The operator's word.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::live => "live",
            Self::failed => "failed",
            Self::refused => "refused",
            Self::retired => "retired",
        }
    }
}

impl DaemonState {
    /// The operator's word.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::starting => "starting",
            Self::running => "running",
            Self::reloading => "reloading",
            Self::stopping => "stopping",
        }
    }
}

impl InitcallResult {
    /// The operator's word.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::ok => "ok",
            Self::failed => "failed",
            Self::blacklisted => "blacklisted",
            Self::refused => "refused",
        }
    }
}

impl ReloadAction {
    /// The operator's word.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::kept => "kept",
            Self::added => "added",
            Self::replaced => "replaced",
            Self::removed => "removed",
            Self::failed => "failed",
        }
    }
}
