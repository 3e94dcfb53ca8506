//! What there is in `pernetfs`: folders, files, and the value of each.
//!
//! A file is named by what it is about (a namespace by its cookie and life, so that one of the same name that comes later
//! is another), never by its path. Nothing is kept: each answer is made anew.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::control::wire::{Device, Filesystem, MountEntry, Netns, Plugin, PluginState, Status};
use crate::daemon::ask::Ask;
use crate::daemon::file_names::{file_name, real_name};
use crate::engine::Failure;

/// A namespace, in one of its lives.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    name: Arc<str>,
    cookie: u64,
    generation: u64,
}

/// A device of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct DeviceKey {
    netns: Arc<Key>,
    name: Arc<str>,
    ifindex: u64,
}

/// A file or folder. A number is a place in the list of files of its folder.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Node {
    Root,
    Report(Report),
    Namespaces,
    Netns(Arc<Key>),
    NetnsFile(Arc<Key>, usize),
    Devices(Arc<Key>),
    Device(Arc<DeviceKey>),
    DeviceFile(Arc<DeviceKey>, usize),
    /// The last file of a device, which takes a question of its own.
    Holders(Arc<DeviceKey>),
    Plugins,
    Plugin(Arc<str>),
    PluginFile(Arc<str>, usize),
}

/// A file that tells of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Report {
    Filesystems,
    Mounts,
    Status,
}

const REPORTS: [(&str, Report); 3] =
    [("filesystems", Report::Filesystems), ("mounts", Report::Mounts), ("status", Report::Status)];
const NAMESPACES: &str = "namespaces";
const PLUGINS: &str = "plugins";

