//! What a hook answers when it fails: an errno and a sentence.

use std::borrow::Cow;
use std::fmt;

use crate::errno;

/// An error of a plugin: what the kernel would call it, and what to tell the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    errno: i32,
    message: Cow<'static, str>,
}

/// A result whose error is a plugin's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with an errno (positive, as in `libc::EINVAL`) and a sentence that says what, where, and what to do.
    ///
    /// An errno that is not positive is taken for a mistake and becomes `EIO`.
    pub fn new(errno: i32, message: impl Into<String>) -> Self {
        Error { errno: if errno > 0 { errno } else { libc::EIO }, message: Cow::Owned(message.into()) }
    }

    /// An error that costs no allocation, for what may happen to every frame.
    pub(crate) const fn fixed(errno: i32, message: &'static str) -> Self {
        Error { errno, message: Cow::Borrowed(message) }
    }

    /// The errno, always positive.
    #[must_use]
    pub fn errno(&self) -> i32 {
        self.errno
    }

    /// The sentence, without the errno.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// The sentence, and behind it the errno by its kernel name, `… (EEXIST)`; unless the sentence has that already.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match errno::name(self.errno) {
            Some(name) if self.message.contains(name) => Ok(()),
            Some(name) => write!(f, " ({name})"),
            None => write!(f, " (errno {})", self.errno),
        }
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        let text = e.to_string();
        // Its number is told by name.
        let words = text.rfind(" (os error ").filter(|_| e.raw_os_error().is_some());
        let words = words.and_then(|end| text.get(..end)).unwrap_or(&text);
        Error::new(e.raw_os_error().unwrap_or(libc::EIO), words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_with_the_kernels_name_once() {
        let told = |errno, message: &str| Error::new(errno, message).to_string();
        assert_eq!(told(libc::EEXIST, "`br0` is taken"), "`br0` is taken (EEXIST)");
        assert_eq!(told(4711, "odd"), "odd (errno 4711)");
        assert_eq!(told(-1, "a mistake"), "a mistake (EIO)");
        let passed_on = Error::new(libc::EEXIST, told(libc::EEXIST, "`br0` is taken"));
        assert_eq!(passed_on.to_string(), "`br0` is taken (EEXIST)");
        assert_eq!(
            Error::from(std::io::Error::from_raw_os_error(libc::EBADF)).to_string(),
            "Bad file descriptor (EBADF)"
        );
        assert_eq!(
            Error::from(std::io::Error::other("no luck (os error 3)")).to_string(),
            "no luck (os error 3) (EIO)"
        );
    }
}
