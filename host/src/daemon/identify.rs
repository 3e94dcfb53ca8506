//! Between discovery and the loop: which namespace a name shows, where discovery could not tell.
//!
//! On kernels without nsfs file handles only entering can tell, and no source thread may enter; the loop must not wait
//! either. So such batches pass through a thread with a seat, in order. A name that shows something else just now is
//! looked at again, until it is identified or other news of it comes. Where discovery has identified everything, a
//! batch goes straight to the loop, unless an earlier one is still in here.
//!
//! A namespace for which no descriptor is left stays in here until there is one, and the loop is told so.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::Event;
use crate::discovery::{Batch, NamedNs, Observation};
use crate::linux::{descriptors, ns};
use crate::logging::catalog;

const FIRST_LOOK_AGAIN: Duration = Duration::from_micros(200);
/// A name that cannot be identified for so long shows nothing; what it becomes will be news.
const GIVE_UP: Duration = Duration::from_secs(5);
/// Where descriptors have run out, the longest wait for one.
const LOOK_FOR_ROOM: Duration = Duration::from_secs(1);

/// Where discovery sends its batches.
///
/// # Errors
/// When the thread cannot be started.
pub(super) fn stage(events: Sender<Event>) -> std::io::Result<Box<dyn Fn(Batch) + Send>> {
    let (to_thread, batches) = unbounded::<Batch>();
    // Batches sent to the thread and not yet passed on: none may overtake them.
    let inside = Arc::new(AtomicUsize::new(0));
    let mut thread =
        Thread { events: events.clone(), inside: Arc::clone(&inside), unknown: HashMap::new(), no_room: Vec::new() };
    std::thread::Builder::new().name("identify".into()).spawn(move || thread.run(&batches))?;
    Ok(Box::new(move |batch| {
        if inside.load(Ordering::Acquire) == 0 && batch.0.iter().all(is_identified) {
            let _ = events.send(Event::Names(batch));
        } else {
            inside.fetch_add(1, Ordering::AcqRel);
            let _ = to_thread.send(batch);
        }
    }))
}

fn is_identified(observation: &Observation) -> bool {
    match observation {
        Observation::Name(named) => named.identity.is_some(),
        Observation::Snapshot(all) => all.iter().all(|named| named.identity.is_some()),
        Observation::NoName(_) => true,
    }
}

/// A name that has yet to be identified. While there is one, every batch passes through here, so that later news of
/// the name ends the search.
struct Unknown {
    inode: u64,
    next: Instant,
    wait: Duration,
    /// `None`: for as long as it takes.
    until: Option<Instant>,
}

struct Thread {
    events: Sender<Event>,
    inside: Arc<AtomicUsize>,
    unknown: HashMap<PathBuf, Unknown>,
    /// Those of a batch for which no descriptor is left.
    no_room: Vec<PathBuf>,
}

/// One that is no namespace any more, or not yet, is no news; one that cannot be opened is.
fn tell_given_up(path: &Path, e: &std::io::Error) {
    let errno = e.raw_os_error();
    if !matches!(errno, Some(libc::EACCES | libc::EPERM | libc::EIO)) {
        return;
    }
    tracing::error!(
        message_id = catalog::NAME_UNREADABLE,
        path = %path.display(),
        errno,
        "the namespace {} is not managed, since it cannot be opened: {e}; correct that, and name it anew",
        path.display()
    );
}

impl Thread {
    fn run(&mut self, batches: &Receiver<Batch>) {
        if let Err(e) = ns::take_seat_here() {
            tracing::error!(
                message_id = catalog::DISCOVERY_IMPAIRED,
                errno = e.raw_os_error(),
                "cannot open the own network namespace: {e}; some namespaces will not be found"
            );
        }
        loop {
            let next = self.unknown.values().map(|u| u.next).min();
            let wait = next.map_or(Duration::from_secs(3600), |t| t.saturating_duration_since(Instant::now()));
            match batches.recv_timeout(wait) {
                Ok(batch) => self.pass(batch),
                Err(e) if e.is_timeout() => self.look_again(),
                Err(_) => return,
            }
        }
    }

    fn pass(&mut self, mut batch: Batch) {
        for observation in &mut batch.0 {
            match observation {
                Observation::Name(named) => {
                    self.look(named);
                    // Whatever had the name before has it no more.
                    if self.waits_for_room(&named.path) {
                        *observation = Observation::NoName(std::mem::take(&mut named.path));
                    }
                }
                Observation::NoName(path) => self.forget(path),
                Observation::Snapshot(all) => {
                    let names: Vec<PathBuf> = self.unknown.keys().cloned().collect();
                    names.iter().for_each(|path| self.forget(path));
                    all.iter_mut().for_each(|named| self.look(named));
                }
            }
        }
        let _ = self.events.send(Event::Names(batch));
        // After the batch, which says that these names show nothing.
        for path in std::mem::take(&mut self.no_room) {
            let _ = self.events.send(Event::NoRoom(path));
        }
        self.inside.fetch_sub(1, Ordering::AcqRel);
    }

    fn forget(&mut self, path: &PathBuf) {
        if self.unknown.remove(path).is_some() {
            self.inside.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// One that cannot be identified now goes on without identity, which the loop passes over.
    fn look(&mut self, named: &mut NamedNs) {
        self.forget(&named.path);
        if named.identity.is_some() {
            return;
        }
        match ns::identify_as(&named.path, named.inode) {
            Ok(identity) => named.identity = Some(identity),
            Err(e) => {
                let now = Instant::now();
                let full = descriptors::is_exhaustion(&e);
                let wait = if full { LOOK_FOR_ROOM } else { FIRST_LOOK_AGAIN };
                let until = (!full).then_some(now + GIVE_UP);
                self.unknown.insert(named.path.clone(), Unknown { inode: named.inode, next: now + wait, wait, until });
                self.inside.fetch_add(1, Ordering::AcqRel);
                if full {
                    self.no_room.push(named.path.clone());
                }
            }
        }
    }

    fn waits_for_room(&self, path: &PathBuf) -> bool {
        self.unknown.get(path).is_some_and(|unknown| unknown.until.is_none())
    }

    fn look_again(&mut self) {
        let now = Instant::now();
        let due: Vec<PathBuf> =
            self.unknown.iter().filter(|(_, u)| u.next <= now).map(|(path, _)| path.clone()).collect();
        for path in due {
            let Some(unknown) = self.unknown.get_mut(&path) else { continue };
            match ns::identify_as(&path, unknown.inode) {
                Ok(identity) => {
                    let named = NamedNs { path: path.clone(), inode: unknown.inode, identity: Some(identity) };
                    let _ = self.events.send(Event::Names(Batch(vec![Observation::Name(named)])));
                    self.forget(&path);
                }
                Err(e) if descriptors::is_exhaustion(&e) => {
                    if unknown.until.take().is_some() {
                        let _ = self.events.send(Event::NoRoom(path));
                    }
                    // Nor is there one for any other: all of them wait, and the next look is at the first again.
                    let waiting = self.unknown.values_mut().filter(|unknown| unknown.until.is_none());
                    waiting.for_each(|unknown| unknown.next = now + LOOK_FOR_ROOM);
                    return;
                }
                Err(e) if unknown.until.is_none_or(|until| now >= until) => {
                    tell_given_up(&path, &e);
                    let _ = self.events.send(Event::Names(Batch(vec![Observation::NoName(path.clone())])));
                    self.forget(&path);
                }
                Err(_) => {
                    unknown.wait *= 2;
                    unknown.next = now + unknown.wait;
                }
            }
        }
    }
}
