//! Provider `tpm`: keys in a TPM 2.0, made there and never outside.
//!
//! A key has one of two homes. A TSS2 PEM file, beside the identity unless a name was given, holds it in a form that only
//! its own TPM can load: the TPM has room for any number of those. A persistent handle keeps it inside the TPM, which has
//! room for a few. References: `tpm2:file=…`, `tpm2:handle=0x81020000`, `tpm2:handle=auto` for a new key at the first free
//! handle; `reference.rs` says more. No Ziti SDK reads them.
//!
//! With a PIN source, a new key has that PIN as its auth value and is protected by the TPM against guessing, which means
//! that wrong guesses at *any* protected key lock it too. Without one it has none, and is never locked.
//!
//! The TPM is talked to through libtss2, which this feature links. It may write to standard error unless `TSS2_LOG` forbids
//! it; that variable belongs to the program, so a library user sets it.

mod code;
mod command;
mod context;
mod error;
mod generation;
mod handle;
mod keyfile;
mod listing;
mod lockout;
mod parent;
mod place;
mod private_key;
mod public_area;
mod reach;
mod reference;
mod tcti;
mod template;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use self::context::{Device, Visit};
use self::error::Failure;
use self::keyfile::KeyFile;
use self::parent::Parent;
use self::private_key::{Found, Material, PrivateKey};
use self::reference::{Home, Named, Reference, SCHEME, like_it, must_be_the_owners};
use self::tcti::Tcti;
use super::{
    Access, Fault, Key, KeyAlgorithm, KeyError, KeyFacts, KeyListing, KeyPlan, KeyProvider, KeyReference, KeyUri, NewKey,
    PlaceListing, ProviderOption, PublicKey, Reader, Readers, Rehearsal,
};
use crate::files::{self, Folder};
use crate::text::Hint;

/// Largest key file that is read, in bytes; RSA-4096 takes 2.5 KiB.
const LARGEST: u64 = 64 * 1024;

/// The provider. It keeps one connection to each TPM for as long as it lives.
#[derive(Debug, Default)]
pub struct TpmProvider {
    devices: Mutex<HashMap<String, Arc<Device>>>,
}

static OPTIONS: [ProviderOption; 2] = [
    ProviderOption {
        flag: "tcti",
        value: "NAME:CONFIG",
        attribute: "tcti",
        instead: &[],
        variable: "TPM2TOOLS_TCTI",
        help: "way to the TPM [default: device:/dev/tpmrm0]",
    },
    ProviderOption {
        flag: "parent",
        value: "HANDLE",
        attribute: "parent",
        instead: &[],
        variable: "",
        help: "storage key above a new key [default: 0x81000001 if it is there, else made for the moment]",
    },
];

