//! Which metrics the counters of `/proc/net` are.
//!
//! A counter is known by its file, protocol and name, whatever kernel has it: `pernet_netstat_tcp_ext_listen_drops_total` is
//! `ListenDrops` of `TcpExt`, `pernet_sockstat_tcp_inuse` is `inuse` of `TCP`. Almost all are counters in `snmp`, `snmp6` and
//! `netstat`, gauges in `sockstat`; what is not is listed here, and so is what has a unit that is no base unit.
//!
//! The kernel's names are looked up once: as long as a line of names is the one of the namespace before, its families are
//! the same. Some of what is in `sockstat` is the whole host's, in every namespace; it has no label, and is told once.

use std::collections::HashMap;

use crate::families::{Families, FamilyId, Kind};
use crate::name::snake;
use crate::proc;

/// More lines of names than kernels have: those with messages' types differ from namespace to namespace.
const REMEMBERED: usize = 256;

/// In `snmp` and `netstat`, what may go down.
const GAUGES: [(&str, &str); 8] = [
    ("Ip", "Forwarding"),
    ("Ip", "DefaultTTL"),
    ("Tcp", "RtoAlgorithm"),
    ("Tcp", "RtoMin"),
    ("Tcp", "RtoMax"),
    ("Tcp", "MaxConn"),
    ("Tcp", "CurrEstab"),
    ("MPTcpExt", "MPCurrEstab"),
];

/// In `sockstat`, what is the whole host's.
const HOST_WIDE: [(&str, &str); 5] =
    [("TCP", "orphan"), ("TCP", "alloc"), ("TCP", "mem"), ("UDP", "mem"), ("SCTP", "mem")];

/// In `snmp` and `netstat`, what is in milliseconds.
const MILLISECONDS: [(&str, &str); 3] = [("Tcp", "RtoMin"), ("Tcp", "RtoMax"), ("TcpExt", "TCPMemoryPressuresChrono")];

/// What a number is multiplied with to be of a base unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scale {
    One,
    /// Milliseconds.
    Thousandth,
    /// Pages of memory.
    Page,
}

/// Where a counter belongs.
#[derive(Clone, Copy)]
struct Entry {
    family: FamilyId,
    kind: Kind,
    scale: Scale,
    host_wide: bool,
}

/// The counters that were met so far. `None` is what is not wanted.
pub(crate) struct Kernel {
    page_size: u64,
    /// By protocol and line of names.
    lines: HashMap<Vec<u8>, Vec<Option<Entry>>>,
    /// By protocol and name, one after the other.
    single: HashMap<Vec<u8>, Option<Entry>>,
    /// The metric of which counter: two that would have the same name are not mixed up.
    taken: HashMap<String, String>,
    key: Vec<u8>,
}

impl Kernel {
    pub(crate) fn new() -> Self {
        let page_size = rustix::param::page_size() as u64;
        let (lines, single, taken) = (HashMap::new(), HashMap::new(), HashMap::new());
        Kernel { page_size, lines, single, taken, key: Vec::new() }
    }

    /// `snmp` or `netstat`.
    pub(crate) fn pairs(&mut self, families: &mut Families, labels: &str, file: &str, text: &[u8]) {
        proc::pairs(text, |protocol, names, values| {
            self.key.clear();
            for part in [protocol, b":", names] {
                self.key.extend_from_slice(part);
            }
            if !self.lines.contains_key(&self.key) {
                let words = proc::words(names).map(|name| self.counter(families, file, protocol, name)).collect();
                if self.lines.len() >= REMEMBERED {
                    self.lines.clear();
                }
                self.lines.insert(self.key.clone(), words);
            }
            let entries = self.lines.get(&self.key).map_or(&[][..], Vec::as_slice);
            for (entry, value) in entries.iter().zip(proc::words(values)) {
                if let Some(entry) = entry {
                    tell(families, *entry, labels, value, self.page_size);
                }
            }
        });
    }

    /// `snmp6`.
    pub(crate) fn list(&mut self, families: &mut Families, labels: &str, text: &[u8]) {
        proc::list(text, |name, value| {
            let entry = self.single(&[b"snmp6", name], |kernel| kernel.counter(families, "snmp6", b"", name));
            if let Some(entry) = entry {
                tell(families, entry, labels, value, self.page_size);
            }
        });
    }

    /// `sockstat` or `sockstat6`.
    pub(crate) fn sockets(&mut self, families: &mut Families, labels: &str, text: &[u8]) {
        proc::sockets(text, |protocol, name, value| {
            let entry = self.single(&[protocol, b" ", name], |kernel| kernel.socket(families, protocol, name));
            match entry {
                Some(entry) if entry.host_wide && !families.is_empty(entry.family) => {}
                Some(entry) => {
                    let labels = if entry.host_wide { "" } else { labels };
                    tell(families, entry, labels, value, self.page_size);
                }
                None => {}
            }
        });
    }

