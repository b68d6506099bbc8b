//! All stories but those against a real controller: one target, so that helpers are compiled once.

mod machine;

mod crash;
mod enroll;
mod golden;
mod hostile_controller;
mod house;
mod key_providers;
mod key_types;
mod makes;
mod outside_judges;
mod references;
#[cfg(feature = "tpm")]
mod tpm;
