//! Enrollment for OpenZiti with private keys that are made in hardware and never leave it.
//!
//! A one-time token becomes an identity file: the key is made in a PKCS#11 token (or in a file), the certificate signing
//! request is signed there, and the identity holds a reference to the key. The modules stand in the order in which an
//! enrollment walks through them:
//!
//! | room | module | what it knows |
//! |---|---|---|
//! | 1 | [`jwt`] | the enrollment token |
//! | 2 | [`trust`] | whom we talk to: one TLS connection, from token to trust |
//! | 3 | [`key`] | keys wherever they live; a provider of your own joins here |
//! | 4 | [`csr`] | the certificate signing request |
//! | 5 | [`controller`] | the controller's API |
//! | 6 | [`identity`] | the identity file, and a program that connects with it |
//!
//! [`flow`] holds the corridors through them (`enroll`, `renew`, `verify`, `inspect`); below all lie [`certificate`], [`tls`],
//! [`http`], [`files`], [`journal`], [`origin`] and [`text`]; [`error`] is on top.
//!
//! The library prints nothing, asks nobody, reads no environment and changes nothing that belongs to the whole process.
//!
//! ```no_run
//! use ziti_enroller::flow::{NoWatch, Patience, World, verify};
//! use ziti_enroller::http::Reach;
//! use ziti_enroller::key::{Access, Providers, pin::NoPins};
//!
//! # fn main() -> Result<(), ziti_enroller::error::Error> {
//! let world = World {
//!     providers: Providers::compiled_in(),
//!     access: Access::new(&NoPins),
//!     watch: &NoWatch,
//!     reach: Reach::default(),
//!     patience: Patience::default(),
//! };
//! let verified = verify::verify("gate-7.json".as_ref(), &world)?;
//! assert_eq!(verified.key.algorithm, "p256");
//! # Ok(())
//! # }
//! ```

pub mod jwt;
pub mod trust;
pub mod key;
pub mod csr;
pub mod controller;
pub mod identity;

pub mod flow;

pub mod certificate;
pub mod files;
pub mod http;
pub mod journal;
pub mod origin;
pub mod text;
pub mod tls;

pub mod error;
