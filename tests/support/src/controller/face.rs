//! Which certificate the listener shows, and the TLS settings around it.

use super::{Face, Tls};
use crate::pki::{Authority, Key, KeyType, Leaf, Network, forged_certificate};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme};
use std::sync::Arc;

/// A certificate chain with the key that signs for it, right or wrong.
#[derive(Debug)]
pub(crate) struct Shown {
    /// DER, leaf first.
    pub(crate) chain: Vec<Vec<u8>>,
    /// Signs handshakes and tokens.
    pub(crate) key: Key,
    pub(crate) whole: Arc<ServerConfig>,
    /// The same without intermediates.
    pub(crate) leaf_only: Arc<ServerConfig>,
    /// The same and the network's root.
    pub(crate) with_root: Arc<ServerConfig>,
}

/// What stays the same when the certificate changes.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) tls: Tls,
    /// Names and addresses of the listener.
    pub(crate) names: Vec<String>,
    /// Sent in the CertificateRequest; controllers before 1.6 send none.
    pub(crate) hints: Vec<DistinguishedName>,
}

impl Shown {
    pub(crate) fn new(face: &Face, network: &Network, key: Key, setting: &Setting) -> Self {
        let names: Vec<&str> = setting.names.iter().map(String::as_str).collect();
        let under = |signer: &Authority, leaf: Leaf| vec![signer.sign(&leaf, &key.spki_der()), signer.certificate().to_vec()];
        let signer = &network.server_signer;
        let mut signing = key.clone();
        let chain = match face {
            Face::Own => under(signer, Leaf::server(&names)),
            Face::WrongHost => under(signer, Leaf::server(&["elsewhere.example"])),
            Face::ForeignCa => under(&Network::new(false).server_signer, Leaf::server(&names)),
            Face::Expired => under(signer, Leaf::server(&names).expired()),
            Face::NotYetValid => under(signer, Leaf::server(&names).not_yet_valid()),
            Face::CaLeaf => under(signer, Leaf::server(&names).ca()),
            Face::WithoutKey(chain) => chain.clone(),
            Face::Forged(real_leaf) => {
                let (leaf, attacker) = forged_certificate(real_leaf);
                signing = attacker;
                vec![leaf]
            }
        };
        let whole = config(&chain, &signing, setting);
        let leaf_only = config(&chain[..1], &signing, setting);
        let root = network.root.certificate().to_vec();
        let with_root = config(&[chain.clone(), vec![root]].concat(), &signing, setting);
        Self { chain, key: signing, whole, leaf_only, with_root }
    }

    pub(crate) fn leaf(&self) -> &[u8] {
        &self.chain[0]
    }
}

/// The key type that a stolen certificate asks for: a signature of another kind would fail before it is judged.
pub(crate) fn key_type_for(face: &Face, asked: KeyType) -> KeyType {
    let Face::WithoutKey(chain) = face else { return asked };
    let spki = crate::pki::spki_of(&chain[0]);
    let fits = |kind: &KeyType| Key::generate(*kind).spki_der().len().abs_diff(spki.len()) < 4;
    KeyType::ALL.into_iter().find(fits).unwrap_or(asked)
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn config(chain: &[Vec<u8>], key: &Key, setting: &Setting) -> Arc<ServerConfig> {
    let provider = provider();
    let versions: &[&rustls::SupportedProtocolVersion] = match setting.tls {
        Tls::Both => &[&rustls::version::TLS13, &rustls::version::TLS12],
        Tls::Only12 => &[&rustls::version::TLS12],
        Tls::Only13 => &[&rustls::version::TLS13],
    };
    let pkcs8 = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.pkcs8_der()));
    let signing_key = aws_lc_rs::sign::any_supported_type(&pkcs8).expect("rustls signs with every key type of ours");
    let chain = chain.iter().cloned().map(CertificateDer::from).collect();
    let asks = AnyClient { provider: provider.clone(), hints: setting.hints.clone() };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("the provider speaks TLS 1.2 and 1.3")
        .with_client_cert_verifier(Arc::new(asks))
        // Not `with_single_cert`: that would refuse a certificate without its key.
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::new(chain, signing_key))));
    // The real one also has h2; a client that offers both would then get what we do not speak.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Requests a client certificate, requires none, and looks at no issuer; but the client must own the key of what it
/// shows. The rest is the business of each endpoint, as in the real controller.
#[derive(Debug)]
struct AnyClient {
    provider: Arc<CryptoProvider>,
    hints: Vec<DistinguishedName>,
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
