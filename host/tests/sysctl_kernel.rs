//! Our handlers of sysctls beside the kernel's own, value by value: the same bytes to an entry of `/proc/sys` and to one
//! of ours of the same type and range, and the same answers expected: bytes taken, errno, position, and what is read back.
//!
//! What differs is listed in ARCHITECTURE.md, and not put to both: a write of more than a page.

#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.
#![allow(unsafe_code)] // unshare(2)

mod sandbox;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use pernetd::engine::{
    Credentials, CtlAccess, CtlAt, CtlData, CtlEntry, CtlFile, CtlFound, CtlKind, CtlSet, CtlTable, Failure, Number,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use sandbox::{Trial, trial};

fn main() -> ExitCode {
    let net = |name: &str, path: &'static str, ours: fn() -> CtlEntry| {
        trial(format!("{name}: {path}"), move || compare(path, ours())).ignored_if(!in_proc(path).exists())
    };
    let mut trials: Vec<Trial> = vec![
        net("int", "net/ipv4/igmp_max_memberships", || number(CtlKind::Int, 1, None, None)),
        net("int", "net/unix/max_dgram_qlen", || number(CtlKind::Int, 1, None, None)),
        net("int, min", "net/core/somaxconn", || number(CtlKind::Int, 1, Some(0), Some(i32::MAX.into()))),
        net("int, min and max", "net/ipv4/tcp_pacing_ss_ratio", || number(CtlKind::Int, 1, Some(0), Some(1000))),
        net("uint", "net/ipv4/tcp_notsent_lowat", || number(CtlKind::Uint, 1, None, None)),
        net("uint, min and max", "net/ipv4/tcp_child_ehash_entries", || {
            number(CtlKind::Uint, 1, Some(0), Some(1 << 24))
        }),
        net("uint, min and max", "net/ipv4/fib_multipath_hash_fields", || {
            number(CtlKind::Uint, 1, Some(1), Some(0xfff))
        }),
        net("vector of int, min", "net/ipv4/tcp_rmem", || number(CtlKind::Int, 3, Some(1), None)),
        net("vector of int, min", "net/ipv4/tcp_wmem", || number(CtlKind::Int, 3, Some(1), None)),
        net("ulong, min and max", "user/max_net_namespaces", || {
            number(CtlKind::Ulong, 1, Some(0), Some(i32::MAX.into()))
        }),
        net("bool beside an int", "net/ipv4/igmp_max_memberships", || number(CtlKind::Bool, 1, None, None)),
        trial("ulong: kernel/shmmax", || {
            own(UnshareFlags::NEWIPC);
            compare("kernel/shmmax", number(CtlKind::Ulong, 1, None, None));
        }),
    ];
    // The names of a machine are for who is root outside, too.
    let not_root = !rustix::process::getuid().is_root();
    trials.push(
        trial("string: kernel/domainname", || {
            own(UnshareFlags::NEWUTS);
            compare("kernel/domainname", CtlEntry { len: 65, ..number(CtlKind::Text, 1, None, None) });
        })
        .ignored_if(not_root),
    );
    sandbox::main(trials)
}

fn in_proc(path: &str) -> PathBuf {
    Path::new("/proc/sys").join(path)
}

/// A namespace of this process's own, whose sysctls are nobody else's.
fn own(kind: UnshareFlags) {
    // SAFETY: asks that nothing relies on what is unshared: this process uses neither.
    unsafe { unshare_unsafe(kind) }.unwrap();
}

fn number(kind: CtlKind, len: usize, min: Option<Number>, max: Option<Number>) -> CtlEntry {
    CtlEntry { name: "n".into(), mode: 0o644, kind, len, min, max }
}

/// What stands behind our entry.
#[derive(Default)]
struct Memory {
    numbers: Mutex<Vec<Number>>,
    text: Mutex<Vec<u8>>,
}

