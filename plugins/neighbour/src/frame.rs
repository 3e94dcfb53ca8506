//! The frames: an ARP announcement (RFC 5227) and an unsolicited neighbour advertisement (RFC 4861), byte by byte.
//!
//! Pure. Whether and when they are sent, others decide.

use std::net::{Ipv4Addr, Ipv6Addr};

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];

/// Ethertypes.
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const IPV6: u16 = 0x86dd;

/// The shortest that Ethernet sends, without its checksum.
const SHORTEST: usize = 60;
const HOP_LIMIT: u8 = 255;
const ICMPV6: u8 = 58;
const ADVERTISEMENT: u8 = 136;
/// Target link-layer address, in units of eight bytes.
const TARGET_ADDRESS: [u8; 2] = [2, 1];
const ROUTER: u8 = 0x80;
const OVERRIDE: u8 = 0x20;
/// Type, code, checksum, flags, target, and the option.
const ADVERTISEMENT_LEN: u16 = 32;

/// `ff02::1`, all nodes on the link, and the Ethernet address of that group.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];

/// A request for one's own address, by which all who have it in their cache take over where it is now: sender and target
/// are the address, the target's hardware address is left zero.
pub(crate) fn arp_announcement(mac: Mac, address: Ipv4Addr) -> Vec<u8> {
    let mut frame = header([0xff; 6], mac, ARP);
    // Ethernet, IPv4, the lengths of their addresses, request.
    frame.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&address.octets());
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(&address.octets());
    frame.resize(SHORTEST, 0);
    frame
}

/// To all nodes, with the override flag: it replaces what they know. A router has to say that it is one, or its hosts take
/// it off their lists.
pub(crate) fn neighbour_advertisement(mac: Mac, address: Ipv6Addr, router: bool) -> Vec<u8> {
    let mut frame = header(ALL_NODES_MAC, mac, IPV6);
    frame.extend_from_slice(&[0x60, 0, 0, 0]);
    frame.extend_from_slice(&ADVERTISEMENT_LEN.to_be_bytes());
    frame.extend_from_slice(&[ICMPV6, HOP_LIMIT]);
    frame.extend_from_slice(&address.octets());
    frame.extend_from_slice(&ALL_NODES.octets());
    let message = frame.len();
    frame.extend_from_slice(&[ADVERTISEMENT, 0, 0, 0]);
    frame.extend_from_slice(&[OVERRIDE | if router { ROUTER } else { 0 }, 0, 0, 0]);
    frame.extend_from_slice(&address.octets());
    frame.extend_from_slice(&TARGET_ADDRESS);
    frame.extend_from_slice(&mac);
    let sum = checksum(address, &frame[message..]);
    frame[message + 2..message + 4].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn header(to: Mac, from: Mac, ethertype: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(96);
    frame.extend_from_slice(&to);
    frame.extend_from_slice(&from);
    frame.extend_from_slice(&ethertype.to_be_bytes());
    frame
}

/// Over the pseudo header (addresses, length, next header) and the message, whose own field is zero.
fn checksum(from: Ipv6Addr, message: &[u8]) -> u16 {
    let addresses = from.octets().into_iter().chain(ALL_NODES.octets());
    let pseudo = addresses.chain(u32::from(ADVERTISEMENT_LEN).to_be_bytes()).chain([0, 0, 0, ICMPV6]);
    let bytes: Vec<u8> = pseudo.chain(message.iter().copied()).collect();
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0x5e, 0, 0x53, 1];

    #[test]
    fn an_arp_announcement_is_that_of_the_rfc() {
        let frame = arp_announcement(MAC, Ipv4Addr::new(192, 0, 2, 1));
        #[rustfmt::skip]
        let expected = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0x5e, 0, 0x53, 1, 8, 6,
            0, 1, 8, 0, 6, 4, 0, 1,
            2, 0, 0x5e, 0, 0x53, 1, 192, 0, 2, 1,
            0, 0, 0, 0, 0, 0, 192, 0, 2, 1,
        ];
        assert_eq!((&frame[..42], frame.len()), (&expected[..], 60));
        assert!(frame[42..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn an_advertisement_is_that_of_the_rfc() {
        let address: Ipv6Addr = "fe80::1".parse().expect("an address");
        for (router, flags) in [(false, 0x20), (true, 0xa0)] {
            let frame = neighbour_advertisement(MAC, address, router);
            assert_eq!(frame.len(), 86);
            assert_eq!(frame[..14], [0x33, 0x33, 0, 0, 0, 1, 2, 0, 0x5e, 0, 0x53, 1, 0x86, 0xdd]);
            assert_eq!(frame[14..22], [0x60, 0, 0, 0, 0, 32, 58, 255]);
            assert_eq!(frame[22..38], address.octets());
            assert_eq!(frame[38..54], "ff02::1".parse::<Ipv6Addr>().expect("an address").octets());
            assert_eq!((frame[54], frame[55], &frame[58..62]), (136, 0, &[flags, 0, 0, 0][..]));
            assert_eq!(frame[62..78], address.octets());
            assert_eq!(frame[78..], [2, 1, 2, 0, 0x5e, 0, 0x53, 1]);
            // With its checksum in place the sum is all ones: what a receiver checks.
            assert_eq!(checksum(address, &frame[54..]), 0);
        }
    }
}
