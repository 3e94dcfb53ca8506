//! Knobs: values that the operator changes while the plugin reads them.
//!
//! Mirrors the data behind a kernel's sysctl, an `int` somewhere. A knob is shared by its clones: one is put into a
//! [`CtlTable`](crate::CtlTable), another stays where it is read, which costs a load. How its text is read and written,
//! and which values it takes from an operator, is the table's and the daemon's; what the plugin sets is not asked.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::abi::CtlCall;
use crate::{Error, Result};

/// What stands behind one entry of a table: a number, and bytes, in both directions, as [`CtlCall`] has them.
pub(crate) trait Behind: Send + Sync {
    fn read(&self, call: &CtlCall<'_>) -> Result<(u64, Vec<u8>)>;
    fn write(&self, call: &CtlCall<'_>) -> Result<u64>;
}

fn no_element() -> Error {
    Error::new(libc::EINVAL, "the daemon named no element of this knob")
}

fn no_value() -> Error {
    Error::new(libc::EINVAL, "the daemon gave a value that is none of the knob's type")
}

/// A vector of numbers; `$bits` and `$value_of` are how a value crosses.
macro_rules! vector_knob {
    ($(#[$doc:meta])* $knob:ident, $value:ty, $atomic:ty, $bits:expr, $value_of:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $knob(Arc<[$atomic]>);

        impl $knob {
            /// One number.
            #[must_use]
            pub fn new(value: $value) -> Self {
                Self::vector([value])
            }

            /// Several numbers, which an operator reads and writes as one line.
            #[must_use]
            pub fn vector<const N: usize>(values: [$value; N]) -> Self {
                const { assert!(N > 0, "a vector has at least one element") };
                $knob(values.into_iter().map(<$atomic>::new).collect())
            }

            /// Its value; the first of several.
            #[must_use]
            pub fn get(&self) -> $value {
                self.0[0].load(Ordering::Relaxed)
            }

            /// Changes its value; the first of several.
            pub fn set(&self, value: $value) {
                self.0[0].store(value, Ordering::Relaxed);
            }

            /// All its values. Each is one that it had; an operator who writes several of them changes one after the
            /// other (K7.9).
            #[must_use]
            pub fn values(&self) -> Vec<$value> {
                self.0.iter().map(|element| element.load(Ordering::Relaxed)).collect()
            }

            /// The element of this index, counted from 0.
            #[must_use]
            pub fn element(&self, index: usize) -> Option<$value> {
                self.0.get(index).map(|element| element.load(Ordering::Relaxed))
            }

            pub(crate) fn len(&self) -> usize {
                self.0.len()
            }

            fn at(&self, call: &CtlCall<'_>) -> Result<&$atomic> {
                usize::try_from(call.index).ok().and_then(|index| self.0.get(index)).ok_or_else(no_element)
            }
        }

        impl Behind for $knob {
            fn read(&self, call: &CtlCall<'_>) -> Result<(u64, Vec<u8>)> {
                Ok(($bits(self.at(call)?.load(Ordering::Relaxed)), Vec::new()))
            }

            fn write(&self, call: &CtlCall<'_>) -> Result<u64> {
                self.at(call)?.store($value_of(call.number).ok_or_else(no_value)?, Ordering::Relaxed);
                Ok(0)
            }
        }
    };
}

vector_knob! {
    /// An `int`, or a vector of them.
    IntKnob, i32, AtomicI32,
    |value: i32| i64::from(value).cast_unsigned(),
    |bits: u64| i32::try_from(bits.cast_signed()).ok()
}

vector_knob! {
    /// An `unsigned long`, or a vector of them.
    UlongKnob, u64, AtomicU64, |value: u64| value, |bits: u64| Some(bits)
}

/// An `unsigned int`. There is no vector of it, as in the kernel (K7.2).
#[derive(Clone, Debug)]
pub struct UintKnob(Arc<AtomicU32>);

impl UintKnob {
    /// With its first value.
    #[must_use]
    pub fn new(value: u32) -> Self {
        UintKnob(Arc::new(AtomicU32::new(value)))
    }

    /// Its value.
    #[must_use]
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Changes it.
    pub fn set(&self, value: u32) {
        self.0.store(value, Ordering::Relaxed);
    }
}

impl Behind for UintKnob {
    fn read(&self, _: &CtlCall<'_>) -> Result<(u64, Vec<u8>)> {
        Ok((self.get().into(), Vec::new()))
    }

    fn write(&self, call: &CtlCall<'_>) -> Result<u64> {
        self.set(u32::try_from(call.number).map_err(|_| no_value())?);
        Ok(0)
    }
}

/// Yes or no: an operator reads 0 or 1, and any number that he writes but 0 is 1.
#[derive(Clone, Debug)]
pub struct BoolKnob(Arc<AtomicBool>);

impl BoolKnob {
    /// With its first value.
    #[must_use]
    pub fn new(value: bool) -> Self {
        BoolKnob(Arc::new(AtomicBool::new(value)))
    }

    /// Its value.
    #[must_use]
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Changes it.
    pub fn set(&self, value: bool) {
        self.0.store(value, Ordering::Relaxed);
    }
}

impl Behind for BoolKnob {
    fn read(&self, _: &CtlCall<'_>) -> Result<(u64, Vec<u8>)> {
        Ok((self.get().into(), Vec::new()))
    }

    fn write(&self, call: &CtlCall<'_>) -> Result<u64> {
        self.set(call.number != 0);
        Ok(0)
    }
}

type Check = Box<dyn Fn(&str) -> Result<()> + Send + Sync>;

/// A line of text of bounded length. What an operator writes beyond it is cut off (K7.11).
#[derive(Clone)]
pub struct TextKnob(Arc<Text>);

struct Text {
    most: usize,
    text: RwLock<Arc<str>>,
    check: Option<Check>,
}

impl TextKnob {
    /// A text of at most so many bytes, at most 4095.
    #[must_use]
    pub fn new(most: usize, text: &str) -> Self {
        Self::with(most, text, None)
    }

    /// One of which an operator's change is judged first: after an error it stays as it is, and he is told. What is
    /// judged is the whole text as it would be; it need not be what he wrote at once (K7.10).
    #[must_use]
    pub fn checked(most: usize, text: &str, check: impl Fn(&str) -> Result<()> + Send + Sync + 'static) -> Self {
        Self::with(most, text, Some(Box::new(check)))
    }

    fn with(most: usize, text: &str, check: Option<Check>) -> Self {
        let knob = TextKnob(Arc::new(Text { most, text: RwLock::default(), check }));
        knob.set(text);
        knob
    }

    /// The text.
    #[must_use]
    pub fn get(&self) -> Arc<str> {
        Arc::clone(&self.0.text.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes it, unjudged: up to the end of its first line, and to its longest length.
    pub fn set(&self, text: &str) {
        let line = text.split(['\n', '\0']).next().unwrap_or_default();
        let most = self.0.most.min(line.len());
        let end = (0..=most).rev().find(|at| line.is_char_boundary(*at)).unwrap_or_default();
        *self.0.text.write().unwrap_or_else(PoisonError::into_inner) = line[..end].into();
    }

    /// With its end.
    pub(crate) fn room(&self) -> usize {
        self.0.most.saturating_add(1)
    }
}

impl Behind for TextKnob {
    fn read(&self, _: &CtlCall<'_>) -> Result<(u64, Vec<u8>)> {
        Ok((0, self.get().as_bytes().to_vec()))
    }

    fn write(&self, call: &CtlCall<'_>) -> Result<u64> {
        let bytes = call.bytes.as_slice();
        let text = match str::from_utf8(bytes) {
            Ok(text) => text,
            // A character that was cut off at the end, as a text that is too long is.
            Err(cut) if cut.error_len().is_none() && bytes.len() == self.0.most => {
                str::from_utf8(&bytes[..cut.valid_up_to()]).unwrap_or_default()
            }
            Err(_) => return Err(Error::new(libc::EINVAL, "it is no text in UTF-8; write it in UTF-8")),
        };
        if let Some(check) = &self.0.check {
            check(text)?;
        }
        self.set(text);
        Ok(0)
    }
}

impl fmt::Debug for TextKnob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TextKnob").field(&self.get()).finish()
    }
}
