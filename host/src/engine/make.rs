//! How the kernel's own device of a registration comes to be: its names (step 2 of K2.4), and the making (step 8).
//!
//! What is refused by the mirror is refused before anything is done. A pattern's name that another program takes in the
//! same moment is tried with the next unit; the mirror may not know of it, so the kernel is asked what there is. What was
//! refused for another reason is not tried again. What follows from a refusal is `register.rs`'s.

use std::sync::Arc;

use super::failure::{EEXIST, Failure};
use super::links::{Created, Link, Wanted};
use super::mirror::find;
use super::name::{Wish, check_alt_name, names_of, taken_already};
use super::net::Net;
use super::netdev::OwnDevice;
use super::walk::{Walk, own_error};

/// A device that is to be made, with the name that was found for it.
pub(super) struct End<'d> {
    net: &'d Arc<Net>,
    dev: &'d Arc<OwnDevice>,
    /// No pattern any more.
    pub(super) name: String,
    /// The name is one of a pattern's.
    is_pattern: bool,
}

impl End<'_> {
    /// The names that this one is about to take in a namespace.
    fn names_in(&self, net: &Arc<Net>) -> impl Iterator<Item = &str> + Clone {
        let names = std::iter::once(&*self.name).chain(self.dev.spec.alt_names.iter().map(String::as_str));
        names.filter(|_| Arc::ptr_eq(self.net, net))
    }

    fn is_taken(&self, links: &[Link]) -> bool {
        names_of(links.iter()).any(|name| name == self.name)
    }

    /// Finds a pattern's name again, among what the kernel has.
    fn find_again(&mut self, links: &[Link], refused: &[String], beside: Option<&End<'_>>) -> Result<(), Failure> {
        if self.is_pattern {
            let beside = beside.into_iter().flat_map(|other| other.names_in(self.net));
            let taken = names_of(links.iter()).chain(refused.iter().map(String::as_str)).chain(beside);
            self.name = resolve(self.dev, Wish::of(&self.dev.spec.name)?, taken)?;
        }
        Ok(())
    }

    fn wanted<'w>(&'w self, alias: &'w str) -> Wanted<'w> {
        Wanted { spec: &self.dev.spec, name: &self.name, alias }
    }
}

/// The name of a device; its own alternative ones are taken, too.
fn resolve<'t>(
    dev: &'t OwnDevice,
    wish: Wish<'_>,
    taken: impl Iterator<Item = &'t str> + Clone,
) -> Result<String, Failure> {
    wish.resolve(taken.chain(dev.spec.alt_names.iter().map(String::as_str)))
}

