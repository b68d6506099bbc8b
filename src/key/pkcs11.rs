//! Provider `pkcs11`: keys in a PKCS#11 token, made there and never outside.
//!
//! References follow RFC 7512: `pkcs11:token=edge;serial=…;object=gate-7;id=%01%02?module-path=…`; what an identity file
//! holds has a grammar of its own. The provider owns loaded modules and logged-in tokens for as long as it lives, so a
//! thousand keys cost one login. The module is loaded at run time; nothing is linked.

mod certificate;
mod error;
mod generation;
mod known;
mod module;
mod object;
mod pair;
mod place;
mod pool;
mod private_key;
mod reference;
mod search;
mod session;
mod template;
mod token;
mod wanted;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use self::error::Failure;
use self::generation::{Made, destroy};
use self::module::Module;
use self::object::Name;
use self::pair::{Found, Pair};
use self::place::unfolded;
use self::pool::Mode;
use self::private_key::{PrivateKey, named};
use self::reference::Reference;
use self::session::OpenToken;
use self::token::{Purpose, Token};
use self::wanted::Wanted;
use super::{
    Access, Answer, Embed, Fault, Key, KeyAlgorithm, KeyError, KeyFacts, KeyListing, KeyOwner, KeyPlan, KeyProvider,
    KeyReference, KeyUri, NewKey, Pin, PinOrigin, PlaceListing, ProviderOption, PublicKey, Reader, Readers, Rehearsal,
};
use crate::text::Hint;

/// The provider.
#[derive(Debug, Default)]
pub struct Pkcs11Provider {
    modules: Mutex<BTreeMap<PathBuf, Arc<Module>>>,
    tokens: Mutex<Vec<Arc<OpenToken>>>,
}

static OPTIONS: [ProviderOption; 2] = [
    ProviderOption {
        flag: "module",
        value: "PATH",
        attribute: "module-path",
        instead: &["module-name"],
        variable: "PKCS11_MODULE_PATH",
        help: "PKCS#11 module (shared library) of the token",
    },
    ProviderOption {
        flag: "token",
        value: "LABEL|SERIAL|URI",
        attribute: "token",
        instead: &[],
        variable: "",
        help: "Token by label, serial or pkcs11: URI, where the module shows several",
    },
];

