//! All stories but those against a real controller: one target, so that helpers are compiled once.

mod machine;

mod attacks;
mod crash;
mod enroll;
mod golden;
mod hostile_controller;
mod house;
mod key_providers;
mod key_types;
mod local_faults;
mod outside_judges;
#[cfg(feature = "tpm")]
mod tpm;
