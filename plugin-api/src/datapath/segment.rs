//! What a device without offloads needs of a frame from one with: segments of a super-frame, and completed checksums.
//!
//! Mirrors `skb_gso_segment` and `skb_checksum_help` for TCP and UDP over IPv4 and IPv6, in an Ethernet frame with up to
//! two VLAN tags or without one. Nothing of a frame is trusted: it is what somebody in a namespace sent.

use super::frame::{ETHERNET, Frame, Framing, no_memory, vlan_tags};
use super::vnet::VnetHeader;
use crate::{Error, Result};

const TCP: u8 = 6;
const UDP: u8 = 17;
const UDP_HEADER: usize = 8;
const IPV6_HEADER: usize = 40;

/// The least payload of a TCP segment that the kernel makes super-frames of (`TCP_MIN_GSO_SIZE`).
const TCP_LEAST: usize = 8;
/// Most datagrams of a UDP super-frame: the kernel's own senders stop at 128 (`UDP_MAX_SEGMENTS`).
const UDP_MOST: usize = 1024;

/// TCP flags that belong to the first segment only, and to the last only.
const CWR: u8 = 0x80;
const FIN_PSH: u8 = 0x09;

/// Finishes a frame: gives it away as it is, with its checksum completed, or as its segments, in order.
pub(crate) fn finish(mut frame: Frame, mut give: impl FnMut(Frame)) -> Result<()> {
    let vnet = frame.vnet();
    if vnet.gso() != 0 {
        let layout = Layout::of(frame.bytes(), vnet, frame.framing())?;
        return split(&frame, &layout, give);
    }
    if vnet.needs_csum() {
        complete_checksum(frame.bytes_mut(), vnet)?;
    }
    frame.set_vnet(VnetHeader::default());
    give(frame);
    Ok(())
}

/// The most bytes that a segment of this super-frame has: what an MTU is compared with.
pub(crate) fn longest_segment(frame: &Frame, framing: Framing) -> Result<usize> {
    let layout = Layout::of(frame.bytes(), frame.vnet(), framing)?;
    Ok(frame.len().min(layout.payload + layout.size))
}

/// Where the parts of a super-frame begin, in bytes.
struct Layout {
    ip: usize,
    is_v6: bool,
    transport: usize,
    protocol: u8,
    payload: usize,
    /// Bytes of payload in each segment.
    size: usize,
}

impl Layout {
    fn of(bytes: &[u8], vnet: VnetHeader, framing: Framing) -> Result<Self> {
        let protocol = match vnet.gso() {
            VnetHeader::GSO_TCPV4 | VnetHeader::GSO_TCPV6 => TCP,
            VnetHeader::GSO_UDP_L4 => UDP,
            _ => return Err(unknown()),
        };
        let ip = match framing {
            Framing::Ethernet => ETHERNET + vlan_tags(bytes),
            Framing::Ip => 0,
        };
        let transport = usize::from(vnet.csum_start);
        let is_v6 = match bytes.get(ip).map(|byte| byte >> 4) {
            Some(4) if vnet.gso() != VnetHeader::GSO_TCPV6 => false,
            Some(6) if vnet.gso() != VnetHeader::GSO_TCPV4 => true,
            _ => return Err(wrong()),
        };
        let fits = if is_v6 {
            // Extension headers may stand between the two; without any, the header names the transport.
            transport > ip + IPV6_HEADER || transport == ip + IPV6_HEADER && bytes.get(ip + 6) == Some(&protocol)
        } else {
            transport == ip + usize::from(bytes[ip] & 15) * 4
                && transport >= ip + 20
                && bytes.get(ip + 9) == Some(&protocol)
        };
        let header = match protocol {
            TCP => usize::from(bytes.get(transport + 12).ok_or_else(wrong)? >> 4) * 4,
            _ => UDP_HEADER,
        };
        let (payload, size) = (transport + header, usize::from(vnet.gso_size));
        let shortest = if protocol == TCP { 20 } else { UDP_HEADER };
        if !fits || header < shortest || payload >= bytes.len() {
            return Err(wrong());
        }
        // Else one frame of somebody's making would be worth 65,000 writes.
        let least = if protocol == TCP { TCP_LEAST } else { (bytes.len() - payload).div_ceil(UDP_MOST) };
        if size < least {
            return Err(wrong());
        }
        Ok(Layout { ip, is_v6, transport, protocol, payload, size })
    }
}

