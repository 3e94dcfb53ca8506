//! Devices: the answer of a dump of links taken apart, and which metrics they are.
//!
//! Counters are those of `rtnl_link_stats64`, in its order: `pernet_network_receive_bytes_total` is its `rx_bytes`. A kernel
//! that has fewer of them answers fewer, and what a newer one has after them is not known here.

use netlink_packet_core::NlasIterator;

use crate::families::{Families, FamilyId, Kind};
use crate::globs::Globs;
use crate::label;

const HEADER: usize = 16;
const IFINFOMSG: usize = 16;
const NEWLINK: u16 = 16;
const IFF_UP: u32 = 1;

const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_STATS64: u16 = 23;
const IFLA_CARRIER: u16 = 33;
const IFLA_CARRIER_CHANGES: u16 = 35;
const IFLA_INFO_KIND: u16 = 1;

/// How the daemon marks a device of a plugin's.
const MARK: &[u8] = b"pernetd: ";

const STATS: [&str; 25] = [
    "receive_packets",
    "transmit_packets",
    "receive_bytes",
    "transmit_bytes",
    "receive_errors",
    "transmit_errors",
    "receive_dropped",
    "transmit_dropped",
    "receive_multicast",
    "transmit_collisions",
    "receive_length_errors",
    "receive_over_errors",
    "receive_crc_errors",
    "receive_frame_errors",
    "receive_fifo_errors",
    "receive_missed_errors",
    "transmit_aborted_errors",
    "transmit_carrier_errors",
    "transmit_fifo_errors",
    "transmit_heartbeat_errors",
    "transmit_window_errors",
    "receive_compressed",
    "transmit_compressed",
    "receive_nohandler",
    "receive_otherhost_dropped",
];

/// `IF_OPER_*` (RFC 2863).
const OPERSTATES: [&str; 7] = ["unknown", "notpresent", "down", "lowerlayerdown", "testing", "dormant", "up"];

/// The families of devices.
pub(crate) struct Links {
    wanted: Globs,
    info: Option<FamilyId>,
    up: Option<FamilyId>,
    carrier: Option<FamilyId>,
    mtu: Option<FamilyId>,
    carrier_changes: Option<FamilyId>,
    stats: Vec<Option<FamilyId>>,
}

/// A device as a message describes it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Link<'a> {
    name: &'a [u8],
    kind: &'a [u8],
    alias: &'a [u8],
    flags: u32,
    mtu: Option<u32>,
    operstate: Option<u8>,
    carrier: Option<u8>,
    carrier_changes: Option<u32>,
    stats: &'a [u8],
}

impl Links {
    pub(crate) fn new(families: &mut Families, wanted: Globs) -> Self {
        let mut gauge = |name: &str, help: &str| families.family(&format!("pernet_network_{name}"), Kind::Gauge, help);
        let info = gauge(
            "info",
            "Always 1: kind, owner (kernel, or the plugin that made it) and operational state of the device.",
        );
        let up = gauge("up", "Whether the device is set up (IFF_UP).");
        let carrier = gauge("carrier", "Whether the device has a carrier.");
        let mtu = gauge("mtu_bytes", "Maximum transmission unit of the device.");
        let mut counter =
            |name: &str, help: &str| families.family(&format!("pernet_network_{name}_total"), Kind::Counter, help);
        let carrier_changes = counter("carrier_changes", "How often the carrier came or went.");
        let stats = STATS.map(|name| {
            let kernel = name.replacen("receive_", "rx_", 1).replacen("transmit_", "tx_", 1);
            let kernel = match name {
                "receive_multicast" => "multicast",
                "transmit_collisions" => "collisions",
                _ => &kernel,
            };
            counter(name, &format!("{kernel} of the device."))
        });
        Links { wanted, info, up, carrier, mtu, carrier_changes, stats: stats.into() }
    }

