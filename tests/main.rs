//! All stories but those against a real controller: one target, so that helpers are compiled once.

mod house;
