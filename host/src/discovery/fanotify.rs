//! Discovery by mount events: fanotify with `FAN_REPORT_MNT` (Linux 6.15).
//!
//! Mirrors the mount part of the kernel's `uapi/linux/fanotify.h`. An event carries the id of a mount that came, went or
//! moved; `statmount` says what and where it is now, and the table kept here where it was. When the queue is empty, it is
//! judged what those names show. A mount over a folder or above it, and a queue that overflowed, lead to a scan of all.
#![allow(unsafe_code)] // fanotify_init and fanotify_mark with flags that no crate knows yet.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::folders::Folders;
use super::seen::Seen;
use super::statmount::{MountTable, mount_at};
use super::{Batch, Error, Method, Observation, Options, Request, Sink, read_requests, unavailable};
use crate::logging::catalog;

const FAN_CLOEXEC: libc::c_uint = 0x1;
const FAN_NONBLOCK: libc::c_uint = 0x2;
const FAN_REPORT_MNT: libc::c_uint = 0x4000;
const FAN_MARK_ADD: libc::c_uint = 0x1;
const FAN_MARK_MNTNS: libc::c_uint = 0x110;
const FAN_MNT_ATTACH: u64 = 0x0100_0000;
const FAN_MNT_DETACH: u64 = 0x0200_0000;
const FAN_Q_OVERFLOW: u64 = 0x4000;
const FAN_EVENT_INFO_TYPE_MNT: u8 = 7;

/// `struct fanotify_event_metadata` followed by `struct fanotify_event_info_mnt`: where the fields lie in the bytes.
const EVENT_LEN: usize = 0;
const METADATA_LEN: usize = 6;
const MASK: usize = 8;
const METADATA_BYTES: usize = 24;
const INFO_TYPE: usize = 0;
const INFO_LEN: usize = 2;
const INFO_MNT_ID: usize = 8;
const INFO_MNT_BYTES: usize = 16;

/// So many reads make a batch even if the queue never runs empty: more events than the kernel would queue.
const READS_AT_MOST: usize = 64;

/// The subscribed queue, and the means to read it: everything of which a kernel may lack something.
pub(super) struct Subscription {
    queue: OwnedFd,
    table: MountTable,
}

impl Subscription {
    pub(super) fn new() -> Result<Subscription, Error> {
        let lacking = |what| unavailable(Method::Fanotify, what);
        let queue = init().map_err(lacking("fanotify mount events (Linux 6.15)"))?;
        let namespace = File::open("/proc/self/ns/mnt").map_err(lacking("/proc/self/ns/mnt"))?;
        mark(&queue, &namespace).map_err(lacking("fanotify mark on the mount namespace"))?;
        let table = MountTable::new().map_err(lacking("statmount and listmount (Linux 6.8)"))?;
        Ok(Subscription { queue, table })
    }
}

