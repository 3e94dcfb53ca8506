//! As much of HTTP/1.1 as a scrape needs: one request of a connection, its head bounded, its answer with a length.
//!
//! Why this is no library's: ARCHITECTURE.md.

use std::fmt::Write;

/// A longer head is refused.
pub(crate) const HEAD: usize = 8 * 1024;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// `/metrics`; false without the text itself (HEAD).
    Metrics(bool),
    /// `/`, likewise.
    Index(bool),
}

/// An answer that is none to the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    BadRequest,
    NotFound,
    MethodNotAllowed,
    Timeout,
    TooLarge,
    Version,
    Unavailable,
}

/// Whether the head is there as a whole: it ends with an empty line.
pub(crate) fn is_whole(head: &[u8]) -> bool {
    head.windows(4).any(|end| end == b"\r\n\r\n") || head.windows(2).any(|end| end == b"\n\n")
}

/// Understands a whole head. Its fields do not matter: every answer is the same.
pub(crate) fn understand(head: &[u8]) -> Result<Asked, Refused> {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = std::str::from_utf8(line.strip_suffix(b"\r").unwrap_or(line)).map_err(|_| Refused::BadRequest)?;
    let mut words = line.split(' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Refused::BadRequest);
    };
    match version.strip_prefix("HTTP/") {
        Some("1.0" | "1.1") => {}
        Some(_) => return Err(Refused::Version),
        None => return Err(Refused::BadRequest),
    }
    if method.is_empty()
        || !method.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    {
        return Err(Refused::BadRequest);
    }
    let path = path(target).ok_or(Refused::BadRequest)?;
    let asked = match path {
        "/metrics" => Asked::Metrics,
        "/" => Asked::Index,
        _ => return Err(Refused::NotFound),
    };
    match method {
        "GET" => Ok(asked(true)),
        "HEAD" => Ok(asked(false)),
        _ => Err(Refused::MethodNotAllowed),
    }
}

/// Without the query; a proxy names the host, too.
fn path(target: &str) -> Option<&str> {
    let path = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    };
    let path = path.split(['?', '#']).next()?;
    path.starts_with('/').then_some(path)
}

impl Refused {
    fn status(self) -> (&'static str, &'static str) {
        match self {
            Refused::BadRequest => ("400 Bad Request", "this is no request of HTTP/1.1\n"),
            Refused::NotFound => ("404 Not Found", "there is nothing here; metrics are at /metrics\n"),
            Refused::MethodNotAllowed => ("405 Method Not Allowed", "only GET and HEAD are answered\n"),
            Refused::Timeout => ("408 Request Timeout", "the request did not come as a whole in time\n"),
            Refused::TooLarge => ("431 Request Header Fields Too Large", "the head of a request may have 8 KiB\n"),
            Refused::Version => ("505 HTTP Version Not Supported", "HTTP/1.0 and HTTP/1.1 are answered\n"),
            Refused::Unavailable => ("503 Service Unavailable", "pernetd's plugin metrics is ending\n"),
        }
    }

    /// The whole answer.
    pub(crate) fn answer(self) -> Vec<u8> {
        let (status, text) = self.status();
        let allow = if self == Refused::MethodNotAllowed { "Allow: GET, HEAD\r\n" } else { "" };
        let mut answer = head(status, "text/plain; charset=utf-8", text.len(), allow);
        answer.extend_from_slice(text.as_bytes());
        answer
    }
}

/// For a person with a browser.
pub(crate) const INDEX: &str =
    "<!DOCTYPE html>\n<title>pernetd</title>\n<p>pernetd: <a href=\"/metrics\">metrics</a></p>\n";

/// The head of an answer that is one.
pub(crate) fn found(asked: Asked, length: usize) -> Vec<u8> {
    let kind = match asked {
        Asked::Metrics(_) => "text/plain; version=0.0.4; charset=utf-8",
        Asked::Index(_) => "text/html; charset=utf-8",
    };
    head("200 OK", kind, length, "")
}

fn head(status: &str, kind: &str, length: usize, more: &str) -> Vec<u8> {
    let mut head = String::new();
    let _ = write!(
        head,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n{more}\r\n"
    );
    head.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Asked, Refused> {
        understand(format!("{line}\r\nHost: a\r\n\r\n").as_bytes())
    }

    #[test]
    fn requests_are_understood() {
        for (line, asked) in [
            ("GET /metrics HTTP/1.1", Ok(Asked::Metrics(true))),
            ("GET /metrics?name=a HTTP/1.0", Ok(Asked::Metrics(true))),
            ("HEAD /metrics HTTP/1.1", Ok(Asked::Metrics(false))),
            ("GET http://host:1/metrics HTTP/1.1", Ok(Asked::Metrics(true))),
            ("GET http://host HTTP/1.1", Ok(Asked::Index(true))),
            ("HEAD / HTTP/1.1", Ok(Asked::Index(false))),
            ("GET /metrics/ HTTP/1.1", Err(Refused::NotFound)),
            ("GET /../metrics HTTP/1.1", Err(Refused::NotFound)),
            ("POST /metrics HTTP/1.1", Err(Refused::MethodNotAllowed)),
            ("POST /else HTTP/1.1", Err(Refused::NotFound)),
            ("GET /metrics HTTP/2.0", Err(Refused::Version)),
            ("GET /metrics", Err(Refused::BadRequest)),
            ("GET  /metrics HTTP/1.1", Err(Refused::BadRequest)),
            ("GET metrics HTTP/1.1", Err(Refused::BadRequest)),
            ("G(T /metrics HTTP/1.1", Err(Refused::BadRequest)),
            ("\u{16}\u{3}\u{1}", Err(Refused::BadRequest)),
            ("", Err(Refused::BadRequest)),
        ] {
            assert_eq!(of(line), asked, "{line}");
        }
        assert_eq!(understand(b"GET /\xff HTTP/1.1\r\n\r\n"), Err(Refused::BadRequest));
        assert_eq!(understand(b"GET / HTTP/1.1\n\n"), Ok(Asked::Index(true)));
    }

    #[test]
    fn a_head_ends_with_an_empty_line() {
        assert!(is_whole(b"GET / HTTP/1.1\r\n\r\n") && is_whole(b"GET / HTTP/1.1\n\n"));
        assert!(!is_whole(b"GET / HTTP/1.1\r\nHost: a\r\n"));
    }

    #[test]
    fn answers_have_a_length() {
        let answer = String::from_utf8(Refused::MethodNotAllowed.answer()).expect("ASCII");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an empty line");
        assert!(head.starts_with("HTTP/1.1 405 ") && head.contains("\r\nAllow: GET, HEAD"), "{head}");
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
    }
}