impl KeyProvider for Pkcs11Provider {
    fn name(&self) -> &'static str {
        "pkcs11"
    }

    fn scheme(&self) -> &'static str {
        "pkcs11"
    }

    fn options(&self) -> &'static [ProviderOption] {
        &OPTIONS
    }

    fn prepare(&self, within: &KeyUri) -> Result<(), KeyError> {
        let uri = unfolded(within)?;
        self.find(&uri, Purpose::Use)?.1.must_not_be_locked()
    }

    fn open(&self, uri: &KeyUri, access: &Access<'_>) -> Result<Arc<dyn Key>, KeyError> {
        let uri = unfolded(uri)?;
        let (module, found) = self.find(&uri, Purpose::Use)?;
        let Some(name) = Name::of(&uri) else { return Err(search::which_key(&module, &found)) };
        let token = self.logged_in(module, found, access, pin_source(&uri)?, None)?;
        let key = token.with(Mode::Read, |lent| {
            let pair = search::one_by_name(lent, &name, token.token())?;
            PrivateKey::read(&token, lent, pair, pin_source(&uri)?)
        })?;
        trusted(key, access)
    }

    fn locate(&self, reference: &KeyReference) -> Option<Result<KeyUri, KeyError>> {
        Some(Reference::parse(reference.expose())?.map(|reference| reference.uri()))
    }

    fn places(&self, within: &KeyUri) -> Result<Vec<PlaceListing>, KeyError> {
        use std::os::unix::ffi::OsStrExt;
        let uri = unfolded(within)?;
        let module = self.module(&module::path_in(&uri)?)?;
        let wanted = Wanted::by(&uri);
        let shown = module.tokens_for(&wanted)?;
        let path = module.path().as_os_str().as_bytes();
        let fitting = shown.tokens.into_iter().filter(|t| wanted.fits(t)).collect();
        let listed: Vec<PlaceListing> = token::each_once(fitting).iter().map(|t| t.listing(path)).collect();
        match shown.unread {
            Some(error) if listed.is_empty() => Err(error),
            _ => Ok(listed),
        }
    }

    fn keys(&self, within: &KeyUri, access: &Access<'_>) -> Result<Vec<KeyListing>, KeyError> {
        let uri = unfolded(within)?;
        let token = self.token(&uri, Purpose::Use, access)?;
        let pin_source = pin_source(&uri)?;
        token.with(Mode::Read, |lent| search::listed_keys(lent, &token, pin_source))
    }

    fn rehearse(&self, within: &KeyUri, algorithm: KeyAlgorithm, access: &Access<'_>) -> Result<Rehearsal, KeyError> {
        let uri = unfolded(within)?;
        let token = self.token(&uri, Purpose::Write, access)?;
        token.module().can_make(token.token(), algorithm)?;
        token.with(Mode::Write, |lent| generation::rehearse(&token, lent, algorithm))
    }

    fn open_reference(
        &self,
        reference: &KeyReference,
        expected: Option<&PublicKey>,
        access: &Access<'_>,
    ) -> Option<Result<Arc<dyn Key>, KeyError>> {
        let text = reference.expose();
        if let Some(reference) = Reference::parse(text) {
            return Some(reference.and_then(|reference| self.open_referenced(reference, expected, access)));
        }
        if !text.split(':').next().is_some_and(|scheme| text.contains(':') && scheme.eq_ignore_ascii_case("pkcs11")) {
            return None;
        }
        let uri = text.parse::<KeyUri>();
        let uri =
            uri.map_err(|e| KeyError::Reference(Fault::new("usage", "key reference of this identity cannot be read").because(e)));
        Some(uri.and_then(|uri| self.open(&uri, access)).and_then(|key| match expected {
            Some(expected) if key.public_key() != expected => Err(KeyError::not_its_key(key.uri())),
            _ => Ok(key),
        }))
    }

    fn readers(&self, reference: &KeyReference, facts: Option<&KeyFacts>) -> Option<Readers> {
        let text = reference.expose();
        let reference = Reference::parse(text)?.ok()?;
        let is = |read: fn(&KeyFacts) -> Answer, answer| facts.is_some_and(|f| read(f) == answer);
        let no_pin = (reference.held.is_none(), "no PIN in the file");
        let each_time = (is(|f| f.pin_each_time, Answer::Yes), "it gives no PIN before every signature");
        let no_public = (is(|f| f.public_object, Answer::No), "no public object in the token");
        let long_id =
            (reference.key.as_ref().and_then(|k| k.id.as_ref()).is_some_and(|id| id.len() > 32), "the id has over 32 bytes");
        let go = [no_pin, no_public, each_time, (is(|f| f.pss, Answer::No), "the token has no RSA-PSS")];
        let c = [no_pin, no_public, each_time, long_id, (is(|f| f.raw_rsa, Answer::No), "the token has no raw RSA")];
        let jvm = [(true, "it reads keys only from inside the identity")];
        let list = vec![Reader::unless("Go SDK", &go), Reader::unless("C SDK", &c), Reader::unless("JVM SDK", &jvm)];
        Some(Readers { list, variables: known::variables(&reference.module).iter().map(|v| (*v).to_owned()).collect() })
    }

    fn plan(&self, wish: &NewKey<'_>, access: &Access<'_>) -> Result<KeyPlan, KeyError> {
        let within = unfolded(wish.within)?;
        let said = Name::of(&within);
        if said.is_none() && wish.owner.is_none() {
            return Err(nameless(&within));
        }
        let token = self.token(&within, Purpose::Write, access)?;
        let (found, generation) = token.with(Mode::Read, |lent| match (&said, wish.owner) {
            (Some(name), _) => Ok((search::by_name(lent, &name.shortest(), token.token())?, 0)),
            (None, Some(owner)) if wish.reuse => Ok((search::newest(lent, owner, token.token())?, 0)),
            (None, Some(owner)) => Ok((None, search::next_generation(lent, owner)?)),
            (None, None) => Ok((None, 0)),
        })?;
        let pin_source = pin_source(&within)?;
        match found {
            Some(Pair { private, public, .. }) => {
                let uri = named(&token, &private.id, &private.label, pin_source);
                // Both readers take the first key with an id, so no second one gets it.
                let other_label = said.and_then(|said| said.label).is_some_and(|label| label != private.label);
                if !wish.reuse || other_label {
                    let hint = Hint::say("leave out --create to use it, or give the new key another name");
                    let fault = Fault::new("key_exists", format!("{} holds the key {uri} already", token.token()));
                    return Err(KeyError::Selection(fault.hint(hint)));
                }
                if public.algorithm() != wish.algorithm {
                    return Err(KeyError::type_differs(&uri, public.algorithm(), wish.algorithm));
                }
                Ok(KeyPlan { uri, there_already: true, outlives_us: false })
            }
            None => {
                token.module().can_make(token.token(), wish.algorithm)?;
                let Name { id, label } = name_for(said, wish.owner, generation)?;
                let uri = named(&token, &id.unwrap_or_default(), &label.unwrap_or_default(), pin_source);
                Ok(KeyPlan { uri, there_already: false, outlives_us: true })
            }
        }
    }

    fn generate(&self, plan: &KeyPlan, wish: &NewKey<'_>, access: &Access<'_>) -> Result<Arc<dyn Key>, KeyError> {
        if plan.there_already {
            return self.open(&plan.uri, access);
        }
        let uri = unfolded(&plan.uri)?;
        let name = Name::of(&uri).ok_or_else(|| nameless(&uri))?;
        let token = self.token(&uri, Purpose::Write, access)?;
        let place = token.token().to_string();
        let pin_source = pin_source(&uri)?;
        let mut spare_it = true;
        loop {
            let (key, made) = token.with(Mode::Write, |lent| {
                match generation::of_an_earlier_run(&token, lent, &name, pin_source, spare_it)? {
                    Some(key) => Ok((key, None)),
                    None => Made::key(&token, lent, wish.algorithm, &name, pin_source).map(|(key, made)| (key, Some(made))),
                }
            })?;
            let Err(why) = key.must_be_as_promised(wish.algorithm).and_then(|()| super::prove(&key)) else {
                return Ok(Arc::new(key));
            };
            let Some(made) = made else {
                // Both halves have their names, and one of them is empty.
                log::info!("{place}: a key of an earlier run that cannot be used is replaced: {why}");
                spare_it = false;
                continue;
            };
            // The first error is the one that counts; what became of the key is logged.
            let discarded = token.with(Mode::Write, |lent| {
                made.discard(lent);
                Ok(())
            });
            if let Err(left) = discarded {
                log::warn!("key {} was made, is not used, and could not be destroyed: {left}", key.uri());
            }
            return Err(why);
        }
    }

    fn place_of(&self, uri: &KeyUri) -> Result<KeyUri, KeyError> {
        Ok(place::of_the_token(&unfolded(uri)?))
    }

    fn delete(&self, uri: &KeyUri, access: &Access<'_>) -> Result<(), KeyError> {
        let uri = unfolded(uri)?;
        let name = Name::of(&uri).ok_or_else(|| nameless(&uri))?;
        let token = self.token(&uri, Purpose::Write, access)?;
        token.with(Mode::Write, |lent| {
            let found = Found::by(&lent.session, &name)?;
            if found.is_nothing() {
                return Err(search::missing(lent, &name, token.token())?.into());
            }
            Ok(destroy(lent, found.both_halves(&name, &token.token().to_string())?)?)
        })
    }
}

