//! What exists. (links)

mod link_socket;
pub mod links;
mod nsid;
