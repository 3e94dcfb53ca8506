//! What a read and a write of a sysctl do (K7.7 to K7.11), and the text of numbers, by property.
//!
//! The same inputs are put to the kernel's own handlers by `host/tests/sysctl_kernel.rs`.

use proptest::prelude::*;

use super::knobs::*;
use crate::engine::ctl_value::{proc_get_long, proc_skip_spaces};
use crate::engine::*;

const EIO: i32 = 5;
const ENOMEM: i32 = 12;
const EINVAL: i32 = 22;

#[test]
fn k7_7_blanks_are_skipped_and_bases_told_by_the_prefix() {
    let knob = Knob::new(entry("n", CtlKind::Int));
    for (text, value) in [
        ("5", 5),
        ("5\n", 5),
        (" \t\n\x0b\x0c\r5 \t\n", 5),
        ("0x20", 32),
        ("0XfF\n", 255),
        ("010", 8),
        ("0", 0),
        ("-7", -7),
        ("-0", 0),
        ("00000000000000000005", 5),
    ] {
        assert_eq!(knob.write(text), Ok(text.len()), "{text:?}");
        assert_eq!(knob.data.number(0, 0), value, "{text:?}");
    }
    assert_eq!(knob.write(b"\xa09"), Ok(2), "a blank in Latin-1");
}

#[test]
fn k7_7_what_is_no_number_is_refused_and_changes_nothing() {
    for kind in [CtlKind::Int, CtlKind::Uint, CtlKind::Bool, CtlKind::Ulong] {
        let knob = Knob::new(entry("n", kind));
        knob.data.set(0, &[1]);
        for text in [
            "64abc",
            "abc",
            "\n",
            "   ",
            " \t\n",
            "-",
            "- 5",
            "+5",
            "--5",
            "0x",
            "0xg",
            "08",
            "5,",
            "1,2",
            "5\r",
            "5\0",
            "5\x0b",
            "1.5",
            "1e3",
            "000000000000000000005",
            "18446744073709551616",
            "99999999999999999999999999",
        ] {
            assert_eq!(knob.write(text), Err(EINVAL), "{kind:?} {text:?}");
            assert_eq!(knob.data.number(0, 0), 1, "{kind:?} {text:?}");
        }
        assert_eq!(knob.write(""), Ok(0), "zero bytes");
        assert_eq!(knob.data.number(0, 0), 1);
    }
}

#[test]
fn k7_7_a_refusal_says_what_was_wrong_and_what_to_write() {
    let knob = Knob::new(bounded(CtlKind::Uint, 1, 10, 60_000));
    let said = |text: &str| knob.file().write(&ROOT, text.as_bytes()).unwrap_err().message;
    assert_eq!(said("64abc"), "`64abc` is no number; write a number from 10 to 60000");
    assert_eq!(said("9"), "`9` is out of range; write a number from 10 to 60000");
    assert_eq!(said("-9"), "`-9` is negative; write a number from 10 to 60000");
    assert_eq!(said(" \n"), "there is no number in it; write a number from 10 to 60000");
}

#[test]
fn k7_8_minmax_never_clamps() {
    let all = Number::from(u64::MAX);
    for (kind, min, max, good, bad) in [
        (CtlKind::Int, -5, 5, vec![-5, 0, 5], vec![-6, 6, 2_147_483_648]),
        (CtlKind::Uint, 10, 60_000, vec![10, 60_000], vec![0, 9, 60_001, 4_294_967_296]),
        (CtlKind::Ulong, 1, all, vec![1, all], vec![0]),
        (CtlKind::Ulong, 0, 3, vec![0, 3], vec![4, all]),
    ] {
        let knob = Knob::new(bounded(kind, 1, min, max));
        for value in good {
            assert!(knob.write(value.to_string()).is_ok(), "{kind:?} {value}");
            assert_eq!(knob.data.number(0, 0), value);
        }
        knob.data.set(0, &[max]);
        for value in bad {
            assert_eq!(knob.write(value.to_string()), Err(EINVAL), "{kind:?} {value}");
            assert_eq!(knob.data.number(0, 0), max, "unchanged");
        }
    }
}

