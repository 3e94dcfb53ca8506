//! pernetd's own figures as metrics: `pernetd_…`. Of the scrape itself: `pernetd_metrics_…`.

use pernet_plugin_api::{Figures, HookFigures};

use crate::families::{Families, FamilyId, Kind};
use crate::label::labels;

/// The daemon's numbers that are known here, each with its metric, the label for its parts, and what it is.
const FIGURES: [(&str, &str, &str, Kind, &str); 7] = [
    ("namespaces", "pernetd_namespaces", "state", Kind::Gauge, "Managed namespaces by state."),
    ("plugins", "pernetd_plugins", "state", Kind::Gauge, "Configured plugins by state."),
    (
        "retries",
        "pernetd_namespace_retries_total",
        "",
        Kind::Counter,
        "Setups of failed and degraded namespaces that were tried again.",
    ),
    (
        "resyncs",
        "pernetd_link_resyncs_total",
        "",
        Kind::Counter,
        "Losses of link events after which namespaces were listed again.",
    ),
    ("reloads", "pernetd_reloads_total", "result", Kind::Counter, "Reloads by result."),
    (
        "retired_generations",
        "pernetd_retired_generations",
        "",
        Kind::Gauge,
        "Plugin files that are mapped and no longer used, until pernetd is started again.",
    ),
    ("hanging_hooks", "pernetd_hanging_hooks", "", Kind::Gauge, "Hooks that have been running for more than a second."),
];

/// What became of a scrape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scrape {
    /// Namespaces that did not answer in time.
    pub(crate) missing: u64,
    /// Namespaces that did not fit, and how many series they have.
    pub(crate) left_out: u64,
    pub(crate) left_out_series: u64,
    /// Of all scrapes together.
    pub(crate) missing_total: u64,
    pub(crate) left_out_series_total: u64,
    pub(crate) microseconds: u64,
}

impl Scrape {
    /// How many series it has at most.
    pub(crate) const SERIES: usize = 7;

    pub(crate) fn tell(&self, families: &mut Families) {
        let seconds = format!("{}.{:06}", self.microseconds / 1_000_000, self.microseconds % 1_000_000);
        let number = |value: u64| value.to_string();
        for (name, kind, help, value) in [
            (
                "missing_namespaces",
                Kind::Gauge,
                "Namespaces that are missing in this scrape since they did not answer in time.",
                number(self.missing),
            ),
            (
                "missing_namespaces_total",
                Kind::Counter,
                "How often a namespace was missing in a scrape.",
                number(self.missing_total),
            ),
            (
                "left_out_namespaces",
                Kind::Gauge,
                "Namespaces that are left out of this scrape since max_series is reached.",
                number(self.left_out),
            ),
            (
                "left_out_series",
                Kind::Gauge,
                "Series of the namespaces that are left out.",
                number(self.left_out_series),
            ),
            (
                "left_out_series_total",
                Kind::Counter,
                "Series that were left out, of all scrapes together.",
                number(self.left_out_series_total),
            ),
            ("collection_duration_seconds", Kind::Gauge, "How long this scrape took to collect.", seconds),
        ] {
            one(families, &format!("pernetd_metrics_{name}"), kind, help, &[], &value);
        }
        // The last one counts itself.
        let series = number(families.series() as u64 + 1);
        one(families, "pernetd_metrics_series", Kind::Gauge, "Series in this scrape.", &[], &series);
    }
}

/// Adds the daemon's figures.
pub(crate) fn tell(families: &mut Families, figures: &Figures) {
    if figures.version.is_empty() {
        // The daemon is too old to tell.
        return;
    }
    let version = [("version", &*figures.version)];
    one(families, "pernetd_build_info", Kind::Gauge, "Always 1: the version of pernetd.", &version, "1");
    for figure in &figures.figures {
        let known = FIGURES.iter().find(|(what, ..)| *what == figure.what);
        let Some((_, metric, part, kind, help)) = known else { continue };
        let part = [(*part, &*figure.of)];
        let part = if figure.of.is_empty() { &[][..] } else { &part };
        one(families, metric, *kind, help, part, &figure.value.to_string());
    }
    let help = "How long the calls of a plugin's hook took.";
    let durations = families.family("pernetd_hook_duration_seconds", Kind::Histogram, help);
    let help = "Calls of a plugin's hook that failed.";
    let errors = families.family("pernetd_hook_errors_total", Kind::Counter, help);
    for hook in &figures.hooks {
        let labels = labels(&[("plugin", &hook.plugin), ("hook", &hook.hook)]);
        if let Some(errors) = errors {
            families.add(errors, "", &labels, hook.errors.to_string().as_bytes());
        }
        if let Some(durations) = durations {
            histogram(families, durations, &labels, figures, hook);
        }
    }
}

