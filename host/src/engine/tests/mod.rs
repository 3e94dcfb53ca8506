//! The engine, tested in memory.
