//! The text format: metrics by family, as they are filled namespace by namespace.
//!
//! All samples of a metric must stand together, but they come by namespace, so each family has a text of its own; what is
//! sent is these texts one after the other, never copied together. A namespace can be taken back as a whole.
//!
//! The library for this format that is kept, `prometheus-client`, writes another one (OpenMetrics), which neither promtool
//! nor node_exporter's textfile collector reads: see ARCHITECTURE.md.

use std::collections::HashMap;

use crate::globs::Globs;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// A family, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FamilyId(usize);

struct Family {
    name: String,
    /// The lines about it, which go before its first sample.
    head: String,
    text: Vec<u8>,
    /// The scope that it has had a sample in last: a second one there would be the same series.
    scope: u64,
}

/// All families. They stay when their samples are taken out, as the kernel's counters do.
pub(crate) struct Families {
    wanted: Globs,
    all: Vec<Family>,
    /// `None`: not wanted.
    by_name: HashMap<String, Option<FamilyId>>,
    scope: u64,
    series: usize,
    /// Since the last [`mark`](Self::mark): which family grew, and how long it was before.
    grown: Vec<(FamilyId, usize)>,
    marked: usize,
}

/// What is sent: texts, one after the other.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) parts: Vec<Vec<u8>>,
}

impl Body {
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(Vec::len).sum()
    }
}

impl Families {
    pub(crate) fn new(wanted: Globs) -> Self {
        let (all, by_name, grown) = (Vec::new(), HashMap::new(), Vec::new());
        Families { wanted, all, by_name, scope: 1, series: 0, grown, marked: 0 }
    }

    /// The family of this name, made if it is not there; none if it is not wanted.
    pub(crate) fn family(&mut self, name: &str, kind: Kind, help: &str) -> Option<FamilyId> {
        if let Some(known) = self.by_name.get(name) {
            return *known;
        }
        let id = self.wanted.has(name).then_some(FamilyId(self.all.len()));
        self.by_name.insert(name.to_owned(), id);
        if id.is_some() {
            let help = help.replace('\\', "\\\\").replace('\n', "\\n");
            let head = format!("# HELP {name} {help}\n# TYPE {name} {}\n", kind.word());
            self.all.push(Family { name: name.to_owned(), head, text: Vec::new(), scope: 0 });
        }
        id
    }

    /// From here on samples are of something else: a namespace, or a device.
    pub(crate) fn begin(&mut self) {
        self.scope += 1;
    }

    /// Adds a sample, unless this family had one of the same thing already.
    pub(crate) fn push(&mut self, id: FamilyId, labels: &str, value: &[u8]) {
        let family = &mut self.all[id.0];
        if family.scope == self.scope {
            return;
        }
        family.scope = self.scope;
        self.add(id, "", labels, value);
    }

    /// Adds a sample of a family that has several of the same thing; `suffix` belongs to its name.
    pub(crate) fn add(&mut self, id: FamilyId, suffix: &str, labels: &str, value: &[u8]) {
        let family = &mut self.all[id.0];
        self.grown.push((id, family.text.len()));
        let text = &mut family.text;
        if text.is_empty() {
            text.extend_from_slice(family.head.as_bytes());
        }
        text.extend_from_slice(family.name.as_bytes());
        text.extend_from_slice(suffix.as_bytes());
        if !labels.is_empty() {
            text.push(b'{');
            text.extend_from_slice(labels.as_bytes());
            text.push(b'}');
        }
        text.push(b' ');
        text.extend_from_slice(value);
        text.push(b'\n');
        self.series += 1;
    }

    /// Whether it has any sample.
    pub(crate) fn is_empty(&self, id: FamilyId) -> bool {
        self.all[id.0].text.is_empty()
    }

    /// So many samples.
    pub(crate) fn series(&self) -> usize {
        self.series
    }

    /// What comes from here on may be taken back.
    pub(crate) fn mark(&mut self) {
        self.grown.clear();
        self.marked = self.series;
    }

    /// Takes back what has come since the mark.
    pub(crate) fn take_back(&mut self) {
        while let Some((id, length)) = self.grown.pop() {
            self.all[id.0].text.truncate(length);
        }
        self.series = self.marked;
    }

    /// Takes all samples out.
    pub(crate) fn take(&mut self) -> Body {
        self.mark();
        (self.series, self.marked) = (0, 0);
        let texts = self.all.iter_mut().map(|family| std::mem::take(&mut family.text));
        Body { parts: texts.filter(|text| !text.is_empty()).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn families(globs: &[&str]) -> Families {
        let globs: Vec<String> = globs.iter().map(|&glob| glob.to_owned()).collect();
        Families::new(Globs::new(&globs).expect("well-formed"))
    }

    fn text(body: &Body) -> String {
        String::from_utf8(body.parts.concat()).expect("UTF-8")
    }

    #[test]
    fn samples_of_a_metric_stand_together() {
        let mut families = families(&["*", "!c*"]);
        let a = families.family("a_total", Kind::Counter, "The \\ first.\nOf two.").expect("wanted");
        let b = families.family("b", Kind::Gauge, "B.").expect("wanted");
        assert_eq!(families.family("c", Kind::Gauge, "C."), None);
        assert_eq!(families.family("a_total", Kind::Counter, ""), Some(a));
        for n in ["1", "2"] {
            families.begin();
            families.push(a, &format!("n=\"{n}\""), n.as_bytes());
            families.push(b, "", n.as_bytes());
            families.push(b, "", b"9");
        }
        assert_eq!(families.series(), 4);
        let body = families.take();
        let expected = "# HELP a_total The \\\\ first.\\nOf two.\n# TYPE a_total counter\na_total{n=\"1\"} 1\na_total{n=\"2\"} 2\n\
                        # HELP b B.\n# TYPE b gauge\nb 1\nb 2\n";
        assert_eq!((text(&body).as_str(), body.len()), (expected, expected.len()));
        assert_eq!((families.series(), families.take().len()), (0, 0));
    }

    #[test]
    fn a_namespace_is_taken_back_as_a_whole() {
        let mut families = families(&["*"]);
        let [a, b] = ["a", "b"].map(|name| families.family(name, Kind::Gauge, "H.").expect("wanted"));
        families.push(a, "", b"1");
        families.mark();
        families.begin();
        families.push(a, "", b"2");
        families.push(b, "", b"2");
        families.add(b, "", "x=\"y\"", b"3");
        families.take_back();
        assert!(families.is_empty(b));
        assert_eq!(families.series(), 1);
        assert_eq!(text(&families.take()), "# HELP a H.\n# TYPE a gauge\na 1\n");
    }
}
