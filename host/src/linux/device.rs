//! One device as its plugin wants it: made whole, or taken over from an earlier run, or not at all. In the network
//! namespace that the calling thread is in.
//!
//! Mirrors what `register_netdevice` does to the kernel at the place where the device becomes visible. A device of ours
//! is marked by its alias, since a daemon that was killed leaves its devices behind and the next one shall not stumble
//! over them; the mark and the alternative names take requests of their own, after the one that makes the device. Which
//! name, when, and what follows from an error, the engine decides.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::link_create::{self, NewLink};
use super::ns::{self, Pin};
use super::rtnetlink;
use super::tun::{self, NewTun, TunKind};
use crate::engine::{Created, Failure, LinkSpec, Queues, Wanted};
use crate::netlink::NetlinkError;
use crate::netlink::link::{self, Described};

/// Makes a device, or takes over the one that an earlier run left.
///
/// # Errors
/// `EEXIST` when the name is somebody else's; and as the kernel refuses. Nothing is left then that was not there.
pub fn create(wanted: &Wanted<'_>) -> Result<Created, Failure> {
    if let Some(kind) = TunKind::from_name(&wanted.spec.kind) {
        return create_tun(wanted, kind);
    }
    if let Some(found) = rtnetlink::find_described(wanted.name)? {
        check_ours(wanted, &found)?;
        return take_over(wanted, &found);
    }
    let made = link_create::create(&new_link(wanted))?;
    finish(wanted, &made, None).inspect_err(|_| discard(made.link.ifindex))
}

/// Whether the device of that name carries the wanted mark: this plugin's, of this or an earlier run. Of its kind the
/// caller knows.
pub fn is_marked(wanted: &Wanted<'_>) -> Result<bool, NetlinkError> {
    Ok(rtnetlink::find_described(wanted.name)?.is_some_and(|found| found.alias == wanted.alias))
}

/// Makes a veth pair, `near` here and `far` in the namespace `there`; or takes over both, if they are each other's ends.
///
/// # Errors
/// As [`create`], for either.
pub fn create_pair(near: &Wanted<'_>, far: &Wanted<'_>, there: &Pin) -> Result<(Created, Created), Failure> {
    if let Some(odd) = [near, far].into_iter().find(|end| end.spec.kind != "veth" || !end.spec.data.is_empty()) {
        let what = "both ends must be of kind veth and have no data of their own";
        return Err(refusal(odd, libc::EINVAL, what).into());
    }
    let found = (rtnetlink::find_described(near.name)?, visit(there, || rtnetlink::find_described(far.name))??);
    match found {
        (None, None) => make_pair(near, far, there),
        (Some(here), Some(away)) => {
            check_ours(near, &here)?;
            check_ours(far, &away)?;
            if here.lower != away.link.ifindex || away.lower != here.link.ifindex {
                return Err(refusal(near, libc::EEXIST, "it exists, and its other end is another device").into());
            }
            Ok((take_over(near, &here)?, visit(there, || take_over(far, &away))??))
        }
        (Some(_), None) => Err(refusal(near, libc::EEXIST, "it exists without its other end").into()),
        (None, Some(_)) => Err(refusal(far, libc::EEXIST, "it exists without its other end").into()),
    }
}

fn make_pair(near: &Wanted<'_>, far: &Wanted<'_>, there: &Pin) -> Result<(Created, Created), Failure> {
    let made = link_create::create_pair(&new_link(near), &new_link(far), Some(there.as_fd()))?;
    let finish_both = || {
        let other = visit(there, || {
            // By index: it is the other end, whatever it is called by now.
            let other = rtnetlink::look(made.lower)?.ok_or_else(|| refusal(far, libc::ENODEV, "it is gone already"))?;
            finish(far, &other, None)
        })??;
        Ok((finish(near, &made, None)?, other))
    };
    finish_both().inspect_err(|_: &Failure| discard(made.link.ifindex))
}

/// Nothing of an earlier run can be taken over: a tun that is still there is held by another process.
fn create_tun(wanted: &Wanted<'_>, kind: TunKind) -> Result<Created, Failure> {
    let LinkSpec { data, address, mtu, ifindex, link, queues, offloads, .. } = wanted.spec;
    if !data.is_empty() || *link != 0 {
        return Err(refusal(wanted, libc::EINVAL, "its kind has neither data nor a lower device").into());
    }
    let new = NewTun { kind, name: wanted.name, queues: *queues, offloads: *offloads, ifindex: *ifindex };
    // Until the end the descriptors are all that keeps it: an error takes it back.
    let queues = tun::create(&new)?;
    let found = rtnetlink::find_described(wanted.name)?;
    let made = found.ok_or_else(|| refusal(wanted, libc::ENODEV, "somebody else deleted or renamed it at once"))?;
    if *mtu != 0 {
        rtnetlink::set_mtu(made.link.ifindex, *mtu)?;
    }
    if !address.is_empty() {
        rtnetlink::set_address(made.link.ifindex, address)?;
    }
    finish(wanted, &made, Some(Arc::new(queues)))
}

