//! What a read and a write of an entry do: `proc_dointvec_minmax`, `proc_douintvec_minmax`, `proc_dobool`,
//! `proc_doulongvec_minmax` and `proc_dostring`.
//!
//! Pure functions over [`CtlData`]: bytes and a position in, bytes and a position out (K7.7 to K7.11, for
//! `kernel.sysctl_writes_strict` = 1). No lock is taken here (K7.12): of two writers each element has the value of one.
//! Who may, and whether the table is still there, is `ctl_file.rs`.

use super::ctl_table::{CtlAt, CtlData, CtlEntry, CtlKind, PAGE};
use super::ctl_value::{Number, proc_get_long, proc_skip_spaces};
use super::failure::{EINVAL, EIO, ENOMEM, Failure};

/// Reads at most `count` bytes at a position, which moves on.
pub(super) fn read(
    entry: &CtlEntry,
    data: &dyn CtlData,
    at: &CtlAt,
    position: &mut u64,
    count: usize,
) -> Result<Vec<u8>, Failure> {
    let mut bytes = match entry.kind {
        // K7.11: a single pass.
        _ if count == 0 => Vec::new(),
        CtlKind::Text => text_from(entry, &data.text(at)?, *position),
        CtlKind::Own => own_read(entry, data.read(at, *position, count)?, count)?,
        _ if *position != 0 => Vec::new(),
        _ => numbers(entry, data, at)?,
    };
    bytes.truncate(count);
    *position += bytes.len() as u64;
    Ok(bytes)
}

/// Writes at a position, which moves on as far as the kind moves it (K7.10); how many bytes were taken.
pub(super) fn write(
    entry: &CtlEntry,
    data: &dyn CtlData,
    at: &CtlAt,
    position: &mut u64,
    bytes: &[u8],
) -> Result<usize, Failure> {
    if bytes.is_empty() {
        return Ok(0);
    }
    if bytes.len() > PAGE {
        let what = format!("{} bytes at once: write at most a page, {PAGE}", bytes.len());
        return Err(Failure::new(ENOMEM, what));
    }
    match entry.kind {
        CtlKind::Text => dostring(entry, data, at, position, bytes),
        CtlKind::Own => own_write(entry, data, at, position, bytes),
        CtlKind::Uint if *position == 0 => douintvec(entry, data, at, bytes),
        CtlKind::Int | CtlKind::Bool | CtlKind::Ulong if *position == 0 => {
            let taken = dovec(entry, data, at, bytes)?;
            *position += taken as u64;
            Ok(taken)
        }
        // K7.10: swallowed.
        _ => {
            *position += bytes.len() as u64;
            Ok(bytes.len())
        }
    }
}

/// All elements, separated by tabs, with a newline at the end.
fn numbers(entry: &CtlEntry, data: &dyn CtlData, at: &CtlAt) -> Result<Vec<u8>, Failure> {
    let (least, most) = entry.kind.range().unwrap_or_default();
    let mut text = String::new();
    for index in 0..entry.len {
        let value = data.load(at, index)?;
        if !(least..=most).contains(&value) {
            let what = format!("{} has the value {value}, which is none of its type", entry.name);
            return Err(Failure::new(EIO, what));
        }
        text += if index == 0 { "" } else { "\t" };
        text += &value.to_string();
    }
    text.push('\n');
    Ok(text.into_bytes())
}

/// The page's last byte is the end of the kernel's buffer: what is there is not looked at.
fn looked_at(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(PAGE - 1)]
}

/// Element by element: an error leaves those before it changed (K7.9). What is beyond the last is left over.
fn dovec(entry: &CtlEntry, data: &dyn CtlData, at: &CtlAt, bytes: &[u8]) -> Result<usize, Failure> {
    let mut left = looked_at(bytes);
    for index in 0..entry.len {
        proc_skip_spaces(&mut left);
        if left.is_empty() && index > 0 {
            break;
        }
        let value = number(entry, &mut left)?;
        let value = if entry.kind == CtlKind::Bool { Number::from(value != 0) } else { value };
        data.store(at, index, value)?;
    }
    proc_skip_spaces(&mut left);
    // What was not looked at counts as taken.
    Ok(bytes.len() - left.len())
}

