//! A small kernel in memory: network devices by namespace, what other programs do to them, and the stream of messages.
//!
//! It keeps what rtnetlink promises and no more: cyclic ifindexes, names and alternative names in one table per
//! namespace, EEXIST, EBUSY, ENODEV, MTU ranges, kinds that may not move, veth ends and tun descriptors that take their
//! device along. Messages of all namespaces wait in one stream, with fences between them, until a test delivers or
//! loses them (`stream.rs`). It calls nobody, and it knows nothing of the engine's rules.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use super::stream::{Message, Stream};
use crate::engine::*;

pub(super) const EBUSY: i32 = 16;
pub(super) const EEXIST: i32 = 17;
pub(super) const ENODEV: i32 = 19;
pub(super) const EINVAL: i32 = 22;
pub(super) const EOPNOTSUPP: i32 = 95;
const ELOOP: i32 = 40;

/// Up, running, lower up.
const UP: u32 = 1 | 1 << 6 | 1 << 16;

pub(super) fn errno<T>(errno: i32, why: &str) -> Result<T, Failure> {
    Err(Failure::new(errno, why))
}

/// What the kernel knows of a device beside what its messages say.
#[derive(Clone, Default)]
struct More {
    /// Never given again.
    id: u64,
    alias: String,
    /// As it was asked for: the kernel calls a tap a tun, too.
    made_as: String,
    /// The other end of a veth, by id.
    peer: Option<u64>,
}

/// One namespace.
#[derive(Default)]
pub(super) struct Space {
    pub(super) links: Arc<Mutex<Vec<Link>>>,
    more: HashMap<u32, More>,
    /// The ifindex that was given last.
    last: u32,
    pub(super) subscribed: bool,
}

impl Space {
    pub(super) fn list(&self) -> Vec<Link> {
        self.links.lock().unwrap().clone()
    }

    pub(super) fn get(&self, ifindex: u32) -> Option<Link> {
        self.links.lock().unwrap().iter().find(|link| link.ifindex == ifindex).cloned()
    }

    fn named(&self, name: &str) -> Option<Link> {
        let has = |link: &&Link| link.name == name || link.alt_names.iter().any(|alt| alt == name);
        self.links.lock().unwrap().iter().find(has).cloned()
    }

    /// K2.2(1): the next after the last, round and round.
    fn next_ifindex(&mut self) -> u32 {
        loop {
            self.last = if self.last >= 0x7fff_ffff { 1 } else { self.last + 1 };
            if self.get(self.last).is_none() {
                return self.last;
            }
        }
    }

    /// As if this index had been given last.
    pub(super) fn set_last(&mut self, ifindex: u32) {
        self.last = ifindex;
    }

    /// K2.2(2): a wanted one does not move the cursor.
    fn reserve(&mut self, wanted: u32) -> Result<u32, Failure> {
        match wanted {
            0 => Ok(self.next_ifindex()),
            n if self.get(n).is_some() => errno(EBUSY, "that ifindex is in use"),
            n => Ok(n),
        }
    }

    fn put(&mut self, link: Link, more: More) {
        self.more.insert(link.ifindex, more);
        let mut links = self.links.lock().unwrap();
        match links.iter_mut().find(|known| known.ifindex == link.ifindex) {
            Some(known) => *known = link,
            None => links.push(link),
        }
    }

    fn take(&mut self, ifindex: u32) -> Option<(Link, More)> {
        let mut links = self.links.lock().unwrap();
        let at = links.iter().position(|link| link.ifindex == ifindex)?;
        Some((links.remove(at), self.more.remove(&ifindex).unwrap_or_default()))
    }
}

#[derive(Default)]
pub(super) struct State {
    pub(super) spaces: BTreeMap<u64, Space>,
    pub(super) stream: Stream,
    last_id: u64,
}

/// All namespaces.
#[derive(Default)]
pub(super) struct Kernel {
    state: Mutex<State>,
}

/// The descriptors of a tun or tap device: it goes with the last of them.
pub(super) struct Descriptors {
    kernel: Weak<Kernel>,
    id: u64,
    /// The namespace in which they were opened, and which they keep.
    pub(super) opened: u64,
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        if let Some(kernel) = self.kernel.upgrade() {
            kernel.state().delete_by_id(self.id);
        }
    }
}

