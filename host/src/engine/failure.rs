//! What a hook answers when it fails, and how that is told to the operator.
//!
//! [`Failure`] is what the callee said; [`HookError`] adds who was asked, for what, and where. Deciding what follows
//! from an error is `setup.rs`'s and `pernet.rs`'s business.

use std::fmt;
use std::sync::Arc;

// Linux's numbers, written out because the engine has no business with libc.
pub(super) const EPERM: i32 = 1;
pub(super) const ENOENT: i32 = 2;
pub(super) const EIO: i32 = 5;
pub(super) const E2BIG: i32 = 7;
pub(super) const EBADF: i32 = 9;
pub(super) const ENOMEM: i32 = 12;
pub(super) const EACCES: i32 = 13;
pub(super) const EBUSY: i32 = 16;
pub(super) const EEXIST: i32 = 17;
pub(super) const ENODEV: i32 = 19;
pub(super) const ENOTDIR: i32 = 20;
pub(super) const EINVAL: i32 = 22;
pub(super) const ENFILE: i32 = 23;
pub(super) const EROFS: i32 = 30;
pub(super) const EMLINK: i32 = 31;
pub(super) const ERANGE: i32 = 34;
pub(super) const EDEADLK: i32 = 35;
pub(super) const ENOSYS: i32 = 38;
pub(super) const EAFNOSUPPORT: i32 = 97;
pub(super) const ENOBUFS: i32 = 105;
pub(super) const ETIMEDOUT: i32 = 110;
pub(super) const ESTALE: i32 = 116;

/// An error as its source gave it: an errno, a sentence, and whether it was a panic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Positive, as in `errno.h`.
    pub errno: i32,
    /// What happened, where, and what to do.
    pub message: String,
    /// The callee panicked. It is asked for nothing more except its exits.
    pub panicked: bool,
}

impl Failure {
    /// An error that is no panic.
    #[must_use]
    pub fn new(errno: i32, message: impl Into<String>) -> Self {
        Failure { errno, message: message.into(), panicked: false }
    }
}

/// As a plugin's error is told: the sentence with the errno's name behind it.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        pernet_plugin_api::Error::new(self.errno, self.message.as_str()).fmt(f)
    }
}

impl std::error::Error for Failure {}

/// A hook that failed: whose, which, where, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookError {
    /// The plugin's name.
    pub plugin: Arc<str>,
    /// The hook as the operator sees it: `pernet.init`, `netdev.register`, …
    pub hook: &'static str,
    /// The namespace's name at that time; empty where no namespace was concerned.
    pub netns: Arc<str>,
    /// The device that it was about, if it was one.
    pub device: Option<Arc<str>>,
    /// What the hook answered.
    pub failure: Failure,
}

impl fmt::Display for HookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "plugin `{}`: {}", self.plugin, self.hook)?;
        if !self.netns.is_empty() {
            write!(f, " in `{}`", self.netns)?;
        }
        let how = if self.failure.panicked { "panicked: " } else { "" };
        write!(f, ": {how}{}", self.failure)
    }
}

impl std::error::Error for HookError {}
