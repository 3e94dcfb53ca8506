//! The configuration as a plan that is known to be sound: defaults filled in, the keys of `both` given to each
//! direction, and every refusal with the field where the operator wrote it.
//!
//! Touches no world: whether a capture file can be opened is found at the plugin's init.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pernet_plugin_api::ConfigError;

use crate::config::{CableTable, Config, DirectionTable, EndTable, Offloads};
use crate::impair::{Impairment, Nanos};
use crate::pcap::SNAPLEN_MAX;

const HOST: &str = "@host";
/// IFNAMSIZ, with its terminating zero.
const NAME_MAX: usize = 15;
/// What the kernel takes for a tap: the least for IPv4, and 65,535 without the Ethernet header.
const MTU: RangeInclusive<u32> = 68..=65_521;
/// Up to MAX_TAP_QUEUES.
const QUEUES: RangeInclusive<u16> = 1..=256;
/// An hour: more is a mistake, not a cable.
const TIME_MAX: Nanos = 3_600_000_000_000;
const LIMIT_MAX: u32 = 100_000;
/// What the devices of an instance have for frames if nobody says otherwise.
const FRAME_MEMORY: usize = 64 << 20;
/// An Ethernet header, without which a record says nothing.
const SNAPLEN_MIN: u32 = 14;

/// A sound configuration.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) cables: Vec<CablePlan>,
}

#[derive(Debug)]
pub(crate) struct CablePlan {
    pub(crate) name: Arc<str>,
    /// a, b.
    pub(crate) ends: [EndPlan; 2],
    pub(crate) offloads: bool,
    pub(crate) queues: u16,
    /// a to b, b to a.
    pub(crate) directions: [DirectionPlan; 2],
    pub(crate) snaplen: u32,
    pub(crate) seed: Option<u64>,
}

/// One of the two devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndPlan {
    pub(crate) netns: String,
    pub(crate) device: String,
    pub(crate) address: Option<[u8; 6]>,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
}

#[derive(Debug)]
pub(crate) struct DirectionPlan {
    pub(crate) impairment: Impairment,
    pub(crate) pcap: Option<CapturePlan>,
}

/// A capture file, and where it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CapturePlan {
    pub(crate) path: PathBuf,
    pub(crate) field: String,
}

impl Plan {
    pub(crate) fn new(config: &Config) -> Result<Self, ConfigError> {
        let mut once = Once::default();
        let cable = |(at, table): (usize, &CableTable)| cable(table, &format!("cables[{at}]"), &mut once);
        let cables = config.cables.iter().enumerate().map(cable).collect::<Result<_, _>>()?;
        Ok(Plan { cables })
    }

    /// Bytes that all frames together may need: those that wait in queues, and as much again as is usual.
    pub(crate) fn frame_memory(&self) -> usize {
        let waiting = |cable: &CablePlan| -> usize {
            // A buffer is at most this much longer than the frame in it; a super-frame may be as long as they get.
            let mtu = cable.ends.iter().map(|end| end.mtu).max().unwrap_or(0) as usize;
            let buffer = if cable.offloads { 70_000 } else { (mtu + 1000) * 8 };
            let ways = cable.directions.iter().filter(|way| way.impairment.has_wait());
            ways.map(|way| way.impairment.limit.saturating_mul(buffer)).fold(0, usize::saturating_add)
        };
        self.cables.iter().map(waiting).fold(FRAME_MEMORY, usize::saturating_add)
    }

    /// The ends that belong into a namespace with these names: the cable's number, and 0 for its end `a` or 1 for `b`.
    /// The host's own is meant by no other name than `@host`, whichever it has.
    pub(crate) fn ends_in<'p>(&'p self, names: &'p [String]) -> impl Iterator<Item = (usize, usize)> + 'p {
        let is_host = names.iter().any(|name| name == HOST);
        let is_here = move |netns: &String| names.contains(netns) && (!is_host || netns == HOST);
        let sides = self.cables.iter().enumerate().flat_map(|(at, cable)| [(at, 0, cable), (at, 1, cable)]);
        sides.filter(move |(_, side, cable)| is_here(&cable.ends[*side].netns)).map(|(at, side, _)| (at, side))
    }
}

