//! What a renewal asks of certificates: the name that the old one is for, and a chain that the controller has not
//! completed.

use std::time::Duration;

use der::asn1::ObjectIdentifier;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_cert::Certificate;
use x509_cert::name::Name;

use super::{Anchors, CertificateError, Chain, LONGEST_CHAIN, parse};
use crate::key::encoding::sha1;
use crate::text::hex;

/// `id-at-commonName` (RFC 5280 §A.1).
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

impl Chain {
    /// SHA-1 of the leaf's DER, lower-case hexadecimal: the controller's name for it.
    pub fn fingerprint_sha1(&self) -> String {
        hex(&sha1(self.leaf()))
    }

    /// The common name of the leaf's subject; the last one, where there are several.
    ///
    /// # Errors
    /// [`CertificateError::Form`].
    pub fn common_name(&self) -> Result<String, CertificateError> {
        const NONE: CertificateError = CertificateError::Form("a certificate with a common name");
        let certificate = parse(self.leaf())?;
        let names = certificate.tbs_certificate().subject().iter_rdn().flat_map(|rdn| rdn.iter());
        let common = names.filter(|attribute| attribute.oid == COMMON_NAME).last().ok_or(NONE)?;
        std::str::from_utf8(common.value.value()).map(str::to_owned).map_err(|_| NONE)
    }

    /// The id of the identity: what the certificate says (from controllers 2.0 on), else its common name, which is the id in
    /// those that a network has issued.
    pub fn identity_id(&self) -> Option<String> {
        let spiffe = self.summary().ok().and_then(|summary| summary.spiffe);
        let id = spiffe.as_ref().and_then(|uri| uri.as_str().rsplit_once("/identity/")).map(|(_, id)| id.to_owned());
        id.or_else(|| self.common_name().ok())
    }

    /// The same with the intermediates that it lacks, found in `anchors`: controllers before 1.6 answer a renewal with the
    /// leaf alone. The root is left out, as everywhere.
    pub fn completed(mut self, anchors: &Anchors) -> Self {
        let Ok(leaf) = parse(self.leaf()) else { return self };
        if self.0.len() > 1 {
            return self;
        }
        let above = |name: &Name| -> Vec<(CertificateDer<'static>, Certificate)> {
            let parsed = anchors.0.iter().filter_map(|der| Some((der.clone(), parse(der).ok()?)));
            let of_this_name = parsed.filter(|(_, ca)| ca.tbs_certificate().subject() == name);
            of_this_name.filter(|(_, ca)| ca.tbs_certificate().subject() != ca.tbs_certificate().issuer()).collect()
        };
        // The signature tells between several of one name; further up the name alone does, and the whole path is checked.
        let begins = leaf.tbs_certificate().validity().not_before.to_unix_duration();
        let mut next = above(leaf.tbs_certificate().issuer()).into_iter().find(|(der, _)| has_signed(der, self.leaf(), begins));
        while let Some((der, ca)) = next.filter(|(der, _)| self.0.len() < LONGEST_CHAIN && !self.0.contains(der)) {
            self.0.push(der);
            next = above(ca.tbs_certificate().issuer()).into_iter().next();
        }
        self
    }
}

fn has_signed(ca: &CertificateDer<'static>, leaf: &CertificateDer<'static>, at: Duration) -> bool {
    let mut one = RootCertStore::empty();
    one.add_parsable_certificates([ca.clone()]);
    let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    let (usage, at) = (webpki::KeyUsage::client_auth(), UnixTime::since_unix_epoch(at));
    webpki::EndEntityCert::try_from(leaf)
        .is_ok_and(|end| end.verify_for_usage(algorithms.all, &one.roots, &[], at, usage, None, None).is_ok())
}