impl Pkcs11Provider {
    fn module(&self, path: &Path) -> Result<Arc<Module>, KeyError> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(path) {
            return Ok(module.clone());
        }
        let module = Arc::new(Module::load(path)?);
        modules.insert(path.to_owned(), module.clone());
        Ok(module)
    }

    /// The one token that `uri` means, as it is now.
    fn find(&self, uri: &KeyUri, purpose: Purpose) -> Result<(Arc<Module>, Token), KeyError> {
        let module = self.module(&module::path_in(uri)?)?;
        let wanted = Wanted::by(uri);
        let token = token::choose(module.tokens_for(&wanted)?, &wanted, purpose, module.path())?;
        Ok((module, token))
    }

    /// The one token that `uri` means, logged in.
    fn token(&self, uri: &KeyUri, purpose: Purpose, access: &Access<'_>) -> Result<Arc<OpenToken>, KeyError> {
        // One that is open and named exactly needs no look at the slots.
        let (path, wanted) = (module::path_in(uri)?, Wanted::by(uri));
        if wanted.is_exact() {
            let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            let is_it = |open: &&Arc<OpenToken>| {
                let token = open.token();
                let named = token.identity.has_serial() && wanted.fits(token);
                open.module().path() == path && named && token.is_fit_for(purpose)
            };
            if let Some(open) = tokens.iter().find(is_it) {
                return Ok(open.clone());
            }
        }
        let (module, token) = self.find(uri, purpose)?;
        self.logged_in(module, token, access, pin_source(uri)?, None)
    }

    /// One login a token, however many threads and keys want it.
    fn logged_in(
        &self,
        module: Arc<Module>,
        token: Token,
        access: &Access<'_>,
        pin_source: Option<&str>,
        held: Option<(Arc<Pin>, PinOrigin)>,
    ) -> Result<Arc<OpenToken>, KeyError> {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = tokens.iter().find(|open| open.is(&module, &token)) {
            return Ok(open.clone());
        }
        let open = OpenToken::open(module, token, access, pin_source, held)?;
        tokens.push(open.clone());
        Ok(open)
    }

    fn open_referenced(
        &self,
        reference: Reference,
        expected: Option<&PublicKey>,
        access: &Access<'_>,
    ) -> Result<Arc<dyn Key>, KeyError> {
        let module = self.module(&reference.module)?;
        let place::Lookup { token: found, elsewhere } = place::of(&module, &reference, expected)?;
        if reference.key.is_none() && expected.is_none() {
            return Err(search::which_key(&module, &found));
        }
        let held = if reference.held.is_some() { Embed::Pin } else { Embed::Nothing };
        let token = self.logged_in(module, found, access, None, reference.held)?;
        let key = token.with(Mode::Read, |lent| {
            let mut elsewhere = elsewhere;
            let named = match reference.key.as_ref().map(|name| search::by_name_of(lent, name, token.token(), expected)) {
                // What has the name now may be no key that can be used; the certificate knows which it is.
                None | Some(Err(Failure::Judged(_))) if expected.is_some() => None,
                None => None,
                Some(named) => named?,
            };
            let pair = match (named, expected, &reference.key) {
                (Some(pair), Some(key), _) if pair.public == *key => pair,
                (Some(pair), None, _) => pair,
                // The name has gone to another key, or is not known here: the certificate decides.
                (_, Some(key), _) => {
                    elsewhere = true;
                    search::by_public_key(lent, key, token.token())?.ok_or_else(|| another_key(token.token()))?
                }
                (None, None, Some(name)) => return Err(search::missing(lent, name, token.token())?.into()),
                (None, None, None) => return Err(another_key(token.token()).into()),
            };
            Ok(PrivateKey::read(&token, lent, pair, None)?.opened_by_reference(held, elsewhere))
        })?;
        trusted(key, access)
    }
}

