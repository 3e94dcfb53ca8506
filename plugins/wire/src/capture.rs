//! A capture file and the thread that writes it, so that a slow disk never slows a cable.
//!
//! Owns which file may be written (never through a symbolic link, never another's) and the bounded buffer between the
//! datapath and the thread: what finds no room in it is dropped and counted. The bytes of a record are `pcap`.

use std::fs::File;
use std::io::{self, BufReader, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use pernet_plugin_api::{Host, tracing};
use rustix::fs::{CWD, FileType, FlockOperation, Mode, OFlags, flock, fstat, open as open_path, openat};
use rustix::io::{Errno, retry_on_intr};

use crate::direction::lock;
use crate::pcap;

/// Most bytes that wait to be written: two buffers of it, one being filled and one being written.
const ROOM: usize = 4 << 20;
/// A capture that is gone on with is read this much at a time.
const READ: usize = 64 * 1024;
/// A reader of the file sees a frame this long after it passed, at the latest.
const FLUSH: Duration = Duration::from_secs(1);

/// A file that frames are recorded in. Dropping it writes what waits.
#[derive(Debug)]
pub(crate) struct Capture {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    snaplen: u32,
    filling: Mutex<Filling>,
    /// There is something to write, or the end has come.
    wake: Condvar,
    /// Frames that the file lacks.
    missed: AtomicU64,
}

#[derive(Debug, Default)]
struct Filling {
    records: Vec<u8>,
    /// Frames in `records`.
    frames: u64,
    has_ended: bool,
    /// The disk refused, or the file is damaged: nothing more is recorded.
    has_failed: bool,
}

impl Capture {
    /// Opens the file and starts its writer, in the namespace of the calling thread.
    pub(crate) fn open(path: &Path, snaplen: u32, host: &Host) -> io::Result<Self> {
        let host = host.clone();
        Self::start(path, snaplen, move |write| host.attribute(write))
    }

    fn start(path: &Path, snaplen: u32, around: impl FnOnce(&mut dyn FnMut()) + Send + 'static) -> io::Result<Self> {
        let file = open(path)?;
        let filling = Filling { records: Vec::with_capacity(ROOM), ..Filling::default() };
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            snaplen,
            filling: Mutex::new(filling),
            wake: Condvar::new(),
            missed: AtomicU64::new(0),
        });
        let writer = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("wire-pcap".to_owned());
        let thread = thread.spawn(move || around(&mut || writer.write(&file)))?;
        Ok(Capture { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Records frames that pass now. Never waits for the disk.
    pub(crate) fn record<'f>(&self, frames: impl IntoIterator<Item = &'f [u8]>) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut filling = self.shared.lock();
        let before = filling.records.len();
        for frame in frames {
            let len = filling.records.len() + pcap::record_len(frame.len(), self.shared.snaplen);
            if filling.has_failed || filling.has_ended || len > ROOM {
                self.shared.missed.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            pcap::push_record(&mut filling.records, now, frame, self.shared.snaplen);
            filling.frames += 1;
        }
        let (after, half) = (filling.records.len(), ROOM / 2);
        drop(filling);
        if after > before && (before == 0 || (before < half && half <= after)) {
            self.shared.wake.notify_one();
        }
    }

    /// Frames that the file lacks.
    pub(crate) fn missed(&self) -> u64 {
        self.shared.missed.load(Ordering::Relaxed)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Writes what waits; what is recorded later is missed.
    pub(crate) fn end(&self) {
        self.shared.lock().has_ended = true;
        self.shared.wake.notify_one();
        if let Some(thread) = lock(&self.thread).take() {
            // A panic of the writer is reported where it happens.
            let _ = thread.join();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Filling> {
        lock(&self.filling)
    }

    /// The writer's life: whole records, at the file's end, until our own end or the disk's refusal. It looks at an old
    /// file first, here, since that takes as long as the file is, for which no init should wait.
    fn write(&self, mut file: &File) {
        if let Err(e) = mend(file, &self.path) {
            return self.give_up(0, &e);
        }
        let mut records = Vec::with_capacity(ROOM);
        while let Some(frames) = self.next(&mut records) {
            let whole = file.metadata().map(|meta| meta.len());
            if let Err(e) = file.write_all(&records) {
                self.give_up(frames, &e);
                // The file ends with a whole record, so that tools read what is there.
                if let Err(e) = whole.and_then(|len| file.set_len(len)) {
                    tracing::error!("{}: the record that was begun cannot be cut off: {e}", self.path.display());
                }
                return;
            }
            records.clear();
        }
    }

    /// Waits for what is worth a write; gives the empty buffer for the full one. `None` at the end.
    fn next(&self, records: &mut Vec<u8>) -> Option<u64> {
        let mut filling = self.lock();
        while filling.records.is_empty() && !filling.has_ended {
            filling = self.wake.wait(filling).unwrap_or_else(PoisonError::into_inner);
        }
        let until = Instant::now() + FLUSH;
        while filling.records.len() < ROOM / 2 && !filling.has_ended {
            let Some(left) = until.checked_duration_since(Instant::now()) else { break };
            filling = self.wake.wait_timeout(filling, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        std::mem::swap(&mut filling.records, records);
        let frames = std::mem::take(&mut filling.frames);
        (!records.is_empty()).then_some(frames)
    }

    /// Nothing more is written: these frames are missed, those that wait, and all that come.
    fn give_up(&self, frames: u64, e: &io::Error) {
        let mut filling = self.lock();
        filling.has_failed = true;
        self.missed.fetch_add(frames + std::mem::take(&mut filling.frames), Ordering::Relaxed);
        drop(filling);
        let path = self.path.display();
        let then = match e.kind() {
            io::ErrorKind::InvalidData => "move it away, or write another path",
            _ => "make room first",
        };
        tracing::error!("{path}: {e}: nothing more is recorded there until the plugin is loaded anew; {then}");
    }
}

/// Opens a new file, an empty one, or a capture of ours to go on with.
fn open(path: &Path) -> io::Result<File> {
    // APPEND: over a reload, two generations may write at the same time. A named pipe that nobody reads would hang
    // without NONBLOCK, to which a regular file is indifferent.
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let owner = Mode::RUSR | Mode::WUSR;
    let file = File::from(open_without_links(path, flags, owner).map_err(|e| match e {
        Errno::LOOP => io::Error::new(e.kind(), "a symbolic link is on its way; write the real path"),
        e => e.into(),
    })?);
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(refused("it is there and no regular file; write another path"));
    }
    if meta.uid() != rustix::process::geteuid().as_raw() || meta.nlink() != 1 {
        return Err(refused("it is there and may be another's (owner, or a second hard link); write another path"));
    }
    begin(&file, meta.len())?;
    Ok(file)
}

/// Opens a file through its folders in turn, none of which may be a symbolic link, nor itself. `openat2` does that in one
/// call, but the service may not make it: what keeps set-uid files from being made (`RestrictSUIDSGID=`) cannot look into its
/// arguments, and forbids it whole.
fn open_without_links(path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let name = path.file_name().ok_or(Errno::ISDIR)?;
    let look = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut folder: Option<OwnedFd> = None;
    for part in path.parent().into_iter().flat_map(Path::components) {
        let next = match &folder {
            Some(folder) => openat(folder, part.as_os_str(), look, Mode::empty()),
            None => open_path(part.as_os_str(), look, Mode::empty()),
        }?;
        if FileType::from_raw_mode(fstat(&next)?.st_mode) == FileType::Symlink {
            return Err(Errno::LOOP);
        }
        folder = Some(next);
    }
    match &folder {
        Some(folder) => openat(folder, name, flags | OFlags::NOFOLLOW, mode),
        None => openat(CWD, name, flags | OFlags::NOFOLLOW, mode),
    }
}

/// Writes the header, or finds it.
fn begin(mut file: &File, len: u64) -> io::Result<()> {
    if len == 0 {
        return file.write_all(&pcap::HEADER);
    }
    let mut head = [0; pcap::HEADER.len()];
    match file.read_exact_at(&mut head, 0) {
        Ok(()) if head == pcap::HEADER => Ok(()),
        Ok(()) => Err(refused("it is there and no capture of this plugin's; move it away or write another path")),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            Err(refused("it is there and no capture of this plugin's; move it away or write another path"))
        }
        Err(e) => Err(e),
    }
}

/// Cuts off a record that was begun and never finished, as a daemon that was killed leaves one: tools would take the next
/// records for its rest.
///
/// Each capture holds the file's lock, shared. Who gets it alone knows that nobody is in the middle of a record: over a
/// reload the former generation may be. It has looked at the file itself, or is just doing so, and is waited for. Where
/// there are no locks nothing is cut.
fn mend(mut file: &File, path: &Path) -> io::Result<()> {
    if let Err(e) = flock(file, FlockOperation::NonBlockingLockExclusive) {
        if e == Errno::WOULDBLOCK {
            let _ = retry_on_intr(|| flock(file, FlockOperation::LockShared));
        }
        return Ok(());
    }
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(pcap::HEADER.len() as u64))?;
    let end = pcap::end_of_whole(&mut BufReader::with_capacity(READ, file), len)?;
    if end < len {
        let (path, rest) = (path.display(), len - end);
        tracing::warn!("{path}: its last record is not whole, as after a kill: {rest} bytes of it are cut off");
        file.set_len(end)?;
    }
    let _ = retry_on_intr(|| flock(file, FlockOperation::LockShared));
    Ok(())
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, why)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::pcap::tests::read;

    fn start(path: &Path, snaplen: u32) -> io::Result<Capture> {
        Capture::start(path, snaplen, |write| write())
    }

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        // The folder for temporary files may be reached by a link.
        let path = folder.path().canonicalize().expect("its real path").join("c.pcap");
        (folder, path)
    }

    fn refusal(path: &Path) -> String {
        start(path, 96).map(drop).expect_err("refused").to_string()
    }

    #[test]
    fn what_passed_is_in_the_file_and_a_later_start_goes_on_with_it() {
        let (_folder, path) = folder();
        let capture = start(&path, 96).expect("a new file");
        assert_eq!(fs::metadata(&path).expect("the file").permissions().mode() & 0o777, 0o600);
        capture.record([&[1; 60][..], &[2; 200]]);
        drop(capture);
        let capture = start(&path, 96).expect("the same file");
        capture.record([&[3; 60][..]]);
        assert_eq!(capture.missed(), 0);
        drop(capture);
        let records = read(&fs::read(&path).expect("the file"));
        let seen: Vec<_> = records.iter().map(|(_, len, kept)| (*len, kept.len(), kept[0])).collect();
        assert_eq!(seen, [(60, 60, 1), (200, 96, 2), (60, 60, 3)]);
        let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970") - records[0].0;
        assert!(age < Duration::from_secs(60), "{age:?}");
    }

    /// A capture of two frames that lacks its last bytes, as one of a daemon that was killed.
    fn torn(path: &Path, lacks: usize) -> Vec<u8> {
        let _ = fs::remove_file(path);
        let capture = start(path, 96).expect("a new file");
        capture.record([&[1; 60][..], &[2; 60]]);
        drop(capture);
        let whole = fs::read(path).expect("the file");
        fs::write(path, &whole[..whole.len() - lacks]).expect("a torn file");
        whole
    }

    #[test]
    fn a_record_that_was_begun_is_cut_off_before_others_follow() {
        let (_folder, path) = folder();
        for lacks in 0..=pcap::record_len(60, 96) {
            torn(&path, lacks);
            let capture = start(&path, 96).expect("a capture of ours");
            capture.record([&[3; 20][..]]);
            drop(capture);
            let kept: Vec<_> = read(&fs::read(&path).expect("the file")).iter().map(|(_, _, kept)| kept[0]).collect();
            assert_eq!(kept, if lacks == 0 { vec![1, 2, 3] } else { vec![1, 3] }, "without the last {lacks} bytes");
        }
    }

    /// Over a reload the former generation may be in the middle of a record.
    #[test]
    fn a_file_that_is_being_written_is_not_cut() {
        let (_folder, path) = folder();
        let former = start(&path, 96).expect("a capture of ours");
        former.record([&[1; 60][..]]);
        wait_for_records(&path);
        let begun = fs::metadata(&path).expect("the file").len() + 7;
        fs::OpenOptions::new().append(true).open(&path).and_then(|mut file| file.write_all(&[0; 7])).expect("begun");
        let len = || fs::metadata(&path).expect("the file").len();
        drop(start(&path, 96).expect("the next generation"));
        assert_eq!(len(), begun);
        drop(former);
        drop(start(&path, 96).expect("nobody else writes"));
        assert_eq!(len(), begun - 7);
    }

    fn wait_for_records(path: &Path) {
        let until = Instant::now() + Duration::from_secs(20);
        while read(&fs::read(path).expect("the file")).is_empty() {
            assert!(Instant::now() < until, "nothing was written");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_file_with_something_else_among_its_records_is_left_alone() {
        let (_folder, path) = folder();
        let mut damaged = torn(&path, 0);
        damaged.extend([0xff; 40]);
        fs::write(&path, &damaged).expect("a damaged file");
        let capture = start(&path, 96).expect("it begins as a capture");
        capture.record([&[3; 60][..]]);
        capture.end();
        capture.record([&[4; 60][..]]);
        assert_eq!(capture.missed(), 2);
        let why = pcap::end_of_whole(&mut io::Cursor::new(&damaged[24..]), damaged.len() as u64).expect_err("damaged");
        assert_eq!(
            (why.kind(), why.to_string()),
            (io::ErrorKind::InvalidData, "there is no record at byte 176".into())
        );
        assert_eq!(fs::read(&path).expect("the file"), damaged);
    }

    #[test]
    fn the_file_has_each_frame_soon_without_an_end() {
        let (_folder, path) = folder();
        let capture = start(&path, 96).expect("a new file");
        capture.record([&[1; 60][..]]);
        wait_for_records(&path);
        drop(capture);
    }

    #[test]
    fn a_slow_disk_costs_frames_and_never_time() {
        let (_folder, path) = folder();
        let capture = start(&path, 65_535).expect("a new file");
        // One call has the buffer for as long as it lasts: the writer is as slow as a disk that stands still.
        let frame = [7; 65_000];
        let frames = ROOM / frame.len() * 3;
        capture.record((0..frames).map(|_| &frame[..]));
        let missed = usize::try_from(capture.missed()).expect("few");
        drop(capture);
        let kept = read(&fs::read(&path).expect("the file")).len();
        assert_eq!(kept + missed, frames);
        assert_eq!(kept, ROOM / pcap::record_len(frame.len(), 65_535));
    }

    #[test]
    fn only_a_file_of_our_own_is_written() {
        let (folder, path) = folder();
        fs::write(&path, "something else that somebody needs").expect("a file");
        assert!(refusal(&path).contains("no capture of this plugin's"));
        fs::write(&path, "short").expect("a file");
        assert!(refusal(&path).contains("no capture of this plugin's"));
        assert_eq!(fs::read(&path).expect("the file"), b"short");
        fs::write(&path, "").expect("a file");
        fs::hard_link(&path, path.with_file_name("second")).expect("a second name");
        assert!(refusal(&path).contains("second hard link"));
        fs::remove_file(path.with_file_name("second")).expect("gone");

        let link = path.with_file_name("link");
        symlink(&path, &link).expect("a link");
        assert!(refusal(&link).contains("symbolic link"));
        let beyond = path.with_file_name("folder");
        symlink(path.parent().expect("a folder"), &beyond).expect("a link to the folder");
        assert!(refusal(&beyond.join("new")).contains("symbolic link"));
        assert!(!path.with_file_name("new").exists());
        assert!(refusal(folder.path().canonicalize().expect("real").as_path()).contains("directory"));
        start(&path, 96).expect("an empty file is as good as none");
    }
}