/// What two cables cannot share, with the field that has it already.
#[derive(Default)]
struct Once(BTreeMap<String, String>);

impl Once {
    fn take(&mut self, what: String, field: &str) -> Result<(), ConfigError> {
        match self.0.get(&what) {
            Some(before) => Err(ConfigError::at(field, format!("{what} is also at `{before}`"))),
            None => {
                self.0.insert(what, field.to_owned());
                Ok(())
            }
        }
    }
}

fn cable(table: &CableTable, field: &str, once: &mut Once) -> Result<CablePlan, ConfigError> {
    let at = |key: &str| format!("{field}.{key}");
    if table.name.is_empty() || table.name.chars().any(char::is_control) {
        return Err(ConfigError::at(at("name"), "a cable needs a name, of visible characters"));
    }
    once.take(format!("the cable `{}`", table.name), &at("name"))?;
    let ends = [end(&table.a, &at("a"), once)?, end(&table.b, &at("b"), once)?];
    let queues = queues(table, &at("queues"))?;
    let shared = shared_capture(table, field, once)?;
    let mut direction = |key: &str, own: &Option<DirectionTable>| -> Result<DirectionPlan, ConfigError> {
        let tables = Tables { own: own.as_ref(), both: table.both.as_ref(), cable: field, key };
        let pcap = own_capture(&tables, once)?.or_else(|| shared.clone());
        Ok(DirectionPlan { impairment: impairment(&tables)?, pcap })
    };
    let directions = [direction("a_to_b", &table.a_to_b)?, direction("b_to_a", &table.b_to_a)?];
    let snaplen = snaplen(table, &directions, at("snaplen"))?;
    let seed = seed(table, &directions, at("seed"))?;
    let offloads = match table.offloads {
        Offloads::Auto => !directions.iter().any(|d| d.impairment.is_any()),
        chosen => chosen == Offloads::On,
    };
    Ok(CablePlan { name: table.name.as_str().into(), ends, offloads, queues, directions, snaplen, seed })
}

fn queues(table: &CableTable, field: &str) -> Result<u16, ConfigError> {
    let queues = u16::try_from(table.queues.unwrap_or(1)).ok();
    let queues = queues.filter(|queues| QUEUES.contains(queues));
    queues.ok_or_else(|| ConfigError::at(field, format!("from {} to {}", QUEUES.start(), QUEUES.end())))
}

fn snaplen(table: &CableTable, directions: &[DirectionPlan; 2], field: String) -> Result<u32, ConfigError> {
    let stated = table.snaplen.map(|value| Stated { value, field });
    let has_capture = directions.iter().any(|direction| direction.pcap.is_some());
    needs(&stated, has_capture, "it is the capture file's, and there is none: write `pcap` too")?;
    let why = format!("from {SNAPLEN_MIN} to {SNAPLEN_MAX} bytes of each frame");
    Ok(bounded(stated, SNAPLEN_MIN, SNAPLEN_MAX, &why)?.unwrap_or(SNAPLEN_MAX))
}

fn seed(table: &CableTable, directions: &[DirectionPlan; 2], field: String) -> Result<Option<u64>, ConfigError> {
    let stated = table.seed.map(|value| Stated { value, field });
    let has_chance = directions.iter().any(|direction| direction.impairment.has_chance());
    let why = "it is the dice's, and none are thrown: write `jitter`, `loss`, `duplicate` or `reorder` too";
    needs(&stated, has_chance, why)?;
    Ok(table.seed)
}

