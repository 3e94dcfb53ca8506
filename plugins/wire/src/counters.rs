//! What became of the frames of one direction. Counted for the cable's whole life, whichever ends come and go; a device
//! that is plugged in later subtracts what was counted before it ([`Counted::since`]).

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

    fn get(&self) -> u64 {
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
    /// Dropped since the other end is not there, or down, or takes no more; or since the cable has ended.
    pub(crate) unplugged: Count,
}

impl Counters {
    /// How far they are now. They are read one by one, while frames pass.
    pub(crate) fn read(&self) -> Counted {
        Counted {
            frames: self.frames.get(),
            bytes: self.bytes.get(),
            arrived: self.arrived.get(),
            lost: self.lost.get(),
            duplicated: self.duplicated.get(),
            reordered: self.reordered.get(),
            no_room: self.no_room.get(),
            unplugged: self.unplugged.get(),
            missed: 0,
        }
    }
}

/// [`Counters`] at one moment, or between two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
    pub(crate) arrived: u64,
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    pub(crate) no_room: u64,
    pub(crate) unplugged: u64,
    /// Frames that the capture file lacks, whichever way they went: the file's count, which is not among [`Counters`].
    pub(crate) missed: u64,
}

impl Counted {
    /// Frames that went in and will never come out.
    pub(crate) fn dropped(&self) -> u64 {
        self.lost + self.no_room + self.unplugged
    }

    /// What was counted after that moment.
    pub(crate) fn since(&self, before: &Counted) -> Counted {
        Counted {
            frames: self.frames - before.frames,
            bytes: self.bytes - before.bytes,
            arrived: self.arrived - before.arrived,
            lost: self.lost - before.lost,
            duplicated: self.duplicated - before.duplicated,
            reordered: self.reordered - before.reordered,
            no_room: self.no_room - before.no_room,
            unplugged: self.unplugged - before.unplugged,
            missed: self.missed - before.missed,
        }
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} frames, {} bytes, {} arrived", self.frames, self.bytes, self.arrived)?;
        for (count, what) in [
            (self.lost, "lost"),
            (self.duplicated, "duplicated"),
            (self.reordered, "reordered"),
            (self.no_room, "without room in the queue"),
            (self.unplugged, "with the other end unplugged"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
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
        assert_eq!(counters.read().to_string(), "0 frames, 0 bytes, 0 arrived");
        counters.frames.add(3);
        counters.bytes.add(180);
        counters.arrived.add(1);
        counters.lost.add(1);
        counters.unplugged.add(1);
        let line = "3 frames, 180 bytes, 1 arrived, 1 lost, 1 with the other end unplugged";
        let counted = counters.read();
        assert_eq!((counted.to_string().as_str(), counted.dropped()), (line, 2));
    }

    #[test]
    fn what_was_counted_before_is_not_counted_again() {
        let counters = Counters::default();
        let all = [&counters.frames, &counters.bytes, &counters.arrived, &counters.lost, &counters.duplicated];
        let all = all.into_iter().chain([&counters.reordered, &counters.no_room, &counters.unplugged]);
        all.clone().for_each(|count| count.add(5));
        let before = counters.read();
        all.zip(1..).for_each(|(count, n)| count.add(n));
        let after = Counted { missed: 9, ..counters.read() };
        let Counted { frames, bytes, arrived, lost, duplicated, reordered, no_room, unplugged, missed } =
            after.since(&before);
        assert_eq!(
            [frames, bytes, arrived, lost, duplicated, reordered, no_room, unplugged, missed],
            [1, 2, 3, 4, 5, 6, 7, 8, 9]
        );
        assert_eq!(before.since(&before), Counted::default());
    }
}