fn init() -> io::Result<OwnedFd> {
    let flags = FAN_CLOEXEC | FAN_NONBLOCK | FAN_REPORT_MNT;
    // SAFETY: takes two integers and touches no memory of ours.
    let fd = unsafe { libc::fanotify_init(flags, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so `fd` is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn mark(queue: &OwnedFd, namespace: &File) -> io::Result<()> {
    let (how, what) = (FAN_MARK_ADD | FAN_MARK_MNTNS, FAN_MNT_ATTACH | FAN_MNT_DETACH);
    // SAFETY: both descriptors are open; a null path is what a mark on the descriptor itself wants.
    let done = unsafe { libc::fanotify_mark(queue.as_raw_fd(), how, what, namespace.as_raw_fd(), std::ptr::null()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

pub(super) struct Source {
    subscription: Subscription,
    requests: OwnedFd,
    folders: Folders,
    seen: Seen,
    send: Sink,
    /// Mounts directly inside a folder.
    named: HashMap<u64, Named>,
    /// The mounts on each name.
    by_name: HashMap<PathBuf, Vec<u64>>,
    /// Mounts on a folder or above it.
    covers: HashSet<u64>,
    /// Names to look at when the queue is empty.
    touched: HashSet<PathBuf>,
    /// The whole table is to be read.
    rescan: bool,
    buffer: Vec<u8>,
}

/// A mount directly inside a folder.
#[derive(Debug)]
struct Named {
    name: PathBuf,
    parent: u64,
    /// The inode, if it is of a network namespace.
    netns: Option<u64>,
}

impl Source {
    pub(super) fn new(subscription: Subscription, requests: OwnedFd, options: Options, send: Sink) -> Source {
        Source {
            subscription,
            requests,
            folders: Folders::new(options.folders),
            seen: Seen::new(options.handles),
            send,
            named: HashMap::new(),
            by_name: HashMap::new(),
            covers: HashSet::new(),
            touched: HashSet::new(),
            rescan: true,
            buffer: vec![0; 64 * 1024],
        }
    }

    pub(super) fn run(mut self) {
        loop {
            if let Err(error) = self.drain() {
                tracing::error!(
                    message_id = catalog::DISCOVERY_ENDED,
                    errno = error.raw_os_error(),
                    "mount events cannot be read: {error}; namespaces are no longer discovered"
                );
                return;
            }
            self.tell();
            if self.wait() == Request::End {
                return;
            }
        }
    }

    fn wait(&mut self) -> Request {
        let mut fds =
            [PollFd::new(&self.subscription.queue, PollFlags::IN), PollFd::new(&self.requests, PollFlags::IN)];
        // Interrupted: looks for events once more than needed.
        let _ = poll(&mut fds, None);
        if fds[1].revents().is_empty() {
            return Request::None;
        }
        let request = read_requests(&self.requests);
        self.rescan |= request == Request::Rescan;
        request
    }

    /// Reads events until there are no more, and notes where they point.
    fn drain(&mut self) -> io::Result<()> {
        for _ in 0..READS_AT_MOST {
            let mut buffer = std::mem::take(&mut self.buffer);
            let read = rustix::io::read(&self.subscription.queue, &mut buffer);
            if let Ok(n) = read {
                self.note(&buffer[..n]);
            }
            self.buffer = buffer;
            match read {
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn note(&mut self, bytes: &[u8]) {
        for event in events(bytes) {
            match event {
                Event::Overflow => self.rescan = true,
                // A scan will see it.
                _ if self.rescan => {}
                Event::Gone(id) => self.forget(id),
                Event::Placed(id) => {
                    self.forget(id);
                    self.place(id);
                }
            }
        }
    }

    fn forget(&mut self, id: u64) {
        self.rescan |= self.covers.remove(&id);
        let Some(Named { name, .. }) = self.named.remove(&id) else { return };
        if let Some(mounts) = self.by_name.get_mut(&name) {
            mounts.retain(|mount| *mount != id);
            if mounts.is_empty() {
                self.by_name.remove(&name);
            }
        }
        self.touched.insert(name);
    }

    /// Where is this mount now?
    fn place(&mut self, id: u64) {
        let mount = match self.subscription.table.mount(id) {
            Ok(Some(mount)) => mount,
            Ok(None) => return,
            Err(error) => {
                let errno = error.raw_os_error();
                tracing::warn!(
                    message_id = catalog::DISCOVERY_IMPAIRED,
                    errno,
                    "statmount of mount {id} failed: {error}; it is not seen"
                );
                return;
            }
        };
        if let Some(name) = self.folders.name_at(mount.point) {
            self.touched.insert(name.clone());
            self.by_name.entry(name.clone()).or_default().push(id);
            self.named.insert(id, Named { name, parent: mount.parent, netns: mount.netns });
        } else if self.folders.covered_by(mount.point) {
            self.covers.insert(id);
            self.rescan = true;
        }
    }

    /// The queue is empty: what has changed?
    fn tell(&mut self) {
        self.rescan |= self.folders.refresh_missing();
        let touched = std::mem::take(&mut self.touched);
        let news = if std::mem::take(&mut self.rescan) {
            vec![self.scan()]
        } else {
            touched.into_iter().filter_map(|name| self.look(name)).collect()
        };
        if !news.is_empty() {
            (self.send)(Batch(news));
        }
    }

    fn look(&mut self, name: PathBuf) -> Option<Observation> {
        if !self.shows_netns(&name) {
            return self.seen.gone(name);
        }
        match self.undoubted(&name) {
            Some(inode) => self.seen.shows(name, inode),
            None => self.seen.look(name),
        }
    }

    fn on(&self, name: &Path) -> impl Iterator<Item = &Named> {
        let ids = self.by_name.get(name).map_or(&[][..], Vec::as_slice);
        ids.iter().filter_map(|id| self.named.get(id))
    }

    fn shows_netns(&self, name: &Path) -> bool {
        self.on(name).any(|mount| mount.netns.is_some())
    }

    /// What the name shows, as far as the table alone can tell: all mounts on it are of the same network namespace, and
    /// one of them lies on what the folder shows.
    fn undoubted(&self, name: &Path) -> Option<u64> {
        let folder = mount_at(name.parent()?).ok()?;
        let netns = self.on(name).next()?.netns;
        let same = self.on(name).all(|mount| mount.netns == netns);
        netns.filter(|_| same && self.on(name).any(|mount| mount.parent == folder))
    }

    fn scan(&mut self) -> Observation {
        self.folders.refresh();
        self.named.clear();
        self.by_name.clear();
        self.covers.clear();
        match self.subscription.table.ids() {
            Ok(ids) => ids.into_iter().for_each(|id| self.place(id)),
            // Without the table, what is known still holds.
            Err(error) => tracing::warn!(
                message_id = catalog::DISCOVERY_IMPAIRED,
                errno = error.raw_os_error(),
                "listmount failed: {error}; names that came meanwhile are not seen"
            ),
        }
        self.rescan = false;
        self.touched.clear();
        let names = self.by_name.keys().filter(|name| self.shows_netns(name)).cloned().collect();
        self.seen.snapshot(names)
    }
}

/// One event, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// The mount came or moved.
    Placed(u64),
    Gone(u64),
    /// Events were lost.
    Overflow,
}

/// The events in a read's bytes. What is not understood ends it as lost events do: with a scan.
fn events(mut bytes: &[u8]) -> impl Iterator<Item = Event> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let (event, len) = event(bytes).unwrap_or((Event::Overflow, bytes.len()));
        bytes = &bytes[len..];
        Some(event)
    })
}

/// The first event and its length.
fn event(bytes: &[u8]) -> Option<(Event, usize)> {
    let len = usize::try_from(u32_at(bytes, EVENT_LEN)?).ok()?;
    let whole = bytes.get(..len).filter(|whole| whole.len() >= METADATA_BYTES)?;
    let mask = u64_at(whole, MASK)?;
    if mask & FAN_Q_OVERFLOW != 0 {
        return Some((Event::Overflow, len));
    }
    let id = mount_of(whole.get(usize::from(u16_at(whole, METADATA_LEN)?)..)?)?;
    // A move is both.
    Some((if mask & FAN_MNT_ATTACH != 0 { Event::Placed(id) } else { Event::Gone(id) }, len))
}

/// The mount id among an event's information records.
fn mount_of(mut records: &[u8]) -> Option<u64> {
    loop {
        let len = usize::from(u16_at(records, INFO_LEN)?);
        let record = records.get(..len)?;
        if record.get(INFO_TYPE) == Some(&FAN_EVENT_INFO_TYPE_MNT) && len >= INFO_MNT_BYTES {
            return u64_at(record, INFO_MNT_ID);
        }
        records = records.get(len.max(1)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};

    #[repr(C)]
    struct InfoMnt {
        info_type: u8,
        pad: u8,
        len: u16,
        mnt_id: u64,
    }

    fn bytes_of(mask: u64, id: u64) -> Vec<u8> {
        let mut bytes = vec![0; METADATA_BYTES + INFO_MNT_BYTES];
        bytes[..4].copy_from_slice(&40u32.to_ne_bytes());
        bytes[METADATA_LEN..8].copy_from_slice(&24u16.to_ne_bytes());
        bytes[MASK..16].copy_from_slice(&mask.to_ne_bytes());
        bytes[24] = FAN_EVENT_INFO_TYPE_MNT;
        bytes[26..28].copy_from_slice(&16u16.to_ne_bytes());
        bytes[32..].copy_from_slice(&id.to_ne_bytes());
        bytes
    }

    #[test]
    fn layout_is_the_kernels() {
        type Metadata = libc::fanotify_event_metadata;
        assert_eq!(size_of::<Metadata>(), METADATA_BYTES);
        assert_eq!(offset_of!(Metadata, event_len), EVENT_LEN);
        assert_eq!(offset_of!(Metadata, metadata_len), METADATA_LEN);
        assert_eq!(offset_of!(Metadata, mask), MASK);
        assert_eq!((size_of::<InfoMnt>(), offset_of!(InfoMnt, mnt_id)), (INFO_MNT_BYTES, INFO_MNT_ID));
        assert_eq!((offset_of!(InfoMnt, info_type), offset_of!(InfoMnt, len)), (INFO_TYPE, INFO_LEN));
    }

    #[test]
    fn events_are_read_in_turn() {
        let mut bytes = bytes_of(FAN_MNT_ATTACH, 7);
        bytes.extend(bytes_of(FAN_MNT_ATTACH | FAN_MNT_DETACH, 8));
        bytes.extend(bytes_of(FAN_MNT_DETACH, 7));
        let read: Vec<_> = events(&bytes).collect();
        assert_eq!(read, [Event::Placed(7), Event::Placed(8), Event::Gone(7)]);
    }

    #[test]
    fn what_is_cut_or_unknown_counts_as_lost() {
        for cut in 1..40 {
            assert_eq!(events(&bytes_of(FAN_MNT_ATTACH, 7)[..cut]).collect::<Vec<_>>(), [Event::Overflow]);
        }
        let mut other = bytes_of(FAN_MNT_ATTACH, 7);
        other[24] = 99;
        assert_eq!(events(&other).next(), Some(Event::Overflow));
        let mut endless = bytes_of(FAN_MNT_ATTACH, 7);
        (endless[24], endless[26]) = (99, 0);
        assert_eq!(events(&endless).next(), Some(Event::Overflow));
    }
}