impl CtlData for Memory {
    fn load(&self, _: &CtlAt, index: usize) -> Result<Number, Failure> {
        Ok(self.numbers.lock().unwrap()[index])
    }
    fn store(&self, _: &CtlAt, index: usize, value: Number) -> Result<(), Failure> {
        self.numbers.lock().unwrap()[index] = value;
        Ok(())
    }
    fn text(&self, _: &CtlAt) -> Result<Vec<u8>, Failure> {
        Ok(self.text.lock().unwrap().clone())
    }
    fn set_text(&self, _: &CtlAt, text: &[u8]) -> Result<(), Failure> {
        *self.text.lock().unwrap() = text.to_vec();
        Ok(())
    }
    fn read(&self, _: &CtlAt, _: u64, _: usize) -> Result<Vec<u8>, Failure> {
        unreachable!("no entry with handlers of its own")
    }
    fn write(&self, _: &CtlAt, _: u64, _: &[u8]) -> Result<usize, Failure> {
        unreachable!("no entry with handlers of its own")
    }
    fn free(&self) -> Result<(), Failure> {
        Ok(())
    }
}

/// What is done with a file that was opened.
#[derive(Clone, Debug)]
enum Op {
    Write(Vec<u8>),
    WriteAt(u64, Vec<u8>),
    Read(usize),
    ReadAt(u64, usize),
}

/// What came of it.
#[derive(Debug, PartialEq)]
enum Answer {
    Taken(Result<usize, i32>),
    Given(Result<Vec<u8>, i32>),
}

const ROOT: Credentials = Credentials { uid: 0, gid: 0, privileged: true };

/// Both files, at their beginning.
struct Both {
    kernels: PathBuf,
    set: CtlSet,
    kind: CtlKind,
}

impl Both {
    fn ours(&self) -> CtlFile {
        let Ok(CtlFound::Entry(node)) = self.set.look("d/n") else { panic!("registered") };
        CtlFile::open(node, &ROOT, CtlAccess::ReadWrite).unwrap()
    }

    fn kernels(&self) -> File {
        OpenOptions::new().read(true).write(true).open(&self.kernels).unwrap()
    }

    /// Does the same with both; the answers and positions of each.
    fn run(&self, ops: &[Op]) -> [Vec<(Answer, u64)>; 2] {
        let (ours, mut kernels) = (self.ours(), self.kernels());
        let mut position = 0;
        let of_ours = ops.iter().map(|op| (ask_ours(&ours, &mut position, op), position)).collect();
        let of_kernels = ops.iter().map(|op| (ask_kernel(&mut kernels, op), kernels.stream_position().unwrap()));
        [of_ours, of_kernels.collect()]
    }

    /// What both read as, as far as they can be the same.
    fn values(&self) -> [String; 2] {
        let ours = self.ours().read(&ROOT, 4096).unwrap();
        let kernels = fs::read(&self.kernels).unwrap();
        let kernels = match self.kind {
            CtlKind::Bool => format!("{}\n", i32::from(kernels != b"0\n")).into_bytes(),
            _ => kernels,
        };
        [ours, kernels].map(|bytes| bytes.escape_ascii().to_string())
    }
}

fn ask_ours(file: &CtlFile, position: &mut u64, op: &Op) -> Answer {
    match op {
        Op::Write(bytes) => Answer::Taken(file.write_at(&ROOT, position, bytes).map_err(|e| e.errno)),
        Op::WriteAt(at, bytes) => Answer::Taken(file.write_at(&ROOT, &mut at.clone(), bytes).map_err(|e| e.errno)),
        Op::Read(count) => Answer::Given(file.read_at(&ROOT, position, *count).map_err(|e| e.errno)),
        Op::ReadAt(at, count) => Answer::Given(file.read_at(&ROOT, &mut at.clone(), *count).map_err(|e| e.errno)),
    }
}

