//! What exists: which namespaces are named, and what becomes of the names.
//!
//! Source threads that translate the kernel's news into [`Observation`]s; they keep only what they need to tell a change
//! from a repetition. What an observation means (a life, a death, another name of the same namespace) the engine decides.
//!
//! Two methods, the same view: mount events (`fanotify.rs`), or folder events with a look at the mount table
//! (`inotify.rs`). Both only learn *where* to look; what a name shows is always read from the name itself (`seen.rs`), so
//! that a late or lost event can delay the truth but not falsify it.
//!
//! Links are another stream, of the namespaces that somebody subscribed (`links.rs`).

mod fanotify;
mod folders;
mod inotify;
mod link_reader;
mod link_socket;
pub mod links;
mod mountinfo;
pub mod nsid;
mod pending;
mod seen;
mod statmount;

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::thread;

use pernet_plugin_api::NetCookie;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::linux::ns::Pin;
use crate::linux::nsfs;

/// A name and what it shows.
#[derive(Debug)]
pub struct NamedNs {
    /// The folder as configured, and the name in it.
    pub path: PathBuf,
    /// The inode of the namespace. Who is told of a name holds its namespace until told otherwise, so that meanwhile no other
    /// can have this inode.
    pub inode: u64,
    /// Which namespace it is, with a pin that is not opened through the mount; `None` where only entering can tell. Then
    /// `linux::ns::identify_as` can, on a worker thread. Where that fails the name may have shown something else for just
    /// that moment, without further news: try again after a while, unless another observation of the name came.
    pub identity: Option<(NetCookie, Pin)>,
}

/// One piece of news.
#[derive(Debug)]
pub enum Observation {
    /// The name shows this namespace now, whatever it showed before.
    Name(NamedNs),
    /// The name shows no namespace any more.
    NoName(PathBuf),
    /// These names and no others.
    Snapshot(Vec<NamedNs>),
}

/// What one drained queue of the kernel told: only at its end may a namespace without names be taken for dead.
#[derive(Debug)]
pub struct Batch(pub Vec<Observation>);

/// How changes are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Mount events (Linux 6.15): no race, and no cost that grows with the number of mounts.
    Fanotify,
    /// Folder events and the mount table.
    Inotify,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Method::Fanotify => "fanotify",
            Method::Inotify => "inotify",
        })
    }
}

/// What to watch, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// `None`: the best that this kernel has.
    pub method: Option<Method>,
    /// In order of preference; they need not exist yet, and may be symbolic links.
    pub folders: Vec<PathBuf>,
    /// Identify names by nsfs file handles where the kernel has them; `false` is what kernels before 6.18 do.
    pub handles: bool,
}

/// Takes the batches; called on the source thread, which waits for it.
pub type Sink = Box<dyn Fn(Batch) + Send>;

/// A running source. It ends when this is dropped.
#[derive(Debug)]
pub struct Started {
    /// The method in use.
    pub method: Method,
    /// Why this one, for the log and the status.
    pub why: String,
    control: OwnedFd,
}

impl Started {
    /// Looks at everything anew: a `Snapshot` follows.
    pub fn rescan(&self) {
        // The pipe is full of requests already, or the thread has ended: nothing to do in either case.
        let _ = rustix::io::write(&self.control, b"r");
    }
}

/// Why there is no discovery.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel or its policy does not give what the method needs.
    #[error("discovery by {method} does not work here: {what}: {source}")]
    Unavailable {
        /// The method that was asked for, or the last one tried.
        method: Method,
        /// Which facility.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// No thread.
    #[error("cannot start the discovery thread: {0}")]
    Thread(io::Error),
}

impl Error {
    /// As the kernel said it.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Unavailable { source, .. } | Error::Thread(source) => source.raw_os_error(),
        }
    }
}

fn unavailable(method: Method, what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Unavailable { method, what, source }
}

/// Whether the method works here, without starting anything.
///
/// # Errors
/// What it lacks.
pub fn available(method: Method) -> Result<(), Error> {
    match method {
        Method::Fanotify => fanotify::Subscription::new().map(drop),
        Method::Inotify => inotify::Subscription::new().map(drop),
    }
}

/// Starts a source thread. Its first batch is a `Snapshot`, even of nothing; subscribing comes before that scan.
///
/// # Errors
/// When the method asked for (or, if none was, any method) does not work here.
pub fn start(options: Options, send: Sink) -> Result<Started, Error> {
    let preferred = options.method.unwrap_or(Method::Fanotify);
    let refused = match preferred {
        Method::Fanotify => match fanotify::Subscription::new() {
            Ok(subscription) => return spawn_fanotify(subscription, options, send),
            Err(refused) if options.method.is_some() => return Err(refused),
            Err(refused) => Some(refused),
        },
        Method::Inotify => None,
    };
    let why = refused.map_or("asked for by configuration".to_owned(), |refused| refused.to_string());
    let why = describe(why, &options);
    let subscription = inotify::Subscription::new()?;
    let (control, requests) = control_pipe(Method::Inotify)?;
    let source = inotify::Source::new(subscription, requests, options, send);
    spawn("discovery", move || source.run())?;
    Ok(Started { method: Method::Inotify, why, control })
}

fn spawn_fanotify(subscription: fanotify::Subscription, options: Options, send: Sink) -> Result<Started, Error> {
    let (control, requests) = control_pipe(Method::Fanotify)?;
    let why = if options.method.is_some() { "asked for by configuration" } else { "the kernel has mount events" };
    let why = describe(why.to_owned(), &options);
    let source = fanotify::Source::new(subscription, requests, options, send);
    spawn("discovery", move || source.run())?;
    Ok(Started { method: Method::Fanotify, why, control })
}

/// How names are identified is found out on its own, whatever the method.
fn describe(why: String, options: &Options) -> String {
    match nsfs::available() {
        _ if !options.handles => format!("{why}; names identified by entering: handles are switched off"),
        Ok(()) => format!("{why}; names identified by nsfs file handles"),
        Err(missing) => format!("{why}; names identified by entering: {missing}"),
    }
}

/// Our end and the thread's: a byte asks for a scan, the end of the pipe for the thread's end.
fn control_pipe(method: Method) -> Result<(OwnedFd, OwnedFd), Error> {
    let (requests, control) =
        pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(|e| unavailable(method, "pipe")(e.into()))?;
    Ok((control, requests))
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    thread::Builder::new().name(name.into()).spawn(run).map(drop).map_err(Error::Thread)
}

/// What the owner asks of a source thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Request {
    None,
    Rescan,
    End,
}

fn read_requests(requests: &OwnedFd) -> Request {
    let mut request = Request::None;
    let mut bytes = [0; 64];
    loop {
        match rustix::io::read(requests, &mut bytes) {
            Ok(0) => return Request::End,
            Ok(_) => request = Request::Rescan,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return request,
        }
    }
}