fn end(table: &EndTable, field: &str, once: &mut Once) -> Result<EndPlan, ConfigError> {
    let refuse = |key: &str, why: String| Err(ConfigError::at(format!("{field}.{key}"), why));
    if table.netns.is_empty() || (table.netns.starts_with(['@', '#']) && table.netns != HOST) {
        return refuse("netns", format!("a namespace's name as `pernetctl netns list` shows it, or \"{HOST}\""));
    }
    if let Some(why) = bad_name(&table.device) {
        return refuse("device", format!("`{}` cannot be a device's name: {why}", table.device));
    }
    once.take(format!("the device `{}` in `{}`", table.device, table.netns), &format!("{field}.device"))?;
    let mtu = table.mtu.unwrap_or(1500);
    if !MTU.contains(&mtu) {
        return refuse("mtu", format!("from {} to {}", MTU.start(), MTU.end()));
    }
    let address = match &table.address {
        None => None,
        Some(text) => match address(text) {
            Ok(address) => Some(address),
            Err(why) => return refuse("address", format!("`{text}` {why}")),
        },
    };
    Ok(EndPlan { netns: table.netns.clone(), device: table.device.clone(), address, mtu, up: table.up })
}

/// The kernel's rules for a name (K2.1), and no pattern: two cables must not race for numbers.
fn bad_name(name: &str) -> Option<String> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Some(format!("it has from 1 to {NAME_MAX} bytes"));
    }
    if name == "." || name == ".." || name == "lo" {
        return Some("the kernel has another use for it".to_owned());
    }
    let bad = name.chars().find(|c| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%'));
    bad.map(|c| format!("no {c:?} in it"))
}

fn address(text: &str) -> Result<[u8; 6], &'static str> {
    let mut address = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut address {
        let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
        let part = part.and_then(|p| u8::from_str_radix(p, 16).ok());
        *byte = part.ok_or("is no hardware address such as 02:00:00:00:00:01")?;
    }
    if parts.next().is_some() {
        return Err("is no hardware address such as 02:00:00:00:00:01");
    }
    if address[0] & 1 == 1 || address == [0; 6] {
        return Err("is a group's address or none at all, not a device's");
    }
    Ok(address)
}

fn shared_capture(table: &CableTable, field: &str, once: &mut Once) -> Result<Option<CapturePlan>, ConfigError> {
    if table.both.as_ref().is_some_and(|both| both.pcap.is_some()) {
        let why = format!("one file for both directions is written `pcap` of the cable itself: `{field}.pcap`");
        return Err(ConfigError::at(format!("{field}.both.pcap"), why));
    }
    capture(table.pcap.as_deref(), format!("{field}.pcap"), once)
}

fn own_capture(tables: &Tables<'_>, once: &mut Once) -> Result<Option<CapturePlan>, ConfigError> {
    let path = tables.own.and_then(|own| own.pcap.as_deref());
    capture(path, format!("{}.{}.pcap", tables.cable, tables.key), once)
}

fn capture(path: Option<&str>, field: String, once: &mut Once) -> Result<Option<CapturePlan>, ConfigError> {
    let Some(path) = path else { return Ok(None) };
    if !Path::new(path).is_absolute() || path.ends_with('/') || path.contains('\0') {
        return Err(ConfigError::at(field, format!("`{path}` is no absolute path of a file")));
    }
    once.take(format!("the file `{path}`"), &field)?;
    Ok(Some(CapturePlan { path: path.into(), field }))
}

/// One direction's table, over that for both directions.
struct Tables<'a> {
    own: Option<&'a DirectionTable>,
    both: Option<&'a DirectionTable>,
    cable: &'a str,
    key: &'a str,
}

/// A value, and the field where it is written.
struct Stated<T> {
    value: T,
    field: String,
}

impl Tables<'_> {
    fn get<T>(&self, key: &str, read: impl Fn(&DirectionTable) -> Option<T>) -> Option<Stated<T>> {
        let stated = |table: Option<&DirectionTable>, name: &str| {
            let value = table.and_then(&read)?;
            Some(Stated { value, field: format!("{}.{name}.{key}", self.cable) })
        };
        stated(self.own, self.key).or_else(|| stated(self.both, "both"))
    }
}

