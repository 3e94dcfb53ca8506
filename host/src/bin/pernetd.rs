//! The daemon: thin.

fn main() {}
