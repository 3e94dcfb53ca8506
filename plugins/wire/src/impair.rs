//! What a cable does to a frame: how many copies of it go on, and when each of them arrives.
//!
//! Mirrors `tc netem`'s loss, duplicate, delay, reorder and rate. Pure: time is a number that the caller brings, and
//! the dice are seeded, so that the same frames at the same times meet the same fate. Who waits is `direction`.

use std::f64::consts::TAU;

use fastrand::Rng;

/// Nanoseconds on the cable's own clock.
pub(crate) type Nanos = u64;

/// What is asked for in one direction.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Impairment {
    pub(crate) delay: Nanos,
    pub(crate) jitter: Nanos,
    pub(crate) distribution: Distribution,
    /// Shares of the frames, from 0 to 1.
    pub(crate) loss: f64,
    pub(crate) duplicate: f64,
    pub(crate) reorder: f64,
    /// Only each `gap`-th frame since the last that jumped ahead may jump; 1 is every frame.
    pub(crate) gap: u32,
    /// Bits per second; 0 for no limit.
    pub(crate) rate: u64,
    /// Most frames that wait at a time.
    pub(crate) limit: usize,
}

/// How the delay varies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Distribution {
    /// Evenly, up to the jitter to either side.
    #[default]
    Uniform,
    /// As a bell curve, the jitter being its standard deviation.
    Normal,
}

impl Default for Impairment {
    fn default() -> Self {
        Impairment {
            delay: 0,
            jitter: 0,
            distribution: Distribution::default(),
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            gap: 1,
            rate: 0,
            limit: 1000,
        }
    }
}

impl Impairment {
    /// Whether frames wait, so that somebody must send them on later.
    pub(crate) fn has_wait(&self) -> bool {
        self.delay > 0 || self.jitter > 0 || self.rate > 0
    }

    /// Whether dice are thrown.
    pub(crate) fn has_chance(&self) -> bool {
        self.jitter > 0 || self.loss > 0.0 || self.duplicate > 0.0 || self.reorder > 0.0
    }

    /// Whether each frame has a fate of its own.
    pub(crate) fn is_any(&self) -> bool {
        self.has_wait() || self.loss > 0.0 || self.duplicate > 0.0
    }
}

/// When a frame arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    pub(crate) at: Nanos,
    /// It jumps ahead of the delay.
    pub(crate) has_jumped: bool,
}

/// The dice of one direction, and where its line is.
#[derive(Debug)]
pub(crate) struct Impairer {
    plan: Impairment,
    dice: Rng,
    /// When the last bit of what was accepted so far has left.
    line_free: Nanos,
    /// What `line_free` lacks to the exact time, in nanoseconds by `rate`: rounding must not add up.
    rest: u64,
    since_jump: u32,
}

impl Impairer {
    pub(crate) fn new(plan: Impairment, seed: u64) -> Self {
        Impairer { plan, dice: Rng::with_seed(seed), line_free: 0, rest: 0, since_jump: 0 }
    }

    /// How many copies of the next frame are sent: 0 if it is lost, 2 if it is doubled. Each copy may be lost.
    pub(crate) fn copies(&mut self) -> Copies {
        let is_doubled = self.happens(self.plan.duplicate);
        let made = 1 + u64::from(is_doubled);
        let lost = (0..made).map(|_| u64::from(self.happens(self.plan.loss))).sum();
        Copies { made, lost }
    }

    /// When a copy of `len` bytes that is sent now arrives. It takes its time on the line, so only a copy that has room.
    pub(crate) fn due(&mut self, now: Nanos, len: usize) -> Due {
        let left = self.leaves(now, len);
        if self.jumps() {
            return Due { at: left, has_jumped: true };
        }
        Due { at: left.saturating_add(self.delay()), has_jumped: false }
    }

    /// One frame after the other, each for its bits: a clock that only the line's own work moves on.
    fn leaves(&mut self, now: Nanos, len: usize) -> Nanos {
        if self.plan.rate == 0 {
            return now;
        }
        if now > self.line_free {
            (self.line_free, self.rest) = (now, 0);
        }
        let rate = u128::from(self.plan.rate);
        let work = len as u128 * 8 * 1_000_000_000 + u128::from(self.rest);
        self.rest = u64::try_from(work % rate).unwrap_or(0);
        self.line_free = self.line_free.saturating_add(u64::try_from(work / rate).unwrap_or(Nanos::MAX));
        self.line_free
    }