#[test]
fn k7_8_a_number_stays_within_its_type() {
    for (kind, good, bad) in [
        (CtlKind::Int, ["-2147483648", "2147483647"], ["-2147483649", "2147483648"]),
        (CtlKind::Uint, ["0", "4294967295"], ["-0", "4294967296"]),
        (CtlKind::Ulong, ["0", "18446744073709551615"], ["-0", "18446744073709551616"]),
        (CtlKind::Bool, ["-2147483648", "2147483647"], ["-2147483649", "2147483648"]),
    ] {
        let knob = Knob::new(entry("n", kind));
        good.iter().for_each(|text| assert!(knob.write(text).is_ok(), "{kind:?} {text}"));
        bad.iter().for_each(|text| assert_eq!(knob.write(text), Err(EINVAL), "{kind:?} {text}"));
    }
}

#[test]
fn k7_8_a_bool_takes_any_int_and_shows_one_or_zero() {
    let knob = Knob::new(entry("n", CtlKind::Bool));
    for (text, shown) in [("1", "1\n"), ("0", "0\n"), ("7", "1\n"), ("-0", "0\n"), ("-1", "1\n")] {
        assert!(knob.write(text).is_ok());
        assert_eq!(knob.read(), shown, "{text}");
    }
}

#[test]
fn k7_9_fewer_values_leave_the_rest_and_more_are_left_over() {
    for kind in [CtlKind::Int, CtlKind::Ulong] {
        let knob = Knob::new(vector("n", kind, 3));
        knob.data.set(0, &[1, 2, 3]);
        assert_eq!(knob.write("7\n"), Ok(2));
        assert_eq!(knob.read(), "7\t2\t3\n");
        assert_eq!(knob.write("4 5 6 7 8"), Ok(6), "what the elements took, and the blank behind it");
        assert_eq!(knob.read(), "4\t5\t6\n");
        let one = Knob::new(entry("n", kind));
        assert_eq!(one.write("300 400 500"), Ok(4));
        assert_eq!(one.read(), "300\n");
    }
}

#[test]
fn k7_9_a_vector_is_stored_element_by_element() {
    let knob = Knob::new(bounded(CtlKind::Int, 4, 1, 100));
    knob.data.set(0, &[1, 2, 3, 4]);
    for (text, after) in [("9 8 x 7", "9\t8\t3\t4\n"), ("5 101 5", "5\t8\t3\t4\n"), ("x 1", "5\t8\t3\t4\n")] {
        assert_eq!(knob.write(text), Err(EINVAL), "{text}");
        assert_eq!(knob.read(), after, "{text}");
    }
}

#[test]
fn k7_9_the_daemon_sets_a_vector_whole_or_not_at_all() {
    let knob = Knob::new(bounded(CtlKind::Int, 3, 1, 100));
    knob.data.set(0, &[1, 2, 3]);
    assert_eq!(knob.node().set(b"9 8 x\n").unwrap_err().errno, EINVAL);
    assert_eq!(knob.read(), "1\t2\t3\n");
    assert_eq!(knob.node().set(b"9 8\n").unwrap(), 4);
    assert_eq!(knob.read(), "9\t8\t3\n");
}

#[test]
fn k7_10_a_second_write_is_swallowed_but_for_uint() {
    for (kind, after, position) in
        [(CtlKind::Int, "40\n", 6), (CtlKind::Ulong, "40\n", 6), (CtlKind::Bool, "1\n", 6), (CtlKind::Uint, "0\n", 0)]
    {
        let knob = Knob::new(entry("n", kind));
        let file = knob.file();
        let mut at = 0;
        assert_eq!(file.write_at(&ROOT, &mut at, b"40\n").unwrap(), 3);
        assert_eq!(file.write_at(&ROOT, &mut at, b"0\n\n").unwrap(), 3);
        assert_eq!((knob.read().as_str(), at), (after, position), "{kind:?}");
        // By the file's own position, too.
        assert_eq!((file.write(&ROOT, b"40\n").unwrap(), file.write(&ROOT, b"0\n").unwrap()), (3, 2));
        assert_eq!(knob.read(), after, "{kind:?}");
    }
}