fn made(link: &Link, queues: Option<Queues>, adopted: bool) -> Created {
    Created { link: link.clone(), queues, adopted }
}

impl State {
    pub(super) fn space(&mut self, cookie: u64) -> &mut Space {
        self.spaces.entry(cookie).or_default()
    }

    fn say(&mut self, cookie: u64, message: LinkObservation) {
        if self.space(cookie).subscribed {
            self.stream.push(Message::Of(cookie, message));
        }
    }

    fn say_seen(&mut self, cookie: u64, ifindex: u32) {
        if let Some(link) = self.space(cookie).get(ifindex) {
            self.say(cookie, LinkObservation::Seen(link));
        }
    }

    fn by_id(&self, id: u64) -> Option<(u64, u32)> {
        let has = |space: &Space| space.more.iter().find(|(_, more)| more.id == id).map(|(ifindex, _)| *ifindex);
        self.spaces.iter().find_map(|(cookie, space)| Some((*cookie, has(space)?)))
    }

    fn delete_by_id(&mut self, id: u64) {
        if let Some((cookie, ifindex)) = self.by_id(id) {
            let _ = self.delete(cookie, ifindex);
        }
    }

    /// A name that the device with this ifindex may have.
    fn name_is_free(&mut self, cookie: u64, name: &str, but: u32) -> Result<(), Failure> {
        match self.space(cookie).named(name) {
            Some(link) if link.ifindex != but => errno(EEXIST, "that name is in use"),
            _ => Ok(()),
        }
    }

    fn new_device(&mut self, cookie: u64, name: &str, kind: &str, ifindex: u32) -> Result<(Link, u64), Failure> {
        self.name_is_free(cookie, name, 0)?;
        let ifindex = self.space(cookie).reserve(ifindex)?;
        self.last_id += 1;
        let id = self.last_id;
        let last = u8::try_from(id % 256).unwrap_or_default();
        let shown = if kind == "tap" { "tun" } else { kind };
        let (name, kind, address) = (name.to_owned(), shown.to_owned(), vec![2, 0, 0, 0, 1, last]);
        let link = Link { ifindex, name, kind, address, mtu: 1500, ..Link::default() };
        self.space(cookie).put(link.clone(), More { id, ..More::default() });
        Ok((link, id))
    }

    fn make(&mut self, cookie: u64, wanted: &Wanted<'_>) -> Result<(Link, u64), Failure> {
        let spec = wanted.spec;
        mtu_fits(&spec.kind, if spec.mtu == 0 { 1500 } else { spec.mtu })?;
        let (mut link, id) = self.new_device(cookie, wanted.name, &spec.kind, spec.ifindex)?;
        for alt in &spec.alt_names {
            if let Err(failure) = self.name_is_free(cookie, alt, 0) {
                self.space(cookie).take(link.ifindex);
                return Err(failure);
            }
        }
        link.alt_names.clone_from(&spec.alt_names);
        link.mtu = if spec.mtu == 0 { link.mtu } else { spec.mtu };
        link.address = if spec.address.is_empty() { link.address } else { spec.address.clone() };
        self.space(cookie)
            .put(link.clone(), More { id, alias: wanted.alias.into(), made_as: spec.kind.clone(), peer: None });
        Ok((link, id))
    }

    /// What stands there under the wanted name, if it may be taken over.
    fn adoptable(&mut self, cookie: u64, wanted: &Wanted<'_>) -> Option<(Link, More)> {
        let link = self.space(cookie).named(wanted.name)?;
        let more = self.space(cookie).more.get(&link.ifindex)?.clone();
        (more.alias == wanted.alias && more.made_as == wanted.spec.kind).then_some((link, more))
    }

    pub(super) fn delete(&mut self, cookie: u64, ifindex: u32) -> Result<(), Failure> {
        let Some(link) = self.space(cookie).get(ifindex) else { return errno(ENODEV, "no such device") };
        if link.kind.is_empty() {
            return errno(EOPNOTSUPP, "a device without a kind cannot be deleted");
        }
        self.remove(cookie, ifindex);
        Ok(())
    }