    fn jumps(&mut self) -> bool {
        if self.plan.reorder <= 0.0 {
            return false;
        }
        self.since_jump = self.since_jump.saturating_add(1);
        let jumps = self.since_jump >= self.plan.gap && self.happens(self.plan.reorder);
        if jumps {
            self.since_jump = 0;
        }
        jumps
    }

    fn delay(&mut self) -> Nanos {
        if self.plan.jitter == 0 {
            return self.plan.delay;
        }
        let spread = match self.plan.distribution {
            Distribution::Uniform => self.dice.f64() * 2.0 - 1.0,
            // Box and Muller's way from two even numbers to a normal one; the first must not be 0.
            Distribution::Normal => (-2.0 * (1.0 - self.dice.f64()).ln()).sqrt() * (TAU * self.dice.f64()).cos(),
        };
        let delay = self.plan.delay as f64 + spread * self.plan.jitter as f64;
        clamped(delay)
    }

    fn happens(&mut self, share: f64) -> bool {
        share > 0.0 && self.dice.f64() < share
    }
}

/// What becomes of one frame before it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copies {
    /// 1 or 2.
    pub(crate) made: u64,
    pub(crate) lost: u64,
}

/// Nobody arrives before he left.
#[expect(clippy::cast_possible_truncation, reason = "a cast from a float stops at the type's ends")]
fn clamped(nanos: f64) -> Nanos {
    nanos.max(0.0) as Nanos
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Nanos = 1_000_000;
    const FRAMES: u64 = 10_000;

    fn within(what: &str, found: u64, wanted: u64, tolerance: u64) {
        assert!(found.abs_diff(wanted) <= tolerance, "{what}: {found}, wanted {wanted} ± {tolerance}");
    }

    #[test]
    fn loss_and_duplication_are_as_often_as_asked() {
        for seed in 0..20 {
            let plan = Impairment { loss: 0.1, ..Impairment::default() };
            let mut cable = Impairer::new(plan, seed);
            let lost = (0..FRAMES).map(|_| cable.copies().lost).sum();
            within("lost", lost, FRAMES / 10, FRAMES / 100);
            let plan = Impairment { duplicate: 0.25, loss: 0.1, ..Impairment::default() };
            let mut cable = Impairer::new(plan, seed);
            let copies: Vec<_> = (0..FRAMES).map(|_| cable.copies()).collect();
            let made: u64 = copies.iter().map(|c| c.made).sum();
            within("made", made, FRAMES + FRAMES / 4, FRAMES / 40);
            within("lost of both", copies.iter().map(|c| c.lost).sum(), made / 10, made / 100);
        }
    }

    #[test]
    fn none_and_all_are_exact() {
        let mut cable = Impairer::new(Impairment::default(), 1);
        assert!((0..FRAMES).all(|_| cable.copies() == Copies { made: 1, lost: 0 }));
        let plan = Impairment { loss: 1.0, duplicate: 1.0, ..Impairment::default() };
        let mut cable = Impairer::new(plan, 1);
        assert!((0..FRAMES).all(|_| cable.copies() == Copies { made: 2, lost: 2 }));
    }

    #[test]
    fn a_second_at_a_rate_is_exactly_its_bits() {
        // Lengths and rates whose times are no whole nanoseconds.
        for (rate, len) in [(10_000_000, 1250), (7_000_003, 61), (333_333_333, 1514), (1_000, 125)] {
            let plan = Impairment { rate, ..Impairment::default() };
            let mut cable = Impairer::new(plan, 1);
            let frames = rate / (len as u64 * 8) + 1;
            let last = (0..frames).map(|_| cable.due(5, len).at).last().expect("a frame");
            let exact = u128::from(frames) * len as u128 * 8 * 1_000_000_000 / u128::from(rate);
            assert_eq!(u128::from(last - 5), exact, "{rate} {len}");
        }
    }

    #[test]
    fn an_idle_line_saves_nothing_up() {
        let plan = Impairment { rate: 8_000_000, ..Impairment::default() };
        let mut cable = Impairer::new(plan, 1);
        assert_eq!(cable.due(0, 1000).at, MS);
        assert_eq!(cable.due(0, 1000).at, 2 * MS);
        assert_eq!(cable.due(10 * MS, 1000).at, 11 * MS);
        assert_eq!(cable.due(10 * MS, 1000).at, 12 * MS);
    }

    #[test]
    fn the_delay_begins_when_the_last_bit_has_left() {
        let plan = Impairment { rate: 8_000_000, delay: 20 * MS, ..Impairment::default() };
        let mut cable = Impairer::new(plan, 1);
        assert_eq!(cable.due(0, 1000).at, 21 * MS);
        assert_eq!(cable.due(0, 1000).at, 22 * MS);
    }

    #[test]
    fn jumps_are_as_often_as_asked_and_never_closer_than_the_gap() {
        let plan = Impairment { delay: 10 * MS, reorder: 0.25, ..Impairment::default() };
        let mut cable = Impairer::new(plan, 3);
        let jumped = (0..FRAMES).filter(|_| cable.due(0, 60) == Due { at: 0, has_jumped: true }).count();
        within("jumped", jumped as u64, FRAMES / 4, FRAMES / 40);

        let plan = Impairment { delay: 10 * MS, reorder: 1.0, gap: 5, ..Impairment::default() };
        let mut cable = Impairer::new(plan, 3);
        let places: Vec<_> = (1..=20).filter(|_| cable.due(0, 60).has_jumped).collect();
        assert_eq!(places, [5, 10, 15, 20]);
    }

    #[test]
    fn jitter_spreads_as_its_distribution_says() {
        let delays = |distribution| -> Vec<i64> {
            let plan = Impairment { delay: 20 * MS, jitter: 5 * MS, distribution, ..Impairment::default() };
            let mut cable = Impairer::new(plan, 7);
            (0..FRAMES).map(|_| cable.due(0, 60).at.cast_signed()).collect()
        };
        let mean = |all: &[i64]| all.iter().sum::<i64>() / FRAMES.cast_signed();
        let ms = MS.cast_signed();
        let uniform = delays(Distribution::Uniform);
        assert!(uniform.iter().all(|d| (15 * ms..=25 * ms).contains(d)));
        assert!((mean(&uniform) - 20 * ms).abs() < ms / 5, "{}", mean(&uniform));
        let outer = uniform.iter().filter(|d| (**d - 20 * ms).abs() > 5 * ms / 2).count();
        within("beyond half of the jitter", outer as u64, FRAMES / 2, FRAMES / 20);

        let normal = delays(Distribution::Normal);
        assert!((mean(&normal) - 20 * ms).abs() < ms / 5, "{}", mean(&normal));
        let inner = normal.iter().filter(|d| (**d - 20 * ms).abs() < 5 * ms).count();
        within("within one deviation", inner as u64, FRAMES * 683 / 1000, FRAMES / 40);
    }

    proptest! {
        #[test]
        fn the_same_seed_is_the_same_cable(seed: u64, lens in prop::collection::vec(14_usize..65_000, 1..50)) {
            let plan = Impairment {
                delay: 20 * MS, jitter: 30 * MS, distribution: Distribution::Normal,
                loss: 0.2, duplicate: 0.2, reorder: 0.2, gap: 2, rate: 1_000_000, limit: 10,
            };
            let run = || {
                let mut cable = Impairer::new(plan.clone(), seed);
                lens.iter().map(|len| (cable.copies(), cable.due(0, *len))).collect::<Vec<_>>()
            };
            prop_assert_eq!(run(), run());
        }

        #[test]
        fn nobody_arrives_before_he_left(seed: u64, now: Nanos, delay in 0..100 * MS, jitter in 0..100 * MS,
                                         rate in 0_u64..1 << 40, len in 0_usize..70_000) {
            for distribution in [Distribution::Uniform, Distribution::Normal] {
                let plan = Impairment { delay, jitter, distribution, rate, reorder: 0.5, ..Impairment::default() };
                let mut cable = Impairer::new(plan, seed);
                for _ in 0..20 {
                    prop_assert!(cable.due(now, len).at >= now);
                }
            }
        }
    }
}