impl Walk {
    /// Step 2: the name, and those besides. `beside`: the other end, which is about to take its own.
    pub(super) fn name_end<'d>(
        &mut self,
        net: &'d Arc<Net>,
        dev: &'d Arc<OwnDevice>,
        beside: Option<&End<'_>>,
    ) -> Result<End<'d>, Failure> {
        let wish = Wish::of(&dev.spec.name)?;
        let devices = net.devices();
        let links = devices.iter().map(|device| &device.link);
        let taken = names_of(links.clone()).chain(beside.into_iter().flat_map(|other| other.names_in(net)));
        for (n, alt) in dev.spec.alt_names.iter().enumerate() {
            check_alt_name(alt)?;
            let others = dev.spec.alt_names.iter().take(n).map(String::as_str);
            if taken.clone().chain(others).any(|name| name == alt) {
                return Err(taken_already(alt));
            }
        }
        if let Wish::Literal(name) = wish
            && self.is_left(net, dev, name, links)?
        {
            return Ok(End { net, dev, name: name.to_owned(), is_pattern: false });
        }
        let is_pattern = matches!(wish, Wish::Pattern(..));
        Ok(End { net, dev, name: resolve(dev, wish, taken)?, is_pattern })
    }

    /// Whether a device of that name is there that an earlier daemon left.
    fn is_left<'l>(
        &mut self,
        net: &Arc<Net>,
        dev: &OwnDevice,
        name: &str,
        mut links: impl Iterator<Item = &'l Link>,
    ) -> Result<bool, Failure> {
        let kinds = [&*dev.spec.kind, kernel_kind(&dev.spec.kind)];
        let Some(link) = links.find(|link| link.name == name && kinds.contains(&&*link.kind)) else { return Ok(false) };
        if find(net, link.ifindex).is_none_or(|known| known.own.is_some()) {
            return Ok(false);
        }
        let alias = alias(dev);
        let wanted = Wanted { spec: &dev.spec, name, alias: &alias };
        self.section(net, || net.namespace().is_left(&wanted))?
    }

    /// Step 8: the kernel's own device, or both ends of a pair.
    pub(super) fn make(
        &mut self,
        mut end: End<'_>,
        mut peer: Option<End<'_>>,
    ) -> Result<(Created, Option<Created>), Failure> {
        let alias = alias(end.dev);
        let mut refused = Vec::new();
        loop {
            let net = end.net;
            let other = peer.as_ref().map(|peer| (&**peer.net, peer.wanted(&alias)));
            let other = other.as_ref().map(|(net, wanted)| (*net, wanted));
            let create = || net.namespace().create(&end.wanted(&alias), other);
            let failure = match self.section(net, create).and_then(|made| made) {
                Ok((created, _)) if created.adopted && !is_kernels(net, &created) => taken_already(&end.name),
                Ok(made) => return Ok(made),
                Err(failure) => failure,
            };
            if failure.errno != EEXIST || !self.find_others(&mut end, peer.as_mut(), &mut refused)? {
                return Err(failure);
            }
        }
    }

    /// Finds patterns' names again, if that is what was refused: the kernel does not say whether it was a name, and whose.
    /// Where it does not say what it has, either, its refusal stands as it was.
    fn find_others(
        &mut self,
        end: &mut End<'_>,
        mut peer: Option<&mut End<'_>>,
        refused: &mut Vec<String>,
    ) -> Result<bool, Failure> {
        if !end.is_pattern && !peer.as_ref().is_some_and(|peer| peer.is_pattern) {
            return Ok(false);
        }
        let Ok(links) = self.links_of(end.net) else { return Ok(false) };
        let peer_links = peer.as_ref().map_or_else(|| Ok(Vec::new()), |peer| self.links_of(peer.net));
        let Ok(peer_links) = peer_links else { return Ok(false) };
        let taken = end.is_taken(&links).then_some(&*end);
        let peer_taken = peer.as_deref().filter(|peer| peer.is_taken(&peer_links));
        let taken: Vec<&End<'_>> = taken.into_iter().chain(peer_taken).collect();
        if taken.is_empty() || taken.iter().any(|end| !end.is_pattern) {
            return Ok(false);
        }
        // None is tried twice, however fast others take names and let them go.
        refused.extend(taken.iter().map(|end| end.name.clone()));
        if let Some(peer) = peer.as_deref_mut() {
            peer.find_again(&peer_links, refused, None)?;
        }
        end.find_again(&links, refused, peer.as_deref())?;
        Ok(true)
    }

    /// What the kernel has there, which the mirror may not know yet.
    pub(super) fn links_of(&mut self, net: &Arc<Net>) -> Result<Vec<Link>, Failure> {
        let links = self.section(net, || net.namespace().list()).and_then(|links| links);
        links.inspect_err(|failure| self.complain(own_error(net, "netdev.list", failure.clone())))
    }
}

/// Whether the mirror has it as the kernel's own. Otherwise it is no leftover, but one that somebody just moved here.
fn is_kernels(net: &Net, created: &Created) -> bool {
    find(net, created.link.ifindex).is_some_and(|known| known.own.is_none())
}

/// The kernel's word for a kind: it calls a tap a tun too.
fn kernel_kind(kind: &str) -> &str {
    if kind == "tap" { "tun" } else { kind }
}

/// What marks a device as its plugin's.
pub(super) fn alias(dev: &OwnDevice) -> String {
    format!("pernetd: {}", dev.owner.name)
}
