//! File system types of a plugin's own.
