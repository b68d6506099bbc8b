//! Room 2: whom we talk to. From a token, or from the anchors of an identity, to a [`Channel`].
//!
//! One TLS connection, one verifier with two states. *Bootstrap*: the server's leaf is accepted only if the token's
//! signature verifies with its public key; the handshake's own signature, checked by rustls with the same key, proves
//! that the peer holds it now. On that connection the CA certificates are fetched, and the chain that this connection
//! showed is judged by them, name included. *Anchored*: every further handshake is judged by those anchors alone. Where a
//! person has given CA certificates, the first handshake is judged by those already.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError as TlsCertificateError, DigitallySignedStruct, SignatureScheme};

use crate::certificate::{Anchors, CertificateError, LARGEST_CACERTS, path_error, rfc3339};
use crate::http::{Client, HttpError, HttpErrorKind, Reach, Request, Response};
use crate::jwt::{EnrollmentToken, JudgedByOperator, SignedBy, TokenError, UnverifiedToken};
use crate::origin::Origin;
use crate::text::Printable;
use crate::tls::{self, ClientAuth, TlsError};

const CACERTS: &str = "/.well-known/est/cacerts";

/// Why a controller is not trusted, or was not reached to find out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// Another certificate answers than the one that signed the token.
    #[error("the token was not signed by the certificate that answers there")]
    NotSigner,
    /// The right certificate answers, and the token's signature is wrong.
    #[error("the token is damaged: its signature does not verify, though it names the certificate that answers")]
    TokenDamaged,
    /// The peer shows a certificate whose key it does not hold.
    #[error("the peer does not hold the key of the certificate that it shows")]
    NotKeyOwner,
    /// Its chain does not lead to its CA certificates.
    #[error("its certificate does not hold against its CA certificates: {why}")]
    Chain {
        /// In words.
        why: String,
        /// What our clock says, where it matters.
        clock: Option<String>,
    },
    /// Its chain does not lead to the CA certificates that were given for it.
    #[error("its certificate does not hold against the CA certificates that were given: {why}")]
    GivenChain {
        /// In words.
        why: String,
        /// What our clock says, where it matters.
        clock: Option<String>,
    },
    /// Its certificate is for another name.
    #[error("its certificate is for another host")]
    Name,
    /// `cacerts` is not what it must be.
    #[error("its CA certificates cannot be used")]
    Cacerts(#[source] CertificateError),
    /// `cacerts` was answered with an error.
    #[error("its CA certificates cannot be had: it answered with status {0}")]
    CacertsStatus(u16),
    /// It sends us elsewhere.
    #[error("it redirects to {}, which no controller does", .0.as_ref().map_or("nowhere", |l| l.as_str()))]
    Redirect(Option<Printable>),
    /// Our own certificate and key.
    #[error(transparent)]
    Client(#[from] TlsError),
    /// It was not reached.
    #[error(transparent)]
    Network(HttpError),
}

/// A way to a peer that has been judged.
#[derive(Debug)]
pub struct Channel {
    http: Client,
    verifier: Arc<Verifier>,
}

impl Channel {
    /// The peer.
    pub fn origin(&self) -> &Origin {
        self.http.origin()
    }

    /// Sends a request; every new handshake that it needs is judged by the anchors.
    ///
    /// # Errors
    /// [`TrustError::Network`], or why a new handshake was refused.
    pub fn send(&self, request: &Request<'_>) -> Result<Response, TrustError> {
        self.http.send(request).map_err(|e| self.verifier.reason(e))
    }
}

/// What a token has led to.
#[derive(Debug)]
pub struct Trust {
    /// The token, vouched for.
    pub token: EnrollmentToken,
    /// The controller's CA certificates, and those that were given.
    pub anchors: Anchors,
    /// The connection.
    pub channel: Channel,
    /// The token's signature does not hold, and the controller is trusted by what was given.
    pub doubt: Option<TokenError>,
}

/// Connects to the issuer of `token` and does not come back before it is proved to be the issuer; or, where CA
/// certificates are `given` for it, before it holds against those. `client` is shown in the same handshake, after that.
///
/// # Errors
/// [`TrustError`]; nothing but the request for CA certificates has left the machine then.
pub fn establish(
    token: &Arc<UnverifiedToken>,
    given: Option<&Anchors>,
    client: Option<&ClientAuth>,
    reach: &Reach,
    now: UnixTime,
) -> Result<Trust, TrustError> {
    let Some(given) = given else {
        let channel = open(token.issuer(), State::Bootstrap { token: token.clone(), signer: None }, client, reach)?;
        let anchors = fetch_anchors(&channel)?;
        let signer = channel.verifier.signer().ok_or(TrustError::NotSigner)?;
        channel.anchor(&anchors, now)?;
        return Ok(Trust { token: token.accept(&signer), anchors, channel, doubt: None });
    };
    let channel = open(token.issuer(), State::Anchored(web_pki(given)?), client, reach)?;
    let fetched = fetch_anchors(&channel).map_err(|error| match error {
        TrustError::Chain { why, clock } => TrustError::GivenChain { why, clock },
        other => other,
    })?;
    // Who reads the identity later has only these to judge the same server by.
    let anchors = fetched.and(given).map_err(TrustError::Cacerts)?;
    channel.anchor(&anchors, now)?;
    let seen = channel.http.last_handshake().map(|seen| seen.chain).unwrap_or_default();
    let doubt = seen.first().filter(|_| token.is_signed()).and_then(|leaf| token.verify(leaf).err());
    Ok(Trust { token: token.accept_by_operator(&JudgedByOperator::in_a_handshake()), anchors, channel, doubt })
}

/// Asks the peer for its CA certificates: the first request of a channel.
fn fetch_anchors(channel: &Channel) -> Result<Anchors, TrustError> {
    // Accept names exactly this type: a controller may answer another one with an error.
    let request = Request {
        method: "GET",
        path: CACERTS,
        query: &[],
        headers: &[("accept", "application/pkcs7-mime")],
        body: None,
        limit: LARGEST_CACERTS,
    };
    let answer = channel.send(&request).map_err(|e| match e {
        TrustError::Network(HttpError { kind: HttpErrorKind::TooLarge(limit), .. }) => {
            TrustError::Cacerts(CertificateError::TooLarge(limit))
        }
        other => other,
    })?;
    match answer.status {
        200 => {}
        300..400 => return Err(TrustError::Redirect(answer.location)),
        status => return Err(TrustError::CacertsStatus(status)),
    }
    Anchors::from_cacerts(&answer.body).map_err(TrustError::Cacerts)
}

/// A channel to `origin` that is judged by `anchors` from the first handshake on. Nothing is dialled yet.
///
/// # Errors
/// [`TrustError::Client`] where certificate and key of `client` do not fit.
pub fn anchored(origin: &Origin, anchors: &Anchors, client: Option<&ClientAuth>, reach: &Reach) -> Result<Channel, TrustError> {
    open(origin, State::Anchored(web_pki(anchors)?), client, reach)
}

fn open(origin: &Origin, state: State, client: Option<&ClientAuth>, reach: &Reach) -> Result<Channel, TrustError> {
    let verifier = Arc::new(Verifier::new(state));
    let config = tls::config(verifier.clone(), client)?;
    Ok(Channel { http: Client::new(origin, config, reach), verifier })
}

fn web_pki(anchors: &Anchors) -> Result<Arc<WebPkiServerVerifier>, TrustError> {
    let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(anchors.root_store()), tls::crypto());
    builder.build().map_err(|_| TrustError::Cacerts(CertificateError::NoAnchor))
}