impl KeyProvider for TpmProvider {
    fn name(&self) -> &'static str {
        "tpm"
    }

    fn scheme(&self) -> &'static str {
        SCHEME
    }

    fn silence(&self) -> &'static [(&'static str, &'static str)] {
        // libtss2 writes each response code to standard error; ours has them in its messages.
        &[("TSS2_LOG", "all+NONE")]
    }

    fn options(&self) -> &'static [ProviderOption] {
        &OPTIONS
    }

    fn prepare(&self, within: &KeyUri) -> Result<(), KeyError> {
        self.device(&Reference::of(within)?.tcti).map(drop)
    }

    fn open(&self, uri: &KeyUri, access: &Access<'_>) -> Result<Arc<dyn Key>, KeyError> {
        let reference = Reference::of(uri)?;
        let Named::Key(home) = &reference.named else { return Err(which_key(uri)) };
        let found = found(&reference, home.clone())?;
        let device = self.device(&reference.tcti)?;
        opened(&device, found, access).map_err(|e| e.at(&device.to_string()))
    }

    fn open_reference(
        &self,
        reference: &KeyReference,
        expected: Option<&PublicKey>,
        access: &Access<'_>,
    ) -> Option<Result<Arc<dyn Key>, KeyError>> {
        if !is_ours(reference) {
            return None;
        }
        let uri = stored(reference);
        Some(uri.and_then(|uri| self.open(&uri, access)).and_then(|key| match expected {
            Some(expected) if key.public_key() != expected => Err(KeyError::not_its_key(key.uri())),
            _ => Ok(key),
        }))
    }

    fn locate(&self, reference: &KeyReference) -> Option<Result<KeyUri, KeyError>> {
        is_ours(reference).then(|| stored(reference))
    }

    fn places(&self, within: &KeyUri) -> Result<Vec<PlaceListing>, KeyError> {
        let reference = Reference::of(within)?;
        let device = self.device(&reference.tcti)?;
        let listed = device.visit().and_then(|mut visit| listing::place(&mut visit, &reference));
        listed.map(|place| vec![place]).map_err(|e| e.at(&device.to_string()))
    }

    fn keys(&self, within: &KeyUri, _: &Access<'_>) -> Result<Vec<KeyListing>, KeyError> {
        let reference = Reference::of(within)?;
        let device = self.device(&reference.tcti)?;
        device.visit().and_then(|mut visit| listing::keys(&mut visit, &reference)).map_err(|e| e.at(&device.to_string()))
    }

    fn rehearse(&self, within: &KeyUri, algorithm: KeyAlgorithm, access: &Access<'_>) -> Result<Rehearsal, KeyError> {
        let reference = Reference::of(within)?;
        let device = self.device(&reference.tcti)?;
        let tried = device.visit().and_then(|mut visit| {
            must_be_able(&mut visit, algorithm)?;
            generation::rehearse(&mut visit, &reference, algorithm, access)
        });
        tried.map(|()| Rehearsal::Done).map_err(|e| e.at(&device.to_string()))
    }

    fn readers(&self, reference: &KeyReference, _: Option<&KeyFacts>) -> Option<Readers> {
        let cannot = |name| {
            Reader::unless(name, &[(true, "it reads no tpm2: references, use provider pkcs11 with libtpm2_pkcs11 for it")])
        };
        is_ours(reference).then(|| Readers { list: ["Go SDK", "C SDK", "JVM SDK"].map(cannot).into(), variables: Vec::new() })
    }

    fn is_known_to_sdks(&self) -> bool {
        false
    }

    fn plan(&self, wish: &NewKey<'_>, _: &Access<'_>) -> Result<KeyPlan, KeyError> {
        let reference = Reference::of(wish.within)?;
        let device = self.device(&reference.tcti)?;
        let place = device.to_string();
        let mut visit = device.visit().map_err(|e| e.at(&place))?;
        let planned =
            |home: Home, there_already| KeyPlan { uri: reference.uri(&home, reference.auth), there_already, outlives_us: true };
        let home = match &reference.named {
            Named::Nothing if wish.owner.is_none() => return Err(which_key(wish.within)),
            Named::Nothing => {
                let path = beside(wish.identity, wish.reuse)?;
                // Nobody has named this file: it is ours by its name alone.
                wish.beside.or_of(&path)?.refuse_foreign(path.file_name().unwrap_or_default())?;
                Home::File(path)
            }
            Named::FreeHandle => Home::Handle(handle::first_free(&mut visit).map_err(|e| e.at(&place))?),
            Named::Key(home) => home.clone(),
        };
        if let Some(algorithm) = there(&mut visit, &home).map_err(|e| e.at(&place))? {
            if !wish.reuse {
                let fault = Fault::new("key_exists", format!("{home} is there already"));
                return Err(KeyError::Selection(
                    fault.hint(Hint::say("leave out --create to use it, or name another file or handle")),
                ));
            }
            if algorithm != wish.algorithm {
                return Err(type_differs(&home, algorithm, wish.algorithm));
            }
            return Ok(planned(home, true));
        }
        match &home {
            Home::File(path) => drop(wish.beside.or_of(path)?),
            Home::Handle(handle) => must_be_the_owners(*handle)?,
        }
        must_be_able(&mut visit, wish.algorithm).map_err(|e| e.at(&place))?;
        Ok(planned(home, false))
    }

    fn generate(&self, plan: &KeyPlan, wish: &NewKey<'_>, access: &Access<'_>) -> Result<Arc<dyn Key>, KeyError> {
        if plan.there_already {
            return self.open(&plan.uri, access);
        }
        let reference = Reference::of(&plan.uri)?;
        let Named::Key(home) = &reference.named else { return Err(which_key(&plan.uri)) };
        let device = self.device(&reference.tcti)?;
        let made = device.visit().and_then(|mut visit| match home {
            Home::File(path) => generation::in_file(&mut visit, &reference, path, wish, access),
            Home::Handle(number) => handle::at(&mut visit, &reference, *number, wish, access),
        });
        made.map(|key| Arc::new(key) as _).map_err(|e| e.at(&device.to_string()))
    }

    fn delete(&self, uri: &KeyUri, access: &Access<'_>) -> Result<(), KeyError> {
        self.remove(uri, None, access)
    }

    fn abandon(&self, uri: &KeyUri, work: &Folder, access: &Access<'_>) -> Result<(), KeyError> {
        self.remove(uri, Some(work), access)
    }

    fn place_of(&self, uri: &KeyUri) -> Result<KeyUri, KeyError> {
        let reference = Reference::of(uri)?;
        let beside = match reference.named {
            Named::Key(Home::Handle(_)) | Named::FreeHandle => like_it(uri).with("handle", b"auto"),
            Named::Key(Home::File(_)) | Named::Nothing => like_it(uri),
        };
        Ok(beside)
    }

    fn implies_new(&self, uri: &KeyUri) -> bool {
        uri.attribute("handle") == Some(b"auto")
    }
}