#[test]
fn k7_10_a_write_elsewhere_than_at_the_beginning_is_swallowed() {
    for kind in [CtlKind::Int, CtlKind::Uint, CtlKind::Bool, CtlKind::Ulong] {
        let knob = Knob::new(entry("n", kind));
        let mut at = 3;
        assert_eq!(knob.file().write_at(&ROOT, &mut at, b"no number").unwrap(), 9);
        assert_eq!((knob.read().as_str(), at), ("0\n", 12));
    }
}

#[test]
fn k7_10_an_error_leaves_the_position() {
    let knob = Knob::new(vector("n", CtlKind::Int, 2));
    let file = knob.file();
    assert!(file.write(&ROOT, b"1 x").is_err());
    assert_eq!(file.write(&ROOT, b"5 6").unwrap(), 3);
    assert_eq!(knob.read(), "5\t6\n");
}

#[test]
fn k7_10_a_text_goes_on_where_the_last_write_ended() {
    let knob = Knob::new(CtlEntry { len: 16, ..entry("n", CtlKind::Text) });
    let file = knob.file();
    assert_eq!((file.write(&ROOT, b"abc").unwrap(), file.write(&ROOT, b"def\n").unwrap()), (3, 4));
    assert_eq!(knob.read(), "abcdef\n");
    // The newline was counted and not stored, so the position is past the end.
    assert_eq!(file.write(&ROOT, b"ghi").unwrap(), 3);
    assert_eq!(knob.read(), "abcdef\n");
    let mut at = 2;
    assert_eq!(file.write_at(&ROOT, &mut at, b"X").unwrap(), 1);
    assert_eq!((knob.read().as_str(), at), ("abX\n", 3), "what was behind it is cut off");
    let mut beyond = 9;
    assert_eq!(file.write_at(&ROOT, &mut beyond, b"X").unwrap(), 1);
    assert_eq!((knob.read().as_str(), beyond), ("abX\n", 9));
}

#[test]
fn k7_11_numbers_are_read_in_one_pass() {
    let knob = Knob::new(vector("n", CtlKind::Int, 3));
    knob.data.set(0, &[-1, 20, 300]);
    let file = knob.file();
    assert_eq!(file.read(&ROOT, 4096).unwrap(), b"-1\t20\t300\n");
    assert_eq!(file.read(&ROOT, 4096).unwrap(), b"");
    let short = knob.file();
    assert_eq!((short.read(&ROOT, 4).unwrap(), short.read(&ROOT, 100).unwrap()), (b"-1\t2".to_vec(), Vec::new()));
    assert_eq!(knob.file().read(&ROOT, 0).unwrap(), b"");
}

#[test]
fn k7_11_a_text_is_read_in_as_many_passes_as_it_takes() {
    let knob = Knob::new(CtlEntry { len: 16, ..entry("n", CtlKind::Text) });
    knob.data.set_text(0, "hello");
    let file = knob.file();
    let parts: Vec<Vec<u8>> = (0..4).map(|_| file.read(&ROOT, 3).unwrap()).collect();
    assert_eq!(parts, [b"hel".to_vec(), b"lo\n".to_vec(), Vec::new(), Vec::new()]);
    knob.data.set_text(0, "");
    assert_eq!(knob.read(), "\n");
}

#[test]
fn k7_11_a_text_ends_at_a_newline_or_nul_and_is_cut_off() {
    let knob = Knob::new(CtlEntry { len: 6, ..entry("n", CtlKind::Text) });
    for (text, after) in [("abc\ndef", "abc\n"), ("ab\0c", "ab\n"), ("abcdefgh", "abcde\n"), ("\n", "\n")] {
        assert_eq!(knob.write(text), Ok(text.len()), "{text:?}");
        assert_eq!(knob.read(), after, "{text:?}");
    }
}

