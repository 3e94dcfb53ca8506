//! A stand-in for systemd's journal: its native socket in the sandbox's own /run, and what was sent to it, decoded.

#![allow(dead_code, unreachable_pub)] // Each test binary uses its own part of this.
#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

use std::fs::{self, File};
use std::io::{IoSliceMut, Read, Seek};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::fs::{SealFlags, fcntl_get_seals};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::sandbox::wait_until;

pub const SOCKET: &str = "/run/systemd/journal/socket";
/// A hook is told to hang after 10 s, and 5 s late at most.
const SOON: Duration = Duration::from_secs(30);

/// One entry.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    fields: Vec<(String, String)>,
    /// It came as a file.
    pub large: bool,
}

impl Entry {
    /// The value of a field that is there once; empty if it is not there.
    #[track_caller]
    pub fn get(&self, name: &str) -> &str {
        let values: Vec<&str> = self.fields.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect();
        assert!(values.len() <= 1, "{name} more than once: {self:?}");
        values.first().copied().unwrap_or_default()
    }

    /// As the journal reads it. Whatever it would drop fails here.
    fn decode(mut bytes: &[u8], large: bool) -> Entry {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let end = bytes.iter().position(|b| *b == b'\n').expect("a line has an end");
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            let (name, value, rest) = match line.iter().position(|b| *b == b'=') {
                Some(at) => (&line[..at], &line[at + 1..], rest),
                None => {
                    let length = usize::try_from(u64::from_le_bytes(rest[..8].try_into().unwrap())).unwrap();
                    assert_eq!(rest[8 + length], b'\n', "a value ends with its length");
                    (line, &rest[8..8 + length], &rest[9 + length..])
                }
            };
            let name = String::from_utf8(name.to_vec()).unwrap();
            let allowed = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
            assert!(name.len() <= 64 && name.bytes().all(allowed) && !name.starts_with(['_', '0']), "{name}");
            fields.push((name, String::from_utf8(value.to_vec()).unwrap()));
            bytes = rest;
        }
        Entry { fields, large }
    }
}

/// The journal; what it has got so far.
#[derive(Clone, Default)]
pub struct Journal(Arc<Mutex<Vec<Entry>>>);

/// Binds the socket, and reads nothing yet.
pub fn bind() -> UnixDatagram {
    fs::create_dir_all(Path::new(SOCKET).parent().unwrap()).unwrap();
    let _ = fs::remove_file(SOCKET);
    UnixDatagram::bind(SOCKET).unwrap()
}

impl Journal {
    /// Reads what comes.
    pub fn serve(&self, socket: UnixDatagram) {
        let entries = Arc::clone(&self.0);
        thread::spawn(move || {
            loop {
                let entry = receive(&socket);
                entries.lock().unwrap().push(entry);
            }
        });
    }

    pub fn entries(&self) -> Vec<Entry> {
        self.0.lock().unwrap().clone()
    }

    /// The first entry of that kind, when there is one.
    #[track_caller]
    pub fn wait(&self, what: &str, is_it: impl Fn(&Entry) -> bool) -> Entry {
        let mut found = None;
        wait_until(what, SOON, || {
            found = self.entries().into_iter().find(&is_it);
            found.is_some()
        });
        found.unwrap()
    }

    /// The first entry with this id.
    #[track_caller]
    pub fn wait_id(&self, id: &str) -> Entry {
        self.wait(id, |entry| entry.get("MESSAGE_ID") == id)
    }
}

fn receive(socket: &UnixDatagram) -> Entry {
    let mut bytes = vec![0; 1 << 18];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let files = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    let Some(file) = files.flatten().next() else { return Entry::decode(&bytes[..got.bytes], false) };
    assert_eq!(got.bytes, 0, "the file is all of it");
    let sealed = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    assert!(fcntl_get_seals(&file).unwrap().contains(sealed), "the journal takes no other");
    let (mut file, mut bytes) = (File::from(file), Vec::new());
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    Entry::decode(&bytes, true)
}
