//! Values with units, as an operator writes them: `"20ms"`, `"10mbit"`, `"10%"`.
//!
//! Owns the reading and its refusals; what a value may be for a certain key is `plan`'s to judge.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// A span of time in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) u64);

/// Bits per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate(pub(crate) u64);

/// A share of the frames, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Share(pub(crate) f64);

const TIMES: &[(&str, f64)] = &[("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9)];
const RATES: &[(&str, f64)] = &[("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9), ("bit", 1.0)];

/// What is written as a text, or (a share) as a number.
trait Written: Sized {
    const EXPECTED: &str;

    fn from_text(text: &str) -> Option<Self>;

    /// Most values mean nothing without a unit.
    fn from_number(_number: f64) -> Option<Self> {
        None
    }
}

impl Written for Time {
    const EXPECTED: &str = "a time with its unit, such as \"20ms\" (ns, us, ms, s)";

    fn from_text(text: &str) -> Option<Self> {
        quantity(text, TIMES).map(Time)
    }
}

impl Written for Rate {
    const EXPECTED: &str = "a rate with its unit, such as \"10mbit\" (bit, kbit, mbit, gbit)";

    fn from_text(text: &str) -> Option<Self> {
        quantity(text, RATES).map(Rate)
    }
}

impl Written for Share {
    const EXPECTED: &str = "a share: \"10%\", or a number from 0 to 1";

    fn from_text(text: &str) -> Option<Self> {
        let percent = number(text.trim().strip_suffix('%')?)?;
        Share::from_number(percent / 100.0)
    }

    fn from_number(number: f64) -> Option<Self> {
        (0.0..=1.0).contains(&number).then_some(Share(number))
    }
}

/// A number and one of the units, in the units' base.
fn quantity(text: &str, units: &[(&str, f64)]) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (count, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim())?;
    whole(number(count)? * factor)
}

/// `f64`'s own reading also takes a sign, `inf` and exponents, which nobody means here.
fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    let is_plain =
        text.starts_with(|c: char| c.is_ascii_digit()) && text.chars().all(|c| c.is_ascii_digit() || c == '.');
    if is_plain { text.parse().ok() } else { None }
}

/// The nearest whole number, where a float still is exact.
#[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
fn whole(value: f64) -> Option<u64> {
    (0.0..9e15).contains(&value).then(|| value.round() as u64)
}

/// A visitor of numbers and texts.
struct Reader<T>(PhantomData<T>);

impl<T: Written> Visitor<'_> for Reader<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
        T::from_number(number).ok_or_else(|| E::invalid_value(de::Unexpected::Float(number), &self))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        let value = u32::try_from(number).ok().and_then(|n| T::from_number(n.into()));
        value.ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(number), &self))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        match u64::try_from(number) {
            Ok(number) => self.visit_u64(number),
            Err(_) => Err(E::invalid_value(de::Unexpected::Signed(number), &self)),
        }
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: for<'de> Deserialize<'de>>(json: &str) -> Result<T, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    #[test]
    fn values_carry_their_units() {
        for (text, ns) in [("20ms", 20_000_000), ("1.5us", 1_500), ("2 s", 2_000_000_000), ("7ns", 7), ("0ms", 0)] {
            assert_eq!(read(&format!("{text:?}")), Ok(Time(ns)), "{text}");
        }
        for (text, bits) in [("10mbit", 10_000_000), ("1.5gbit", 1_500_000_000), ("64kbit", 64_000), ("9bit", 9)] {
            assert_eq!(read(&format!("{text:?}")), Ok(Rate(bits)), "{text}");
        }
        for (json, share) in [("\"10%\"", 0.1), ("\"0.5 %\"", 0.005), ("0.25", 0.25), ("0", 0.0), ("1", 1.0)] {
            assert_eq!(read(json), Ok(Share(share)), "{json}");
        }
    }

    #[test]
    fn what_could_be_misread_is_refused_with_an_example() {
        for json in ["20", "\"20\"", "\"ms\"", "\"-1ms\"", "\"1e3ms\"", "\"1m\"", "\"1..5ms\"", "\"99999999s\"", "true"]
        {
            let refusal = read::<Time>(json).expect_err(json);
            assert!(refusal.contains("such as \"20ms\""), "{refusal}");
        }
        for json in ["10", "\"10mb\"", "\"10mbps\"", "\"\"", "\"infgbit\""] {
            assert!(read::<Rate>(json).expect_err(json).contains("such as \"10mbit\""));
        }
        for json in ["10", "-1", "1.01", "\"10\"", "\"101%\"", "\"%\"", "\"NaN%\"", "[]"] {
            assert!(read::<Share>(json).expect_err(json).contains("\"10%\", or a number from 0 to 1"), "{json}");
        }
    }
}
