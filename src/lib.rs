//! Enrollment for OpenZiti with private keys that are made in hardware and never leave it.

pub mod jwt;
pub mod trust;
pub mod key;
pub mod csr;
pub mod controller;
pub mod identity;

pub mod certificate;
pub mod files;
pub mod http;
pub mod journal;
pub mod origin;
pub mod text;
pub mod tls;