/// Gives a tun or tap that was moved here descriptors that were opened here.
///
/// # Errors
/// As the kernel refuses; the device is deleted then, since it has none.
pub fn reopen(ifindex: u32, spec: &LinkSpec, queues: Queues) -> Result<Queues, Failure> {
    let doing = || format!("open the queues of the {} link with index {ifindex} anew", spec.kind);
    let failed = |errno, why: &str| NetlinkError { doing: doing(), errno, reason: why.into() };
    let found = rtnetlink::look(ifindex)?.filter(|found| found.link.kind == "tun");
    let kind = TunKind::from_name(&spec.kind);
    let (found, kind) = found.zip(kind).ok_or_else(|| failed(libc::ENODEV, "somebody else deleted or moved it"))?;
    let moved = NewTun { kind, name: &found.link.name, queues: spec.queues, offloads: spec.offloads, ifindex };
    let queues = queues.downcast::<tun::Queues>().ok().and_then(Arc::into_inner);
    let queues = queues.ok_or_else(|| failed(libc::EBUSY, "its queues are in use"));
    let reopened = queues.and_then(|queues| tun::reopen(&moved, queues));
    let reopened = reopened.inspect_err(|_| discard(ifindex)).map_err(|e| NetlinkError { doing: doing(), ..e });
    Ok(Arc::new(reopened?))
}

/// Marks a new device, gives it its other names, and says what it is now.
fn finish(wanted: &Wanted<'_>, made: &Described, queues: Option<Queues>) -> Result<Created, Failure> {
    let ifindex = made.link.ifindex;
    rtnetlink::set_alias(ifindex, wanted.alias)?;
    for name in &wanted.spec.alt_names {
        rtnetlink::add_alt_name(ifindex, name)?;
    }
    Ok(Created { link: as_it_is(wanted, ifindex)?, queues, adopted: false })
}

/// Whether a device that has the name is one that an earlier run left for this very spec. A name that was formed from a
/// pattern is never one that is expected to be there.
fn check_ours(wanted: &Wanted<'_>, found: &Described) -> Result<(), NetlinkError> {
    let (spec, link) = (wanted.spec, &found.link);
    let why = if spec.name.contains('%') || link.name != wanted.name {
        "a device has this name"
    } else if found.alias != wanted.alias {
        "a device of this name exists, and its alias does not mark it as this plugin's"
    } else if link.kind != spec.kind {
        "this plugin left a device of this name, which is of another kind"
    } else if spec.ifindex != 0 && spec.ifindex != link.ifindex {
        "this plugin left a device of this name, which has another index"
    } else if spec.link != 0 && spec.link != found.lower {
        "this plugin left a device of this name, which is over another device"
    } else {
        return Ok(());
    };
    Err(refusal(wanted, libc::EEXIST, why))
}

/// Makes a device that is ours what is wanted now. It may be up, and stays so. One that cannot be changed that way is
/// left as it was, as far as it could not.
fn take_over(wanted: &Wanted<'_>, found: &Described) -> Result<Created, Failure> {
    let (spec, ifindex) = (wanted.spec, found.link.ifindex);
    set_data(spec, found)?;
    if spec.mtu != 0 && spec.mtu != found.link.mtu {
        rtnetlink::set_mtu(ifindex, spec.mtu)?;
    }
    if !spec.address.is_empty() && spec.address != found.link.address {
        rtnetlink::set_address(ifindex, &spec.address)?;
    }
    for name in spec.alt_names.iter().filter(|name| !found.link.alt_names.contains(name)) {
        rtnetlink::add_alt_name(ifindex, name)?;
    }
    Ok(Created { link: as_it_is(wanted, ifindex)?, queues: None, adopted: true })
}

/// The settings of its kind. All that are wanted if one differs, since there are kinds that take what is not said for a
/// wish for its default (the IP tunnels); where that is refused, only what differs, since others refuse to be told what
/// they cannot change even if it is what they have (a vxlan its port).
fn set_data(spec: &LinkSpec, found: &Described) -> Result<(), NetlinkError> {
    let differing = link::differing(&spec.data, &found.data);
    if differing.is_empty() {
        return Ok(());
    }
    let set = |data: &[u8]| rtnetlink::set_data(found.link.ifindex, &spec.kind, data);
    match set(&spec.data) {
        Err(refused) if refused.errno != libc::EOPNOTSUPP => Err(refused),
        Err(_) if differing.len() < spec.data.len() => set(&differing),
        // A kind that neither tells its settings nor changes them (a veth): as it was made.
        Err(_) if found.data.is_empty() => Ok(()),
        answer => answer,
    }
}

fn as_it_is(wanted: &Wanted<'_>, ifindex: u32) -> Result<crate::engine::Link, NetlinkError> {
    let found = rtnetlink::look(ifindex)?;
    found.map(|found| found.link).ok_or_else(|| refusal(wanted, libc::ENODEV, "somebody else deleted it at once"))
}

/// Takes back a device that could not be finished. Its error is told; this one's has nobody to go to.
fn discard(ifindex: u32) {
    let _ = rtnetlink::delete_index(ifindex);
}

fn new_link<'a>(wanted: &Wanted<'a>) -> NewLink<'a> {
    let spec = wanted.spec;
    NewLink {
        name: wanted.name,
        kind: &spec.kind,
        data: &spec.data,
        address: &spec.address,
        mtu: spec.mtu,
        ifindex: spec.ifindex,
        link: spec.link,
        queues: spec.queues,
    }
}

fn refusal(wanted: &Wanted<'_>, errno: i32, why: &str) -> NetlinkError {
    NetlinkError { doing: format!("create the {} link {}", wanted.spec.kind, wanted.name), errno, reason: why.into() }
}

fn visit<T>(there: &Pin, act: impl FnOnce() -> T) -> Result<T, Failure> {
    ns::visit(there, act).map_err(|e| NetlinkError::from_io("enter the other end's network namespace", &e).into())
}
