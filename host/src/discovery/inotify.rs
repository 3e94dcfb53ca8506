//! Stub.
use super::*;
pub(super) struct Watches;
impl Watches {
    pub(super) fn new() -> Result<Watches, Error> {
        Ok(Watches)
    }
}
pub(super) struct Source;
impl Source {
    pub(super) fn new(_: Watches, _: OwnedFd, _: Options, _: Send) -> Source {
        Source
    }
    pub(super) fn run(self) {}
}