#[test]
fn k7_11_more_than_a_page_is_no_write() {
    let page = " ".repeat(4095);
    for kind in [CtlKind::Int, CtlKind::Uint, CtlKind::Bool, CtlKind::Ulong, CtlKind::Text, CtlKind::Own] {
        let len = if kind == CtlKind::Text { 16 } else { 1 };
        let knob = Knob::new(CtlEntry { len, ..entry("n", kind) });
        assert_eq!(knob.write(format!("1{page} ")), Err(ENOMEM), "{kind:?}");
        assert_eq!(knob.write(format!("1{page}")), Ok(4096), "{kind:?}");
    }
    // The last byte of a page is the end of the kernel's buffer.
    let knob = Knob::new(vector("n", CtlKind::Int, 2));
    assert_eq!(knob.write(format!("7{}x", " ".repeat(4094))), Ok(4096));
    assert_eq!(knob.write(format!("8{}x", " ".repeat(4093))), Err(EINVAL));
}

#[test]
fn k7_11_own_handlers_get_positions_and_are_not_believed_everything() {
    let knob = Knob::new(entry("n", CtlKind::Own));
    let file = knob.file();
    assert_eq!((file.write(&ROOT, b"one\n").unwrap(), file.write(&ROOT, b"two\n").unwrap()), (4, 4));
    let file = knob.file();
    let parts: Vec<Vec<u8>> = (0..3).map(|_| file.read(&ROOT, 6).unwrap()).collect();
    assert_eq!(parts, [b"one\ntw".to_vec(), b"o\n".to_vec(), Vec::new()]);
    assert_eq!(knob.write(""), Ok(0));
    knob.data.at_each(|_| Err(Failure::new(71, "as told")));
    assert_eq!(knob.write("x"), Err(71), "its errno is the answer");
}

/// Answers more than it was asked for.
struct Boaster;

impl CtlData for Boaster {
    fn load(&self, _: &CtlAt, _: usize) -> Result<Number, Failure> {
        Ok(1 << 40)
    }
    fn store(&self, _: &CtlAt, _: usize, _: Number) -> Result<(), Failure> {
        Ok(())
    }
    fn text(&self, _: &CtlAt) -> Result<Vec<u8>, Failure> {
        Ok(vec![b'x'; 1000])
    }
    fn set_text(&self, _: &CtlAt, _: &[u8]) -> Result<(), Failure> {
        Ok(())
    }
    fn read(&self, _: &CtlAt, _: u64, count: usize) -> Result<Vec<u8>, Failure> {
        Ok(vec![b'x'; count + 1])
    }
    fn write(&self, _: &CtlAt, _: u64, bytes: &[u8]) -> Result<usize, Failure> {
        Ok(bytes.len() + 1)
    }
    fn free(&self) -> Result<(), Failure> {
        Ok(())
    }
}

#[test]
fn what_no_handler_can_answer_is_an_error_of_its_own() {
    let set = CtlSet::default();
    let entries = vec![
        entry("int", CtlKind::Int),
        entry("own", CtlKind::Own),
        CtlEntry { len: 8, ..entry("text", CtlKind::Text) },
    ];
    set.register("d", CtlTable { entries, data: std::sync::Arc::new(Boaster) }, |_| ()).unwrap();
    let open = |path: &str| CtlFile::open(found(&set, path), &ROOT, CtlAccess::ReadWrite).unwrap();
    assert_eq!(open("d/int").read(&ROOT, 100).unwrap_err().errno, EIO);
    assert_eq!(open("d/own").read(&ROOT, 100).unwrap_err().errno, EIO);
    assert_eq!(open("d/own").write(&ROOT, b"x").unwrap_err().errno, EIO);
    assert_eq!(open("d/text").read(&ROOT, 100).unwrap(), b"xxxxxxxx\n", "no more than it has room for");
}