    /// Takes a device away, whatever it is, and the other end of a veth with it.
    fn remove(&mut self, cookie: u64, ifindex: u32) {
        let Some((_, more)) = self.space(cookie).take(ifindex) else { return };
        let slaves: Vec<Link> = self.space(cookie).list().into_iter().filter(|l| l.master == ifindex).collect();
        for slave in slaves {
            self.edit(cookie, slave.ifindex, |link| link.master = 0);
        }
        self.say(cookie, LinkObservation::Gone { ifindex, moved: None });
        if let Some((there, other)) = more.peer.and_then(|peer| self.by_id(peer)) {
            self.remove(there, other);
        }
    }

    /// Changes a device and says so, unless it stays as it is.
    fn edit(&mut self, cookie: u64, ifindex: u32, change: impl FnOnce(&mut Link)) {
        let links = self.space(cookie).links.clone();
        let mut links = links.lock().unwrap();
        let Some(link) = links.iter_mut().find(|link| link.ifindex == ifindex) else { return };
        let before = link.clone();
        change(link);
        let changed = *link != before;
        drop(links);
        if changed {
            self.say_seen(cookie, ifindex);
        }
    }

    pub(super) fn change(&mut self, cookie: u64, ifindex: u32, change: &LinkChange<'_>) -> Result<(), Failure> {
        let Some(known) = self.space(cookie).get(ifindex) else { return errno(ENODEV, "no such device") };
        match *change {
            LinkChange::Up => self.edit(cookie, ifindex, |link| link.flags |= UP),
            LinkChange::Down => self.edit(cookie, ifindex, |link| link.flags &= !UP),
            LinkChange::Name(name) if name == known.name => {}
            LinkChange::Name(name) => {
                self.name_is_free(cookie, name, 0)?;
                self.edit(cookie, ifindex, |link| link.name = name.into());
            }
            LinkChange::Mtu(mtu) => {
                mtu_fits(&known.kind, mtu)?;
                self.edit(cookie, ifindex, |link| link.mtu = mtu);
            }
            LinkChange::Address(address) if address.len() != 6 => return errno(EINVAL, "an address has six bytes"),
            LinkChange::Address(address) => self.edit(cookie, ifindex, |link| link.address = address.into()),
            LinkChange::Master(master) => self.enslave(cookie, ifindex, master)?,
            LinkChange::AddAltName(alt) => {
                self.name_is_free(cookie, alt, 0)?;
                self.edit(cookie, ifindex, |link| link.alt_names.push(alt.into()));
            }
            LinkChange::DelAltName(alt) if known.alt_names.iter().any(|known| known == alt) => {
                self.edit(cookie, ifindex, |link| link.alt_names.retain(|known| known != alt));
            }
            LinkChange::DelAltName(_) => return errno(EINVAL, "not an alternative name of this device"),
            LinkChange::MoveTo { net, ifindex: wanted, name } => {
                self.travel(cookie, ifindex, net.cookie.0, wanted, name)?;
            }
        }
        Ok(())
    }

    fn enslave(&mut self, cookie: u64, ifindex: u32, master: u32) -> Result<(), Failure> {
        let upper = self.space(cookie).get(master);
        match upper {
            _ if master == 0 => {}
            None => return errno(ENODEV, "no such upper device"),
            Some(upper) if upper.kind != "bridge" || master == ifindex => {
                return errno(EOPNOTSUPP, "that device takes no ports");
            }
            Some(upper) => self.stands_on(cookie, upper, ifindex)?,
        }
        self.edit(cookie, ifindex, |link| link.master = master);
        Ok(())
    }

    /// That an upper device does not stand on the one that it shall have below it.
    fn stands_on(&mut self, cookie: u64, mut upper: Link, ifindex: u32) -> Result<(), Failure> {
        while let Some(next) = self.space(cookie).get(upper.master) {
            if next.ifindex == ifindex {
                return errno(ELOOP, "that device stands upon this one");
            }
            upper = next;
        }
        Ok(())
    }