fn split(frame: &Frame, layout: &Layout, mut give: impl FnMut(Frame)) -> Result<()> {
    let (headers, payload) = frame.bytes().split_at(layout.payload);
    let count = payload.len().div_ceil(layout.size);
    for (i, part) in payload.chunks(layout.size).enumerate() {
        let len = headers.len() + part.len();
        let buffer = frame.pool().get(len).ok_or_else(no_memory)?;
        let mut segment = Frame::new(buffer, len, VnetHeader::default(), frame.framing());
        let bytes = segment.bytes_mut();
        bytes[..headers.len()].copy_from_slice(headers);
        bytes[headers.len()..].copy_from_slice(part);
        patch(bytes, layout, i, i + 1 == count)?;
        give(segment);
    }
    Ok(())
}

/// Makes a copy of the headers those of the segment with this number.
fn patch(bytes: &mut [u8], layout: &Layout, number: usize, is_last: bool) -> Result<()> {
    let (ip, transport) = (layout.ip, layout.transport);
    let length = |from: usize| u16::try_from(bytes.len() - from).map_err(|_| wrong());
    let (ip_length, transport_length) = (length(ip)?, length(transport)?);
    if layout.is_v6 {
        let payload = length(ip + IPV6_HEADER)?;
        put(bytes, ip + 4, payload);
    } else {
        put(bytes, ip + 2, ip_length);
        // The header's id counts on, and wraps.
        #[expect(clippy::cast_possible_truncation, reason = "it wraps")]
        let id = get(bytes, ip + 4).wrapping_add(number as u16);
        put(bytes, ip + 4, id);
        put(bytes, ip + 10, 0);
        let sum = checksum(sum(0, &bytes[ip..transport]));
        put(bytes, ip + 10, sum);
    }
    let field = if layout.protocol == TCP {
        patch_tcp(&mut bytes[transport..], layout.size, number, is_last);
        transport + 16
    } else {
        put(bytes, transport + 4, transport_length);
        transport + 6
    };
    put(bytes, field, 0);
    let addresses = if layout.is_v6 { &bytes[ip + 8..ip + 40] } else { &bytes[ip + 12..ip + 20] };
    let pseudo = sum(u64::from(layout.protocol) + u64::from(transport_length), addresses);
    let check = checksum(sum(pseudo, &bytes[transport..]));
    put(bytes, field, never_zero(check));
    Ok(())
}

fn patch_tcp(tcp: &mut [u8], size: usize, number: usize, is_last: bool) {
    let first = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
    #[expect(clippy::cast_possible_truncation, reason = "sequence numbers wrap")]
    let sequence = first.wrapping_add((number * size) as u32);
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    if number > 0 {
        tcp[13] &= !CWR;
    }
    if !is_last {
        tcp[13] &= !FIN_PSH;
    }
}

/// Completes a checksum whose field has the pseudo header's sum.
fn complete_checksum(bytes: &mut [u8], vnet: VnetHeader) -> Result<()> {
    let start = usize::from(vnet.csum_start);
    let field = start + usize::from(vnet.csum_offset);
    if field + 2 > bytes.len() {
        return Err(wrong());
    }
    let check = checksum(sum(0, &bytes[start..]));
    put(bytes, field, never_zero(check));
    Ok(())
}

