//! All stories but those against a real controller: one target, so that helpers are compiled once.

mod machine;

mod crash;
mod enroll;
mod hostile_controller;
mod house;
mod key_providers;
mod outside_judges;