impl TpmProvider {
    fn device(&self, tcti: &Tcti) -> Result<Arc<Device>, KeyError> {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(device) = devices.get(&tcti.to_string()) {
            return Ok(device.clone());
        }
        reach::must_be_there(tcti)?;
        let device = Arc::new(Device::open(tcti.clone()).map_err(|failure| reach::unreachable(tcti, failure))?);
        // A TPM that answers nothing else answers this.
        let place = device.visit().and_then(|mut visit| place::of(&mut visit)).map_err(|e| e.at(&device.to_string()))?;
        log::debug!("{device}: {} {}", place.label, place.model);
        devices.insert(tcti.to_string(), device.clone());
        Ok(device)
    }

    /// Destroys the key that `uri` names. `work`: only if it is the one that waited there for its handle.
    fn remove(&self, uri: &KeyUri, work: Option<&Folder>, access: &Access<'_>) -> Result<(), KeyError> {
        let reference = Reference::of(uri)?;
        match &reference.named {
            Named::Key(Home::File(path)) => files::remove_file(path).map_err(|e| KeyError::of_file(path, e)),
            Named::Key(Home::Handle(number)) => {
                let device = self.device(&reference.tcti)?;
                let place = device.to_string();
                let this = match work.map(handle::waiting).transpose()? {
                    Some(None) => return Err(handle::nothing_of_ours(&place, *number)),
                    Some(Some(file)) => Some(file.blob),
                    None => None,
                };
                let removed = device.visit().and_then(|mut visit| handle::remove(&mut visit, *number, this.as_ref(), access));
                removed.map_err(|e| e.at(&place))
            }
            Named::FreeHandle | Named::Nothing => Err(which_key(uri)),
        }
    }
}

/// The key at `home`, as its file or its reference describes it; the TPM is not asked.
fn found(reference: &Reference, home: Home) -> Result<Found, KeyError> {
    match &home {
        Home::File(path) => described(reference, &home, &read(path)?),
        Home::Handle(number) => {
            let material = Material::Persistent(*number);
            Ok(Found { reference: reference.clone(), home, material, wants_pin: reference.auth })
        }
    }
}

fn is_ours(reference: &KeyReference) -> bool {
    reference.expose().split_once(':').is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case(SCHEME))
}

/// What stands in an identity, as a reference.
fn stored(reference: &KeyReference) -> Result<KeyUri, KeyError> {
    let uri = reference.expose().parse::<KeyUri>();
    uri.map_err(|e| KeyError::Reference(Fault::new("usage", "key reference of this identity cannot be read").because(e)))
}