    /// `stat/nf_conntrack`.
    pub(crate) fn conntrack(&mut self, families: &mut Families, labels: &str, text: &[u8]) {
        proc::per_cpu(text, |name, sum| {
            let entry = self.single(&[b"conntrack ", name], |kernel| kernel.tracked(families, name));
            if let Some(entry) = entry {
                families.push(entry.family, labels, sum.to_string().as_bytes());
            }
        });
    }

    fn single(&mut self, key: &[&[u8]], find: impl FnOnce(&mut Self) -> Option<Entry>) -> Option<Entry> {
        self.key.clear();
        key.iter().for_each(|part| self.key.extend_from_slice(part));
        if let Some(known) = self.single.get(&self.key) {
            return *known;
        }
        let key = self.key.clone();
        let entry = find(self);
        self.single.insert(key, entry);
        entry
    }

    fn counter(&mut self, families: &mut Families, file: &str, protocol: &[u8], name: &[u8]) -> Option<Entry> {
        let (protocol, name) = (ascii(protocol)?, ascii(name)?);
        let is_gauge = GAUGES.contains(&(protocol, name));
        let scale = if MILLISECONDS.contains(&(protocol, name)) { Scale::Thousandth } else { Scale::One };
        let unit = if scale == Scale::Thousandth { "_seconds" } else { "" };
        let end = if is_gauge { "" } else { "_total" };
        let whole = if protocol.is_empty() { snake(name) } else { format!("{}_{}", snake(protocol), snake(name)) };
        let metric = format!("pernet_netstat_{whole}{unit}{end}");
        let source = if protocol.is_empty() { name.to_owned() } else { format!("{protocol} {name}") };
        let kind = if is_gauge { Kind::Gauge } else { Kind::Counter };
        self.entry(families, &metric, (kind, scale, false), &format!("{source} of /proc/net/{file}."))
    }

    fn socket(&mut self, families: &mut Families, protocol: &[u8], name: &[u8]) -> Option<Entry> {
        let (protocol, name) = (ascii(protocol)?, ascii(name)?);
        let host_wide = HOST_WIDE.contains(&(protocol, name));
        let (scale, end) = match name {
            "mem" => (Scale::Page, "_bytes"),
            // Of fragments that wait, in bytes as it is.
            "memory" => (Scale::One, "_bytes"),
            _ => (Scale::One, ""),
        };
        let metric = format!("pernet_sockstat_{}_{}{end}", snake(protocol), snake(name));
        let whose = if host_wide { ", of the whole host" } else { "" };
        let file = if protocol.ends_with('6') { "sockstat6" } else { "sockstat" };
        let help = format!("{protocol} {name} of /proc/net/{file}{whose}.");
        self.entry(families, &metric, (Kind::Gauge, scale, host_wide), &help)
    }

    fn tracked(&mut self, families: &mut Families, name: &[u8]) -> Option<Entry> {
        let name = ascii(name)?;
        let (metric, kind) = match name {
            "entries" => ("pernet_conntrack_entries".to_owned(), Kind::Gauge),
            _ => (format!("pernet_conntrack_{}_total", snake(name)), Kind::Counter),
        };
        let help = format!("{name} of /proc/net/stat/nf_conntrack, of all processors.");
        self.entry(families, &metric, (kind, Scale::One, false), &help)
    }

    fn entry(
        &mut self,
        families: &mut Families,
        metric: &str,
        (kind, scale, host_wide): (Kind, Scale, bool),
        help: &str,
    ) -> Option<Entry> {
        let owner = self.taken.entry(metric.to_owned()).or_insert_with(|| help.to_owned());
        if owner != help {
            return None;
        }
        let family = families.family(metric, kind, help)?;
        Some(Entry { family, kind, scale, host_wide })
    }
}

fn ascii(name: &[u8]) -> Option<&str> {
    std::str::from_utf8(name).ok().filter(|name| name.is_ascii())
}