    /// Adds the devices of a dump. `netns` is the namespace's label.
    pub(crate) fn tell(&self, families: &mut Families, netns: &str, dump: &[u8]) {
        let mut names: Vec<&[u8]> = Vec::new();
        each_link(dump, |link| {
            let name = label::readable(link.name);
            // One that is renamed in the middle of a dump may stand in it under another's name.
            if !self.wanted.has(&name) || names.contains(&link.name) {
                return;
            }
            names.push(link.name);
            families.begin();
            self.tell_one(families, netns, &name, &link);
        });
    }

    fn tell_one(&self, families: &mut Families, netns: &str, name: &str, link: &Link<'_>) {
        let mut labels = netns.to_owned();
        label::push(&mut labels, "device", name);
        let mut tell = |family: Option<FamilyId>, value: Option<u64>| {
            if let (Some(family), Some(value)) = (family, value) {
                let mut digits = [0; 20];
                families.push(family, &labels, decimal(value, &mut digits));
            }
        };
        tell(self.up, Some(u64::from(link.flags & IFF_UP)));
        tell(self.carrier, link.carrier.map(u64::from));
        tell(self.mtu, link.mtu.map(u64::from));
        tell(self.carrier_changes, link.carrier_changes.map(u64::from));
        for (family, value) in self.stats.iter().zip(link.stats.chunks_exact(8)) {
            tell(*family, value.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes)));
        }
        if let Some(info) = self.info {
            let owner = link.alias.strip_prefix(MARK).map_or("kernel".into(), label::readable);
            let operstate = link.operstate.and_then(|state| OPERSTATES.get(usize::from(state))).unwrap_or(&"unknown");
            for (name, value) in [("kind", &*label::readable(link.kind)), ("owner", &owner), ("operstate", operstate)] {
                label::push(&mut labels, name, value);
            }
            families.push(info, &labels, b"1");
        }
    }
}

/// Without a detour over the heap: this is most of what a scrape writes.
fn decimal(mut value: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(value % 10).unwrap_or_default();
        value /= 10;
        if value == 0 {
            return &digits[at..];
        }
    }
}