    /// K2.8. Gives the ifindex over there.
    pub(super) fn travel(
        &mut self,
        from: u64,
        ifindex: u32,
        to: u64,
        wanted: u32,
        name: Option<&str>,
    ) -> Result<u32, Failure> {
        let Some(link) = self.space(from).get(ifindex) else { return errno(ENODEV, "no such device") };
        if link.kind.is_empty() || link.kind == "bridge" {
            return errno(EINVAL, "this kind may not be moved");
        }
        let name = if self.name_is_free(to, &link.name, 0).is_ok() {
            link.name.clone()
        } else {
            name.unwrap_or(&link.name).into()
        };
        for name in [&name].into_iter().chain(&link.alt_names) {
            self.name_is_free(to, name, 0)?;
        }
        // K2.2(4).
        let wanted = if wanted == 0 && self.space(to).get(ifindex).is_none() { ifindex } else { wanted };
        let there = self.space(to).reserve(wanted)?;
        self.edit(from, ifindex, |link| {
            link.flags &= !UP;
            link.master = 0;
        });
        let Some((link, more)) = self.space(from).take(ifindex) else { return errno(ENODEV, "no such device") };
        // A name for the namespace that this one's own map has: here, its cookie.
        let nsid = i32::try_from(to).unwrap_or(-1);
        self.say(from, LinkObservation::Gone { ifindex, moved: Some((nsid, there)) });
        self.space(to).put(Link { ifindex: there, name, ..link }, more);
        self.say_seen(to, there);
        Ok(there)
    }
}

fn mtu_fits(kind: &str, mtu: u32) -> Result<(), Failure> {
    let least = if kind.is_empty() { 0 } else { 68 };
    if (least..=65535).contains(&mtu) { Ok(()) } else { errno(EINVAL, "mtu out of the device's range") }
}

impl Kernel {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn list(&self, cookie: u64) -> Vec<Link> {
        let mut state = self.state();
        let space = state.space(cookie);
        space.subscribed = true;
        space.list().into_iter().rev().collect()
    }

