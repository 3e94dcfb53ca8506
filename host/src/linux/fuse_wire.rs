//! The FUSE protocol: requests of the kernel understood, answers put into its form.
//!
//! Mirrors `include/uapi/linux/fuse.h`, of protocol 7.31 (Linux 5.4) and later; structures only ever grow at their end.
//! Pure: bytes in, bytes out. Requests come from the kernel, which is trusted; what is too short is an error all the same.

use pernet_plugin_api::{DirEntry, FileAttr};

/// The highest minor version that is spoken here.
const MINOR: u32 = 38;
/// The lowest that is understood: that of Linux 5.4.
const LEAST_MINOR: u32 = 31;

/// Bytes of a write at most. The kernel splits what is longer.
pub(super) const MAX_WRITE: usize = 128 << 10;
/// What a buffer for any request must hold.
pub(super) const BUFFER: usize = MAX_WRITE + (4 << 10);

const HEADER: usize = 40;

/// Lookups and listings of a directory may run beside each other.
const PARALLEL_DIROPS: u32 = 1 << 18;
const BIG_WRITES: u32 = 1 << 5;
const ASYNC_READ: u32 = 1;
/// Requests that wait in the background at most: the kernel sends closes of files there.
const MAX_BACKGROUND: u16 = 64;

/// Whatever is read or written goes to the file system: nothing of a file's content is kept.
const FOPEN_DIRECT_IO: u32 = 1;
/// Nobody waits for another's write to the same file.
const FOPEN_PARALLEL_DIRECT_WRITES: u32 = 1 << 6;

/// Who asks for what, of which file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) unique: u64,
    pub(super) ino: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) pid: u32,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operation<'a> {
    Init {
        major: u32,
        minor: u32,
        flags: u32,
    },
    Destroy,
    Lookup {
        name: &'a [u8],
    },
    Forget {
        forgotten: Vec<(u64, u64)>,
    },
    Getattr,
    Setattr(Setattr),
    Readlink,
    Open {
        flags: i32,
    },
    Read {
        handle: u64,
        offset: u64,
        len: u32,
    },
    Write {
        handle: u64,
        offset: u64,
        bytes: &'a [u8],
    },
    Release {
        handle: u64,
    },
    Opendir,
    Readdir {
        handle: u64,
        offset: u64,
        len: u32,
    },
    Releasedir {
        handle: u64,
    },
    Access {
        mask: u32,
    },
    Statfs,
    Interrupt {
        unique: u64,
    },
    /// A file or directory is to be made.
    Create,
    /// One is to be removed, renamed or linked.
    Change,
    /// What is not needed here; the kernel helps itself.
    Other,
}

/// What is to change of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Setattr {
    /// The new size.
    pub(super) size: Option<u64>,
    /// Mode, owner or group too.
    pub(super) ownership: bool,
}

/// Why bytes are no request.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the kernel sent {0} bytes that are no FUSE request")]
pub(super) struct NoRequest(usize);

/// Takes numbers off a request, in the machine's byte order.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_ne_bytes)
    }

    /// A name: up to its NUL.
    fn name(&self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        self.0.get(..end)
    }
}

/// Understands one request.
pub(super) fn parse(request: &[u8]) -> Result<(Header, Operation<'_>), NoRequest> {
    understand(request).ok_or(NoRequest(request.len()))
}

fn understand(request: &[u8]) -> Option<(Header, Operation<'_>)> {
    let mut bytes = Bytes(request);
    let (len, opcode) = (bytes.u32()?, bytes.u32()?);
    let header =
        Header { unique: bytes.u64()?, ino: bytes.u64()?, uid: bytes.u32()?, gid: bytes.u32()?, pid: bytes.u32()? };
    if len as usize != request.len() {
        return None;
    }
    let arguments = Bytes(request.get(HEADER..)?);
    Some((header, operation(opcode, header.ino, arguments)?))
}