/// Adds up 16-bit numbers; an odd byte at the end counts as the higher half of one.
fn sum(start: u64, bytes: &[u8]) -> u64 {
    let mut quads = bytes.chunks_exact(4);
    let total = quads.by_ref().fold(start, |sum, quad| {
        // Folding makes the two halves what they would have been apart.
        sum + u64::from(u32::from_be_bytes([quad[0], quad[1], quad[2], quad[3]]))
    });
    let mut last = [0; 4];
    last[..quads.remainder().len()].copy_from_slice(quads.remainder());
    total + u64::from(u32::from_be_bytes(last))
}

#[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits before")]
fn checksum(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A transport's checksum of 0 would mean that there is none.
fn never_zero(check: u16) -> u16 {
    if check == 0 { 0xffff } else { check }
}

fn get(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put(bytes: &mut [u8], at: usize, number: u16) {
    bytes[at..at + 2].copy_from_slice(&number.to_be_bytes());
}

fn wrong() -> Error {
    Error::fixed(libc::EINVAL, "a frame's virtio header does not fit its bytes")
}

fn unknown() -> Error {
    Error::fixed(libc::EOPNOTSUPP, "only super-frames of TCP and UDP can be segmented")
}

#[cfg(test)]
mod tests {
    use super::super::pool::Pool;
    use super::*;
    use crate::Batch;
    use std::sync::Arc;

    /// An Ethernet frame without its payload: with tags, IPv4 or IPv6, TCP (with flags) or UDP.
    fn headers(tags: usize, v6: bool, protocol: u8, payload: usize) -> (Vec<u8>, usize) {
        let mut bytes = vec![2; 12];
        bytes.extend((0..tags).flat_map(|_| [0x81, 0x00, 0, 7]));
        bytes.extend(if v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        let transport_len = if protocol == TCP { 32 } else { 8 } + payload;
        let big = |n: usize| u16::try_from(n).expect("short").to_be_bytes();
        if v6 {
            bytes.extend([0x60, 0, 0, 0]);
            bytes.extend(big(transport_len));
            bytes.extend([protocol, 64]);
            bytes.extend((0..32).map(|i| i * 7));
        } else {
            bytes.extend([0x45, 0]);
            bytes.extend(big(transport_len + 20));
            bytes.extend([0xff, 0xff, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        }
        let transport = bytes.len();
        bytes.extend([0x1f, 0x90, 0x00, 0x50]);
        if protocol == TCP {
            bytes.extend([0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 1, 0x80, CWR | FIN_PSH | 0x10, 1, 0, 0, 0, 0, 0]);
            bytes.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        } else {
            bytes.extend(big(transport_len));
            bytes.extend([0, 0]);
        }
        (bytes, transport)
    }

    fn super_frame(tags: usize, v6: bool, protocol: u8, payload: usize, size: u16) -> (Frame, usize) {
        let (mut bytes, transport) = headers(tags, v6, protocol, payload);
        bytes.extend((0..payload).map(|i| u8::try_from(i % 251).expect("small")));
        let gso_type = match (protocol, v6) {
            (UDP, _) => VnetHeader::GSO_UDP_L4,
            (_, true) => VnetHeader::GSO_TCPV6,
            (_, false) => VnetHeader::GSO_TCPV4,
        };
        let csum_start = u16::try_from(transport).expect("short");
        let csum_offset = if protocol == TCP { 16 } else { 6 };
        let vnet = VnetHeader { flags: 1, gso_type, hdr_len: 0, gso_size: size, csum_start, csum_offset };
        let pool = Arc::new(Pool::new());
        (Frame::copy_of(&pool, &bytes, vnet, Framing::Ethernet).expect("memory"), transport)
    }

    /// By the book: 16 bits at a time, the pseudo header written out.
    fn is_valid(bytes: &[u8], ip: usize, transport: usize, protocol: u8) -> bool {
        let mut all = Vec::new();
        let addresses = if bytes[ip] >> 4 == 6 { ip + 8..ip + 40 } else { ip + 12..ip + 20 };
        all.extend_from_slice(&bytes[addresses]);
        all.extend_from_slice(&u32::try_from(bytes.len() - transport).expect("short").to_be_bytes());
        all.extend_from_slice(&[0, 0, 0, protocol]);
        all.extend_from_slice(&bytes[transport..]);
        slow_sum(&all) == 0xffff
    }

    fn slow_sum(bytes: &[u8]) -> u32 {
        let pairs = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
        pairs.fold(0, |sum, word| {
            let sum = sum + word;
            (sum & 0xffff) + (sum >> 16)
        })
    }

    #[test]
    fn super_frames_become_valid_segments_with_the_same_payload() {
        for (tags, v6, protocol) in
            [(0, false, TCP), (0, true, TCP), (1, false, TCP), (2, true, TCP), (0, false, UDP), (1, true, UDP)]
        {
            let (frame, transport) = super_frame(tags, v6, protocol, 5001, 1447);
            let (ip, header) = (14 + 4 * tags, if protocol == TCP { 32 } else { 8 });
            let whole = frame.bytes()[transport + header..].to_vec();
            assert_eq!(longest_segment(&frame, Framing::Ethernet).expect("a super-frame"), transport + header + 1447);
            let mut segments = Batch::new();
            frame.segment(&mut segments).expect("segments");
            assert_eq!(segments.len(), 4, "{tags} {v6} {protocol}");
            let mut payload = Vec::new();
            for (i, segment) in segments.iter().enumerate() {
                let bytes = segment.bytes();
                assert!(segment.vnet().is_finished());
                assert!(is_valid(bytes, ip, transport, protocol), "segment {i} of {tags} {v6} {protocol}");
                let ip_payload = usize::from(get(bytes, ip + if v6 { 4 } else { 2 }));
                assert_eq!(ip_payload + ip + if v6 { 40 } else { 0 }, bytes.len());
                if !v6 {
                    assert_eq!(slow_sum(&bytes[ip..transport]), 0xffff, "the IP header's own");
                    assert_eq!(usize::from(get(bytes, ip + 4)), (0xffff + i) % 0x1_0000, "ids count on");
                }
                if protocol == TCP {
                    let sequence = u32::from_be_bytes(bytes[transport + 4..transport + 8].try_into().expect("four"));
                    let from = u32::try_from(i * 1447).expect("small");
                    assert_eq!(sequence, 0xffff_fff0_u32.wrapping_add(from));
                    let flags = bytes[transport + 13];
                    assert_eq!((flags & CWR != 0, flags & FIN_PSH != 0, flags & 0x10), (i == 0, i == 3, 0x10));
                } else {
                    assert_eq!(usize::from(get(bytes, transport + 4)), bytes.len() - transport);
                }
                payload.extend_from_slice(&bytes[transport + header..]);
            }
            assert_eq!(payload, whole);
        }
    }

    #[test]
    fn an_open_checksum_is_completed() {
        for (v6, protocol) in [(false, TCP), (true, UDP)] {
            let (mut frame, transport) = super_frame(0, v6, protocol, 99, 0);
            let vnet = VnetHeader { gso_type: 0, ..frame.vnet() };
            let field = transport + usize::from(vnet.csum_offset);
            let length = u64::try_from(frame.len() - transport).expect("short");
            let addresses = if v6 { 14 + 8..14 + 40 } else { 14 + 12..14 + 20 };
            let pseudo = !checksum(sum(u64::from(protocol) + length, &frame.bytes()[addresses]));
            put(frame.bytes_mut(), field, pseudo);
            frame.set_vnet(vnet);
            let mut done = Batch::new();
            frame.segment(&mut done).expect("completed");
            assert!(is_valid(done[0].bytes(), 14, transport, protocol));
            assert!(done[0].vnet().is_finished());
        }
    }

    #[test]
    fn headers_that_lie_are_refused_and_nothing_is_left() {
        let refused = |change: &dyn Fn(&mut Frame)| {
            let (mut frame, _) = super_frame(0, false, TCP, 3000, 1400);
            change(&mut frame);
            let mut into = Batch::new();
            let error = frame.segment(&mut into).expect_err("refused");
            assert!(into.is_empty());
            error.errno()
        };
        let vnet = |change: fn(&mut VnetHeader)| {
            refused(&|frame| {
                let mut vnet = frame.vnet();
                change(&mut vnet);
                frame.set_vnet(vnet);
            })
        };
        assert_eq!(vnet(|v| v.gso_size = 0), libc::EINVAL);
        assert_eq!(vnet(|v| v.gso_size = 7), libc::EINVAL, "less than any sender's");
        for (size, count) in [(1, 1024), (2, 513)] {
            let mut into = Batch::new();
            super_frame(0, false, UDP, 1024 + size - 1, u16::try_from(size).expect("small"))
                .0
                .segment(&mut into)
                .expect("datagrams");
            assert_eq!(into.len(), count);
        }
        let (small, _) = super_frame(0, true, UDP, 1025, 1);
        assert_eq!(small.segment(&mut Batch::new()).expect_err("too many").errno(), libc::EINVAL);
        assert_eq!(vnet(|v| v.csum_start = 0), libc::EINVAL);
        assert_eq!(vnet(|v| v.csum_start = 60_000), libc::EINVAL);
        assert_eq!(vnet(|v| v.gso_type = VnetHeader::GSO_TCPV6), libc::EINVAL);
        assert_eq!(vnet(|v| v.gso_type = VnetHeader::GSO_UDP_L4), libc::EINVAL);
        assert_eq!(vnet(|v| v.gso_type = 3), libc::EOPNOTSUPP);
        assert_eq!(vnet(|v| (v.gso_type, v.csum_offset) = (0, 60_000)), libc::EINVAL);
        assert_eq!(refused(&|frame| frame.truncate(40)), libc::EINVAL);
        assert_eq!(refused(&|frame| frame.truncate(3)), libc::EINVAL);
        assert_eq!(refused(&|frame| frame.bytes_mut()[34 + 12] = 0x10), libc::EINVAL, "a TCP header of 4 bytes");
    }

    /// Whatever the bytes, the header and the framing are, the answer is segments or an error: of headers with one thing
    /// wrong, and of such with several.
    #[test]
    fn no_frame_is_too_odd() {
        let mut state = 1u64;
        let mut random = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 40).expect("24 bits")
        };
        let small = |n: usize| u16::try_from(n).expect("small");
        let mut outcomes = [0; 2];
        for _ in 0..40_000 {
            let (tags, is_ip) = (random() % 3, random() % 3 == 0);
            let protocol = [TCP, UDP][random() % 2];
            let (mut frame, transport) = super_frame(tags, random() % 2 == 0, protocol, 1 + random() % 300, 40);
            let mut vnet = frame.vnet();
            if is_ip {
                // Without its Ethernet header, as a tun has it.
                let ahead = ETHERNET + 4 * tags;
                let bytes = frame.bytes().to_vec();
                frame = Frame::copy_of(&Arc::new(Pool::new()), &bytes[ahead..], vnet, Framing::Ip).expect("memory");
                vnet.csum_start -= small(ahead);
            }
            for _ in 0..random() % 4 {
                match random() % 5 {
                    0 => vnet.csum_start = small(random() % 400),
                    1 => vnet.csum_offset = small(random() % 400),
                    2 => vnet.gso_size = small(random() % 400),
                    3 => vnet.gso_type = [0, 1, 3, 4, 5, 0x81][random() % 6],
                    _ => {
                        let at = random() % (transport + 20);
                        let odd = frame.bytes().len().min(at + 1) - 1;
                        frame.bytes_mut()[odd] = u8::try_from(random() % 256).expect("a byte");
                    }
                }
            }
            frame.set_vnet(vnet);
            if random() % 4 == 0 {
                frame.truncate(1 + random() % 120);
            }
            let _ = longest_segment(&frame, frame.framing());
            outcomes[usize::from(frame.segment(&mut Batch::new()).is_ok())] += 1;
        }
        assert!(outcomes.iter().all(|count| *count > 4_000), "{outcomes:?}");
    }
}
