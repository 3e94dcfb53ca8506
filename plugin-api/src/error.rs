//! What a hook answers when it fails: an errno and a sentence.

use std::borrow::Cow;
use std::fmt;

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

    /// The sentence.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        Error::new(e.raw_os_error().unwrap_or(libc::EIO), e.to_string())
    }
}
