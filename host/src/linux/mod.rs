//! How it is done: what the daemon asks of the kernel. One file per kind of request; nothing here decides anything.

pub mod ns;
pub mod nsfs;
pub mod worker;
pub mod netns;
pub mod alone;
pub mod descriptors;
pub mod userns;
pub mod rtnetlink;
pub mod link_create;
pub mod link_stats;
pub mod tun;
pub mod device;
pub mod peer;
pub mod process;
pub mod socket;
pub mod mount_table;
pub mod fuse;
mod fuse_wire;
pub mod fuse_session;
mod fuse_request;
pub mod fuse_server;
mod fuse_keeper;