fn histogram(families: &mut Families, family: FamilyId, labels: &str, figures: &Figures, hook: &HookFigures) {
    let bounds = figures.bounds.iter().map(|bound| bound.as_secs_f64().to_string());
    let mut calls = 0u64;
    for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(&hook.calls) {
        calls = calls.saturating_add(*count);
        families.add(family, "_bucket", &format!("{labels},le=\"{bound}\""), calls.to_string().as_bytes());
    }
    families.add(family, "_sum", labels, hook.duration.as_secs_f64().to_string().as_bytes());
    families.add(family, "_count", labels, calls.to_string().as_bytes());
}

/// Host-wide, where connections are tracked.
pub(crate) fn conntrack_limit(families: &mut Families, limit: &str) {
    let help = "Most connections that are tracked, of each namespace: net.netfilter.nf_conntrack_max of the host.";
    one(families, "pernet_conntrack_entries_limit", Kind::Gauge, help, &[], limit);
}

fn one(families: &mut Families, name: &str, kind: Kind, help: &str, pairs: &[(&str, &str)], value: &str) {
    if let Some(family) = families.family(name, kind, help) {
        families.add(family, "", &labels(pairs), value.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::globs::Globs;
    use pernet_plugin_api::Figure;
    use std::time::Duration;

    #[test]
    fn hooks_are_histograms() {
        let hook = HookFigures {
            plugin: "p".into(),
            hook: "pernet.init".into(),
            errors: 2,
            duration: Duration::from_micros(1_500),
            calls: vec![1, 0, 2],
        };
        let figure = |what: &str, of: &str, value| Figure { what: what.into(), of: of.into(), value };
        let figures = Figures {
            version: "1.2.3".into(),
            bounds: vec![Duration::from_micros(1), Duration::from_secs(1)],
            hooks: vec![hook],
            figures: vec![figure("reloads", "ok", 3), figure("retries", "", 4), figure("newer", "", 5)],
        };
        let mut families = Families::new(Globs::new(&["*".to_owned()]).expect("well-formed"));
        tell(&mut families, &figures);
        let count = families.series();
        let text = String::from_utf8(families.take().parts.concat()).expect("UTF-8");
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(samples.len(), count);
        let expected = [
            "pernetd_build_info{version=\"1.2.3\"} 1",
            "pernetd_reloads_total{result=\"ok\"} 3",
            "pernetd_namespace_retries_total 4",
            "pernetd_hook_duration_seconds_bucket{plugin=\"p\",hook=\"pernet.init\",le=\"0.000001\"} 1",
            "pernetd_hook_duration_seconds_bucket{plugin=\"p\",hook=\"pernet.init\",le=\"1\"} 1",
            "pernetd_hook_duration_seconds_bucket{plugin=\"p\",hook=\"pernet.init\",le=\"+Inf\"} 3",
            "pernetd_hook_duration_seconds_sum{plugin=\"p\",hook=\"pernet.init\"} 0.0015",
            "pernetd_hook_duration_seconds_count{plugin=\"p\",hook=\"pernet.init\"} 3",
            "pernetd_hook_errors_total{plugin=\"p\",hook=\"pernet.init\"} 2",
        ];
        assert_eq!(samples, expected);
    }

    #[test]
    fn a_scrape_tells_of_itself() {
        let mut families = Families::new(Globs::new(&["*".to_owned()]).expect("well-formed"));
        Scrape { microseconds: 1_000_002, missing: 3, ..Scrape::default() }.tell(&mut families);
        assert_eq!(families.series(), Scrape::SERIES);
        let text = String::from_utf8(families.take().parts.concat()).expect("UTF-8");
        for line in [
            "pernetd_metrics_series 7",
            "pernetd_metrics_missing_namespaces 3",
            "pernetd_metrics_collection_duration_seconds 1.000002",
        ] {
            assert!(text.lines().any(|told| told == line), "{line} in {text}");
        }
    }
}
