//! The capture file's format: the classic pcap, Ethernet frames, times in nanoseconds, little-endian on any machine.
//!
//! Bytes only. Which file, and who writes it, is `capture`.

use std::io::{self, Read, Seek};
use std::time::Duration;

/// The file's first bytes are always these: what a file that we may append to begins with.
pub(crate) const HEADER: [u8; 24] = header();
/// Most of a frame that any record has: the header promises it, and tools refuse a record that is longer.
pub(crate) const SNAPLEN_MAX: u32 = 262_144;
const RECORD_HEADER: usize = 16;
/// Classic pcap with times in nanoseconds.
const MAGIC: u32 = 0xa1b2_3c4d;
const LINKTYPE_ETHERNET: u32 = 1;

const fn header() -> [u8; 24] {
    let mut bytes = [0; 24];
    put(&mut bytes, 0, &MAGIC.to_le_bytes());
    put(&mut bytes, 4, &2_u16.to_le_bytes());
    put(&mut bytes, 6, &4_u16.to_le_bytes());
    put(&mut bytes, 16, &SNAPLEN_MAX.to_le_bytes());
    put(&mut bytes, 20, &LINKTYPE_ETHERNET.to_le_bytes());
    bytes
}

const fn put(to: &mut [u8], at: usize, bytes: &[u8]) {
    let mut n = 0;
    while n < bytes.len() {
        to[at + n] = bytes[n];
        n += 1;
    }
}

/// How long the record of a frame of this length is.
pub(crate) fn record_len(frame: usize, snaplen: u32) -> usize {
    RECORD_HEADER + frame.min(snaplen as usize)
}

/// Appends the record of a frame that was seen at a time since 1970. The format's seconds end in 2106.
pub(crate) fn push_record(to: &mut Vec<u8>, at: Duration, frame: &[u8], snaplen: u32) {
    let kept = &frame[..frame.len().min(snaplen as usize)];
    let seconds = u32::try_from(at.as_secs()).unwrap_or(u32::MAX);
    for number in [seconds, at.subsec_nanos(), length(kept), length(frame)] {
        to.extend_from_slice(&number.to_le_bytes());
    }
    to.extend_from_slice(kept);
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// Where the last whole record ends of a file of this length, read from behind its header on.
///
/// # Errors
/// `InvalidData` where a record should begin and none does; and what reading answers.
pub(crate) fn end_of_whole(file: &mut (impl Read + Seek), len: u64) -> io::Result<u64> {
    let mut end = HEADER.len() as u64;
    while end + RECORD_HEADER as u64 <= len {
        let mut head = [0; RECORD_HEADER];
        file.read_exact(&mut head)?;
        let kept = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        if kept > SNAPLEN_MAX {
            let why = format!("there is no record at byte {end}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        let next = end + RECORD_HEADER as u64 + u64::from(kept);
        if next > len {
            break;
        }
        file.seek_relative(kept.into())?;
        end = next;
    }
    Ok(end)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Time, length on the cable and kept bytes of each record. Panics where the file is not whole.
    pub(crate) fn read(file: &[u8]) -> Vec<(Duration, u32, Vec<u8>)> {
        let mut rest = file.strip_prefix(&HEADER).expect("the header");
        let mut records = Vec::new();
        while !rest.is_empty() {
            let (head, after) = rest.split_at(RECORD_HEADER);
            let number = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
            let (kept, after) = after.split_at(number(8) as usize);
            records.push((Duration::new(number(0).into(), number(4)), number(12), kept.to_vec()));
            rest = after;
        }
        records
    }

    #[test]
    fn the_header_is_the_formats() {
        let wanted: [u8; 24] = [0x4d, 0x3c, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0];
        assert_eq!(HEADER, wanted);
    }

    #[test]
    fn a_record_keeps_what_fits_and_tells_the_whole_length() {
        let mut file = HEADER.to_vec();
        let at = Duration::new(1_700_000_000, 123_456_789);
        push_record(&mut file, at, &[7; 100], 96);
        push_record(&mut file, at, &[8; 20], 96);
        assert_eq!(file.len(), HEADER.len() + record_len(100, 96) + record_len(20, 96));
        assert_eq!(read(&file), [(at, 100, vec![7; 96]), (at, 20, vec![8; 20])]);
    }
}
