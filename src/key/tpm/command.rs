//! The commands of a TPM that this program uses, TPM 2.0 Part 3. Public areas and private blobs come and go as the TPM's own
//! bytes, so that another library than tss-esapi can stand here.

use tss_esapi::constants::tss::TPM2_RH_NULL;
use tss_esapi::constants::{CapabilityType, PropertyTag, StructureTag};
use tss_esapi::handles::{AuthHandle, KeyHandle, ObjectHandle, PersistentTpmHandle, TpmHandle};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::dynamic_handles::Persistent;
use tss_esapi::interface_types::resource_handles::{Hierarchy, Provision};
use tss_esapi::structures::{
    CapabilityData, Digest, HashScheme, HashcheckTicket, Private, Public, PublicParameters, Signature, SignatureScheme,
};
use tss_esapi::traits::{Marshall, UnMarshall};
use tss_esapi::tss2_esys::{TPM2B_DIGEST, TPMT_TK_HASHCHECK};

use super::context::{Hidden, Object, Visit, auth_value, failure};
use super::error::Failure;
use super::keyfile::Blob;
use super::public_area::{PublicArea, padded};
use super::template;
use crate::key::encoding::{Hash, ecdsa_der};
use crate::key::{Pin, SignatureAlgorithm};

impl Visit<'_> {
    /// The value of a TPM_PT, TPM2_GetCapability(TPM_CAP_TPM_PROPERTIES); `None` where the TPM does not have it.
    pub(super) fn property(&mut self, tag: u32) -> Result<Option<u32>, Failure> {
        let command = "TPM2_GetCapability";
        let wanted = PropertyTag::try_from(tag).map_err(|e| failure(e, command))?;
        // One at a time: tss-esapi refuses a list with a tag that it does not know.
        match self.call(command, None, |c| c.get_capability(CapabilityType::TpmProperties, tag, 1)) {
            Ok((CapabilityData::TpmProperties(list), _)) => Ok(list.find(wanted).map(|p| p.value())),
            Ok(_) | Err(Failure::Library(..)) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Whether the TPM has an algorithm, by its TPM_ALG_ID.
    pub(super) fn has_algorithm(&mut self, id: u16) -> Result<bool, Failure> {
        match self.call("TPM2_GetCapability", None, |c| c.get_capability(CapabilityType::Algorithms, id.into(), 1)) {
            Ok((CapabilityData::Algorithms(list), _)) => Ok(list.iter().any(|a| u16::from(a.algorithm_identifier()) == id)),
            // The next one that it has is none that tss-esapi knows.
            Ok(_) | Err(Failure::Library(..)) => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// The persistent handles that are taken, ascending.
    pub(super) fn persistent_handles(&mut self) -> Result<Vec<u32>, Failure> {
        let mut handles: Vec<u32> = Vec::new();
        loop {
            let next = handles.last().map_or(0x8100_0000, |last| last + 1);
            let (found, more) =
                self.call("TPM2_GetCapability", None, |c| c.get_capability(CapabilityType::Handles, next, 254))?;
            let before = handles.len();
            if let CapabilityData::Handles(list) = found {
                handles.extend(list.into_inner().into_iter().map(u32::from).filter(|h| (next..=0x81ff_ffff).contains(h)));
            }
            if !more || handles.len() == before {
                return Ok(handles);
            }
        }
    }

    /// Whether the TPM can make such a key, TPM2_TestParms; nothing is made.
    pub(super) fn can_make(&mut self, template: &[u8]) -> Result<bool, Failure> {
        let parameters = match public(template, "TPM2_TestParms")? {
            Public::Rsa { parameters, .. } => PublicParameters::Rsa(parameters),
            Public::Ecc { parameters, .. } => PublicParameters::Ecc(parameters),
            Public::KeyedHash { .. } | Public::SymCipher { .. } => return Ok(false),
        };
        match self.call("TPM2_TestParms", None, |c| c.test_parms(parameters)) {
            Ok(()) => Ok(true),
            Err(failure) if failure.is_unsupported() => Ok(false),
            Err(failure) => Err(failure),
        }
    }

    /// The object at a persistent handle, with its public area; `None` where there is none.
    pub(super) fn persistent(&mut self, handle: u32) -> Result<Option<(Object, PublicArea)>, Failure> {
        let command = "TPM2_ReadPublic";
        let handle = PersistentTpmHandle::new(handle).map_err(|e| failure(e, command))?;
        let found = match self.call(command, None, |c| c.tr_from_tpm_public(TpmHandle::Persistent(handle))) {
            Ok(found) => found,
            Err(failure) if failure.is_no_handle() => return Ok(None),
            Err(failure) => return Err(failure),
        };
        self.opened.push(found);
        let key = KeyHandle::from(found);
        let (area, _, _) = self.call(command, None, |c| c.read_public(key))?;
        Ok(Some((Object(key), public_area(&area, command)?)))
    }

    /// The storage root key that the H-2 template gives in the owner hierarchy, made anew. `auth`: the owner's.
    pub(super) fn storage_root(&mut self, auth: Option<&Pin>) -> Result<Object, Failure> {
        self.primary(Hierarchy::Owner, auth)
    }

    pub(super) fn primary(&mut self, hierarchy: Hierarchy, auth: Option<&Pin>) -> Result<Object, Failure> {
        let command = "TPM2_CreatePrimary";
        let template = public(&template::storage_key(), command)?;
        let made = self.authorised(command, ObjectHandle::from(hierarchy), auth, Hidden::Both, |c| {
            c.create_primary(hierarchy, template, None, None, None, None)
        })?;
        self.loaded.push(made.key_handle.into());
        Ok(Object(made.key_handle))
    }

    /// Makes a key under `parent`, TPM2_Create: it exists in what comes back and nowhere else. `auth`: the new key's own.
    pub(super) fn create(&mut self, parent: Object, template: &[u8], auth: Option<&Pin>) -> Result<Blob, Failure> {
        let command = "TPM2_Create";
        self.protect(Some(parent))?;
        let template = public(template, command)?;
        let auth = auth.map(|pin| auth_value(pin, command)).transpose()?;
        let session = self.session(Hidden::Both)?;
        let made = self.call(command, Some(session), |c| c.create(parent.0, template, auth, None, None, None))?;
        Ok(Blob { public: public_area(&made.out_public, command)?, private: made.out_private.value().to_vec() })
    }

    /// Loads a key, TPM2_Load.
    pub(super) fn load(&mut self, parent: Object, blob: &Blob) -> Result<Object, Failure> {
        let command = "TPM2_Load";
        let private = Private::try_from(blob.private.as_slice()).map_err(|e| failure(e, command))?;
        let public = public(blob.public.bytes(), command)?;
        let session = self.session_if_any(Hidden::Sent)?;
        let key = self.call(command, Some(session), |c| c.load(parent.0, private, public))?;
        self.loaded.push(key.into());
        Ok(Object(key))
    }

    /// Signs `digest`, TPM2_Sign. ECDSA comes as DER; RSA as long as the modulus, which is `modulus_bytes`.
    pub(super) fn sign(
        &mut self,
        key: Object,
        auth: Option<&Pin>,
        algorithm: SignatureAlgorithm,
        digest: &[u8],
        modulus_bytes: usize,
    ) -> Result<Vec<u8>, Failure> {
        let command = "TPM2_Sign";
        let digest = Digest::try_from(digest).map_err(|e| failure(e, command))?;
        // A digest that the TPM did not make itself: any key that is not restricted signs it.
        let ticket =
            TPMT_TK_HASHCHECK { tag: StructureTag::Hashcheck.into(), hierarchy: TPM2_RH_NULL, digest: TPM2B_DIGEST::default() };
        let ticket = HashcheckTicket::try_from(ticket).map_err(|e| failure(e, command))?;
        let scheme = scheme(algorithm);
        let signed = self.authorised(command, key.0.into(), auth, Hidden::Sent, |c| c.sign(key.0, digest, scheme, ticket))?;
        let whole = match &signed {
            Signature::EcDsa(pair) => {
                let (r, s) = (pair.signature_r().value(), pair.signature_s().value());
                let size = r.len().max(s.len());
                padded(r, size).zip(padded(s, size)).and_then(|(r, s)| ecdsa_der(&[r, s].concat()))
            }
            Signature::RsaSsa(rsa) | Signature::RsaPss(rsa) => padded(rsa.signature().value(), modulus_bytes),
            _ => None,
        };
        whole.ok_or_else(|| Failure::Library("a signature of another kind".into(), command))
    }

    /// Makes a loaded key persistent at `handle`, TPM2_EvictControl. `auth`: the owner's.
    pub(super) fn persist(&mut self, key: Object, handle: u32, auth: Option<&Pin>) -> Result<(), Failure> {
        let kept = self.evict_control(key.0.into(), handle, auth)?;
        self.opened.push(kept);
        Ok(())
    }

    /// Removes the persistent object, TPM2_EvictControl. `auth`: the owner's.
    pub(super) fn evict(&mut self, object: Object, handle: u32, auth: Option<&Pin>) -> Result<(), Failure> {
        self.evict_control(object.0.into(), handle, auth)?;
        // libtss2 closes its note by itself.
        self.opened.retain(|opened| *opened != ObjectHandle::from(object.0));
        Ok(())
    }

    fn evict_control(&mut self, object: ObjectHandle, handle: u32, auth: Option<&Pin>) -> Result<ObjectHandle, Failure> {
        let command = "TPM2_EvictControl";
        let handle = PersistentTpmHandle::new(handle).map_err(|e| failure(e, command))?;
        let owner = ObjectHandle::from(AuthHandle::Owner);
        self.authorised(command, owner, auth, Hidden::Nothing, |c| {
            c.evict_control(Provision::Owner, object, Persistent::Persistent(handle))
        })
    }
}

fn scheme(algorithm: SignatureAlgorithm) -> SignatureScheme {
    use SignatureAlgorithm::*;
    let hash_scheme = HashScheme::new(match algorithm.hash() {
        Hash::Sha256 => HashingAlgorithm::Sha256,
        Hash::Sha384 => HashingAlgorithm::Sha384,
        Hash::Sha512 => HashingAlgorithm::Sha512,
    });
    match algorithm {
        EcdsaSha256 | EcdsaSha384 => SignatureScheme::EcDsa { hash_scheme },
        RsaPkcs1Sha256 | RsaPkcs1Sha384 | RsaPkcs1Sha512 => SignatureScheme::RsaSsa { hash_scheme },
        RsaPssSha256 | RsaPssSha384 | RsaPssSha512 => SignatureScheme::RsaPss { hash_scheme },
    }
}

fn public(area: &[u8], command: &'static str) -> Result<Public, Failure> {
    Public::unmarshall(area).map_err(|e| failure(e, command))
}

fn public_area(public: &Public, command: &'static str) -> Result<PublicArea, Failure> {
    let bytes = public.marshall().map_err(|e| failure(e, command))?;
    PublicArea::read(&bytes).ok_or_else(|| Failure::Library("a public area that is none".into(), command))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tss_esapi_takes_every_template_and_gives_it_back() {
        let templates = crate::key::KeyAlgorithm::ALL.map(|a| template::signing_key(a, true));
        for bytes in templates.into_iter().chain([template::storage_key()]) {
            let read = public(&bytes, "").unwrap();
            assert_eq!(public_area(&read, "").unwrap().bytes(), bytes);
        }
    }
}
