//! Discovery by folder events and the mount table: for kernels before 6.15.
//!
//! inotify tells which names come and go in the folders, at once; a name that came is looked at until a namespace is mounted
//! on it (`pending.rs`). The mount table's own wake-up says that something was mounted: it hastens those looks, and what
//! folder events cannot show (an umount that leaves the name) is found by reading the table, as often as its length
//! allows. A folder that does not exist yet is awaited in the nearest one above it that does.

use std::collections::{HashMap, HashSet};
use std::io;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use inotify::{Event, EventMask, Inotify, WatchDescriptor, WatchMask};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::folders::Folders;
use super::mountinfo::Mountinfo;
use super::pending::Pending;
use super::seen::Seen;
use super::{Batch, Error, Method, Observation, Options, Request, Sink, read_requests, unavailable};
use crate::logging::catalog;

/// The table is read so long after mounts changed: what belongs together mostly comes together,
const READ_AFTER: Duration = Duration::from_millis(2);
/// and so long after it was read last,
const READ_PAUSE: Duration = Duration::from_millis(20);
/// and so many times as long as reading it takes: reading costs at most 2 % of a processor,
const READ_SHARE: u32 = 50;
/// but no longer after it than this.
const READ_WITHIN: Duration = Duration::from_secs(2);

/// So many reads make a batch even if the queue never runs empty.
const READS_AT_MOST: usize = 256;

/// The open descriptors: everything that a kernel may refuse.
pub(super) struct Subscription {
    inotify: Inotify,
    mounts: Mountinfo,
}

impl Subscription {
    pub(super) fn new() -> Result<Subscription, Error> {
        let lacking = |what| unavailable(Method::Inotify, what);
        let mounts = Mountinfo::open().map_err(lacking("/proc/thread-self/mountinfo"))?;
        Ok(Subscription { inotify: Inotify::init().map_err(lacking("inotify"))?, mounts })
    }
}

/// What a watch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// The folder with this index.
    Folder(usize),
    /// A folder is to appear somewhere below.
    Above,
}

pub(super) struct Source {
    subscription: Subscription,
    requests: OwnedFd,
    folders: Folders,
    seen: Seen,
    send: Sink,
    watches: HashMap<WatchDescriptor, Vec<Role>>,
    pending: Pending,
    /// Names to look at.
    touched: HashSet<PathBuf>,
    /// Folders have come or gone: the watches are to be set anew.
    rewatch: bool,
    /// Events were lost, or the folders are others: everything is to be looked at.
    rescan: bool,
    /// Mounts have changed since the pending names were looked at.
    mounts_changed: bool,
    /// When to read the mount table.
    read_at: Option<Instant>,
    /// When it was read last,
    read_last: Instant,
    /// and how long that took.
    read_cost: Duration,
    /// A folder that cannot be watched was complained of.
    complained: bool,
    buffer: Vec<u8>,
}

impl Source {
    pub(super) fn new(subscription: Subscription, requests: OwnedFd, options: Options, send: Sink) -> Source {
        Source {
            subscription,
            requests,
            folders: Folders::new(options.folders),
            seen: Seen::new(options.handles),
            send,
            watches: HashMap::new(),
            pending: Pending::default(),
            touched: HashSet::new(),
            rewatch: true,
            rescan: true,
            mounts_changed: false,
            read_at: None,
            read_last: Instant::now(),
            read_cost: Duration::ZERO,
            complained: false,
            buffer: vec![0; 16 * 1024],
        }
    }