fn ask_kernel(file: &mut File, op: &Op) -> Answer {
    let errno = |e: io::Error| e.raw_os_error().unwrap();
    let given = |count: usize, read: &dyn Fn(&mut [u8]) -> io::Result<usize>| {
        let mut bytes = vec![0; count];
        Answer::Given(read(&mut bytes).map_err(errno).map(|len| bytes[..len].to_vec()))
    };
    match op {
        Op::Write(bytes) => Answer::Taken(file.write(bytes).map_err(errno)),
        Op::WriteAt(at, bytes) => Answer::Taken(file.write_at(bytes, *at).map_err(errno)),
        Op::Read(count) => given(*count, &|bytes| (&*file).read(bytes)),
        Op::ReadAt(at, count) => given(*count, &|bytes| file.read_at(bytes, *at)),
    }
}

/// Puts a long list of writes to both, then files that are read and written on, then random ones.
fn compare(path: &str, entry: CtlEntry) {
    let (len, kind) = (entry.len, entry.kind);
    let data = Memory { numbers: Mutex::new(vec![0; len]), ..Memory::default() };
    let set = CtlSet::default();
    set.register("d", CtlTable { entries: vec![entry], data: Arc::new(data) }, |_| ()).unwrap();
    let both = Both { kernels: in_proc(path), set, kind };
    // The same value in both to begin with.
    let all = vec!["1"; len.min(8)].join(" ");
    let [ours, kernels] = both.run(&[Op::Write(all.into_bytes())]);
    assert_eq!(ours, kernels);
    for text in texts() {
        check(&both, &[Op::Write(text)]).unwrap_or_else(|why| panic!("{why}"));
    }
    for ops in files() {
        check(&both, &ops).unwrap_or_else(|why| panic!("{why}"));
    }
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(500) });
    let random = proptest::collection::vec(ops(), 1..5);
    let done = runner.run(&random, |ops| check(&both, &ops).map_err(TestCaseError::fail));
    done.unwrap_or_else(|failure| panic!("{path}: {failure}"));
}

fn check(both: &Both, ops: &[Op]) -> Result<(), String> {
    let [before, _] = both.values();
    let [mut ours, mut kernels] = both.run(ops);
    if both.kind == CtlKind::Bool {
        // Numbers of another length read back differently: only the writes can be compared, and where they ended.
        let reads = ops.iter().any(|op| matches!(op, Op::Read(_) | Op::ReadAt(..)));
        for answers in [&mut ours, &mut kernels] {
            answers.retain(|(answer, _)| matches!(answer, Answer::Taken(_)));
            answers.iter_mut().filter(|_| reads).for_each(|(_, position)| *position = 0);
        }
    }
    let [value, kernels_value] = both.values();
    if ours == kernels && value == kernels_value {
        return Ok(());
    }
    Err(format!("{before:?} then {ops:?}:\n ours    {ours:?} {value:?}\n kernel's {kernels:?} {kernels_value:?}"))
}

