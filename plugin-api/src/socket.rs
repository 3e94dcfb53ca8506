//! Sockets inside namespaces, and protocol families of a plugin's own.
