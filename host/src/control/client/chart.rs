//! The boot as a chart: a strip of its phases, one row per initcall grouped by level, and the slowest setups.
//!
//! Each section has a time axis of its own, because reading files takes a hundred times what an initcall does. Where the
//! rows lie is `plot.rs`'s.

use super::boot::{called, time, was_called};
use super::plot::{Bar, Group, MARGIN, Row, Section, WIDTH, float, key, section};
use super::svg::{Anchor, Svg};
use crate::control::wire::{BootRecord, Initcall, InitcallResult, NetnsSetup, NetnsState, SetupHook};

/// Namespaces whose setups are drawn.
const SLOWEST: usize = 10;

const STYLE: &str = "\
text { font: 11px system-ui, 'DejaVu Sans', 'Segoe UI', Helvetica, Arial, sans-serif; fill: #222222; }
text.title { font-size: 18px; font-weight: bold; }
text.section { font-size: 13px; font-weight: bold; }
text.quiet, text.tick, text.note { fill: #5f6368; }
text.group { font-weight: bold; fill: #444444; }
text.failed { fill: #b3261e; }
text.blacklisted { fill: #5f6368; }
text.refused { fill: #8a5a00; }
line.grid { stroke: #e3e6ea; stroke-width: 1; }
.band { fill: #f5f7f9; }
.own { fill: #3b6fb6; }
.plugin { fill: #3f9163; }
.second { fill: #7dbd97; }
.failed { fill: #c5372c; }
.blacklisted { fill: #9aa0a6; }
.refused { fill: #e0a030; }
.other { fill: #d5d9de; }
.files { fill: #b9a6d3; }
.configuration { fill: #d9c9a3; }
.setups { fill: #8fb8a0; }
";

/// The chart as an SVG document.
pub(super) fn draw(boot: &BootRecord) -> String {
    let mut svg = Svg::new();
    let BootRecord { version, time: began, ready_us, .. } = boot;
    let total = ready_us.map_or_else(|| "not ready yet".to_owned(), |us| format!("ready after {}", time(us)));
    let title = format!("pernetd {version}, started {began}: {total}");
    svg.text("title", Anchor::Start, (MARGIN, 40.0), &title);
    svg.text("quiet", Anchor::Start, (MARGIN, 60.0), &summary(boot));
    let mut y = phases(&mut svg, boot, 84.0);
    y = legend(&mut svg, y + 14.0);
    y = section(&mut svg, &initcalls(boot), y + 30.0);
    match boot.setups.as_slice() {
        [] => {}
        [only] => y = section(&mut svg, &hooks(only), y + 36.0),
        all => y = section(&mut svg, &setups(all), y + 36.0),
    }
    svg.document((WIDTH, y + MARGIN), &title, STYLE)
}

fn summary(boot: &BootRecord) -> String {
    let results = [InitcallResult::ok, InitcallResult::failed, InitcallResult::blacklisted, InitcallResult::refused];
    let counted = results.iter().map(|result| (boot.initcalls.iter().filter(|c| c.result == *result).count(), result));
    let counts: Vec<String> =
        counted.filter(|(n, _)| *n > 0).map(|(n, result)| format!("{n} {}", result.as_str())).collect();
    let (all, namespaces) = (boot.initcalls.len(), boot.setups.len());
    let namespaces = if namespaces == 1 { "1 namespace".to_owned() } else { format!("{namespaces} namespaces") };
    format!("{all} initcalls: {}  ·  last setups of {namespaces}", counts.join(", "))
}

/// The strip at the top: what the time until readiness went to. Its words stand below it.
fn phases(svg: &mut Svg, boot: &BootRecord, y: f64) -> f64 {
    let files = || boot.initcalls.iter().filter_map(|call| Some((call.prepare_start_us?, call.prepare_us?)));
    let first = first_call(boot);
    let read = files().map(|(from, _)| from).min().unwrap_or(first);
    let end = boot.ready_us.unwrap_or(boot.initcalls_us).max(boot.initcalls_us);
    let phases = [
        ("configuration", "configuration", 0, read),
        ("files", "plugin files", read, first),
        ("own", "initcalls", first, boot.initcalls_us),
        ("setups", "setups of the namespaces that were there", boot.initcalls_us, end),
    ];
    let scale = (WIDTH - 2.0 * MARGIN) / float(end.max(1));
    let mut words = MARGIN;
    for (class, word, from, to) in phases {
        let tip = format!("{word}: {}", time(to.saturating_sub(from)));
        let (x, long) = (MARGIN + float(from) * scale, float(to.saturating_sub(from)) * scale);
        svg.rect(class, (x, y), (long, 16.0), &tip);
        words = key(svg, class, words, y + 34.0, &tip);
    }
    y + 34.0
}

fn legend(svg: &mut Svg, y: f64) -> f64 {
    let words = [
        ("own", "ok, pernetd's own"),
        ("plugin", "ok, a plugin's (hooks in turn in two shades)"),
        ("failed", "failed"),
        ("blacklisted", "not called: blacklisted"),
        ("refused", "not called: refused"),
        ("other", "not in a hook"),
    ];
    words.iter().fold(MARGIN, |x, (class, word)| key(svg, class, x, y + 8.0, word));
    y + 8.0
}

fn first_call(boot: &BootRecord) -> u64 {
    boot.initcalls.iter().filter_map(|call| call.start_us).min().unwrap_or(boot.initcalls_us)
}

fn initcalls(boot: &BootRecord) -> Section {
    let first = first_call(boot);
    let mut groups: Vec<Group> = Vec::new();
    for call in &boot.initcalls {
        let label = call.level.clone().unwrap_or_else(|| "no turn".to_owned());
        match groups.last_mut() {
            Some(group) if group.label == label => group.rows.push(initcall(call, first)),
            _ => groups.push(Group { label, rows: vec![initcall(call, first)] }),
        }
    }
    let span = boot.initcalls_us.saturating_sub(first);
    let title = format!("Initcalls by level: {} from the first, {} after the start", time(span), time(first));
    Section { title, groups, span, room: 80.0 }
}

fn initcall(call: &Initcall, first: u64) -> Row {
    let from = call.start_us.map_or(0, |start| start.saturating_sub(first));
    let class = match call.result {
        InitcallResult::ok if call.name.starts_with("plugin.") => "plugin",
        InitcallResult::ok => "own",
        InitcallResult::failed => "failed",
        InitcallResult::blacklisted => "blacklisted",
        InitcallResult::refused => "refused",
    };
    let error = call.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    let word = call.result.as_str();
    let note = match call.result {
        InitcallResult::ok => time(call.duration_us),
        InitcallResult::failed => format!("{} {word}{error}", time(call.duration_us)),
        InitcallResult::blacklisted => call.error.clone().unwrap_or_else(|| word.to_owned()),
        InitcallResult::refused => format!("{word}{error}"),
    };
    let tip = format!("{}: {note}", call.name);
    let bar = Bar { class, from, took: call.duration_us, tip };
    Row {
        name: call.name.clone(),
        bars: was_called(call).then_some(bar).into_iter().collect(),
        mark: from,
        class,
        note,
    }
}

/// The slowest and, where there are enough for one, the median.
fn setups(all: &[NetnsSetup]) -> Section {
    let mut slowest: Vec<&NetnsSetup> = all.iter().collect();
    slowest.sort_by_key(|setup| std::cmp::Reverse(setup.total_us));
    let span = slowest.first().map_or(0, |setup| setup.total_us);
    let shown = slowest.iter().take(SLOWEST).map(|setup| setup_row(setup)).collect();
    let mut groups = vec![Group { label: "slowest".to_owned(), rows: shown }];
    let count = all.len();
    if count > 2 {
        groups.push(Group { label: "median".to_owned(), rows: vec![setup_row(slowest[count / 2])] });
    }
    let title = match count {
        _ if count > SLOWEST => {
            format!("Last setups: the slowest {SLOWEST} of {count} namespaces, from their beginning")
        }
        _ => format!("Last setups of all {count} namespaces, from their beginning"),
    };
    Section { title, groups, span, room: 350.0 }
}

/// One namespace's setup, a row for each hook.
fn hooks(setup: &NetnsSetup) -> Section {
    let row = |(n, hook): (usize, &SetupHook)| {
        let bar = hook_bar(n, hook);
        let (class, error) = match &hook.error {
            Some(error) => ("failed", format!(" {error}")),
            None => ("note", String::new()),
        };
        let note = format!("{}{error}", time(hook.duration_us));
        Row { name: called(hook), bars: vec![bar], mark: hook.start_us, class, note }
    };
    let mut rows: Vec<Row> = setup.hooks.iter().enumerate().map(row).collect();
    if setup.left_off > 0 {
        let note = format!("and {} more, which are not kept", setup.left_off);
        rows.push(Row { name: String::new(), bars: Vec::new(), mark: setup.total_us, class: "other", note });
    }
    let title = format!("Last setup of {}: {}", setup.netns, said_of(setup).1);
    Section { title, groups: vec![Group { label: "hooks".to_owned(), rows }], span: setup.total_us, room: 80.0 }
}

fn hook_bar(n: usize, hook: &SetupHook) -> Bar {
    let error = hook.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    let class = if hook.error.is_some() { "failed" } else { ["plugin", "second"][n % 2] };
    let tip = format!("{} {}{error}", called(hook), time(hook.duration_us));
    Bar { class, from: hook.start_us, took: hook.duration_us, tip }
}

fn setup_row(setup: &NetnsSetup) -> Row {
    let (class, note) = said_of(setup);
    let mut bars = vec![Bar { class: "other", from: 0, took: setup.total_us, tip: format!("{}: {note}", setup.netns) }];
    let mut hooks: Vec<_> = setup.hooks.iter().collect();
    // One that another caused lies upon it.
    hooks.sort_by_key(|hook| hook.start_us);
    bars.extend(hooks.into_iter().enumerate().map(|(n, hook)| hook_bar(n, hook)));
    Row { name: setup.netns.clone(), bars, mark: 0, class, note }
}

/// The total and the slowest hook; or what went wrong.
fn said_of(setup: &NetnsSetup) -> (&'static str, String) {
    let total = time(setup.total_us);
    let error = setup.hooks.iter().find_map(|hook| Some(format!(": {}: {}", called(hook), hook.error.as_ref()?)));
    if error.is_some() || setup.state != NetnsState::live {
        return ("failed", format!("{total} {}{}", setup.state.as_str(), error.unwrap_or_default()));
    }
    let slowest = setup.hooks.iter().max_by_key(|hook| hook.duration_us);
    let slowest = slowest.map(|hook| format!(", slowest {} {}", called(hook), time(hook.duration_us)));
    let count = setup.hooks.len() as u64 + setup.left_off;
    ("note", format!("{total}, {count} hooks{}", slowest.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::super::plot::SIZE;
    use super::super::svg::width;
    use super::*;
    use crate::control::wire::HookResult;
    use proptest::prelude::*;

    /// Where a text lies, by the widths that the drawing itself reckons with.
    struct Box {
        text: String,
        x: (f64, f64),
        y: f64,
    }

    fn texts(document: &roxmltree::Document<'_>) -> Vec<Box> {
        let texts = document.descendants().filter(|node| node.has_tag_name("text"));
        let number = |node: &roxmltree::Node<'_, '_>, name: &str| -> f64 {
            node.attribute(name).and_then(|value| value.parse().ok()).expect("a number")
        };
        texts
            .map(|node| {
                let text = node.text().unwrap_or_default().to_owned();
                let size = match node.attribute("class") {
                    Some("title") => 18.0,
                    Some("section") => 13.0,
                    _ => SIZE,
                };
                let (x, wide) = (number(&node, "x"), width(&text, size));
                let x = if node.attribute("text-anchor") == Some("end") { (x - wide, x) } else { (x, x + wide) };
                Box { text, x, y: number(&node, "y") }
            })
            .collect()
    }

    /// Valid XML, every text within the picture, and none on another.
    fn check(boot: &BootRecord) -> Result<(), TestCaseError> {
        let drawn = draw(boot);
        let document = roxmltree::Document::parse(&drawn).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let texts = texts(&document);
        for (n, a) in texts.iter().enumerate() {
            prop_assert!(a.x.0 >= 0.0 && a.x.1 <= WIDTH + 0.5, "{:?} stands out of the picture: {:?}", a.text, a.x);
            for b in texts[..n].iter().filter(|b| (a.y - b.y).abs() < SIZE) {
                prop_assert!(a.x.1 <= b.x.0 + 0.5 || b.x.1 <= a.x.0 + 0.5, "{:?} lies on {:?}", a.text, b.text);
            }
        }
        let plain =
            |name: &str| name.len() < 30 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        for call in boot.initcalls.iter().filter(|call| plain(&call.name)) {
            prop_assert!(texts.iter().any(|it| it.text == call.name), "{} is not there", call.name);
        }
        Ok(())
    }

    fn name() -> impl Strategy<Value = String> {
        prop_oneof!["[a-z_]{1,12}", "plugin\\.[a-z0-9-]{1,64}", "\\PC{1,40}", "[<>&\"'\u{1}-\u{1f}a-z]{1,60}"]
    }

    fn us() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), 0..50u64, 0..100_000u64, 0..60_000_000u64]
    }

    prop_compose! {
        fn call()(
            (name, level, turn) in (name(), prop::option::weighted(0.9, 0..8usize), any::<bool>()),
            (start, took, read, result) in (us(), us(), prop::option::of((us(), us())), 0..4),
            error in prop::option::of("\\PC{0,200}"),
        ) -> Initcall {
            let result = match result {
                0 => InitcallResult::ok,
                1 => InitcallResult::failed,
                2 => InitcallResult::blacklisted,
                _ => InitcallResult::refused,
            };
            let level = level.map(|n| crate::engine::Level::ALL[n].as_str().to_owned());
            let start_us = turn.then_some(start);
            Initcall {
                name, level, start_us, duration_us: took, prepare_start_us: read.map(|r| r.0), prepare_us: read.map(|r| r.1),
                errno: error.as_ref().map(|_| 5), error, result,
            }
        }
    }

    prop_compose! {
        fn hook()(plugin in name(), start_us in us(), duration_us in us(), device in prop::option::of("[a-z]{1,15}"), bad in 0..8)
            -> SetupHook
        {
            let error = (bad == 0).then(|| "net.x: <no> such key".to_owned());
            let result = if bad == 0 { HookResult::error } else { HookResult::ok };
            SetupHook { plugin, hook: "pernet.init".to_owned(), device, start_us, duration_us, result, error }
        }
    }

    prop_compose! {
        fn setup()(netns in name(), hooks in prop::collection::vec(hook(), 0..6), left in 0..2u64, more in us(), bad in 0..4)
            -> NetnsSetup
        {
            let state = if bad == 0 { NetnsState::failed } else { NetnsState::live };
            let total_us = hooks.iter().map(|h| h.start_us + h.duration_us).max().unwrap_or(0) + more;
            NetnsSetup { netns, cookie: 1, time: String::new(), state, total_us, hooks, left_off: left }
        }
    }

    prop_compose! {
        fn boot()(
            initcalls in prop::collection::vec(call(), 0..20),
            setups in prop::collection::vec(setup(), 0..16),
            more in prop::option::of(us()),
        ) -> BootRecord {
            let ends = initcalls.iter().filter_map(|call| Some(call.start_us? + call.duration_us));
            let initcalls_us = ends.max().unwrap_or(0);
            let ready_us = more.map(|more| initcalls_us + more);
            let time = "2026-11-22T01:02:03.000004Z".to_owned();
            BootRecord { version: "0.1.0".to_owned(), time, initcalls_us, ready_us, initcalls, setups }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_boot_is_drawn_with_no_text_on_another(boot in boot()) {
            check(&boot)?;
        }
    }

    #[test]
    fn ticks_are_round_and_few() {
        for (scale, step) in [(1000.0, 1), (72.0, 1), (40.0, 2), (20.0, 5), (0.5, 200), (0.0001, 1_000_000)] {
            assert_eq!(super::super::plot::round_step(scale), step, "{scale} to a microsecond");
        }
    }
}
