//! All stories but those against a real controller: one target, so that helpers are compiled once.

mod machine;

mod attacks;
#[cfg(feature = "tpm")]
mod canary;
mod crash;
mod enroll;
mod exec;
mod golden;
mod hostile_controller;
mod house;
mod idp_token;
mod key_providers;
mod key_types;
mod library;
mod local_faults;
mod makes;
mod methods;
mod module_errors;
mod network;
mod no_downgrade;
mod outside_judges;
mod password;
mod pin_tries;
mod proxy;
mod references;
mod renew;
#[cfg(feature = "tpm")]
mod tpm;
