//! Upper devices of plugins' own: `netdev_master_upper_dev_link` and its unlink (K2.7).
//!
//! A change as those of `change.rs`, with rules of its own for what may stand upon what. They are judged by the mirror;
//! which kinds take ports is the kernel's to know.

use std::sync::Arc;

use pernet_plugin_api::EventKind;

use super::change::changing;
use super::failure::{EBUSY, EEXIST, EMLINK, ENODEV, Failure};
use super::links::{Link, LinkChange};
use super::mirror::find;
use super::net::Net;
use super::netdev::OwnDevice;
use super::notifier::NetdevEvent;
use super::rtnl::RtnlGuard;
use super::undo::Who;

/// How deep devices may stand upon each other (K2.7).
const DEEPEST: usize = 8;

/// `netdev_master_upper_dev_link`; with 0 the unlink.
///
/// # Errors
/// K2.7: `EEXIST` under the same one already, `EBUSY` under another, under itself or in a loop, `EMLINK` too deep, `ENODEV`
/// where there is no such device; a refusal, after which it is out again.
pub fn dev_set_master(rtnl: &RtnlGuard<'_>, dev: &Arc<OwnDevice>, master: u32) -> Result<(), Failure> {
    changing(rtnl, dev, |walk, at| {
        let old = at.device.link.master;
        if master == 0 && old == 0 {
            return Ok(());
        }
        let pre = NetdevEvent::new(EventKind::PreChangeUpper, &at.device);
        if master == 0 {
            walk.tell(&at.net, Who::All, &pre);
        } else {
            check_master(&at.net, &at.device.link, master)?;
            walk.ask(&at.net, &pre)?;
        }
        let settled = walk.kernel(at, &LinkChange::Master(master))?;
        let device = at.put(|link| link.master = master)?;
        let event = NetdevEvent::new(EventKind::ChangeUpper, &device);
        let asked = if master == 0 {
            walk.tell(&at.net, Who::All, &event);
            Ok(())
        } else {
            walk.ask(&at.net, &event)
        };
        walk.conclude(at, asked, settled, |walk| {
            let back = walk.kernel(at, &LinkChange::Master(0));
            walk.is_back(at, EventKind::ChangeUpper, back, |link| link.master = 0)
        })
    })
}

/// K2.7: where a device cannot be put.
fn check_master(net: &Net, link: &Link, master: u32) -> Result<(), Failure> {
    let refuse = |errno, why: &str| Err(Failure::new(errno, format!("`{}`: {why}", link.name)));
    if master == link.ifindex {
        return refuse(EBUSY, "a device cannot be its own upper device");
    }
    if link.master == master {
        return refuse(EEXIST, "it has this upper device already");
    }
    if link.master != 0 {
        return refuse(EBUSY, "it has another upper device; take it out first");
    }
    let Some(mut upper) = find(net, master) else {
        return refuse(ENODEV, "there is no device with the index of its upper device");
    };
    let mut above = 1;
    while upper.link.master != 0 {
        if upper.link.master == link.ifindex {
            return refuse(EBUSY, "its upper device stands upon it");
        }
        above += 1;
        match find(net, upper.link.master) {
            Some(next) if above <= DEEPEST => upper = next,
            Some(_) => break,
            None => break,
        }
    }
    if above + depth_below(net, link.ifindex, 0) > DEEPEST {
        return refuse(EMLINK, "devices may stand upon each other eight deep at most");
    }
    Ok(())
}

/// How many devices stand below this one, at its deepest.
fn depth_below(net: &Net, ifindex: u32, depth: usize) -> usize {
    let below = net.devices();
    let below = below.iter().filter(|device| depth < DEEPEST && device.link.master == ifindex);
    below.map(|device| 1 + depth_below(net, device.link.ifindex, depth + 1)).max().unwrap_or(0)
}
