//! From what namespaces say to the text that is sent, within the bound on series.
//!
//! A namespace is in it as a whole or not at all. Those that came first are in it first: who does not fit is left out,
//! smaller ones after it may still fit. How large each is, is known from its last time; a new one is judged when it has
//! answered. So as long as none of them changes, the same ones are in every scrape.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;

use pernet_plugin_api::Figures;

use crate::families::{Body, Families};
use crate::globs::Globs;
use crate::kernel::Kernel;
use crate::label;
use crate::link::Links;
use crate::own::{self, Scrape};
use crate::read::Raw;
use crate::spaces::Space;

/// One limit for all namespaces, and readable in each; here, in the daemon's own, nobody walks past all others for it.
const CONNTRACK_LIMIT: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// What stays from scrape to scrape.
pub(crate) struct Encoder {
    families: Families,
    kernel: Kernel,
    links: Links,
    max_series: usize,
    /// Namespaces that do not fit, by what was known at the beginning.
    too_many: HashSet<u64>,
    names: HashSet<String>,
    conntrack: bool,
    scrape: Scrape,
}

impl Encoder {
    pub(crate) fn new(metrics: &Globs, devices: &Globs, max_series: usize) -> Self {
        let mut families = Families::new(metrics.clone());
        let links = Links::new(&mut families, devices.clone());
        let (kernel, too_many, names) = (Kernel::new(), HashSet::new(), HashSet::new());
        let scrape = Scrape::default();
        Encoder { families, kernel, links, max_series, too_many, names, conntrack: false, scrape }
    }

    /// Begins a scrape of these namespaces.
    pub(crate) fn begin(&mut self, figures: &Figures, spaces: &[Arc<Space>]) {
        // Of one that was given up there may be something left.
        self.families.take();
        self.names.clear();
        self.too_many.clear();
        self.conntrack = false;
        let Scrape { missing_total, left_out_series_total, .. } = self.scrape;
        self.scrape = Scrape { missing_total, left_out_series_total, ..Scrape::default() };
        own::tell(&mut self.families, figures);
        let mut room = self.room();
        for space in spaces {
            match room.checked_sub(space.series()) {
                Some(left) => room = left,
                None => drop(self.too_many.insert(space.cookie.0)),
            }
        }
    }

    fn room(&self) -> usize {
        // The limit of connections may come in between.
        self.max_series.saturating_sub(self.families.series() + Scrape::SERIES + 1)
    }

    /// Adds what a namespace says.
    pub(crate) fn add(&mut self, space: &Space, raw: &Raw) {
        // Names that are exchanged in the middle of a scrape may come twice.
        if !self.names.insert(raw.name.clone()) {
            self.missing();
            return;
        }
        let room = self.room();
        self.families.mark();
        let before = self.families.series();
        self.tell(raw);
        let series = self.families.series() - before;
        space.set_series(series);
        if series > room || self.too_many.contains(&space.cookie.0) {
            self.families.take_back();
            self.scrape.left_out += 1;
            self.scrape.left_out_series += series as u64;
            self.scrape.left_out_series_total += series as u64;
        }
    }

    fn tell(&mut self, raw: &Raw) {
        let netns = label::labels(&[("netns", &raw.name)]);
        let Encoder { families, kernel, links, .. } = self;
        links.tell(families, &netns, raw.links());
        families.begin();
        for file in ["snmp", "netstat"] {
            kernel.pairs(families, &netns, file, raw.file(file));
        }
        kernel.list(families, &netns, raw.file("snmp6"));
        for file in ["sockstat", "sockstat6"] {
            kernel.sockets(families, &netns, raw.file(file));
        }
        let conntrack = raw.file("stat/nf_conntrack");
        self.conntrack |= !conntrack.is_empty();
        kernel.conntrack(families, &netns, conntrack);
    }

    /// A namespace did not answer in time.
    pub(crate) fn missing(&mut self) {
        self.scrape.missing += 1;
        self.scrape.missing_total += 1;
    }

    /// What is sent.
    pub(crate) fn end(&mut self, microseconds: u64) -> Body {
        if self.conntrack
            && let Ok(limit) = fs::read_to_string(CONNTRACK_LIMIT)
            && crate::proc::is_number(limit.trim().as_bytes())
        {
            own::conntrack_limit(&mut self.families, limit.trim());
        }
        self.scrape.microseconds = microseconds;
        self.scrape.tell(&mut self.families);
        self.families.take()
    }
}