fn operation(opcode: u32, ino: u64, mut bytes: Bytes<'_>) -> Option<Operation<'_>> {
    Some(match opcode {
        1 => Operation::Lookup { name: bytes.name()? },
        2 => Operation::Forget { forgotten: vec![(ino, bytes.u64()?)] },
        3 => Operation::Getattr,
        4 => Operation::Setattr(setattr(&mut bytes)?),
        5 => Operation::Readlink,
        14 => Operation::Open { flags: bytes.u32()?.cast_signed() },
        15 => Operation::Read { handle: bytes.u64()?, offset: bytes.u64()?, len: bytes.u32()? },
        16 => write(&mut bytes)?,
        17 => Operation::Statfs,
        18 => Operation::Release { handle: bytes.u64()? },
        26 => {
            let (major, minor, _readahead) = (bytes.u32()?, bytes.u32()?, bytes.u32()?);
            Operation::Init { major, minor, flags: bytes.u32()? }
        }
        27 => Operation::Opendir,
        28 => Operation::Readdir { handle: bytes.u64()?, offset: bytes.u64()?, len: bytes.u32()? },
        29 => Operation::Releasedir { handle: bytes.u64()? },
        34 => Operation::Access { mask: bytes.u32()? },
        36 => Operation::Interrupt { unique: bytes.u64()? },
        38 => Operation::Destroy,
        42 => batch_forget(&mut bytes)?,
        // symlink, mknod, mkdir, create, tmpfile
        6 | 8 | 9 | 35 | 51 => Operation::Create,
        // unlink, rmdir, rename, link, rename2
        10..=13 | 45 => Operation::Change,
        _ => Operation::Other,
    })
}

fn setattr(bytes: &mut Bytes<'_>) -> Option<Setattr> {
    const MODE_UID_GID: u32 = 1 | 2 | 4;
    const SIZE: u32 = 8;
    let (valid, _padding, _handle) = (bytes.u32()?, bytes.u32()?, bytes.u64()?);
    let size = bytes.u64()?;
    Some(Setattr { size: (valid & SIZE != 0).then_some(size), ownership: valid & MODE_UID_GID != 0 })
}

fn write<'a>(bytes: &mut Bytes<'a>) -> Option<Operation<'a>> {
    let (handle, offset, len, _flags) = (bytes.u64()?, bytes.u64()?, bytes.u32()?, bytes.u32()?);
    let (_owner, _open_flags, _padding) = (bytes.u64()?, bytes.u32()?, bytes.u32()?);
    Some(Operation::Write { handle, offset, bytes: bytes.0.get(..len as usize)? })
}

fn batch_forget(bytes: &mut Bytes<'_>) -> Option<Operation<'static>> {
    let (count, _padding) = (bytes.u32()?, bytes.u32()?);
    let each = (0..count).map(|_| Some((bytes.u64()?, bytes.u64()?)));
    Some(Operation::Forget { forgotten: each.collect::<Option<_>>()? })
}

/// Puts numbers together, in the machine's byte order.
#[derive(Default)]
pub(super) struct Answer(Vec<u8>);

impl Answer {
    pub(super) fn bytes(self) -> Vec<u8> {
        self.0
    }

    fn u16(mut self, number: u16) -> Self {
        self.0.extend_from_slice(&number.to_ne_bytes());
        self
    }

    fn u32(mut self, number: u32) -> Self {
        self.0.extend_from_slice(&number.to_ne_bytes());
        self
    }

    fn u64(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_ne_bytes());
        self
    }

    fn zeros(mut self, count: usize) -> Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    fn attr(self, attr: &FileAttr) -> Self {
        // The kernel takes the seconds as unsigned, and they come out signed again.
        let mtime = attr.mtime.cast_unsigned();
        self.u64(attr.ino)
            .u64(attr.size)
            .u64(attr.size.div_ceil(512))
            .u64(mtime)
            .u64(mtime)
            .u64(mtime)
            .zeros(12)
            .u32(attr.mode)
            .u32(attr.nlink)
            .u32(attr.uid)
            .u32(attr.gid)
            .u32(0)
            .u32(4096)
            .u32(0)
    }
}

/// `struct fuse_out_header`; `errno` 0 is success.
pub(super) fn out_header(unique: u64, errno: i32, len: usize) -> [u8; 16] {
    let mut header = [0; 16];
    let len = u32::try_from(16 + len).unwrap_or(u32::MAX);
    header[..4].copy_from_slice(&len.to_ne_bytes());
    header[4..8].copy_from_slice(&(-errno).to_ne_bytes());
    header[8..].copy_from_slice(&unique.to_ne_bytes());
    header
}

