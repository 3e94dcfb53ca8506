//! The virtio header in front of a frame: what of its segmentation and checksums is left to do.
//!
//! Mirrors `struct virtio_net_hdr_v1` (`linux/virtio_net.h`), 12 bytes in the machine's byte order, as tun and tap give
//! and take it. What it asks for is done in [`super::segment`].

/// Bytes of the header in front of each frame.
pub(crate) const VNET_LEN: usize = 12;

/// The checksum at `csum_start + csum_offset` covers what follows `csum_start`, and holds the pseudo header's sum only.
const NEEDS_CSUM: u8 = 1;
/// With ECN; says nothing of the protocol.
const GSO_ECN: u8 = 0x80;

/// What is left to do with a frame (`VIRTIO_NET_HDR_*`). The default is a frame that is finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VnetHeader {
    /// Bit 0: the checksum is to be completed. Bit 1: it was found valid.
    pub flags: u8,
    /// [`VnetHeader::GSO_TCPV4`] and its like; 0 for a frame that is no super-frame.
    pub gso_type: u8,
    /// Bytes of all headers of a super-frame: a hint only.
    pub hdr_len: u16,
    /// Bytes of payload of each segment of a super-frame.
    pub gso_size: u16,
    /// Where the checksummed part begins, in bytes from the start of the frame.
    pub csum_start: u16,
    /// Where the checksum stands, in bytes from `csum_start`.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// A super-frame of TCP over IPv4.
    pub const GSO_TCPV4: u8 = 1;
    /// A super-frame of TCP over IPv6.
    pub const GSO_TCPV6: u8 = 4;
    /// A super-frame of UDP datagrams.
    pub const GSO_UDP_L4: u8 = 5;

    /// Whether the transport's checksum is to be completed.
    #[must_use]
    pub fn needs_csum(&self) -> bool {
        self.flags & NEEDS_CSUM != 0
    }

    /// The kind of super-frame without its ECN mark; 0 for none.
    #[must_use]
    pub fn gso(&self) -> u8 {
        self.gso_type & !GSO_ECN
    }

    /// Whether nothing is left to do.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.gso() == 0 && !self.needs_csum()
    }

    pub(crate) fn read(raw: &[u8; VNET_LEN]) -> Self {
        let number = |at: usize| u16::from_ne_bytes([raw[at], raw[at + 1]]);
        VnetHeader {
            flags: raw[0],
            gso_type: raw[1],
            hdr_len: number(2),
            gso_size: number(4),
            csum_start: number(6),
            csum_offset: number(8),
        }
    }

    /// The last two bytes count merged buffers, of which there are none here.
    pub(crate) fn encode(&self) -> [u8; VNET_LEN] {
        let [h, i] = self.hdr_len.to_ne_bytes();
        let [g, s] = self.gso_size.to_ne_bytes();
        let [c, d] = self.csum_start.to_ne_bytes();
        let [o, p] = self.csum_offset.to_ne_bytes();
        [self.flags, self.gso_type, h, i, g, s, c, d, o, p, 0, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_the_kernels_layout() {
        let header =
            VnetHeader { flags: 1, gso_type: 0x81, hdr_len: 66, gso_size: 1448, csum_start: 34, csum_offset: 16 };
        let raw = header.encode();
        assert_eq!((raw[0], raw[1]), (1, 0x81));
        assert_eq!(raw[4..6], 1448u16.to_ne_bytes());
        assert_eq!(VnetHeader::read(&raw), header);
        assert_eq!((header.gso(), header.needs_csum(), header.is_finished()), (VnetHeader::GSO_TCPV4, true, false));
        assert!(VnetHeader::default().is_finished());
    }
}
