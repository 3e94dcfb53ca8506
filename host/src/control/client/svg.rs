//! SVG as text: the few shapes that a chart needs, with everything that comes from outside escaped.
//!
//! It also knows, near enough, how wide a text is, so that who places texts can keep them apart. What a chart shows is
//! `chart.rs`'s.

use std::fmt::Write;

/// A drawing, from top to bottom in the order of the calls.
pub(super) struct Svg {
    body: String,
}

/// Which end of a text its place is.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    End,
}

impl Svg {
    pub(super) fn new() -> Svg {
        Svg { body: String::new() }
    }

    /// A filled rectangle; `tip` is what is shown when somebody points at it.
    pub(super) fn rect(&mut self, class: &str, (x, y): (f64, f64), (width, height): (f64, f64), tip: &str) {
        let _ = write!(
            self.body,
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\""
        );
        self.close("rect", tip);
    }

    /// A circle.
    pub(super) fn circle(&mut self, class: &str, (x, y): (f64, f64), radius: f64, tip: &str) {
        let _ = write!(self.body, "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\"");
        self.close("circle", tip);
    }

    /// An upright line.
    pub(super) fn upright(&mut self, class: &str, x: f64, (from, to): (f64, f64)) {
        let _ = writeln!(
            self.body,
            "<line class=\"{class}\" x1=\"{x:.1}\" y1=\"{from:.1}\" x2=\"{x:.1}\" y2=\"{to:.1}\"/>"
        );
    }

    /// One line of text, of which `y` is the base line.
    pub(super) fn text(&mut self, class: &str, anchor: Anchor, (x, y): (f64, f64), text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::End => "end",
        };
        let text = escape(text);
        let _ = writeln!(
            self.body,
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        );
    }

    fn close(&mut self, element: &str, tip: &str) {
        let _ = match tip {
            "" => writeln!(self.body, "/>"),
            tip => writeln!(self.body, "><title>{}</title></{element}>", escape(tip)),
        };
    }

    /// The whole document, on a white ground.
    pub(super) fn document(&self, (width, height): (f64, f64), title: &str, style: &str) -> String {
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" \
             height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\">\n<title>{}</title>\n\
             <style>\n{style}</style>\n<rect x=\"0\" y=\"0\" width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{}</svg>\n",
            escape(title),
            self.body
        )
    }
}

/// What XML 1.0 can say of a text: what it cannot becomes the replacement character.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\u{fffe}' | '\u{ffff}' => escaped.push(char::REPLACEMENT_CHARACTER),
            // Line ends and tabs would be folded into spaces anyway.
            '\n' | '\t' => escaped.push(' '),
            c if c.is_control() => escaped.push(char::REPLACEMENT_CHARACTER),
            c => escaped.push(c),
        }
    }
    escaped
}

/// How wide a text is at this size, in the widest of the usual sans-serif fonts.
pub(super) fn width(text: &str, size: f64) -> f64 {
    let ems = |c: char| match c {
        'i' | 'j' | 'l' | '\'' => 0.29,
        '.' | ',' | ':' | ';' | '|' | '/' | ' ' => 0.35,
        'f' | 'r' | 't' | '-' | '(' | ')' => 0.42,
        's' | 'c' | 'z' | 'k' | 'v' | 'x' | 'y' | '_' | '`' => 0.60,
        'm' | 'M' | 'W' | '%' | '@' => 1.0,
        'A'..='Z' | 'w' => 0.82,
        c if c.is_ascii() && !c.is_control() => 0.65,
        '\u{80}'..='\u{24f}' => 0.85,
        _ => 1.1,
    };
    text.chars().map(ems).sum::<f64>() * size
}

/// As much of a text as there is room for.
pub(super) fn fit(text: &str, size: f64, room: f64) -> String {
    if width(text, size) <= room {
        return text.to_owned();
    }
    let mut fitting = String::new();
    let mut used = width("…", size);
    for c in text.chars() {
        used += width(c.encode_utf8(&mut [0; 4]), size);
        if used > room {
            break;
        }
        fitting.push(c);
    }
    fitting + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_xml_cannot_say_is_replaced() {
        assert_eq!(escape("a<b> & \"c\""), "a&lt;b&gt; &amp; &quot;c&quot;");
        assert_eq!(escape("a\u{1}\u{ffff}\u{7f}\nb\u{e4}"), "a\u{fffd}\u{fffd}\u{fffd} b\u{e4}");
    }

    #[test]
    fn a_text_that_is_too_long_is_cut_to_its_room() {
        assert_eq!(fit("short", 11.0, 100.0), "short");
        let cut = fit(&"x".repeat(100), 11.0, 100.0);
        assert!(cut.ends_with("x…") && width(&cut, 11.0) <= 100.0, "{cut}");
        assert_eq!(fit("anything", 11.0, 0.0), "…");
    }
}