/// Asks the kernel to hand over anew what was taken off a connection and not answered (Linux 6.9 and later).
pub(super) fn resend() -> [u8; 16] {
    const FUSE_NOTIFY_RESEND: i32 = 7;
    out_header(0, -FUSE_NOTIFY_RESEND, 0)
}

/// The answer to [`Operation::Init`]; an error where the kernel is too old to be understood.
pub(super) fn init(major: u32, minor: u32, flags: u32) -> Result<Vec<u8>, String> {
    // A newer major version asks again, when it has seen ours.
    if major < 7 || (major == 7 && minor < LEAST_MINOR) {
        return Err(format!("the kernel speaks FUSE {major}.{minor}, and 7.{LEAST_MINOR} is the least that is needed"));
    }
    let wanted = flags & (PARALLEL_DIROPS | BIG_WRITES | ASYNC_READ);
    let answer = Answer::default().u32(7).u32(minor.min(MINOR)).u32(0).u32(wanted);
    let max_write = u32::try_from(MAX_WRITE).unwrap_or(u32::MAX);
    // Then: threshold of congestion, bytes of a write, granularity of times in nanoseconds.
    let answer = answer.u16(MAX_BACKGROUND).u16(MAX_BACKGROUND / 4 * 3).u32(max_write).u32(1_000_000_000);
    Ok(answer.zeros(36).bytes())
}

/// A file that was found: known until forgotten, but looked up again each time.
pub(super) fn entry(attr: &FileAttr) -> Vec<u8> {
    Answer::default().u64(attr.ino).zeros(32).attr(attr).bytes()
}

/// What a file is, to be asked for again each time.
pub(super) fn attr(attr: &FileAttr) -> Vec<u8> {
    Answer::default().zeros(16).attr(attr).bytes()
}

/// An open file, past the kernel's cache.
pub(super) fn open(handle: u64) -> Vec<u8> {
    Answer::default().u64(handle).u32(FOPEN_DIRECT_IO | FOPEN_PARALLEL_DIRECT_WRITES).u32(0).bytes()
}

/// An open directory.
pub(super) fn opendir(handle: u64) -> Vec<u8> {
    Answer::default().u64(handle).zeros(8).bytes()
}

/// So many bytes were written.
pub(super) fn written(count: usize) -> Vec<u8> {
    Answer::default().u32(u32::try_from(count).unwrap_or(u32::MAX)).u32(0).bytes()
}

/// `statfs`: nothing is stored, and names may be as long as everywhere.
pub(super) fn statfs() -> Vec<u8> {
    Answer::default().zeros(40).u32(4096).u32(255).u32(4096).zeros(28).bytes()
}