/// The position stays, and what is left over counts as taken.
fn douintvec(entry: &CtlEntry, data: &dyn CtlData, at: &CtlAt, bytes: &[u8]) -> Result<usize, Failure> {
    let mut left = looked_at(bytes);
    proc_skip_spaces(&mut left);
    data.store(at, 0, number(entry, &mut left)?)?;
    Ok(bytes.len())
}

/// The next number, if it is one that the entry takes: never another one in its place (K7.8).
fn number(entry: &CtlEntry, left: &mut &[u8]) -> Result<Number, Failure> {
    let text = *left;
    let refused = |why: &str| match token(text) {
        token if token.is_empty() => Failure::new(EINVAL, format!("there is no number in it; {}", entry.wanted())),
        token => Failure::new(EINVAL, format!("`{token}` {why}; {}", entry.wanted())),
    };
    let long = proc_get_long(left).ok_or_else(|| refused("is no number"))?;
    // `-0` too.
    if long.negative && matches!(entry.kind, CtlKind::Uint | CtlKind::Ulong) {
        return Err(refused("is negative"));
    }
    let value = long.number();
    // A bool is any int.
    let (least, most) = match entry.kind {
        CtlKind::Bool => CtlKind::Int.range().unwrap_or_default(),
        _ => entry.takes(),
    };
    if (least..=most).contains(&value) { Ok(value) } else { Err(refused("is out of range")) }
}

/// What stands there, as a sentence can have it.
fn token(text: &[u8]) -> String {
    let end = text.iter().position(u8::is_ascii_whitespace).unwrap_or(text.len()).min(40);
    String::from_utf8_lossy(&text[..end]).escape_debug().to_string()
}

/// From a position on, with a newline where the text ends.
fn text_from(entry: &CtlEntry, text: &[u8], position: u64) -> Vec<u8> {
    let text = &text[..text.len().min(entry.len)];
    let from = usize::try_from(position).ok().and_then(|from| text.get(from..));
    from.map(|rest| [rest, b"\n"].concat()).unwrap_or_default()
}

/// Up to a newline or NUL, and no more than there is room for, at a position within the text or at its end.
fn dostring(
    entry: &CtlEntry,
    data: &dyn CtlData,
    at: &CtlAt,
    position: &mut u64,
    bytes: &[u8],
) -> Result<usize, Failure> {
    let room = entry.len - 1;
    let mut text = if *position == 0 { Vec::new() } else { data.text(at)? };
    text.truncate(room);
    let kept = usize::try_from(*position).unwrap_or(usize::MAX);
    if kept > text.len() {
        return Ok(bytes.len());
    }
    text.truncate(kept);
    let end = bytes.iter().position(|byte| matches!(byte, 0 | b'\n')).unwrap_or(bytes.len());
    text.extend(bytes[..end].iter().take(room - kept));
    data.set_text(at, &text)?;
    *position += bytes.len() as u64;
    Ok(bytes.len())
}

fn own_read(entry: &CtlEntry, bytes: Vec<u8>, count: usize) -> Result<Vec<u8>, Failure> {
    if bytes.len() <= count {
        return Ok(bytes);
    }
    let what = format!("the handler of {} gave {} bytes where {count} were asked for", entry.name, bytes.len());
    Err(Failure::new(EIO, what))
}

fn own_write(
    entry: &CtlEntry,
    data: &dyn CtlData,
    at: &CtlAt,
    position: &mut u64,
    bytes: &[u8],
) -> Result<usize, Failure> {
    let taken = data.write(at, *position, bytes)?;
    if taken > bytes.len() {
        let what = format!("the handler of {} took {taken} bytes of {}", entry.name, bytes.len());
        return Err(Failure::new(EIO, what));
    }
    *position += taken as u64;
    Ok(taken)
}