impl Channel {
    /// Judges the chain that this connection showed, and from now on every other by `anchors`.
    fn anchor(&self, anchors: &Anchors, now: UnixTime) -> Result<(), TrustError> {
        let verifier = web_pki(anchors)?;
        // The record of the finished handshake, not a note of the verifier: that one also sees handshakes that fail later.
        let chain = self.http.last_handshake().map(|seen| seen.chain).unwrap_or_default();
        let (leaf, intermediates) = chain.split_first().ok_or(TrustError::NotKeyOwner)?;
        let name = ServerName::try_from(self.origin().host().to_owned()).map_err(|_| TrustError::Name)?;
        verifier.verify_server_cert(leaf, intermediates, &name, &[], now).map_err(|e| chain_error(&e, now))?;
        *self.verifier.state.lock().unwrap_or_else(PoisonError::into_inner) = State::Anchored(verifier);
        Ok(())
    }
}

fn chain_error(error: &rustls::Error, now: UnixTime) -> TrustError {
    let clock = Some(rfc3339(now.as_secs()));
    let chain = |why: &str, clock| TrustError::Chain { why: why.into(), clock };
    match error {
        rustls::Error::InvalidCertificate(why) => match why {
            TlsCertificateError::NotValidForName | TlsCertificateError::NotValidForNameContext { .. } => TrustError::Name,
            TlsCertificateError::Expired | TlsCertificateError::ExpiredContext { .. } => chain("it has expired", clock),
            TlsCertificateError::NotValidYet | TlsCertificateError::NotValidYetContext { .. } => {
                chain("it is not valid yet", clock)
            }
            TlsCertificateError::UnknownIssuer => chain("none of them has issued it", None),
            TlsCertificateError::InvalidPurpose | TlsCertificateError::InvalidPurposeContext { .. } => {
                chain("it is not for servers", None)
            }
            TlsCertificateError::Other(other) if other.0.is::<webpki::Error>() => {
                chain(&other.0.downcast_ref().map(path_error).unwrap_or_default(), None)
            }
            other => chain(&format!("{other:?}").chars().take_while(|c| c.is_ascii_alphanumeric()).collect::<String>(), None),
        },
        other => chain(&other.to_string(), None),
    }
}