/// Writes, each to a file that was just opened.
fn texts() -> Vec<Vec<u8>> {
    let plain = [
        "",
        "\n",
        " ",
        "  \n",
        "\t",
        "5",
        "5\n",
        " 5",
        "\t5\n",
        "5 \n\n",
        "\x0b5",
        "\x0c5",
        "\r5",
        "5\r",
        "5\0",
        "5\x0b",
        "64abc",
        "abc",
        "0x20",
        "0X20",
        "0x",
        "0xg",
        "0xFf",
        "010",
        "08",
        "09",
        "0",
        "00",
        "-1",
        "-0",
        "-",
        "--1",
        "- 5",
        "+5",
        "5-",
        "-5",
        "127",
        "128",
        "255",
        "256",
        "1000",
        "1001",
        "32767",
        "65535",
        "65536",
        "1048576",
        "1048577",
        "2147483647",
        "2147483648",
        "-2147483648",
        "-2147483649",
        "4294967295",
        "4294967296",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "0xffffffffffffffff",
        "0x10000000000000000",
        "01777777777777777777",
        "00000000000000000005",
        "000000000000000000005",
        "0000000000000000000000000005",
        "-0000000000000000005",
        "-00000000000000000005",
        "300 400 500",
        "300\t400\n500",
        "300,400",
        "1 2",
        "1 2 3 4",
        "5 x",
        "5 6 x",
        "x 5",
        "5 -1",
        "5 0 7",
        "1.5",
        "1e3",
        "(none)",
        "a name",
        "a\nb",
        "5\n6\n7",
        "\n\n5",
        "5  6",
        "12345678901234567890",
        "123456789012345678901",
        "1234567890123456789012",
    ];
    let mut texts: Vec<Vec<u8>> = plain.iter().map(|text| text.as_bytes().to_vec()).collect();
    texts.extend([b"\xa05".to_vec(), b"5\xa0".to_vec(), b"\xff".to_vec(), b"5\x80".to_vec()]);
    let blanks = |n: usize| " ".repeat(n);
    for text in [
        format!("7{}", blanks(4094)),
        format!("7{}", blanks(4095)),
        format!("7{}x", blanks(4093)),
        format!("7{}x", blanks(4094)),
        format!("{}7", blanks(4094)),
        format!("{}7", blanks(4095)),
        "x".repeat(63),
        "x".repeat(64),
        "x".repeat(65),
        "x".repeat(66),
        "y".repeat(4096),
    ] {
        texts.push(text.into_bytes());
    }
    texts
}

/// Files that are gone on with.
fn files() -> Vec<Vec<Op>> {
    let write = |text: &str| Op::Write(text.into());
    let at = |position, text: &str| Op::WriteAt(position, text.into());
    vec![
        vec![write("40\n"), write("41\n")],
        vec![write("40\n"), write("41\n"), write("42\n"), Op::Read(100)],
        vec![write("40"), write("1")],
        vec![write("300 400 500"), write("400 500"), write("500")],
        vec![write("50"), Op::Read(100)],
        vec![Op::Read(100), Op::Read(100), write("51")],
        vec![Op::Read(1), Op::Read(1), Op::Read(100)],
        vec![Op::Read(0), Op::Read(2), Op::Read(100), Op::Read(100)],
        vec![Op::ReadAt(1, 10), Op::ReadAt(0, 10), Op::ReadAt(100, 10)],
        vec![at(3, "52"), Op::Read(100)],
        vec![at(0, "53"), at(0, "54"), Op::Read(100)],
        vec![write("55"), at(0, "56"), at(2, "57"), Op::ReadAt(0, 100)],
        vec![write("x"), write("58"), Op::ReadAt(0, 100)],
        vec![write("1 x"), write("59"), Op::ReadAt(0, 100)],
        vec![write(""), write("60"), write("")],
        vec![write("\n"), write("61\n")],
        vec![write("abc"), write("def\n"), write("ghi"), Op::ReadAt(0, 100)],
        vec![write("abcdef"), at(3, "X"), at(99, "Y"), Op::ReadAt(2, 3), Op::ReadAt(0, 100)],
    ]
}

/// What may be done with a file, with texts that are numbers more often than not.
fn ops() -> impl Strategy<Value = Op> {
    let near = "[ \t\n]{0,2}-?(0x|0)?[0-9a-f]{0,11}[ \t\n\r]{0,2}(-?[0-9]{1,5}[ \t\n]?){0,4}";
    let text = prop_oneof![
        8 => near.prop_map(String::into_bytes),
        1 => "[a-z\n]{0,70}".prop_map(String::into_bytes),
        1 => proptest::collection::vec(any::<u8>().prop_filter("the kernel's text ends there", |b| *b != 0), 0..30),
    ];
    prop_oneof![
        6 => text.clone().prop_map(Op::Write),
        1 => (0u64..8, text).prop_map(|(at, text)| Op::WriteAt(at, text)),
        2 => (0usize..40).prop_map(Op::Read),
        1 => (0u64..8, 0usize..40).prop_map(|(at, count)| Op::ReadAt(at, count)),
    ]
}
