//! All stories but those against a real controller: one target, so that helpers are compiled once.

mod machine;

mod crash;
mod enroll;
mod golden;
mod hostile_controller;
mod house;
mod idp_token;
mod key_providers;
mod key_types;
mod methods;
mod network;
mod outside_judges;
mod password;
mod proxy;
#[cfg(feature = "tpm")]
mod tpm;
