//! The operator's door: the varlink interface `io.pernetd` on a Unix socket, and its client.
//!
//! Owns the socket, the connections and their limits, the judgement of credentials, and the wire types. It knows the
//! daemon only as something that takes a [`Request`]; it decides nothing about namespaces or plugins.

pub mod wire;
mod socket;
mod server;
mod connection;
mod inbox;
mod access;
mod methods;
mod request;
pub mod sysctl;
pub mod monitor;
pub mod client;

pub use request::{
    Answer, ControlError, ErrorKind, LeaseId, MountAsk, NetnsAdd, Reply, Request, SockConnect, StoryKind,
};
pub use server::{Limits, Server};
pub use socket::{Door, DoorError, SOCKET};
pub use sysctl::name as errno_name;

/// Where requests go: into the daemon loop's queue. Called from connection threads; must not block.
pub type RequestSink = Box<dyn Fn(Request) + Send + Sync>;