/// A key that was there before us: kept inside, and really the other half of the public key that it shows.
fn trusted(key: PrivateKey, access: &Access<'_>) -> Result<Arc<dyn Key>, KeyError> {
    key.must_stay_inside(access.allows_extractable())?;
    super::prove(&key)?;
    Ok(Arc::new(key))
}

fn pin_source(uri: &KeyUri) -> Result<Option<&str>, KeyError> {
    uri.text("pin-source").map_err(|e| KeyError::Reference(Fault::new("usage", e.to_string())))
}

/// Id and label of a new key: what was said, and what the owner makes of the rest. Both readers want an id.
fn name_for(said: Option<Name>, owner: Option<KeyOwner<'_>>, generation: u32) -> Result<Name, KeyError> {
    match (said.map(|said| said.filled()), owner.map(|owner| owner.name(generation))) {
        (None, Some(derived)) => Ok(Name { id: Some(derived.id.to_vec()), label: Some(derived.label.into_bytes()) }),
        (Some(Name { id: Some(id), label }), derived) => {
            Ok(Name { id: Some(id), label: label.or_else(|| derived.map(|derived| derived.label.into_bytes())) })
        }
        // Not the derived id: that is the name of another key, the one that is found without being named.
        (said, _) => {
            let mut id = [0; 16];
            aws_lc_rs::rand::fill(&mut id)
                .map_err(|e| KeyError::Device(Fault::new("device_error", "the system gave no random numbers").because(e)))?;
            Ok(Name { id: Some(id.to_vec()), label: said.and_then(|said| said.label) })
        }
    }
}

fn nameless(uri: &KeyUri) -> KeyError {
    let fault = Fault::new("usage", format!("`{uri}` does not say which key"));
    KeyError::Reference(fault.hint(Hint::say("name it with object= or id=: --key 'pkcs11:object=NAME'")))
}

fn another_key(token: &Token) -> KeyError {
    KeyError::Selection(
        Fault::new("key_not_found", format!("the key of this identity is not in {token}: no key there fits its certificate"))
            .hint(Hint::say("the key was replaced or lives in another token; an administrator can re-enroll this identity")),
    )
}
