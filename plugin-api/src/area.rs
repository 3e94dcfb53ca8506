//! Private areas: an op's typed state in one namespace, on its way through the host as an opaque handle.
//!
//! Mirrors `net_generic`. The state is boxed here and the handle is its address, so a lookup takes no map and no lock.
//! In front of each state stands its owner (instance and op); a handle that came back for another op is refused.

// Turning a handle back into the state that it stands for is a cast, which no type can check.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ptr;

use crate::abi::AreaHandle;
use crate::pernet::PernetId;

/// Whose area it is: an instance of this mapping, and the op's number in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Owner {
    pub(crate) instance: u64,
    pub(crate) op: u32,
}

/// What a handle points to. The owner comes first, so that it can be read before the state's type is known. It also
/// gives an area of a state without size a place of its own.
#[repr(C)]
struct Private<S> {
    owner: Owner,
    state: S,
}

/// Boxes a state; [`Taken`] gets it back.
pub(crate) fn fill<S>(id: &PernetId<S>, state: S) -> AreaHandle {
    let area = Box::into_raw(Box::new(Private { owner: id.owner, state }));
    AreaHandle(area.expose_provenance() as u64)
}

/// One instance's areas in one namespace, by op number.
#[derive(Clone, Copy)]
pub(crate) struct Areas<'a> {
    instance: u64,
    handles: &'a [AreaHandle],
}

impl<'a> Areas<'a> {
    /// # Safety
    /// Every handle is 0, or came from [`fill`] in this mapping and is not freed while `'a` lasts.
    pub(crate) unsafe fn new(instance: u64, handles: &'a [AreaHandle]) -> Self {
        Areas { instance, handles }
    }

    /// The state behind an id; `None` for another instance's id, and before the op's init or after it failed.
    pub(crate) fn get<S>(&self, id: &PernetId<S>) -> Option<&'a S> {
        if id.owner.instance != self.instance {
            return None;
        }
        let handle = self.handles.get(usize::try_from(id.owner.op).ok()?)?;
        // SAFETY: `private` asks for a live handle: promised to `new`, for as long as `'a`.
        let area = unsafe { private(*handle, id) }?;
        // SAFETY: the area is live for `'a` by the same promise, and only ever shared until it is freed.
        Some(unsafe { &(*area).state })
    }
}

/// A handle that the host gave back for good.
pub(crate) struct Taken<'a> {
    handle: AreaHandle,
    _call: PhantomData<&'a ()>,
}

impl Taken<'_> {
    /// # Safety
    /// The handle is 0, or came from [`fill`] in this mapping, and nobody uses it any more.
    pub(crate) unsafe fn new(handle: AreaHandle) -> Self {
        Taken { handle, _call: PhantomData }
    }

    /// The state to drop; `None` if the handle is 0 or another op's.
    pub(crate) fn open<S>(self, id: &PernetId<S>) -> Option<Box<impl Sized + use<S>>> {
        // SAFETY: `private` asks for a live handle: promised to `new`.
        let area = unsafe { private(self.handle, id) }?;
        // SAFETY: `Box::from_raw` asks for a box's pointer that nobody else uses: it came from `Box::into_raw` in
        // `fill`, and `new` was promised that the host gives it back once, after the last use.
        Some(unsafe { Box::from_raw(area) })
    }
}

/// The area behind a handle, if it is this id's.
///
/// # Safety
/// The handle is 0, or came from [`fill`] in this mapping and is not freed.
unsafe fn private<S>(handle: AreaHandle, id: &PernetId<S>) -> Option<*mut Private<S>> {
    let address = usize::try_from(handle.0).ok().filter(|a| *a != 0)?;
    let owner: *mut Owner = ptr::with_exposed_provenance_mut(address);
    // SAFETY: a live handle is the address of a `Private` of some state, which begins with its owner (`repr(C)`).
    let is_ours = unsafe { *owner } == id.owner;
    // The owner names the op, and an op has one id, whose type is its state's: the cast meets what `fill` boxed.
    is_ours.then(|| owner.cast::<Private<S>>())
}
