//! The command line of `pernetctl`.

use std::path::PathBuf;

use super::sock::SockType;

/// Shows and changes what pernetd does.
///
/// Exit status: 0 done, 1 failed, 2 wrong usage, 3 the daemon cannot be reached.
#[derive(Debug, clap::Parser)]
#[command(name = "pernetctl", version)]
pub(super) struct Arguments {
    /// Print one JSON document instead of a table (monitor: one per line)
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Folder of the daemon's control socket [default: $RUNTIME_DIRECTORY or /run/pernetd]
    #[arg(long, value_name = "DIR", global = true)]
    pub(super) runtime_dir: Option<PathBuf>,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// What is wrong, if anything is; then what the daemon is, has and does
    Status {
        /// Exit with 1 if anything is wrong, for monitoring
        #[arg(long)]
        check: bool,
    },
    /// Why a namespace, plugin or device is as it is: its whole story
    Why(WhyArguments),
    /// Network namespaces
    #[command(subcommand)]
    Netns(NetnsCommand),
    /// Plugins
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Network devices
    #[command(subcommand)]
    Dev(DevCommand),
    /// What ran at the start, in order, with time and result; and the last setup of each namespace
    Boot(BootArguments),
    /// Sockets that plugins have in namespaces, and protocol families that they offer
    #[command(subcommand)]
    Sock(SockCommand),
    /// File system types
    #[command(subcommand)]
    Fs(FsCommand),
    /// Mount a file system type on a directory; without arguments, the mounts
    Mount(MountArguments),
    /// Unmount a file system of pernetd's, also one whose daemon is gone
    Umount {
        /// Detach it now, though it is in use: it ends when its last file is closed
        #[arg(short, long)]
        lazy: bool,
        /// Where it is mounted
        directory: PathBuf,
    },
    /// The sysctls of pernetd and its plugins: reads them, and sets them
    Sysctl(SysctlArguments),
    /// Every call of a hook as it happens, until interrupted
    Monitor,
    /// Read the configuration again, as SIGHUP does, and wait for the result
    Reload,
}

/// Tells what happened, why, what was undone, what comes next and what to do; of everything that has this name, and of what
/// had it and is gone.
#[derive(Debug, clap::Args)]
pub(super) struct WhyArguments {
    /// Only a namespace
    #[arg(long, group = "kind")]
    pub(super) netns: bool,
    /// Only a plugin
    #[arg(long, group = "kind")]
    pub(super) plugin: bool,
    /// Only devices
    #[arg(long, group = "kind")]
    pub(super) dev: bool,
    /// The name; of a device in one namespace, NETNS:NAME
    pub(super) name: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct BootArguments {
    /// Only the setup of this namespace, hook by hook
    #[arg(long, value_name = "NAME")]
    pub(super) netns: Option<String>,
    /// Draw it as a chart into this file, instead of printing tables
    #[arg(long, value_name = "FILE")]
    pub(super) svg: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum NetnsCommand {
    /// All namespaces, the host's own (@host) first
    List,
    /// Make a namespace: its name appears only when the plugins' inits are done, and not at all if they fail
    Add {
        /// Its name
        name: String,
    },
    /// Remove a name (as umount and unlink do), and wait for the plugins' exits
    Del {
        /// One of its names
        name: String,
    },
    /// Wait until a namespace is there and its setup is over
    Wait {
        /// One of its names
        name: String,
        /// How long, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 30)]
        timeout: u64,
    },
    /// Try a failed or degraded namespace again now
    Retry {
        /// One of its names
        name: String,
    },
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum PluginCommand {
    /// All plugins, in registration order
    List,
    /// The metadata of a plugin file, read without running any of its code
    Info {
        /// The shared library
        file: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct MountArguments {
    /// Its type: pernetfs, netctl, or a plugin's (`pernetctl fs list`)
    #[arg(short = 't', long = "type", value_name = "TYPE", requires = "places")]
    pub(super) fs: Option<String>,
    /// For this namespace only; the mount ends with it
    #[arg(long, value_name = "NAME", requires = "places")]
    pub(super) netns: Option<String>,
    /// Options separated by commas, as of mount(8): ro, netns=NAME, and the type's own
    #[arg(short, value_name = "OPTIONS", requires = "places")]
    pub(super) options: Vec<String>,
    /// The same as -o ro
    #[arg(short, long, requires = "places")]
    pub(super) read_only: bool,
    /// The directory; with something to call the mount by in front of it
    #[arg(value_name = "[SOURCE] DIRECTORY", num_args = 1..=2, requires = "fs")]
    pub(super) places: Vec<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum FsCommand {
    /// All types, in the order of registration
    List,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum DevCommand {
    /// The devices of all namespaces, or of one
    List {
        /// Only those of this namespace
        #[arg(long, value_name = "NAME")]
        netns: Option<String>,
    },
    /// One device with its counters, its owner's counters, and who holds it
    ///
    /// With --json it is one object; an array of them where several namespaces have a device of this name.
    Show {
        /// Its name, or one of its alternative names
        name: String,
        /// Only in this namespace
        #[arg(long, value_name = "NAME")]
        netns: Option<String>,
    },
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum SockCommand {
    /// The sockets of plugins in all namespaces, or in one
    List {
        /// Only those of this namespace
        #[arg(long, value_name = "NAME")]
        netns: Option<String>,
    },
    /// Connect standard input and output to a protocol family that a plugin offers
    ///
    /// When the plugin's side ends, so does the command. When standard input ends, the plugin is told so, and what it still
    /// says is printed until it ends its side. Datagrams know no end: after that of standard input the command waits until
    /// the plugin has been silent for half a second.
    Connect {
        /// The namespace
        #[arg(long, value_name = "NAME")]
        netns: String,
        /// The socket's type
        #[arg(long = "type", value_enum, default_value_t = SockType::Stream)]
        kind: SockType,
        /// The family's name
        family: String,
    },
}

/// Reads each KEY, or sets it to VALUE, in the host's own namespace or in those that --netns names. KEY has dots or
/// slashes, and may be a directory; NETNS:KEY is one in that namespace.
///
/// The kernel's sysctls (net.…) are not among them: the plugin `sysctl` sets those.
#[derive(Debug, clap::Args)]
pub(super) struct SysctlArguments {
    /// All that there are
    #[arg(short, long)]
    pub(super) all: bool,
    /// Every argument must be KEY=VALUE
    #[arg(short, long)]
    pub(super) write: bool,
    /// Print values only
    #[arg(short = 'n', long)]
    pub(super) values: bool,
    /// Print names only
    #[arg(short = 'N', long, conflicts_with = "values")]
    pub(super) names: bool,
    /// Pass over keys that are not there
    #[arg(short = 'e', long)]
    pub(super) ignore: bool,
    /// Do not print what was set
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// Set what a file says, in the format of sysctl.d; - is standard input. A line without a namespace is for those of
    /// --netns, or for every one but the host's own
    #[arg(short = 'p', long = "load", value_name = "FILE")]
    pub(super) files: Vec<PathBuf>,
    /// A namespace, or a pattern of names ('blue-*'); what is printed then says which it is of
    #[arg(long, value_name = "NAME|GLOB")]
    pub(super) netns: Option<String>,
    /// What to read or set
    #[arg(value_name = "KEY[=VALUE]", required_unless_present_any = ["all", "files"])]
    pub(super) keys: Vec<String>,
}