/// A file's name, and its value.
type File<T> = (&'static str, fn(&T) -> String);

const NETNS: [File<Netns>; 7] = [
    ("cookie", |n| line(n.cookie)),
    ("error", |n| {
        n.error.as_ref().map_or_else(String::new, |e| line(format!("{} {}: {}", e.plugin, e.hook, e.message)))
    }),
    ("generation", |n| line(n.generation)),
    ("names", |n| lines(&n.names)),
    ("nsid", |n| n.nsid.map_or_else(String::new, line)),
    ("state", |n| line(n.state.as_str())),
    ("subsystems", |n| lines(&n.subsystems)),
];

const DEVICE: [File<Device>; 8] = [
    ("address", |d| d.address.as_ref().map_or_else(String::new, line)),
    ("ifindex", |d| line(d.ifindex)),
    ("kind", |d| d.kind.as_ref().map_or_else(String::new, line)),
    ("mtu", |d| line(d.mtu)),
    ("names", |d| lines(std::iter::once(&d.name).chain(&d.alt_names))),
    ("owner", |d| line(&d.owner)),
    ("reg_state", |d| line(&d.reg_state)),
    ("up", |d| line(u8::from(d.up))),
];
const DEVICES: &str = "devices";
const HOLDERS: &str = "holders";

const PLUGIN: [File<Plugin>; 9] = [
    ("error", |p| p.error.as_ref().map_or_else(String::new, |e| line(format!("{}: {}", e.hook, e.message)))),
    ("file", |p| line(&p.file)),
    ("generation", |p| line(p.generation)),
    ("level", |p| line(&p.level)),
    ("namespaces", |p| line(p.namespaces)),
    ("order", |p| line(p.order)),
    ("sha256", |p| line(&p.sha256)),
    ("state", |p| line(p.state.as_str())),
    ("version", |p| line(&p.version)),
];

impl Node {
    pub(super) fn is_directory(&self) -> bool {
        use Node::{Device, Devices, Namespaces, Netns, Plugin, Plugins, Root};
        matches!(self, Root | Namespaces | Netns(_) | Devices(_) | Device(_) | Plugins | Plugin(_))
    }
}

/// The files, as a mount shows them.
pub(super) struct Tree {
    ask: Ask,
}

impl Tree {
    pub(super) fn new(ask: Ask) -> Tree {
        Tree { ask }
    }

    /// The folder of a namespace, by its name.
    pub(super) fn namespace(&self, name: &str) -> Result<Node, Failure> {
        Ok(Node::Netns(key(&self.ask.namespace(name)?)))
    }

    /// Whether a folder is still there.
    pub(super) fn check(&self, folder: &Node) -> Result<(), Failure> {
        match folder {
            Node::Netns(key) | Node::Devices(key) => self.netns(key).map(drop),
            Node::Device(key) => self.device(key).map(drop),
            Node::Plugin(name) => self.plugin(name).map(drop),
            _ => Ok(()),
        }
    }

    /// What is in a folder.
    pub(super) fn children(&self, folder: &Node) -> Result<Vec<(String, Node)>, Failure> {
        Ok(match folder {
            Node::Root => {
                let folders = [(NAMESPACES, Node::Namespaces), (PLUGINS, Node::Plugins)].into_iter();
                let reports = REPORTS.into_iter().map(|(name, report)| (name, Node::Report(report)));
                folders.chain(reports).map(|(name, node)| (name.to_owned(), node)).collect()
            }
            Node::Namespaces => {
                let all = self.ask.namespaces()?;
                all.iter().map(|netns| (file_name(&netns.name, netns.cookie), Node::Netns(key(netns)))).collect()
            }
            Node::Netns(key) => {
                self.netns(key)?;
                let devices = std::iter::once((DEVICES.to_owned(), Node::Devices(Arc::clone(key))));
                devices.chain(files(&NETNS, |place| Node::NetnsFile(Arc::clone(key), place))).collect()
            }
            Node::Devices(key) => {
                self.netns(key)?;
                let devices = self.devices(key)?.into_iter();
                devices.map(|(name, device)| (name, Node::Device(device_key(key, &device)))).collect()
            }
            Node::Device(key) => {
                self.device(key)?;
                let holders = std::iter::once((HOLDERS.to_owned(), Node::Holders(Arc::clone(key))));
                files(&DEVICE, |place| Node::DeviceFile(Arc::clone(key), place)).chain(holders).collect()
            }
            Node::Plugins => {
                let all = self.plugins()?.into_iter();
                all.map(|p| (p.name.clone(), Node::Plugin(p.name.into()))).collect()
            }
            Node::Plugin(name) => {
                self.plugin(name)?;
                files(&PLUGIN, |place| Node::PluginFile(Arc::clone(name), place)).collect()
            }
            _ => return Err(Failure::new(libc::ENOTDIR, "this is no folder")),
        })
    }

    /// The file of a name in a folder: a folder that is there, or a file that is to be there if what it tells of is. What
    /// is many is asked for by its name, not listed.
    pub(super) fn child(&self, folder: &Node, name: &str) -> Result<Node, Failure> {
        let none = || Failure::new(libc::ENOENT, format!("there is no `{name}` here"));
        match folder {
            Node::Netns(key) if name != DEVICES => {
                place(&NETNS, name).map(|place| Node::NetnsFile(Arc::clone(key), place)).ok_or_else(none)
            }
            Node::Device(key) if name != HOLDERS => {
                place(&DEVICE, name).map(|place| Node::DeviceFile(Arc::clone(key), place)).ok_or_else(none)
            }
            Node::Plugin(plugin) => {
                place(&PLUGIN, name).map(|place| Node::PluginFile(Arc::clone(plugin), place)).ok_or_else(none)
            }
            Node::Namespaces if !name.starts_with('#') => self.namespace(&real_name(name)),
            Node::Devices(key) => {
                let device = self.devices(key)?.remove(name).ok_or_else(none)?;
                Ok(Node::Device(device_key(key, &device)))
            }
            _ => {
                let found = self.children(folder)?.into_iter().find(|(known, _)| known == name);
                found.map(|(_, node)| node).ok_or_else(none)
            }
        }
    }

    /// A file's content.
    pub(super) fn content(&self, file: &Node) -> Result<String, Failure> {
        Ok(match file {
            Node::Report(Report::Filesystems) => filesystems(&self.ask.filesystems()?),
            Node::Report(Report::Mounts) => mounts(&self.ask.mounts()?),
            Node::Report(Report::Status) => status(&self.ask.status()?),
            Node::NetnsFile(key, place) => value(&NETNS, *place, &self.netns(key)?),
            Node::DeviceFile(key, place) => value(&DEVICE, *place, &self.device(key)?),
            Node::Holders(key) => {
                let holders = self.ask.holders(&key.netns.name, &key.name, key.ifindex)?;
                lines(holders.iter().map(|holder| format!("{} {}", holder.plugin, holder.purpose)))
            }
            Node::PluginFile(name, place) => value(&PLUGIN, *place, &self.plugin(name)?),
            _ => return Err(Failure::new(libc::EISDIR, "this is a folder")),
        })
    }

    /// The namespace, in the same life.
    fn netns(&self, key: &Arc<Key>) -> Result<Netns, Failure> {
        let netns = self.ask.namespace(&key.name)?;
        if (netns.cookie, netns.generation) == (key.cookie, key.generation) { Ok(netns) } else { Err(gone()) }
    }

    /// By file name. One that is only held any more gives way to one that has its name now.
    fn devices(&self, key: &Key) -> Result<BTreeMap<String, Device>, Failure> {
        let (registered, held): (Vec<_>, Vec<_>) =
            self.ask.devices(&key.name)?.into_iter().partition(|device| device.reg_state == "registered");
        let all = held.into_iter().chain(registered);
        Ok(all.map(|device| (file_name(&device.name, device.ifindex), device)).collect())
    }

    fn device(&self, key: &DeviceKey) -> Result<Device, Failure> {
        self.netns(&key.netns)?;
        let mut devices = self.ask.devices(&key.netns.name)?.into_iter();
        devices.find(|device| (device.ifindex, &*device.name) == (key.ifindex, &*key.name)).ok_or_else(gone)
    }

    /// Those that are configured; of a generation that has ended nothing runs.
    fn plugins(&self) -> Result<Vec<Plugin>, Failure> {
        let mut plugins = self.ask.plugins()?;
        plugins.retain(|plugin| plugin.state != PluginState::retired);
        Ok(plugins)
    }

    fn plugin(&self, name: &str) -> Result<Plugin, Failure> {
        self.plugins()?.into_iter().find(|plugin| plugin.name == name).ok_or_else(gone)
    }
}

fn gone() -> Failure {
    Failure::new(libc::ENOENT, "what this file tells of is gone")
}

fn key(netns: &Netns) -> Arc<Key> {
    Arc::new(Key { name: netns.name.as_str().into(), cookie: netns.cookie, generation: netns.generation })
}

fn device_key(netns: &Arc<Key>, device: &Device) -> Arc<DeviceKey> {
    let name = device.name.as_str().into();
    Arc::new(DeviceKey { netns: Arc::clone(netns), name, ifindex: device.ifindex })
}

fn files<T>(all: &'static [File<T>], node: impl Fn(usize) -> Node) -> impl Iterator<Item = (String, Node)> {
    all.iter().enumerate().map(move |(place, (name, _))| ((*name).to_owned(), node(place)))
}

fn place<T>(all: &[File<T>], name: &str) -> Option<usize> {
    all.iter().position(|(known, _)| *known == name)
}

fn value<T>(all: &[File<T>], place: usize, of: &T) -> String {
    all.get(place).map_or_else(String::new, |(_, value)| value(of))
}

fn line(value: impl ToString) -> String {
    // One value, one line, whatever a plugin's error says.
    value.to_string().replace('\n', " | ") + "\n"
}

fn lines(values: impl IntoIterator<Item = impl ToString>) -> String {
    values.into_iter().map(line).collect()
}

/// As in `/proc/filesystems`.
fn filesystems(all: &[Filesystem]) -> String {
    lines(all.iter().map(|fs| format!("nodev\t{}", fs.name)))
}

/// As in `/proc/mounts`.
fn mounts(all: &[MountEntry]) -> String {
    let escaped = |text: &str| text.replace('\\', r"\134").replace(' ', r"\040").replace('\t', r"\011");
    let row = |mount: &MountEntry| {
        let own = Some(mount.options.clone()).filter(|options| !options.is_empty());
        let netns = mount.netns.as_ref().map(|netns| format!("netns={netns}"));
        let options: Vec<String> = netns.into_iter().chain(own).collect();
        let options = if options.is_empty() { "rw".to_owned() } else { escaped(&options.join(",")) };
        format!("{} {} fuse.{} {options} 0 0", escaped(&mount.source), escaped(&mount.target), mount.fs)
    };
    lines(all.iter().map(row))
}

/// As in `/proc/self/status`: names and values.
fn status(status: &Status) -> String {
    let (n, p) = (&status.namespaces, &status.plugins);
    let rows = [
        ("Version", status.version.clone()),
        ("State", status.state.as_str().to_owned()),
        ("Generation", status.generation.to_string()),
        ("Discovery", status.discovery.clone()),
        ("NamespacesLive", n.live.to_string()),
        ("NamespacesDegraded", n.degraded.to_string()),
        ("NamespacesFailed", n.failed.to_string()),
        ("NamespacesSetup", n.setup.to_string()),
        ("NamespacesDying", n.dying.to_string()),
        ("PluginsLive", p.live.to_string()),
        ("PluginsFailed", p.failed.to_string()),
        ("PluginsRefused", p.refused.to_string()),
        ("Devices", status.devices.to_string()),
        ("Resyncs", status.resyncs.to_string()),
        ("RetiredGenerations", status.retired_generations.to_string()),
    ];
    let pinned = status
        .pinned
        .iter()
        .map(|pin| ("Pinned", format!("{} {} {} {}", pin.plugin, pin.hook, pin.seconds, pin.netns)));
    lines(rows.into_iter().chain(pinned).map(|(name, value)| format!("{name}:\t{}", value.trim_end())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_one_line_each() {
        assert_eq!(
            (line("a\nb"), lines(["a", "b"]), lines(Vec::<String>::new())),
            ("a | b\n".into(), "a\nb\n".into(), String::new())
        );
        let mount = MountEntry {
            id: 1,
            fs: "pernetfs".into(),
            owner: "pernetd".into(),
            netns: Some("blue".into()),
            source: "none".into(),
            target: "/a b".into(),
            options: "x=1".into(),
            calls: 0,
        };
        assert_eq!(mounts(&[mount]), "none /a\\040b fuse.pernetfs netns=blue,x=1 0 0\n");
    }
}
