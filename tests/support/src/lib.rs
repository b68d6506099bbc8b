//! What tests, benches and examples of `ziti-enroller` share: one strict controller, its PKI and tokens, SoftHSM
//! tokens of one's own, a delaying relay, a terminal with somebody at it, and the program under test as a child.
//!
//! Nothing here is part of the product. A fixture that cannot be made panics with what is missing; nothing is skipped.
//!
//! ```
//! use ziti_enroller_support::{Controller, Options};
//!
//! let controller = Controller::start(Options::default());
//! let token = controller.issue("gate-7");
//! let folder = tempfile::tempdir().expect("a temporary folder");
//! assert!(token.write(folder.path()).ends_with("gate-7.jwt"));
//! assert_eq!(controller.enroll_posts(), 0);
//! ```

pub mod canary;
pub mod controller;
pub mod figures;
pub mod http_proxy;
pub mod kryoptic;
pub mod logins;
pub mod p11fault;
pub mod pki;
pub mod program;
pub mod relay;
pub mod sample;
pub mod signals;
pub mod softhsm;
pub mod terminal;
pub mod swtpm;
pub mod tpm2_pkcs11;

pub use canary::{Canary, Search, Sink};
pub use controller::log::{ClientCertificate, Connection, Counts, FailedHandshake, Handshake, Log, Request};
pub use controller::misbehave::Fault;
pub use controller::password::Password;
pub use controller::signers::IdentityProvider;
pub use controller::store::Authenticator;
pub use controller::third_party::ThirdPartyCa;
pub use controller::tokens::{Token, TokenBuilder, second_opinion};
pub use controller::{Controller, Face, Like, Options, Tls};
pub use http_proxy::{Asked, HttpProxy, ProxyFault};
pub use kryoptic::Kryoptic;
pub use p11fault::Tokens;
pub use pki::{Authority, Key, KeyType, Leaf, Network, forged_certificate, pem, sha1_hex};
pub use program::{Outcome, Program, Running, require};
pub use relay::Relay;
pub use sample::Sample;
pub use signals::StopSignal;
pub use softhsm::SoftHsm;
pub use swtpm::{BusFault, Exchange, Proxy, Swtpm};
pub use terminal::Terminal;
pub use tpm2_pkcs11::Tpm2Pkcs11;
