//! The operator's client: thin.

fn main() {}
