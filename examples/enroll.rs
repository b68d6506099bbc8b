//! Enrollment from a program of your own: a token file becomes an identity whose key is made in a PKCS#11 token.
//!
//! ```text
//! cargo run --example enroll -- device.jwt /usr/lib/softhsm/libsofthsm2.so TOKEN PIN-FILE
//! ```

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use secrecy::SecretString;
use ziti_enroller::flow::enroll::stage::KeyWish;
use ziti_enroller::flow::enroll::{Request, enroll};
use ziti_enroller::flow::{NoWatch, Patience, World};
use ziti_enroller::http::Reach;
use ziti_enroller::identity::{Identity, OpenedIdentity};
use ziti_enroller::jwt::UnverifiedToken;
use ziti_enroller::key::pin::Question;
use ziti_enroller::key::{Access, KeyAlgorithm, KeyError, KeyUri, Pin, PinOrigin, PinSource, Providers};

/// The library asks for a PIN and never says how to get one.
struct FromFile(PathBuf);

impl PinSource for FromFile {
    fn pin(&self, _: &Question<'_>) -> Result<Option<(Pin, PinOrigin)>, KeyError> {
        let bytes = std::fs::read(&self.0).map_err(|error| KeyError::Other(error.into()))?;
        let origin = PinOrigin::File(self.0.clone());
        Ok(Some((Pin::read(bytes, &origin)?, origin)))
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [jwt, module, token, pin_file] = &words[..] else { return Err("usage: enroll JWT MODULE TOKEN PIN-FILE".into()) };
    let out = PathBuf::from(jwt).with_extension("json");
    let pins = FromFile(pin_file.into());
    let world = World {
        providers: Providers::compiled_in(),
        access: Access::new(&pins),
        watch: &NoWatch,
        reach: Reach::default(),
        patience: Patience::default(),
    };

    let place = KeyUri::new("pkcs11").with("module-path", module.as_bytes()).with("token", token.as_bytes());
    let token = UnverifiedToken::parse(&SecretString::from(std::fs::read_to_string(jwt)?))?;
    let key = KeyWish::New { within: place, algorithm: KeyAlgorithm::P256, reuse: true };
    let request = Request { token_file: Some(jwt.into()), ..Request::new(Some(Arc::new(token)), out.clone(), key) };
    let enrolled = enroll(request, &world)?;
    println!("{} has the key {}", enrolled.identity.file, enrolled.key.map(|key| key.reference).unwrap_or_default());

    // And a program connects with it: the token signs each handshake.
    let identity = Identity::parse(&std::fs::read(&out)?)?;
    let opened = OpenedIdentity::open(identity, &world.providers, &world.access)?;
    let tls: rustls::ClientConfig = opened.client_config()?;
    println!("ready for mutual TLS: {}", tls.client_auth_cert_resolver.has_certs());
    Ok(())
}
