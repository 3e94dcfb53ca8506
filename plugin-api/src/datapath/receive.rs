//! The way in: frames that a plugin gives to the namespace, each written to a queue of the device or dropped and counted.
//!
//! Mirrors what is behind `netif_rx`. Never blocks; who calls it is [`super::port`].

use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::sync::PoisonError;

use rustix::io::{Errno, retry_on_intr, writev};

use super::frame::Frame;
use super::port::{Port, Queues};
use super::segment;
use crate::{Error, Result, Stats};

impl Port {
    /// How many frames went in, and the first error of those that did not; fails if the device is not open.
    pub(super) fn receive_all(
        &self,
        queue: u16,
        frames: impl Iterator<Item = Frame>,
        tally: &mut Stats,
    ) -> Result<(usize, Result<()>)> {
        let queues = self.queues.read().unwrap_or_else(PoisonError::into_inner);
        let Some(queues) = queues.as_deref() else {
            tally.rx_dropped += frames.count() as u64;
            return Err(Error::fixed(libc::ENETDOWN, "the device is not up"));
        };
        let (mut written, mut first) = (0, Ok(()));
        for frame in frames {
            let result = self.receive(queues, queue, frame, tally);
            written += usize::from(result.is_ok());
            if first.is_ok() {
                first = result;
            }
        }
        Ok((written, first))
    }

    fn receive(&self, queues: &Queues, queue: u16, mut frame: Frame, tally: &mut Stats) -> Result<()> {
        let fd = &queues.fds[usize::from(queue) % queues.fds.len()];
        frame.set_framing(self.framing_of_queue());
        if queues.vnet {
            return self.check(&frame, tally).and_then(|()| {
                let header = frame.vnet().encode();
                put(fd, &[IoSlice::new(&header), IoSlice::new(frame.bytes())], frame.len(), tally)
            });
        }
        let mut result = Ok(());
        let finished = segment::finish(frame, |part| {
            let one = self.check(&part, tally);
            let one = one.and_then(|()| put(fd, &[IoSlice::new(part.bytes())], part.len(), tally));
            if result.is_ok() {
                result = one;
            }
        });
        if let Err(error) = finished {
            // No memory is a drop; what does not fit itself is an error.
            *if error.errno() == libc::ENOBUFS { &mut tally.rx_dropped } else { &mut tally.rx_errors } += 1;
            return Err(error);
        }
        result
    }

    fn check(&self, frame: &Frame, tally: &mut Stats) -> Result<()> {
        let result = self.fits(frame);
        tally.rx_errors += u64::from(result.is_err());
        result
    }
}

/// Writes one frame, whole or not at all.
fn put(fd: &OwnedFd, parts: &[IoSlice<'_>], len: usize, tally: &mut Stats) -> Result<()> {
    match retry_on_intr(|| writev(fd, parts)) {
        Ok(_) => {
            tally.rx_packets += 1;
            tally.rx_bytes += len as u64;
            Ok(())
        }
        Err(Errno::AGAIN | Errno::NOBUFS) => {
            tally.rx_dropped += 1;
            Err(Error::fixed(libc::ENOBUFS, "the device's queue is full"))
        }
        Err(errno) => {
            tally.rx_errors += 1;
            Err(Error::fixed(errno.raw_os_error(), "the kernel refused the frame"))
        }
    }
}
