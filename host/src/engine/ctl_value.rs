//! Numbers as text: how the kernel's handlers read a write, one token after the other.
//!
//! Mirrors `proc_skip_spaces`, `proc_get_long` and `strtoul_lenient` (K7.7), with what they take for a blank and where
//! they stop looking. Which numbers an entry takes, and where they go, is `ctl_kind.rs`.

/// Wide enough for an `int` and for an `unsigned long`.
pub type Number = i128;

/// So many bytes are looked at for one token (`TMPBUFLEN`, without its end): one that fills them may go on, and so is
/// none.
const LONGEST_TOKEN: usize = 21;

/// A number as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Long {
    pub(super) negative: bool,
    pub(super) size: u64,
}

impl Long {
    pub(super) fn number(self) -> Number {
        let size = Number::from(self.size);
        if self.negative { -size } else { size }
    }
}

/// Steps over blanks: more of them than may stand behind a number.
pub(super) fn proc_skip_spaces(text: &mut &[u8]) {
    while let [b'\t'..=b'\r' | b' ' | 0xa0, rest @ ..] = *text {
        *text = rest;
    }
}

/// Reads one number and steps over it; `None`, and no step, where there is none. It may be in decimal, `0x` or `0`
/// notation, and a blank, a tab, a newline or nothing must follow.
pub(super) fn proc_get_long(text: &mut &[u8]) -> Option<Long> {
    let looked_at = &text[..text.len().min(LONGEST_TOKEN)];
    let (negative, digits) = match looked_at {
        [b'-', rest @ ..] => (true, rest),
        all => (false, all),
    };
    if !digits.first()?.is_ascii_digit() {
        return None;
    }
    let (size, rest) = strtoul_lenient(digits)?;
    let len = looked_at.len() - rest.len();
    let ends = rest.first().is_none_or(|next| matches!(next, b' ' | b'\t' | b'\n'));
    if len == LONGEST_TOKEN || !ends {
        return None;
    }
    *text = &text[len..];
    Some(Long { negative, size })
}

/// The digits at the beginning, and what follows them; `None` if they are more than an `unsigned long` holds. `0x` with
/// no digit behind it is a zero and an `x`.
fn strtoul_lenient(text: &[u8]) -> Option<(u64, &[u8])> {
    let (base, mut rest) = match text {
        [b'0', b'x' | b'X', digit, ..] if digit.is_ascii_hexdigit() => (16, &text[2..]),
        [b'0', ..] => (8, text),
        _ => (10, text),
    };
    let mut value: u64 = 0;
    while let [next, after @ ..] = rest {
        let Some(digit) = char::from(*next).to_digit(base) else { break };
        value = value.checked_mul(base.into())?.checked_add(digit.into())?;
        rest = after;
    }
    Some((value, rest))
}
