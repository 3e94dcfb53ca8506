//! Rows on time axes: where bars, names and words of a chart lie, so that none lies on another.
//!
//! Names have a column, groups another before it; what is said of a bar stands beside it, where there is room. What the
//! rows are is `chart.rs`'s, the shapes are `svg.rs`'s.

use super::boot::time;
use super::svg::{Anchor, Svg, fit, width};

pub(super) const WIDTH: f64 = 1200.0;
pub(super) const MARGIN: f64 = 24.0;
/// Where the names' column begins: before it, the groups have theirs.
const NAMES: f64 = 112.0;
/// The names' column is no wider than this.
const NAME_MOST: f64 = 260.0;
const ROW: f64 = 20.0;
const BAR: f64 = 12.0;
pub(super) const SIZE: f64 = 11.0;
/// From tick to tick at least.
const TICK: f64 = 72.0;
/// Shorter bars could not be seen.
const BAR_LEAST: f64 = 2.0;

/// A stretch of time in a row, in microseconds of its section's axis.
pub(super) struct Bar {
    pub(super) class: &'static str,
    pub(super) from: u64,
    pub(super) took: u64,
    pub(super) tip: String,
}

/// One line: its name, its bars or, where there is none, a mark at a time; and what is said of it.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) bars: Vec<Bar>,
    pub(super) mark: u64,
    pub(super) class: &'static str,
    pub(super) note: String,
}

/// Rows under one word.
pub(super) struct Group {
    pub(super) label: String,
    pub(super) rows: Vec<Row>,
}

/// Rows with one axis, as long as `span`, and room behind it for what is said of the last bar.
pub(super) struct Section {
    pub(super) title: String,
    pub(super) groups: Vec<Group>,
    pub(super) span: u64,
    pub(super) room: f64,
}

/// Where a section's bars lie.
struct Plot {
    left: f64,
    scale: f64,
    span: u64,
}

impl Plot {
    fn x(&self, us: u64) -> f64 {
        // What cannot be later than the end is not drawn there either, whatever the daemon says.
        self.left + float(us.min(self.span)) * self.scale
    }
}

/// Draws a section below `y`; where it ends.
pub(super) fn section(svg: &mut Svg, section: &Section, y: f64) -> f64 {
    svg.text("section", Anchor::Start, (MARGIN, y), &fit(&section.title, 14.0, WIDTH - 2.0 * MARGIN));
    let rows = section.groups.iter().flat_map(|group| &group.rows);
    let names = rows.map(|row| width(&row.name, SIZE)).fold(0.0, f64::max).min(NAME_MOST);
    let left = NAMES + names + 12.0;
    let scale = (WIDTH - MARGIN - section.room - left) / float(section.span.max(1));
    let plot = Plot { left, scale, span: section.span };
    let top = y + 28.0;
    let height = section.groups.iter().map(|group| ROW * float(group.rows.len() as u64)).sum::<f64>();
    let mut y = top;
    for (n, group) in section.groups.iter().enumerate() {
        let high = ROW * float(group.rows.len() as u64);
        if n % 2 == 0 {
            svg.rect("band", (MARGIN, y), (WIDTH - 2.0 * MARGIN, high), "");
        }
        y += high;
    }
    axis(svg, &plot, section.span, (top, top + height));
    let mut y = top;
    for group in &section.groups {
        svg.text("group", Anchor::Start, (MARGIN + 6.0, y + 14.0), &group.label);
        for row in &group.rows {
            draw_row(svg, &plot, row, names, y);
            y += ROW;
        }
    }
    y
}

/// Ticks at round times, with lines down the rows.
fn axis(svg: &mut Svg, plot: &Plot, span: u64, (top, bottom): (f64, f64)) {
    let step = round_step(plot.scale);
    let mut next = Some(0_u64);
    while let Some(at) = next.filter(|at| *at <= span) {
        let x = plot.x(at);
        svg.upright("grid", x, (top - 4.0, bottom));
        let word = time(at);
        svg.text("tick", Anchor::Start, (x - 2.0, top - 7.0), &word);
        next = at.checked_add(step);
    }
}

/// The least of 1, 2 and 5 times a power of ten that leaves room for a tick's word.
pub(super) fn round_step(scale: f64) -> u64 {
    let steps = (0..18).flat_map(|power| [1, 2, 5].map(|n| n * 10_u64.pow(power)));
    steps.into_iter().find(|step| float(*step) * scale >= TICK).unwrap_or(u64::MAX)
}

fn draw_row(svg: &mut Svg, plot: &Plot, row: &Row, names: f64, y: f64) {
    let base = y + 14.0;
    svg.text("name", Anchor::End, (NAMES + names, base), &fit(&row.name, SIZE, names));
    let top = y + (ROW - BAR) / 2.0;
    let (mut from, mut to) = (plot.x(row.mark), plot.x(row.mark));
    if row.bars.is_empty() {
        svg.circle(row.class, (from.max(plot.left + 4.0), y + ROW / 2.0), 4.0, &row.note);
        to = from.max(plot.left + 4.0) + 4.0;
    }
    for bar in &row.bars {
        let x = plot.x(bar.from);
        let long = (plot.x(bar.from.saturating_add(bar.took)) - x).max(BAR_LEAST);
        svg.rect(bar.class, (x, top), (long, BAR), &bar.tip);
        (from, to) = (from.min(x), to.max(x + long));
    }
    note(svg, plot, row, (from, to), base);
}

/// Beside the bar: after it if there is room, else before it, else where there is more.
fn note(svg: &mut Svg, plot: &Plot, row: &Row, (from, to): (f64, f64), y: f64) {
    let class = if matches!(row.class, "own" | "plugin") { "note" } else { row.class };
    let (before, after) = (from - 6.0 - plot.left, WIDTH - MARGIN - to - 6.0);
    let wide = width(&row.note, SIZE);
    if wide <= after || after >= before {
        svg.text(class, Anchor::Start, (to + 6.0, y), &fit(&row.note, SIZE, after));
    } else {
        svg.text(class, Anchor::End, (from - 6.0, y), &fit(&row.note, SIZE, before));
    }
}

#[allow(clippy::cast_precision_loss)] // 2^53 microseconds are 285 years.
pub(super) fn float(us: u64) -> f64 {
    us as f64
}

/// A coloured square and its word; where the next one can begin.
pub(super) fn key(svg: &mut Svg, class: &str, x: f64, y: f64, word: &str) -> f64 {
    svg.rect(class, (x, y - 9.0), (10.0, 10.0), "");
    svg.text("quiet", Anchor::Start, (x + 15.0, y), word);
    x + 15.0 + width(word, SIZE) + 18.0
}
