//! Percentiles, and numbers as the tables show them.

use std::time::Duration;

/// The value below which `percent` of the samples lie. Sorts them.
pub(crate) fn percentile(samples: &mut [Duration], percent: usize) -> Duration {
    samples.sort_unstable();
    let at = (samples.len() * percent).div_ceil(100).saturating_sub(1);
    samples.get(at).copied().unwrap_or_default()
}

/// Milliseconds.
pub(crate) fn ms(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64() * 1e3)
}

/// Microseconds.
pub(crate) fn us(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e6)
}

/// What each of `count` cost.
pub(crate) fn per(whole: Duration, count: usize) -> Duration {
    whole / u32::try_from(count.max(1)).unwrap()
}