    pub(super) fn run(mut self) {
        // Else the kernel adds 50 µs to every wait, as much as the first one is long.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        loop {
            if let Err(error) = self.drain() {
                let errno = error.raw_os_error();
                tracing::error!(
                    message_id = catalog::DISCOVERY_ENDED,
                    errno,
                    "folder events cannot be read: {error}; namespaces are no longer discovered"
                );
                return;
            }
            let news = self.look();
            if !news.is_empty() {
                (self.send)(Batch(news));
            }
            if self.wait() == Request::End {
                return;
            }
        }
    }

    /// Until an event, a change of the mounts, a request, or the next time to look.
    fn wait(&mut self) -> Request {
        let next = self.pending.next().into_iter().chain(self.read_at).min();
        let left = next.map(|next| next.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let mut fds = [
            PollFd::new(&self.subscription.inotify, PollFlags::IN),
            PollFd::new(&self.subscription.mounts, PollFlags::PRI),
            PollFd::new(&self.requests, PollFlags::IN),
        ];
        // Interrupted: looks once more than needed.
        let _ = poll(&mut fds, timeout.as_ref());
        if !fds[1].revents().is_empty() {
            let pause = (self.read_cost * READ_SHARE).clamp(READ_PAUSE, READ_WITHIN);
            self.read_at.get_or_insert_with(|| (Instant::now() + READ_AFTER).max(self.read_last + pause));
            self.mounts_changed = true;
        }
        if fds[2].revents().is_empty() {
            return Request::None;
        }
        let request = read_requests(&self.requests);
        self.rescan |= request == Request::Rescan;
        request
    }

    /// Reads folder events until there are no more.
    fn drain(&mut self) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut result = Ok(());
        for _ in 0..READS_AT_MOST {
            match self.subscription.inotify.read_events(&mut buffer) {
                Ok(events) => events.for_each(|event| self.note(&event)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    result = if error.kind() == io::ErrorKind::WouldBlock { Ok(()) } else { Err(error) };
                    break;
                }
            }
        }
        self.buffer = buffer;
        result
    }

    fn note(&mut self, event: &Event<&std::ffi::OsStr>) {
        const FOLDER_GONE: EventMask =
            EventMask::IGNORED.union(EventMask::DELETE_SELF).union(EventMask::MOVE_SELF).union(EventMask::UNMOUNT);
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            (self.rewatch, self.rescan) = (true, true);
        } else if event.mask.intersects(FOLDER_GONE) {
            self.rewatch = true;
        }
        let Some(name) = event.name else { return };
        for role in self.watches.get(&event.wd).map_or(&[][..], Vec::as_slice) {
            let Role::Folder(index) = role else {
                self.rewatch = true;
                continue;
            };
            let path = self.folders.shown(*index).join(name);
            if event.mask.intersects(EventMask::CREATE | EventMask::MOVED_TO) {
                self.pending.insert(path.clone(), Instant::now());
            }
            self.touched.insert(path);
        }
    }

    /// What has changed?
    fn look(&mut self) -> Vec<Observation> {
        let now = Instant::now();
        let read = self.read_at.is_some_and(|at| at <= now);
        if self.rewatch || read {
            self.watch_folders();
        }
        if self.rescan {
            return self.scan();
        }
        let mut news = if read { self.read_mounts() } else { Vec::new() };
        self.pending.take_due(now, &mut self.touched);
        if std::mem::take(&mut self.mounts_changed) {
            self.touched.extend(self.pending.all().cloned());
        }
        let touched = std::mem::take(&mut self.touched);
        news.extend(touched.into_iter().filter_map(|name| self.seen.look(name)));
        for observation in &news {
            if let Observation::Name(name) = observation {
                self.pending.remove(&name.path);
            }
        }
        news
    }

    /// Sets a watch on each folder, or on the nearest existing one above it. The kernel gives the watch that it has to
    /// who asks for the same folder again, so a folder that is another one now shows as a new watch.
    fn watch_folders(&mut self) {
        self.rewatch = false;
        self.folders.refresh();
        let mut watches: HashMap<WatchDescriptor, Vec<Role>> = HashMap::new();
        for index in 0..self.folders.len() {
            match self.watch_folder(index) {
                Ok((watch, role)) => watches.entry(watch).or_default().push(role),
                Err(error) => self.complain(index, &error),
            }
        }
        // Two folders that are really one: the first has the names, as it has by the other method.
        for roles in watches.values_mut() {
            let mut folders = roles.iter().filter(|role| **role != Role::Above);
            let first = folders.next().copied();
            roles.retain(|role| *role == Role::Above || Some(*role) == first);
        }
        for old in self.watches.keys().filter(|old| !watches.contains_key(old)) {
            // Already removed by the kernel, if its folder is gone.
            let _ = self.subscription.inotify.watches().remove(old.clone());
        }
        self.rescan |= self.watches != watches;
        self.watches = watches;
    }

    fn watch_folder(&self, index: usize) -> io::Result<(WatchDescriptor, Role)> {
        let create = WatchMask::CREATE | WatchMask::MOVED_TO;
        let gone = WatchMask::DELETE_SELF | WatchMask::MOVE_SELF;
        // One folder may be above another: each role adds to the watch, none takes away.
        let base = create | gone | WatchMask::ONLYDIR | WatchMask::MASK_ADD;
        let mut watches = self.subscription.inotify.watches();
        loop {
            let folder = self.folders.shown(index);
            for (depth, existing) in folder.ancestors().enumerate() {
                let (mask, role) = match depth {
                    0 => (base | WatchMask::DELETE | WatchMask::MOVED_FROM, Role::Folder(index)),
                    _ => (base, Role::Above),
                };
                match watches.add(existing, mask) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                    Ok(watch) => {
                        // What came between the last look below and this watch made no event.
                        let below = folder.ancestors().take(depth).last();
                        if below.is_none_or(|below| !below.exists()) {
                            return Ok((watch, role));
                        }
                        break;
                    }
                }
            }
        }
    }

    fn complain(&mut self, index: usize, error: &io::Error) {
        if !std::mem::replace(&mut self.complained, true) {
            let folder = self.folders.shown(index).display();
            tracing::warn!(
                message_id = catalog::DISCOVERY_IMPAIRED,
                %folder,
                errno = error.raw_os_error(),
                "cannot watch {folder}: {error}; names in it are found by reading the mount table only"
            );
        }
    }

    /// Everything anew.
    fn scan(&mut self) -> Vec<Observation> {
        self.rescan = false;
        self.touched.clear();
        let names = self.mounted().into_iter().filter(|(_, on)| on.any).map(|(name, _)| name).collect();
        let snapshot = self.seen.snapshot(names);
        for name in self.seen.names() {
            self.pending.remove(name);
        }
        vec![snapshot]
    }

    /// Touches each name of which the mount table says something else than was told. Returns what needs no look: names that
    /// look like a network namespace's by their inode, and are another kind's.
    fn read_mounts(&mut self) -> Vec<Observation> {
        let mounted = self.mounted();
        let same = |name: &Path, on: &On| on.only.is_some() && on.only == self.seen.inode(name);
        let unsure = mounted.iter().filter(|(name, on)| on.any && !same(name, on));
        self.touched.extend(unsure.map(|(name, _)| name.clone()));
        // Reading is not atomic, so what it does not show is looked at.
        self.touched.extend(self.seen.names().filter(|name| !mounted.contains_key(*name)).map(PathBuf::from));
        let others = mounted.into_iter().filter(|(_, on)| !on.any);
        others.filter_map(|(name, _)| self.seen.gone(name)).collect()
    }

    /// What the mount table has on each name.
    fn mounted(&mut self) -> HashMap<PathBuf, On> {
        let start = Instant::now();
        let mut mounted = HashMap::new();
        let read = self.subscription.mounts.for_each(|point, netns| {
            let Some(name) = self.folders.name_at(point) else { return };
            let on = mounted.entry(name).or_insert(On { any: false, only: netns });
            on.any |= netns.is_some();
            on.only = on.only.filter(|only| netns == Some(*only));
        });
        if let Err(error) = read {
            tracing::warn!(
                message_id = catalog::DISCOVERY_IMPAIRED,
                errno = error.raw_os_error(),
                "/proc/self/mountinfo cannot be read: {error}; read again with the next change of the mounts"
            );
            let told = |name: &Path| (name.to_owned(), On { any: true, only: self.seen.inode(name) });
            mounted = self.seen.names().map(told).collect();
        }
        self.read_at = None;
        self.read_last = Instant::now();
        self.read_cost = self.read_last - start;
        mounted
    }
}

/// The mounts on a name.
#[derive(Clone, Copy, Debug)]
struct On {
    /// One of them is of a network namespace.
    any: bool,
    /// The inode of the network namespace of which all of them are.
    only: Option<u64>,
}