fn tell(families: &mut Families, entry: Entry, labels: &str, value: &[u8], page_size: u64) {
    // A counter below zero is none: some kernel had a mistake there.
    if !proc::is_number(value) || (entry.kind == Kind::Counter && value.starts_with(b"-")) {
        return;
    }
    let number = || std::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok());
    match (entry.scale, number) {
        (Scale::One, _) => families.push(entry.family, labels, value),
        (Scale::Page, number) => {
            let bytes = number().map(|pages| pages.saturating_mul(page_size));
            bytes.into_iter().for_each(|bytes| families.push(entry.family, labels, bytes.to_string().as_bytes()));
        }
        (Scale::Thousandth, number) => {
            let seconds = number().map(|ms| format!("{}.{:03}", ms / 1000, ms % 1000));
            seconds.into_iter().for_each(|seconds| families.push(entry.family, labels, seconds.as_bytes()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::globs::Globs;

    fn all() -> Families {
        Families::new(Globs::new(&["*".to_owned()]).expect("well-formed"))
    }

    fn samples(families: &mut Families) -> Vec<String> {
        let text = String::from_utf8(families.take().parts.concat()).expect("UTF-8");
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn counters_gauges_and_units_are_told_apart() {
        let (mut kernel, mut families) = (Kernel::new(), all());
        let snmp = b"Ip: Forwarding InReceives\nIp: 2 5\nTcp: RtoMin MaxConn CurrEstab InSegs\nTcp: 200 -1 3 -4\n";
        for netns in ["a", "b"] {
            families.begin();
            kernel.pairs(&mut families, &format!("netns=\"{netns}\""), "snmp", snmp);
        }
        let of = |netns: &str| {
            [
                format!("pernet_netstat_ip_forwarding{{netns=\"{netns}\"}} 2"),
                format!("pernet_netstat_ip_in_receives_total{{netns=\"{netns}\"}} 5"),
                format!("pernet_netstat_tcp_rto_min_seconds{{netns=\"{netns}\"}} 0.200"),
                format!("pernet_netstat_tcp_max_conn{{netns=\"{netns}\"}} -1"),
                format!("pernet_netstat_tcp_curr_estab{{netns=\"{netns}\"}} 3"),
            ]
        };
        let mut expected = [of("a"), of("b")].concat();
        let mut told = samples(&mut families);
        expected.sort();
        told.sort();
        assert_eq!(told, expected);
    }

    #[test]
    fn a_counter_of_time_is_in_seconds() {
        let (mut kernel, mut families) = (Kernel::new(), all());
        families.begin();
        let text = b"TcpExt: TCPMemoryPressures TCPMemoryPressuresChrono\nTcpExt: 2 1500\n";
        kernel.pairs(&mut families, "", "netstat", text);
        let expected = [
            "pernet_netstat_tcp_ext_tcp_memory_pressures_total 2",
            "pernet_netstat_tcp_ext_tcp_memory_pressures_chrono_seconds_total 1.500",
        ];
        assert_eq!(samples(&mut families), expected);
    }

    #[test]
    fn other_kernels_have_more_and_fewer_columns() {
        let (mut kernel, mut families) = (Kernel::new(), all());
        families.begin();
        kernel.pairs(&mut families, "", "netstat", b"TcpExt: Old New\nTcpExt: 1 2 3\nIpExt: A B C\nIpExt: 7 x\n");
        let expected = [
            "pernet_netstat_tcp_ext_old_total 1",
            "pernet_netstat_tcp_ext_new_total 2",
            "pernet_netstat_ip_ext_a_total 7",
        ];
        assert_eq!(samples(&mut families), expected);
    }

    #[test]
    fn no_series_comes_twice() {
        let (mut kernel, mut families) = (Kernel::new(), all());
        families.begin();
        kernel.list(&mut families, "", b"Ip6InSegs 1\nIp6InSegs 2\nIp6inSegs 3\nIp6_in_segs 4\n");
        assert_eq!(samples(&mut families), ["pernet_netstat_ip6_in_segs_total 1", "pernet_netstat_ip6in_segs_total 3"]);
    }

    #[test]
    fn what_is_the_hosts_is_told_once() {
        let (mut kernel, mut families) = (Kernel::new(), all());
        let text = b"TCP: inuse 1 orphan 4 mem 2\nFRAG: inuse 0 memory 9\n";
        for netns in ["a", "b"] {
            families.begin();
            kernel.sockets(&mut families, &format!("netns=\"{netns}\""), text);
        }
        let bytes = 2 * rustix::param::page_size();
        let told = samples(&mut families);
        assert!(told.contains(&format!("pernet_sockstat_tcp_mem_bytes {bytes}")), "{told:?}");
        assert!(told.contains(&"pernet_sockstat_frag_memory_bytes{netns=\"b\"} 9".to_owned()), "{told:?}");
        assert_eq!(
            told.iter().filter(|line| line.contains("orphan")).collect::<Vec<_>>(),
            ["pernet_sockstat_tcp_orphan 4"]
        );
        assert_eq!(told.len(), 8);
    }

    #[test]
    fn connections_are_counted_over_the_processors() {
        let (mut kernel, mut families) = (Kernel::new(), all());
        families.begin();
        kernel.conntrack(&mut families, "", b"entries insert_failed\n00000002 00000001\n00000002 0000000f\n");
        assert_eq!(samples(&mut families), ["pernet_conntrack_entries 2", "pernet_conntrack_insert_failed_total 16"]);
    }
}