fn impairment(tables: &Tables<'_>) -> Result<Impairment, ConfigError> {
    let none = Impairment::default();
    let delay = time(tables.get("delay", |t| t.delay.map(|d| d.0)))?;
    let jitter = tables.get("jitter", |t| t.jitter.map(|d| d.0));
    let distribution = tables.get("distribution", |t| t.distribution);
    let reorder = tables.get("reorder", |t| t.reorder.map(|share| share.0));
    let gap = tables.get("gap", |t| t.gap);
    needs(&jitter, delay > 0, "it varies the delay, and there is none: write `delay` too")?;
    needs(&distribution, jitter.is_some(), "it is the jitter's, and there is none: write `jitter` too")?;
    needs(&reorder, delay > 0, "a frame jumps ahead of the delay, and there is none: write `delay` too")?;
    needs(&gap, reorder.is_some(), "it is about frames that jump ahead, and none do: write `reorder` too")?;
    let share = |stated: Option<Stated<f64>>| stated.map_or(0.0, |share| share.value);
    let plan = Impairment {
        delay,
        jitter: time(jitter)?,
        distribution: distribution.map_or(none.distribution, |word| word.value.into()),
        loss: share(tables.get("loss", |t| t.loss.map(|share| share.0))),
        duplicate: share(tables.get("duplicate", |t| t.duplicate.map(|share| share.0))),
        reorder: share(reorder),
        gap: bounded(gap, 1, u32::MAX, "counts frames from 1")?.unwrap_or(none.gap),
        rate: rate(tables)?,
        limit: none.limit,
    };
    let limit = tables.get("limit", |t| t.limit);
    needs(&limit, plan.has_wait(), "it is the queue's, and nothing waits: write `delay` or `rate` too")?;
    let why = format!("from 1 to {LIMIT_MAX} frames");
    let limit = bounded(limit, 1, LIMIT_MAX, &why)?.map_or(plan.limit, |frames| frames as usize);
    Ok(Impairment { limit, ..plan })
}

fn needs<T>(stated: &Option<Stated<T>>, is_met: bool, why: &str) -> Result<(), ConfigError> {
    match stated {
        Some(stated) if !is_met => Err(ConfigError::at(&stated.field, why)),
        _ => Ok(()),
    }
}

fn time(stated: Option<Stated<Nanos>>) -> Result<Nanos, ConfigError> {
    match stated {
        Some(time) if time.value > TIME_MAX => Err(ConfigError::at(time.field, "at most an hour, \"3600s\"")),
        stated => Ok(stated.map_or(0, |time| time.value)),
    }
}

fn rate(tables: &Tables<'_>) -> Result<u64, ConfigError> {
    match tables.get("rate", |t| t.rate.map(|rate| rate.0)) {
        Some(rate) if rate.value == 0 => Err(ConfigError::at(rate.field, "nothing would ever arrive; write loss = 1")),
        stated => Ok(stated.map_or(0, |rate| rate.value)),
    }
}