fn each_link<'a>(mut dump: &'a [u8], mut each: impl FnMut(Link<'a>)) {
    while let Some((length, kind)) = header(dump) {
        if kind == NEWLINK
            && let Some(link) = dump.get(HEADER..length).and_then(parse)
        {
            each(link);
        }
        dump = dump.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

/// Length and type of the first message.
pub(crate) fn header(messages: &[u8]) -> Option<(usize, u16)> {
    let length = usize::try_from(word(messages)?).ok()?;
    let kind = u16::from_ne_bytes(*messages.get(4..)?.first_chunk()?);
    (HEADER..=messages.len()).contains(&length).then_some((length, kind))
}

fn parse(payload: &[u8]) -> Option<Link<'_>> {
    // Of another family it is about a port, mostly of a bridge.
    if *payload.first()? != 0 {
        return None;
    }
    let mut link = Link { flags: word(payload.get(8..)?)?, ..Link::default() };
    for attribute in NlasIterator::new(payload.get(IFINFOMSG..)?) {
        // The iterator's own view is dropped at the end of the turn; its bytes are the payload's.
        let attribute = attribute.ok()?;
        let value = attribute.into_inner();
        let (length, kind) = (usize::from(short(value)?), short(value.get(2..)?)? & 0x3fff);
        let value = value.get(4..length)?;
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_MTU => link.mtu = word(value),
            IFLA_OPERSTATE => link.operstate = value.first().copied(),
            IFLA_LINKINFO => link.kind = info_kind(value).unwrap_or_default(),
            IFLA_IFALIAS => link.alias = text(value),
            IFLA_STATS64 => link.stats = value,
            IFLA_CARRIER => link.carrier = value.first().copied(),
            IFLA_CARRIER_CHANGES => link.carrier_changes = word(value),
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn info_kind(info: &[u8]) -> Option<&[u8]> {
    let kind = NlasIterator::new(info).flatten().find(|attribute| attribute.kind() == IFLA_INFO_KIND)?;
    let value = kind.into_inner();
    value.get(4..usize::from(short(value)?)).map(text)
}

/// Without the zero at its end.
fn text(value: &[u8]) -> &[u8] {
    value.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn word(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn short(value: &[u8]) -> Option<u16> {
    value.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).expect("short");
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, family: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut payload = vec![0; IFINFOMSG];
        payload[0] = family;
        payload[8..12].copy_from_slice(&IFF_UP.to_ne_bytes());
        payload.extend(attributes.concat());
        let length = u32::try_from(HEADER + payload.len()).expect("short");
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.resize(HEADER, 0);
        message.extend(payload);
        message
    }

    fn device(name: &[u8], stats: &[u64]) -> Vec<u8> {
        let stats: Vec<u8> = stats.iter().flat_map(|value| value.to_ne_bytes()).collect();
        message(
            NEWLINK,
            0,
            &[
                attribute(IFLA_IFNAME, name),
                attribute(IFLA_MTU, &1500u32.to_ne_bytes()),
                attribute(IFLA_OPERSTATE, &[6]),
                attribute(IFLA_CARRIER, &[1]),
                attribute(0x8000 | IFLA_LINKINFO, &attribute(IFLA_INFO_KIND, b"veth\0")),
                attribute(IFLA_IFALIAS, b"pernetd: wire\0"),
                attribute(IFLA_STATS64, &stats),
            ],
        )
    }

    fn told(dump: &[u8], devices: &str) -> Vec<String> {
        let globs = |glob: &str| Globs::new(&["*".to_owned(), glob.to_owned()]).expect("well-formed");
        let mut families = Families::new(globs("*"));
        let links = Links::new(&mut families, globs(devices));
        links.tell(&mut families, "netns=\"n\"", dump);
        let text = String::from_utf8(families.take().parts.concat()).expect("UTF-8");
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn a_device_is_told_with_what_its_kernel_has() {
        let expected = [
            "pernet_network_info{netns=\"n\",device=\"eth0\",kind=\"veth\",owner=\"wire\",operstate=\"up\"} 1",
            "pernet_network_up{netns=\"n\",device=\"eth0\"} 1",
            "pernet_network_carrier{netns=\"n\",device=\"eth0\"} 1",
            "pernet_network_mtu_bytes{netns=\"n\",device=\"eth0\"} 1500",
            "pernet_network_receive_packets_total{netns=\"n\",device=\"eth0\"} 0",
            "pernet_network_transmit_packets_total{netns=\"n\",device=\"eth0\"} 18446744073709551615",
        ];
        assert_eq!(told(&device(b"eth0\0", &[0, u64::MAX]), "*"), expected);
        let newer: Vec<u64> = (0..40).collect();
        let lines = told(&device(b"eth0\0", &newer), "*");
        assert_eq!(lines.len(), 4 + STATS.len(), "what is not known is left out");
        assert!(
            lines
                .contains(&"pernet_network_receive_otherhost_dropped_total{netns=\"n\",device=\"eth0\"} 24".to_owned())
        );
    }

    #[test]
    fn what_is_no_device_or_comes_twice_is_passed_over() {
        let port = message(NEWLINK, 7, &[attribute(IFLA_IFNAME, b"port\0")]);
        let nameless = message(NEWLINK, 0, &[attribute(IFLA_MTU, &[0; 4])]);
        let other = message(3, 0, &[]);
        let (first, again) = (device(b"a\xff\0", &[1]), device(b"a\xff\0", &[2]));
        let dump = [port, nameless, first.clone(), again, device(b"veth1\0", &[3]), other].concat();
        let packets: Vec<_> =
            told(&dump, "!veth*").into_iter().filter(|line| line.contains("receive_packets")).collect();
        assert_eq!(packets, ["pernet_network_receive_packets_total{netns=\"n\",device=\"a\\\\xff\"} 1"]);
        for cut in 0..first.len() {
            told(&first[..cut], "*");
        }
    }
}
