//! Per-namespace operations: what an author writes for each namespace, and how a hook sees its namespace.
//!
//! Mirrors `struct pernet_operations`, `struct net` as an op sees it, and `net_generic`'s id. When and in which order
//! the calls come is the host's engine; this file says what an author may rely on.

use std::fmt;
use std::marker::PhantomData;

use crate::abi::{AreaHandle, NetInfo};
use crate::area::{self, Areas, Owner, Taken};
use crate::log::Caller;
use crate::{Error, ExitReason, NetCookie, Result};

/// A pernet subsystem or device: what happens in each namespace.
///
/// Every call but [`exit_batch`](PernetOps::exit_batch) runs *inside* the namespace: a plain `socket()` and a write to
/// `/proc/sys/net` act there. A namespace has one hook at a time; the same op may run in several at once, on any
/// thread (hence `Sync`). A thread started in a hook stays in that namespace and keeps it alive until it ends.
///
/// No lock of devices is held (K1.3), so a hook may take its time, but the namespace waits for it. The registration
/// lists are held: what would wait for them, or for another namespace, gets `EDEADLK`; [`crate::Host::defer`] is the way.
pub trait PernetOps: Send + Sync + 'static {
    /// What the op keeps per namespace: its private area. `()` for nothing.
    type State: Send + Sync + 'static;

    /// A namespace appears, or the plugin is added and the namespace is there already: once per life of a namespace,
    /// in registration order (K1.1(3)), in creation order over existing namespaces (K1.1(4)).
    ///
    /// The state fills the private area, which the plugin's other hooks read by [`Net::private`]. After an error this
    /// op gets no exit there (K1.2), so an init that fails puts back itself what it did so far.
    fn init(&self, net: &Net<'_>) -> Result<Self::State>;

    /// The namespace is about to go, before anything of it does. All ops' `pre_exit` come before any
    /// [`exit`](PernetOps::exit), in reverse order (K1.1(5)). Devices are still there.
    #[expect(unused_variables, reason = "most ops need none")]
    fn pre_exit(&self, net: &Net<'_>, state: &Self::State, reason: ExitReason) -> Result<()> {
        Ok(())
    }

    /// The op's end in this namespace: once per successful init, in the reverse order of registration, on every path.
    ///
    /// Undo effects only if [`ExitReason::undoes`], and only where they are still the ones this op made. An error is
    /// shown to the operator and stops nothing. The state is dropped later, after every op's exit (K1.1(5)e).
    #[expect(unused_variables, reason = "many ops need none")]
    fn exit(&self, net: &Net<'_>, state: &Self::State, reason: ExitReason) -> Result<()> {
        Ok(())
    }

    /// After the [`exit`](PernetOps::exit)s: one namespace at a death, all of them when the plugin goes or the daemon
    /// ends. It and nothing else runs outside, in the daemon's own namespace. Private areas are still there.
    #[expect(unused_variables, reason = "most ops need none")]
    fn exit_batch(&self, nets: &[Net<'_>], reason: ExitReason) -> Result<()> {
        Ok(())
    }
}

/// Names an op's private area, with the type of its state. Worth nothing outside the instance that registered the op.
pub struct PernetId<S> {
    pub(crate) owner: Owner,
    state: PhantomData<fn() -> S>,
}

impl<S> PernetId<S> {
    /// The only maker of ids is the registrar, once per op: that ties the op's number to the type of its state.
    pub(crate) fn new(owner: Owner) -> Self {
        PernetId { owner, state: PhantomData }
    }
}

// Derived, these would ask the same of the state.
impl<S> Clone for PernetId<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for PernetId<S> {}

impl<S> fmt::Debug for PernetId<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PernetId").field(&self.owner.op).finish()
    }
}

/// A namespace, for the time of one call.
#[derive(Clone, Copy)]
pub struct Net<'a> {
    caller: Caller,
    info: &'a NetInfo<'a>,
    areas: Areas<'a>,
}

impl<'a> Net<'a> {
    pub(crate) fn new(caller: Caller, info: &'a NetInfo<'a>, areas: Areas<'a>) -> Self {
        Net { caller, info, areas }
    }

    pub(crate) fn caller(&self) -> Caller {
        self.caller
    }

    /// The kernel's cookie of the namespace: never reused, so a good key.
    #[must_use]
    pub fn cookie(&self) -> NetCookie {
        NetCookie(self.info.cookie)
    }

    /// Which life of the namespace this is, counted from 1: a namespace that loses its last name and is named again
    /// begins a new one.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.info.generation
    }

    /// The name that the operator sees, in its escaped form; `@host` for the host's own namespace. It may change.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.info.name.as_str()
    }

    /// Another op's state in this namespace, from its init until it is freed after every op's exit (K1.1(5)e).
    ///
    /// `None` before that init (an op that comes later in the order, or one that failed and is skipped here), and for
    /// an id of another instance.
    #[must_use]
    pub fn private<S>(&self, id: &PernetId<S>) -> Option<&S> {
        self.areas.get(id)
    }
}

impl fmt::Debug for Net<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Net")
            .field("cookie", &self.info.cookie)
            .field("generation", &self.info.generation)
            .field("name", &self.name())
            .finish()
    }
}

/// Ops without the type of their state, which the host does not know.
pub(crate) trait AnyOps: Send + Sync {
    fn init(&self, net: &Net<'_>) -> Result<AreaHandle>;
    fn pre_exit(&self, net: &Net<'_>, reason: ExitReason) -> Result<()>;
    fn exit(&self, net: &Net<'_>, reason: ExitReason) -> Result<()>;
    fn exit_batch(&self, nets: &[Net<'_>], reason: ExitReason) -> Result<()>;
    fn free(&self, area: Taken<'_>) -> Result<()>;
}

/// Ops with their id, which knows the type of the state.
pub(crate) struct Registered<O: PernetOps> {
    pub(crate) ops: O,
    pub(crate) id: PernetId<O::State>,
}

impl<O: PernetOps> Registered<O> {
    fn state<'n>(&self, net: &'n Net<'_>) -> Result<&'n O::State> {
        net.private(&self.id).ok_or_else(no_area)
    }
}

impl<O: PernetOps> AnyOps for Registered<O> {
    fn init(&self, net: &Net<'_>) -> Result<AreaHandle> {
        self.ops.init(net).map(|state| area::fill(&self.id, state))
    }

    fn pre_exit(&self, net: &Net<'_>, reason: ExitReason) -> Result<()> {
        self.ops.pre_exit(net, self.state(net)?, reason)
    }

    fn exit(&self, net: &Net<'_>, reason: ExitReason) -> Result<()> {
        self.ops.exit(net, self.state(net)?, reason)
    }

    fn exit_batch(&self, nets: &[Net<'_>], reason: ExitReason) -> Result<()> {
        self.ops.exit_batch(nets, reason)
    }

    fn free(&self, area: Taken<'_>) -> Result<()> {
        area.open(&self.id).map(drop).ok_or_else(no_area)
    }
}

/// The host's mistake, not the author's.
fn no_area() -> Error {
    Error::new(libc::EINVAL, "the daemon named no private area of this op in this namespace")
}
