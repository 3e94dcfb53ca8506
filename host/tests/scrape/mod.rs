//! A scrape as Prometheus makes it: a request over HTTP, and the text format read strictly.
//!
//! Written from the format's description, not from what the plugin writes: whatever breaks a rule of it panics here.
#![allow(dead_code, unreachable_pub)] // Each test binary uses its own part of this.
#![allow(clippy::unwrap_used)] // A test ends where something that must work does not.

use std::collections::{BTreeMap, HashSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Where the plugin listens unless it is told otherwise.
pub const DEFAULT: &str = "127.0.0.1:9964";

/// An answer over HTTP.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

pub fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap_or_else(|e| panic!("{address}: {e}"));
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// Sends these bytes and reads to the end.
pub fn exchange(address: &str, request: &[u8]) -> Answer {
    let mut stream = connect(address);
    stream.write_all(request).unwrap();
    answer(stream)
}

/// Reads to the end.
pub fn answer(mut stream: TcpStream) -> Answer {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text}"));
    let status = head.strip_prefix("HTTP/1.1 ").unwrap()[..3].parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

pub fn request(method: &str, path: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes()
}

/// The text of a scrape.
pub fn text(address: &str) -> String {
    let answer = exchange(address, &request("GET", "/metrics"));
    assert_eq!(answer.status, 200, "{}", answer.head);
    assert!(answer.head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{}", answer.head);
    assert!(answer.head.contains(&format!("\r\nContent-Length: {}\r\n", answer.body.len())), "{}", answer.head);
    answer.body
}

/// A scrape, understood.
#[derive(Debug, Default)]
pub struct Scrape {
    /// By name and labels, as in the text, the labels without escapes.
    pub series: BTreeMap<(String, Vec<(String, String)>), f64>,
    pub types: BTreeMap<String, String>,
}

impl Scrape {
    pub fn of(address: &str) -> Scrape {
        Scrape::read(&text(address))
    }

    /// The value of the one series with these labels, among others that it may have; none if there is none.
    #[track_caller]
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let has = |all: &[(String, String)]| labels.iter().all(|(n, v)| all.iter().any(|(an, av)| an == n && av == v));
        let found: Vec<f64> =
            self.series.iter().filter(|((n, all), _)| n == name && has(all)).map(|(_, value)| *value).collect();
        assert!(found.len() <= 1, "{name} {labels:?} is {} series", found.len());
        found.first().copied()
    }

    /// All values that a label has.
    pub fn values(&self, label: &str) -> Vec<String> {
        let mut values: Vec<String> = self
            .series
            .keys()
            .flat_map(|(_, labels)| labels)
            .filter(|(n, _)| n == label)
            .map(|(_, v)| v.clone())
            .collect();
        values.sort();
        values.dedup();
        values
    }

    /// How many series have this label's value.
    pub fn count(&self, label: &str, value: &str) -> usize {
        self.series.keys().filter(|(_, labels)| labels.iter().any(|(n, v)| n == label && v == value)).count()
    }

    /// Reads a text, and judges it.
    pub fn read(text: &str) -> Scrape {
        let mut scrape = Scrape::default();
        let (mut family, mut seen) = (String::new(), HashSet::new());
        assert!(text.ends_with('\n'));
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap_or_else(|| panic!("no help: {line}"));
                assert!(!help.trim().is_empty() && is_name(name), "{line}");
                assert!(seen.insert(name.to_owned()), "{name} comes twice");
                let kind = lines.next().and_then(|next| next.strip_prefix(&format!("# TYPE {name} ")));
                let kind = kind.unwrap_or_else(|| panic!("no type of {name}"));
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{kind}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
                scrape.types.insert(name.to_owned(), kind.to_owned());
                family = name.to_owned();
                continue;
            }
            let (name, labels, value) = sample(line);
            let suffix = name.strip_prefix(&family).unwrap_or_else(|| panic!("{line} stands in {family}"));
            let histogram = scrape.types[&family] == "histogram";
            assert!(
                suffix.is_empty() != histogram
                    && (suffix.is_empty() || ["_bucket", "_sum", "_count"].contains(&suffix)),
                "{line}"
            );
            assert!(scrape.types[&family] != "counter" || value >= 0.0, "{line}");
            assert!(scrape.series.insert((name, labels), value).is_none(), "twice: {line}");
        }
        scrape
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

fn sample(line: &str) -> (String, Vec<(String, String)>, f64) {
    let end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no sample: {line}"));
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name), "{line}");
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, value) = rest.split_once("=\"").unwrap_or_else(|| panic!("no label: {line}"));
            assert!(is_name(label), "{line}");
            let (value, after) = unescape(value, line);
            labels.push((label.to_owned(), value));
            rest = after;
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').unwrap_or_else(|| panic!("open: {line}"));
    }
    let value = rest.strip_prefix(' ').unwrap_or_else(|| panic!("no value: {line}"));
    (name.to_owned(), labels, value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
}

fn unescape<'a>(text: &'a str, line: &str) -> (String, &'a str) {
    let (mut value, mut chars) = (String::new(), text.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.push(match chars.next().map(|(_, c)| c) {
                Some('n') => '\n',
                Some(c @ ('\\' | '"')) => c,
                other => panic!("escape {other:?} in {line}"),
            }),
            c => value.push(c),
        }
    }
    panic!("no end of a label: {line}")
}