    /// RTM_NEWLINK with CREATE and EXCL, or the device file of tun; a veth with its other end, which is made first
    /// (K4.7). What already is there under the wanted name with the wanted mark is taken over instead.
    pub(super) fn create(
        self: &Arc<Self>,
        cookie: u64,
        wanted: &Wanted<'_>,
        peer: Option<(u64, &Wanted<'_>)>,
    ) -> Result<(Created, Option<Created>), Failure> {
        let mut state = self.state();
        let Some((there, other)) = peer else {
            if let Some((link, more)) = state.adoptable(cookie, wanted) {
                return Ok((made(&link, self.descriptors(cookie, &link, more.id), true), None));
            }
            let (link, id) = state.make(cookie, wanted)?;
            if link.kind == "veth" {
                state.lone_end(cookie, id)?;
            }
            state.say_seen(cookie, link.ifindex);
            return Ok((made(&link, self.descriptors(cookie, &link, id), false), None));
        };
        if let (Some((a, of_a)), Some((b, of_b))) = (state.adoptable(cookie, wanted), state.adoptable(there, other))
            && of_a.peer == Some(of_b.id)
        {
            return Ok((made(&a, None, true), Some(made(&b, None, true))));
        }
        let (b, of_b) = state.make(there, other)?;
        let (a, of_a) = state.make(cookie, wanted).inspect_err(|_| {
            state.space(there).take(b.ifindex);
        })?;
        state.pair((cookie, a.ifindex, of_a), (there, b.ifindex, of_b));
        state.say_seen(there, b.ifindex);
        state.say_seen(cookie, a.ifindex);
        Ok((made(&a, None, false), Some(made(&b, None, false))))
    }

    fn descriptors(self: &Arc<Self>, opened: u64, link: &Link, id: u64) -> Option<Queues> {
        let opened = Descriptors { kernel: Arc::downgrade(self), id, opened };
        match link.kind.as_str() {
            "tun" | "tap" => Some(Arc::new(opened)),
            _ => {
                std::mem::forget(opened);
                None
            }
        }
    }

    /// The device has other descriptors, opened here.
    pub(super) fn reopen(&self, cookie: u64, ifindex: u32, queues: Queues) -> Result<Queues, Failure> {
        let queues = queues.downcast::<Descriptors>().ok().and_then(Arc::into_inner);
        let Some(mut queues) = queues else { return errno(EBUSY, "somebody has a duplicate of its descriptors") };
        let at = self.state().by_id(queues.id);
        if at != Some((cookie, ifindex)) {
            return errno(ENODEV, "it is not here");
        }
        queues.opened = cookie;
        Ok(Arc::new(queues))
    }

    /// Whether what is wanted would be taken over.
    pub(super) fn is_left(&self, cookie: u64, wanted: &Wanted<'_>) -> bool {
        self.state().adoptable(cookie, wanted).is_some()
    }

    /// The marked devices that exist: (cookie, name).
    pub(super) fn ours(&self) -> Vec<(u64, String)> {
        let state = self.state();
        let of = |(cookie, space): (&u64, &Space)| {
            let marked = |link: &Link| space.more.get(&link.ifindex).is_some_and(|more| !more.alias.is_empty());
            space.list().into_iter().filter(|l| marked(l)).map(|l| (*cookie, l.name)).collect::<Vec<_>>()
        };
        state.spaces.iter().flat_map(of).collect()
    }

    /// Another program makes a device.
    pub(super) fn other_adds(&self, cookie: u64, name: &str, kind: &str) -> Result<u32, Failure> {
        let mut state = self.state();
        let (link, _) = state.new_device(cookie, name, kind, 0)?;
        state.say_seen(cookie, link.ifindex);
        Ok(link.ifindex)
    }

    /// Another program changes a device.
    pub(super) fn other(&self, cookie: u64, ifindex: u32, change: &LinkChange<'_>) {
        self.state().change(cookie, ifindex, change).unwrap();
    }

    /// Another program deletes a device.
    pub(super) fn other_deletes(&self, cookie: u64, ifindex: u32) {
        self.state().delete(cookie, ifindex).unwrap();
    }

    /// Another program moves a device.
    pub(super) fn other_moves(&self, cookie: u64, ifindex: u32, to: u64) -> u32 {
        self.state().travel(cookie, ifindex, to, 0, None).unwrap()
    }

    /// What a device is known by, whatever else it changes. 0: there is no such device.
    pub(super) fn id(&self, cookie: u64, ifindex: u32) -> u64 {
        self.state().space(cookie).more.get(&ifindex).map_or(0, |more| more.id)
    }

    /// Where that device is, and as what.
    pub(super) fn at(&self, id: u64) -> Option<(u64, Link)> {
        let mut state = self.state();
        let (cookie, ifindex) = state.by_id(id)?;
        state.space(cookie).get(ifindex).map(|link| (cookie, link))
    }

    pub(super) fn find(&self, cookie: u64, name: &str) -> Option<Link> {
        self.state().space(cookie).named(name)
    }

    /// The namespace's devices by ifindex.
    pub(super) fn links(&self, cookie: u64) -> Vec<Link> {
        let mut links = self.state().space(cookie).list();
        links.sort_by_key(|link| link.ifindex);
        links
    }

    /// The namespace itself is gone: no message tells of its devices (K1.4(8)); ends elsewhere are deleted.
    pub(super) fn dies(&self, cookie: u64) {
        let mut state = self.state();
        state.space(cookie).subscribed = false;
        for link in state.space(cookie).list() {
            state.remove(cookie, link.ifindex);
        }
        state.spaces.remove(&cookie);
        state.stream.forget(cookie);
    }
}

impl State {
    fn pair(&mut self, a: (u64, u32, u64), b: (u64, u32, u64)) {
        for (one, other) in [(a, b), (b, a)] {
            if let Some(more) = self.space(one.0).more.get_mut(&one.1) {
                more.peer = Some(other.2);
            }
        }
    }

    /// Where nobody asks for the other end of a veth, the kernel makes one.
    fn lone_end(&mut self, cookie: u64, id: u64) -> Result<(), Failure> {
        let free = |n: &u32| self.spaces.get(&cookie).is_none_or(|s| s.named(&format!("veth{n}")).is_none());
        let name = format!("veth{}", (0..).find(free).unwrap_or_default());
        let (other, of_other) = self.new_device(cookie, &name, "veth", 0)?;
        let (_, ifindex) = self.by_id(id).unwrap_or_default();
        self.pair((cookie, ifindex, id), (cookie, other.ifindex, of_other));
        self.say_seen(cookie, other.ifindex);
        Ok(())
    }
}
