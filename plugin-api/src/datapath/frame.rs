//! A frame, and a batch of them: the bytes, and what the virtio header says is left to do.
//!
//! The kernel's `sk_buff` as far as a plugin needs it. Frames move, between batches, threads and devices; their bytes
//! are never copied for that.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::pool::{Buffer, Pool};
use super::segment;
use super::vnet::VnetHeader;
use crate::{Error, Result};

/// What a frame begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// An Ethernet header, possibly with VLAN tags (tap).
    Ethernet,
    /// An IP header (tun).
    Ip,
}

impl Framing {
    /// The shortest frame that is one, in bytes.
    pub(crate) fn shortest(self) -> usize {
        match self {
            Framing::Ethernet => ETHERNET,
            Framing::Ip => 20,
        }
    }

    /// The longest frame that a device of this MTU has, in bytes. VLAN tags are over and above.
    pub(crate) fn longest(self, mtu: usize, bytes: &[u8]) -> usize {
        match self {
            Framing::Ethernet => mtu + ETHERNET + vlan_tags(bytes),
            Framing::Ip => mtu,
        }
    }
}

pub(crate) const ETHERNET: usize = 14;
const VLAN_TAG: usize = 4;
/// Bytes of the two VLAN tags that a frame may have: of the provider and of the customer.
pub(crate) const VLAN_TAGS: usize = 2 * VLAN_TAG;

/// How many bytes of VLAN tags (802.1Q, 802.1ad) an Ethernet frame has, up to two of them.
pub(crate) fn vlan_tags(bytes: &[u8]) -> usize {
    let is_tag = |at: &usize| matches!(bytes.get(at - 2..*at), Some([0x81, 0x00] | [0x88, 0xa8]));
    [ETHERNET, ETHERNET + VLAN_TAG].iter().take_while(|at| is_tag(at)).count() * VLAN_TAG
}

/// A frame in memory of the instance's pool, to which it returns when it is dropped, from any thread, whenever.
///
/// Frames that are kept keep memory, which is bounded ([`crate::Host::set_frame_memory`]): at the bound no device of the
/// instance gets any for frames that come in, and these are dropped and counted.
pub struct Frame {
    buffer: Buffer,
    len: usize,
    vnet: VnetHeader,
    framing: Framing,
}

impl Frame {
    pub(crate) fn new(buffer: Buffer, len: usize, vnet: VnetHeader, framing: Framing) -> Self {
        let len = len.min(buffer.bytes.len());
        Frame { buffer, len, vnet, framing }
    }

    /// A frame with these bytes; none if the pool has no memory for it.
    pub(crate) fn copy_of(pool: &Arc<Pool>, bytes: &[u8], vnet: VnetHeader, framing: Framing) -> Option<Self> {
        let mut buffer = pool.get(bytes.len())?;
        buffer.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Frame::new(buffer, bytes.len(), vnet, framing))
    }

    /// The whole frame, beginning with its Ethernet or IP header.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer.bytes[..self.len]
    }

    /// The same to be changed. Who changes the bytes looks after the checksums, and the [`vnet`](Frame::vnet) header.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer.bytes[..self.len]
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Cuts it off after this many bytes.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// What it begins with.
    #[must_use]
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// What of it is left to do: always finished from a device without offloads.
    #[must_use]
    pub fn vnet(&self) -> VnetHeader {
        self.vnet
    }

    /// Says what of it is left to do.
    pub fn set_vnet(&mut self, vnet: VnetHeader) {
        self.vnet = vnet;
    }

    /// A copy, in a buffer of its own.
    ///
    /// # Errors
    /// `ENOBUFS` if there is no memory for it.
    pub fn try_clone(&self) -> Result<Frame> {
        Frame::copy_of(self.buffer.pool(), self.bytes(), self.vnet, self.framing).ok_or_else(no_memory)
    }

    /// Finishes it in software: a super-frame becomes its segments, and open checksums are completed. A frame that is
    /// finished goes into the batch as it is.
    ///
    /// # Errors
    /// `EINVAL` if its virtio header does not fit its bytes, `EOPNOTSUPP` for a kind of super-frame that is not TCP or
    /// UDP over IPv4 or IPv6, `ENOBUFS` without memory; it is dropped then, and no segment of it is in the batch.
    pub fn segment(self, into: &mut Batch) -> Result<()> {
        let before = into.len();
        segment::finish(self, |frame| into.push(frame)).inspect_err(|_| into.truncate(before))
    }

    /// What a frame begins with is what the device has that it goes into.
    pub(crate) fn set_framing(&mut self, framing: Framing) {
        self.framing = framing;
    }

    /// Bytes of the memory that it has.
    pub(crate) fn capacity(&self) -> usize {
        self.buffer.bytes.len()
    }

    pub(crate) fn into_buffer(self) -> Buffer {
        self.buffer
    }

    pub(crate) fn pool(&self) -> &Arc<Pool> {
        self.buffer.pool()
    }
}

pub(crate) fn no_memory() -> Error {
    Error::fixed(libc::ENOBUFS, "no memory for a frame: the plugin keeps too many, or its bound is too low")
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("len", &self.len)
            .field("framing", &self.framing)
            .field("vnet", &self.vnet)
            .finish_non_exhaustive()
    }
}

/// Frames in order. It is a slice of them for looking and changing; taking one out is [`drain`](Batch::drain) or
/// [`retain_mut`](Batch::retain_mut). What is left in it is dropped with it.
#[derive(Debug, Default)]
pub struct Batch(Vec<Frame>);

impl Batch {
    /// How many frames one call of [`crate::NetDeviceOps::start_xmit`] brings at most.
    pub const MOST: usize = 64;

    /// An empty one with memory for a full batch.
    #[must_use]
    pub fn new() -> Self {
        Batch(Vec::with_capacity(Self::MOST))
    }

    /// Puts one at the end. Beyond the batch's memory this allocates.
    pub fn push(&mut self, frame: Frame) {
        self.0.push(frame);
    }

    /// Takes all frames out, in order; those that the iterator is dropped with are dropped.
    pub fn drain(&mut self) -> impl Iterator<Item = Frame> + '_ {
        self.0.drain(..)
    }

    /// Takes all frames of another batch to the end of this one.
    pub fn append(&mut self, other: &mut Batch) {
        self.0.append(&mut other.0);
    }

    /// Takes out one frame, and puts the last one in its place; the order changes.
    ///
    /// # Panics
    /// If there is no frame at this place.
    pub fn swap_remove(&mut self, at: usize) -> Frame {
        self.0.swap_remove(at)
    }

    /// Keeps the frames for which this is true, and drops the others.
    pub fn retain_mut(&mut self, keep: impl FnMut(&mut Frame) -> bool) {
        self.0.retain_mut(keep);
    }

    /// Drops what comes after so many frames.
    pub fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    /// Drops all.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl Deref for Batch {
    type Target = [Frame];

    fn deref(&self) -> &[Frame] {
        &self.0
    }
}

impl DerefMut for Batch {
    fn deref_mut(&mut self) -> &mut [Frame] {
        &mut self.0
    }
}

impl Extend<Frame> for Batch {
    fn extend<I: IntoIterator<Item = Frame>>(&mut self, frames: I) {
        self.0.extend(frames);
    }
}