fn bounded(stated: Option<Stated<u32>>, min: u32, max: u32, why: &str) -> Result<Option<u32>, ConfigError> {
    match stated {
        Some(stated) if !(min..=max).contains(&stated.value) => Err(ConfigError::at(stated.field, why)),
        stated => Ok(stated.map(|stated| stated.value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::impair::Distribution;

    fn plan(text: &str) -> Result<Plan, ConfigError> {
        Plan::new(&toml::from_str(text).expect(text))
    }

    fn ends(plan: &Plan, names: &[&str]) -> Vec<(usize, usize)> {
        plan.ends_in(&names.iter().map(ToString::to_string).collect::<Vec<_>>()).collect()
    }

    /// A cable with further keys.
    fn with(keys: &str) -> String {
        format!("[[cables]]\nname='c'\na={{netns='blue',device='eth0'}}\nb={{netns='red',device='eth0'}}\n{keys}\n")
    }

    #[track_caller]
    fn refused(text: &str) -> (String, String) {
        let refusal = plan(text).expect_err(text);
        (refusal.field().to_owned(), refusal.message().to_owned())
    }

    #[test]
    fn a_plain_cable_changes_nothing_and_has_offloads() {
        let plan = plan(&with("")).expect("sound");
        let cable = &plan.cables[0];
        assert!(cable.offloads);
        assert_eq!((cable.queues, cable.snaplen, cable.seed), (1, SNAPLEN_MAX, None));
        assert_eq!((cable.ends[0].mtu, cable.ends[0].up, cable.ends[0].address), (1500, true, None));
        assert!(cable.directions.iter().all(|d| d.impairment == Impairment::default() && d.pcap.is_none()));
        assert_eq!(ends(&plan, &["red"]), [(0, 1)]);
        assert_eq!(ends(&plan, &["also", "red"]), [(0, 1)]);
        assert_eq!((ends(&plan, &["green"]).len(), ends(&plan, &["@host", "red"]).len()), (0, 0));
    }

    #[test]
    fn a_directions_own_key_counts_over_both() {
        let text = with(
            "both={delay='20ms',jitter='5ms',loss='10%',rate='10mbit'}\n\
             a_to_b={loss=0.5,distribution='normal',reorder='25%',gap=5,limit=7}",
        );
        let plan = plan(&text).expect("sound");
        let [there, back] = &plan.cables[0].directions;
        let both = Impairment {
            delay: 20_000_000,
            jitter: 5_000_000,
            loss: 0.1,
            rate: 10_000_000,
            ..there.impairment.clone()
        };
        assert_eq!(
            there.impairment,
            Impairment {
                loss: 0.5,
                distribution: Distribution::Normal,
                reorder: 0.25,
                gap: 5,
                limit: 7,
                ..both.clone()
            }
        );
        assert_eq!(
            back.impairment,
            Impairment { distribution: Distribution::Uniform, reorder: 0.0, gap: 1, limit: 1000, ..both }
        );
    }

    #[test]
    fn offloads_go_where_each_frame_counts() {
        let offloads = |keys: &str| plan(&with(keys)).expect(keys).cables[0].offloads;
        for impaired in ["loss=0.1", "duplicate='1%'", "delay='1ms'", "rate='1gbit'"] {
            assert!(!offloads(&format!("a_to_b={{{impaired}}}")), "{impaired}");
        }
        assert!(offloads("offloads='auto'\npcap='/x'"));
        assert!(offloads("offloads=true\nboth={loss=0.1}"));
        assert!(!offloads("offloads=false"));
    }

    #[test]
    fn captures_are_of_the_cable_or_of_a_direction() {
        let plan = plan(&with("pcap='/c'\nb_to_a={pcap='/d'}")).expect("sound");
        let paths = plan.cables[0].directions.each_ref().map(|d| d.pcap.clone().map(|c| (c.path, c.field)));
        assert_eq!(paths[0], Some(("/c".into(), "cables[0].pcap".to_owned())));
        assert_eq!(paths[1], Some(("/d".into(), "cables[0].b_to_a.pcap".to_owned())));
    }

    #[test]
    fn each_refusal_names_the_field_where_it_is_written() {
        let long = "a".repeat(16);
        for (keys, field) in [
            ("queues=0", "queues"),
            ("queues=257", "queues"),
            ("snaplen=13\npcap='/x'", "snaplen"),
            ("snaplen=262145\npcap='/x'", "snaplen"),
            ("pcap='x.pcap'", "pcap"),
            ("pcap='/x/'", "pcap"),
            ("both={pcap='/x'}", "both.pcap"),
            ("a_to_b={pcap='x'}", "a_to_b.pcap"),
            ("both={jitter='1ms'}", "both.jitter"),
            ("both={delay='0ms'}\na_to_b={jitter='1ms'}", "a_to_b.jitter"),
            ("b_to_a={distribution='normal',delay='1ms'}", "b_to_a.distribution"),
            ("both={reorder='1%',rate='1mbit'}", "both.reorder"),
            ("both={gap=2,delay='1ms'}", "both.gap"),
            ("both={gap=0,delay='1ms',reorder=1}", "both.gap"),
            ("both={delay='3601s'}", "both.delay"),
            ("both={rate='0mbit'}", "both.rate"),
            ("a_to_b={limit=0,delay='1ms'}", "a_to_b.limit"),
            ("a_to_b={limit=100001,delay='1ms'}", "a_to_b.limit"),
            ("both={limit=0,delay='1ms'}\na_to_b={limit=5}", "both.limit"),
            // What would do nothing is a mistake.
            ("both={limit=10}", "both.limit"),
            ("a_to_b={limit=10,loss=0.1}", "a_to_b.limit"),
            ("both={limit=10,delay='0ms'}", "both.limit"),
            ("a_to_b={rate='1mbit'}\nb_to_a={limit=10}", "b_to_a.limit"),
            ("snaplen=96", "snaplen"),
            ("snaplen=96\nboth={delay='1ms'}", "snaplen"),
            ("seed=1", "seed"),
            ("seed=1\nboth={delay='1ms',rate='1mbit',loss=0}", "seed"),
        ] {
            assert_eq!(refused(&with(keys)).0, format!("cables[0].{field}"), "{keys}");
        }
        for (was, is, field) in [
            ("name='c'", "name=''".to_owned(), "name"),
            ("netns='blue'", "netns=''".to_owned(), "a.netns"),
            ("netns='blue'", "netns='@hots'".to_owned(), "a.netns"),
            ("netns='red',device='eth0'", "netns='red',device='eth%d'".to_owned(), "b.device"),
            ("netns='red',device='eth0'", format!("netns='red',device='{long}'"), "b.device"),
            ("netns='red',device='eth0'", "netns='red',device='a/b'".to_owned(), "b.device"),
            ("netns='red',device='eth0'", "netns='red',device='lo'".to_owned(), "b.device"),
            ("netns='red'", "netns='blue'".to_owned(), "b.device"),
            ("netns='red'", "netns='red',mtu=67".to_owned(), "b.mtu"),
            ("netns='red'", "netns='red',mtu=65522".to_owned(), "b.mtu"),
            ("netns='red'", "netns='red',address='02:00:00:00:00'".to_owned(), "b.address"),
            ("netns='red'", "netns='red',address='02:00:00:00:00:001'".to_owned(), "b.address"),
            ("netns='red'", "netns='red',address='01:00:00:00:00:01'".to_owned(), "b.address"),
            ("netns='red'", "netns='red',address='00:00:00:00:00:00'".to_owned(), "b.address"),
        ] {
            assert_eq!(refused(&with("").replace(was, &is)).0, format!("cables[0].{field}"), "{is}");
        }
    }

    #[test]
    fn two_cables_share_nothing() {
        let two = with("pcap='/c'") + &with("").replace("'c'", "'d'").replace("eth0", "eth1");
        assert_eq!(ends(&plan(&two).expect("sound"), &["blue"]), [(0, 0), (1, 0)]);
        let (field, why) = refused(&two.replace("'d'", "'c'"));
        assert_eq!(field, "cables[1].name");
        assert!(why.ends_with("also at `cables[0].name`"), "{why}");
        assert_eq!(refused(&two.replace("eth1", "eth0")).0, "cables[1].a.device");
        let (field, why) = refused(&(two + "a_to_b={pcap='/c'}"));
        assert_eq!(field, "cables[1].a_to_b.pcap");
        assert!(why.contains("`cables[0].pcap`"), "{why}");
    }

    #[test]
    fn memory_is_for_all_that_may_wait() {
        let memory = |keys: &str| plan(&with(keys)).expect(keys).frame_memory();
        assert_eq!((memory(""), memory("both={loss=0.1}")), (64 << 20, 64 << 20));
        // Buffers of 2 KiB for ordinary frames, of 66 KiB for super-frames.
        assert!(memory("a_to_b={delay='1ms'}") >= (64 << 20) + 1000 * 2048);
        assert!(memory("offloads=true\nboth={rate='1gbit',limit=100000}") >= 200_000 * 66 * 1024);
    }

    #[test]
    fn an_end_has_its_address() {
        assert_eq!(address("02:aB:00:00:ff:01"), Ok([2, 0xab, 0, 0, 255, 1]));
    }

    #[test]
    fn the_host_must_be_written() {
        let text = with("").replace("'red'", "'@host'");
        assert_eq!(ends(&plan(&text).expect("sound"), &["@host", "default"]), [(0, 1)]);
    }
}