enum State {
    Bootstrap { token: Arc<UnverifiedToken>, signer: Option<SignedBy> },
    Anchored(Arc<WebPkiServerVerifier>),
}

/// Judges the server's certificate in each handshake.
struct Verifier {
    state: Mutex<State>,
    /// The true reason of a refusal: rustls passes on an error of its own only, and ureq wraps that.
    refusal: Mutex<Option<TrustError>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn new(state: State) -> Self {
        Self {
            state: Mutex::new(state),
            refusal: Mutex::default(),
            algorithms: rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms,
        }
    }

    fn signer(&self) -> Option<SignedBy> {
        match &*self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Bootstrap { signer, .. } => signer.clone(),
            State::Anchored(_) => None,
        }
    }

    fn refuse(&self, why: TrustError) -> rustls::Error {
        let words = why.to_string();
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        rustls::Error::General(words)
    }

    /// Our own refusal where there was one, else what the network said.
    fn reason(&self, error: HttpError) -> TrustError {
        let refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner).take();
        refusal.unwrap_or(TrustError::Network(error))
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner) {
            State::Anchored(anchored) => {
                anchored.verify_server_cert(leaf, intermediates, name, ocsp, now).map_err(|e| self.refuse(chain_error(&e, now)))
            }
            // Until the anchors stand, a second handshake must show the very same certificate.
            State::Bootstrap { signer: Some(signer), .. } if signer.leaf() != leaf => Err(self.refuse(TrustError::NotSigner)),
            State::Bootstrap { token, signer } => match token.verify(leaf) {
                Ok(proof) => {
                    *signer = Some(proof);
                    Ok(ServerCertVerified::assertion())
                }
                Err(TokenError::NotSigned { damaged: true }) => Err(self.refuse(TrustError::TokenDamaged)),
                Err(_) => Err(self.refuse(TrustError::NotSigner)),
            },
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, leaf, signature, &self.algorithms).map_err(|_| self.refuse(TrustError::NotKeyOwner))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signature, &self.algorithms).map_err(|_| self.refuse(TrustError::NotKeyOwner))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