fn opened(device: &Arc<Device>, found: Found, access: &Access<'_>) -> Result<Arc<dyn Key>, Failure> {
    let mut visit = device.visit()?;
    let ready = found.ready(&mut visit, Some(access))?;
    Ok(Arc::new(PrivateKey::try_out(&mut visit, found, ready, access)?))
}

/// The type of the key that is at `home`, if there is one.
fn there(visit: &mut Visit<'_>, home: &Home) -> Result<Option<KeyAlgorithm>, Failure> {
    let area = match home {
        Home::File(path) if path.symlink_metadata().is_ok() => Some(read(path)?.blob.public),
        Home::File(_) => None,
        Home::Handle(number) => visit.persistent(*number)?.map(|(_, area)| area),
    };
    Ok(area.map(|area| area.public_key(&home.to_string())).transpose()?.map(|key| key.algorithm()))
}

fn must_be_able(visit: &mut Visit<'_>, algorithm: KeyAlgorithm) -> Result<(), Failure> {
    let mut able = Vec::new();
    if visit.can_make(&template::signing_key(algorithm, false))? {
        return Ok(());
    }
    for other in KeyAlgorithm::ALL {
        if visit.can_make(&template::signing_key(other, false))? {
            able.push(other.name());
        }
    }
    let fault = Fault::new("key_type_unsupported", format!("{} cannot make a key of type {algorithm}", visit.device()));
    Err(KeyError::Unavailable(fault.hint(Hint::say(format!("it can make {}: give one with --key-alg", able.join(", "))))).into())
}

/// The key of a key file, as the file describes it.
///
/// # Errors
/// `key_type_unsupported` where its parent is in a hierarchy that is not used here.
fn described(reference: &Reference, home: &Home, file: &KeyFile) -> Result<Found, KeyError> {
    let parent = Parent::of_file(file.parent).ok_or_else(|| {
        let message = format!("{home} has its parent in another hierarchy than the owner's ({:#x})", file.parent);
        KeyError::Unavailable(Fault::new("key_type_unsupported", message))
    })?;
    let wants_pin = file.empty_auth.map(|empty| !empty).or(reference.auth);
    Ok(Found { reference: reference.clone(), home: home.clone(), material: Material::Blob(parent, file.blob.clone()), wants_pin })
}

/// `<out without .json>.tss2.pem`; unless one that is there is taken, the first of `….1.tss2.pem` and so on that is free.
fn beside(identity: &Path, reuse: bool) -> Result<PathBuf, KeyError> {
    let stem = match identity.extension() {
        Some(extension) if extension.eq_ignore_ascii_case("json") => identity.with_extension(""),
        _ => identity.to_owned(),
    };
    let named = |end: &str| {
        let mut name = stem.clone().into_os_string();
        name.push(end);
        files::absolute(Path::new(&name))
    };
    let mut path = named(".tss2.pem")?;
    let mut generation = 0_u32;
    while !reuse && path.symlink_metadata().is_ok() {
        generation += 1;
        path = named(&format!(".{generation}.tss2.pem"))?;
    }
    Ok(path)
}

fn read(path: &Path) -> Result<KeyFile, KeyError> {
    let pem = files::read_regular(path, LARGEST).map_err(|e| KeyError::of_file(path, e))?;
    KeyFile::read(&pem).map_err(|why| {
        let fault = Fault::new("key_type_unsupported", format!("key file {} cannot be used: it is {why}", path.display()));
        KeyError::Unavailable(
            fault.hint(Hint::say("TSS2 PRIVATE KEY files are read, of keys that are loadable and bound to no policy")),
        )
    })
}

fn which_key(uri: &KeyUri) -> KeyError {
    let fault = Fault::new("usage", format!("`{uri}` does not say which key"));
    KeyError::Reference(fault.hint(Hint::say("name it with file= or handle=: --key tpm2:handle=0x81020000")))
}

fn type_differs(home: &Home, found: KeyAlgorithm, asked: KeyAlgorithm) -> KeyError {
    KeyError::Selection(
        Fault::new("key_type_differs", format!("{home} is {found}, and {asked} was asked for"))
            .hint(Hint::say(format!("give --key-alg {found}, or name another file or handle with --key"))),
    )
}
