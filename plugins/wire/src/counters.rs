//! What became of the frames of one direction. Counted for the cable's whole life, whichever ends come and go.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number that any thread adds to; each stands by itself, so no order is needed between them.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, n: u64) {
        if n > 0 {
            self.0.fetch_add(n, Ordering::Relaxed);
        }
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One direction's.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Frames that the one end sent, and their bytes.
    pub(crate) frames: Count,
    pub(crate) bytes: Count,
    /// Frames that the other end received.
    pub(crate) arrived: Count,
    /// Lost by chance; doubled by chance; jumped ahead of the delay by chance.
    pub(crate) lost: Count,
    pub(crate) duplicated: Count,
    pub(crate) reordered: Count,
    /// Dropped since the queue was full or there was no memory.
    pub(crate) no_room: Count,
    /// Dropped since the other end is not there, or down, or takes no more.
    pub(crate) unplugged: Count,
}

impl Counters {
    /// Frames that went in and will never come out.
    pub(crate) fn dropped(&self) -> u64 {
        self.lost.get() + self.no_room.get() + self.unplugged.get()
    }
}

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} frames, {} bytes, {} arrived", self.frames.get(), self.bytes.get(), self.arrived.get())?;
        for (count, what) in [
            (&self.lost, "lost"),
            (&self.duplicated, "duplicated"),
            (&self.reordered, "reordered"),
            (&self.no_room, "without room in the queue"),
            (&self.unplugged, "with the other end unplugged"),
        ] {
            if count.get() > 0 {
                write!(f, ", {} {what}", count.get())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_has_what_happened_and_no_zeros() {
        let counters = Counters::default();
        assert_eq!(counters.to_string(), "0 frames, 0 bytes, 0 arrived");
        counters.frames.add(3);
        counters.bytes.add(180);
        counters.arrived.add(1);
        counters.lost.add(1);
        counters.unplugged.add(1);
        let line = "3 frames, 180 bytes, 1 arrived, 1 lost, 1 with the other end unplugged";
        assert_eq!((counters.to_string().as_str(), counters.dropped()), (line, 2));
    }
}