/// As much of a directory, from an entry on, as fits. Its first two entries are `.` and `..`.
pub(super) fn readdir(ino: u64, entries: &[DirEntry], from: u64, len: usize) -> Vec<u8> {
    const S_IFDIR: u32 = 0o040_000;
    let mut answer = Vec::new();
    let dots = [(ino, S_IFDIR, "."), (ino, S_IFDIR, "..")].into_iter();
    let all = dots.chain(entries.iter().map(|e| (e.ino, e.mode, e.name.as_str())));
    for (next, (ino, mode, name)) in (1..).zip(all).skip(usize::try_from(from).unwrap_or(usize::MAX)) {
        let padded = (24 + name.len()).next_multiple_of(8);
        if answer.len() + padded > len {
            break;
        }
        let before = answer.len();
        let name_len = u32::try_from(name.len()).unwrap_or(u32::MAX);
        let head = Answer::default().u64(ino).u64(next).u32(name_len).u32((mode >> 12) & 0o17).bytes();
        answer.extend_from_slice(&head);
        answer.extend_from_slice(name.as_bytes());
        answer.resize(before + padded, 0);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opcode: u32, arguments: &[u8]) -> Vec<u8> {
        let len = u32::try_from(HEADER + arguments.len()).expect("short");
        let mut bytes = Answer::default().u32(len).u32(opcode).u64(7).u64(42).u32(1).u32(2).u32(3).u32(0).bytes();
        bytes.extend_from_slice(arguments);
        bytes
    }

    fn parsed(request: &[u8]) -> Operation<'_> {
        let (header, operation) = parse(request).expect("a request");
        assert_eq!(header, Header { unique: 7, ino: 42, uid: 1, gid: 2, pid: 3 });
        operation
    }

    #[test]
    fn requests_are_understood() {
        assert_eq!(parsed(&request(1, b"name\0")), Operation::Lookup { name: b"name" });
        assert_eq!(parsed(&request(2, &5u64.to_ne_bytes())), Operation::Forget { forgotten: vec![(42, 5)] });
        let write = Answer::default().u64(9).u64(100).u32(4).u32(0).u64(0).u32(0).u32(0).u32(0x6466_7361).bytes();
        let bytes = 0x6466_7361u32.to_ne_bytes();
        assert_eq!(parsed(&request(16, &write)), Operation::Write { handle: 9, offset: 100, bytes: &bytes });
        let forget = Answer::default().u32(2).u32(0).u64(5).u64(1).u64(6).u64(2).bytes();
        assert_eq!(parsed(&request(42, &forget)), Operation::Forget { forgotten: vec![(5, 1), (6, 2)] });
        let setattr = |valid: u32| Answer::default().u32(valid).u32(0).u64(0).u64(12).zeros(64).bytes();
        let size = Setattr { size: Some(12), ownership: false };
        assert_eq!(parsed(&request(4, &setattr(8))), Operation::Setattr(size));
        assert_eq!(parsed(&request(4, &setattr(1))), Operation::Setattr(Setattr { size: None, ownership: true }));
        assert_eq!(parsed(&request(4, &setattr(16 | 32))), Operation::Setattr(Setattr::default()));
        assert_eq!(parsed(&request(9999, b"")), Operation::Other);
    }

    #[test]
    fn whatever_is_cut_short_is_no_request() {
        let all = [
            request(1, b"name\0"),
            request(2, &[0; 8]),
            request(14, &[0; 4]),
            request(15, &[0; 20]),
            request(16, &Answer::default().zeros(16).u32(3).zeros(20).u32(0).bytes()),
            request(26, &[0; 16]),
            request(42, &Answer::default().u32(1).zeros(20).bytes()),
        ];
        for whole in all {
            assert!(parse(&whole).is_ok());
            for len in 0..whole.len() {
                let mut cut = whole[..len].to_vec();
                assert!(parse(&cut).is_err(), "a length that is not its own");
                // With the right length in front, too, it must not be taken for more than it has.
                if len >= 4 {
                    cut[..4].copy_from_slice(&u32::try_from(len).expect("short").to_ne_bytes());
                    let _ = parse(&cut);
                }
            }
        }
        assert!(parse(&request(1, b"no end")).is_err());
        assert!(parse(&request(42, &u32::MAX.to_ne_bytes())).is_err());
    }

    #[test]
    fn answers_have_the_sizes_of_their_structures() {
        let file = FileAttr::file(2, 0o644).with_size(513);
        assert_eq!(init(7, 45, u32::MAX).expect("new enough").len(), 64);
        assert_eq!((entry(&file).len(), attr(&file).len()), (128, 104));
        assert_eq!((open(1).len(), opendir(1).len(), written(1).len(), statfs().len()), (16, 16, 8, 80));
        assert_eq!(entry(&file)[56..64], 2u64.to_ne_bytes(), "blocks of 512 bytes");
        assert!(init(7, 30, 0).is_err() && init(6, 99, 0).is_err());
    }

    #[test]
    fn a_directory_comes_in_pieces_that_fit() {
        let entries: Vec<DirEntry> = (2..60).map(|ino| DirEntry::file(ino, format!("file{ino}"))).collect();
        let (mut from, mut names) = (0, Vec::new());
        loop {
            let piece = readdir(1, &entries, from, 256);
            assert!(piece.len() <= 256);
            let mut rest = &piece[..];
            while !rest.is_empty() {
                let mut bytes = Bytes(rest);
                let (_, next, len) = (bytes.u64().unwrap_or(0), bytes.u64().unwrap_or(0), bytes.u32().unwrap_or(0));
                let name = &rest[24..24 + len as usize];
                names.push(String::from_utf8_lossy(name).into_owned());
                from = next;
                rest = &rest[(24 + len as usize).next_multiple_of(8)..];
            }
            if piece.is_empty() {
                break;
            }
        }
        let expected = [".".to_owned(), "..".to_owned()].into_iter().chain(entries.into_iter().map(|e| e.name));
        assert_eq!(names, expected.collect::<Vec<_>>());
    }
}