/// The first token of a text, by the rules written out the long way round.
fn reference(text: &[u8]) -> Option<(bool, u64, usize)> {
    let blank = |b: &u8| matches!(b, 9..=13 | 32 | 0xa0);
    let start = text.iter().position(|b| !blank(b))?;
    let rest = &text[start..];
    let (negative, digits_at) = if rest[0] == b'-' { (true, 1) } else { (false, 0) };
    let end = rest.iter().position(|b| matches!(b, b' ' | b'\t' | b'\n')).unwrap_or(rest.len());
    if end > 20 {
        return None;
    }
    let token = std::str::from_utf8(&rest[digits_at..end]).ok()?;
    if !token.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let lower = token.to_ascii_lowercase();
    let size = match lower.strip_prefix("0x") {
        Some(digits) if !digits.starts_with(['+', '-']) => u64::from_str_radix(digits, 16).ok()?,
        Some(_) => return None,
        None if lower.len() > 1 && lower.starts_with('0') => u64::from_str_radix(&lower, 8).ok()?,
        None => lower.parse().ok()?,
    };
    Some((negative, size, start + end))
}

fn taken(text: &[u8]) -> Option<(bool, u64, usize)> {
    let mut left = text;
    proc_skip_spaces(&mut left);
    let long = proc_get_long(&mut left)?;
    Some((long.negative, long.size, text.len() - left.len()))
}

/// Texts that are numbers more often than not.
fn texts() -> impl Strategy<Value = Vec<u8>> {
    let near = "[ \t\n\r]{0,2}-?(0x)?[0-9a-fx]{0,22}[ \t\n\r,]{0,2}[0-9-]{0,3}";
    prop_oneof![near.prop_map(String::into_bytes), proptest::collection::vec(any::<u8>(), 0..30)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_as_the_rules_say(text in texts()) {
        prop_assert_eq!(taken(&text), reference(&text));
    }

    #[test]
    fn what_is_read_can_be_written_back(values in proptest::collection::vec(any::<i32>(), 1..6)) {
        let knob = Knob::new(vector("n", CtlKind::Int, values.len()));
        knob.data.set(0, &values.iter().map(|value| Number::from(*value)).collect::<Vec<_>>());
        let text = knob.read();
        let other = Knob::new(vector("n", CtlKind::Int, values.len()));
        prop_assert_eq!(other.write(&text), Ok(text.len()));
        prop_assert_eq!(other.read(), text);
    }

    #[test]
    fn every_notation_of_a_number_is_that_number(value in any::<u64>(), blanks in "[ \t\n]{0,3}") {
        let knob = Knob::new(entry("n", CtlKind::Ulong));
        let notations = [format!("{value}"), format!("{value:#x}"), format!("{value:#X}").replace("0X", "0x")];
        let octal = format!("0{value:o}");
        for text in notations.into_iter().chain((octal.len() <= 20).then_some(octal)) {
            prop_assert!(knob.write(format!("{blanks}{text}{blanks}")).is_ok(), "{}", text);
            prop_assert_eq!(knob.data.number(0, 0), Number::from(value));
        }
    }

    /// Whatever is written: the answer is a count within it or EINVAL, and every element is as before, or one that was
    /// written and is within bounds.
    #[test]
    fn a_write_takes_some_of_it_or_is_refused(text in texts(), len in 1usize..4, min in -3i32..3) {
        let knob = Knob::new(bounded(CtlKind::Int, len, min.into(), 100));
        knob.data.set(0, &vec![50; len]);
        match knob.write(&text) {
            Ok(count) => prop_assert!(count <= text.len()),
            Err(errno) => prop_assert_eq!(errno, EINVAL),
        }
        for index in 0..len {
            let value = knob.data.number(0, index);
            prop_assert!(value == 50 || (Number::from(min)..=100).contains(&value));
        }
    }
}
