//! The ways in which a key is sought: by its name, by its owner, by its public key. Whatever is not one key is an error
//! with the keys that could be meant.

use std::sync::Arc;

use cryptoki::object::{Attribute, ObjectClass};

use super::error::Failure;
use super::module::Module;
use super::object::{Name, Object, search};
use super::pair::{Found, Pair, showing};
use super::pool::{Lent, peek};
use super::private_key::{PrivateKey, named};
use super::session::OpenToken;
use super::token::Token;
use crate::key::{Fault, Key, KeyError, KeyListing, KeyOwner, PublicKey};
use crate::text::{Hint, Printable, hex};

/// Most keys that a hint names.
const NAMED: usize = 20;

/// The pair of that name; `None` where there is neither half.
pub(super) fn by_name(lent: &Lent, name: &Name, token: &Token) -> Result<Option<Pair>, Failure> {
    Found::by(&lent.session, name)?.pair(&lent.session, name, &token.to_string())
}

/// The pair of that name, whose public key is `expected` if the token shows none.
pub(super) fn by_name_of(lent: &Lent, name: &Name, token: &Token, expected: Option<&PublicKey>) -> Result<Option<Pair>, Failure> {
    Found::by(&lent.session, name)?.pair_of(&lent.session, name, &token.to_string(), expected)
}

/// The pair of that name.
///
/// # Errors
/// `key_not_found` with those that are there.
pub(super) fn one_by_name(lent: &Lent, name: &Name, token: &Token) -> Result<Pair, Failure> {
    match by_name(lent, name, token)? {
        Some(pair) => Ok(pair),
        None => Err(missing(lent, name, token)?.into()),
    }
}

/// Generations that may be missing below a later one: old keys are deleted when their successors work.
const DELETED: u32 = 3;

/// The highest generation of this owner's keys; `None` where there is none at all.
pub(super) fn newest(lent: &Lent, owner: KeyOwner<'_>, token: &Token) -> Result<Option<Pair>, Failure> {
    match highest(lent, owner)? {
        Some((found, generation)) => found.pair(&lent.session, &by_generation(owner, generation), &token.to_string()),
        None => Ok(None),
    }
}

/// The generation of this owner's next key.
pub(super) fn next_generation(lent: &Lent, owner: KeyOwner<'_>) -> Result<u32, Failure> {
    Ok(highest(lent, owner)?.map_or(0, |(_, generation)| generation + 1))
}

fn highest(lent: &Lent, owner: KeyOwner<'_>) -> Result<Option<(Found, u32)>, Failure> {
    let (mut highest, mut generation, mut missing) = (None, 0, 0);
    while missing <= DELETED {
        let found = Found::by(&lent.session, &by_generation(owner, generation))?;
        if found.is_nothing() {
            missing += 1;
        } else {
            (highest, missing) = (Some((found, generation)), 0);
        }
        generation += 1;
    }
    Ok(highest)
}

/// By the id alone: a label may have been changed, or never been taken.
fn by_generation(owner: KeyOwner<'_>, generation: u32) -> Name {
    Name::id(&owner.name(generation).id)
}

/// The pair whose public object shows this very key, under whatever name.
pub(super) fn by_public_key(lent: &Lent, key: &PublicKey, token: &Token) -> Result<Option<Pair>, Failure> {
    for object in showing(&lent.session, key)? {
        let name =
            Name { id: Some(object.id).filter(|id| !id.is_empty()), label: Some(object.label).filter(|label| !label.is_empty()) };
        if name.id.is_none() && name.label.is_none() {
            continue;
        }
        if let Some(pair) = by_name(lent, &name.shortest(), token)?.filter(|pair| pair.public == *key) {
            return Ok(Some(pair));
        }
    }
    Ok(None)
}

/// Every private key of the token, with what rules it out.
pub(super) fn listed_keys(lent: &Lent, token: &Arc<OpenToken>, pin_source: Option<&str>) -> Result<Vec<KeyListing>, Failure> {
    let mut listed = Vec::new();
    for object in search(&lent.session, &[Attribute::Class(ObjectClass::PRIVATE_KEY)])? {
        let mut listing = KeyListing {
            reference: named(token, &object.id, &object.label, pin_source),
            label: Printable::from_bytes(&object.label),
            algorithm: None,
            spki_sha256: None,
            obstacle: None,
        };
        let name =
            Name { id: Some(object.id).filter(|id| !id.is_empty()), label: Some(object.label).filter(|label| !label.is_empty()) };
        let read = if name.id.is_none() && name.label.is_none() {
            Err(unnamed().into())
        } else {
            by_name(lent, &name, token.token()).and_then(|pair| match pair {
                Some(pair) => PrivateKey::read(token, lent, pair, pin_source),
                None => Err(unnamed().into()),
            })
        };
        match read {
            Ok(key) => {
                listing.algorithm = Some(key.public_key().algorithm().to_string());
                listing.spki_sha256 = Some(hex(&key.public_key().sha256()));
                listing.obstacle = key.must_stay_inside(false).err().map(|e| e.to_string());
            }
            Err(Failure::Judged(why)) => listing.obstacle = Some(why.to_string()),
            Err(lost) => return Err(lost),
        }
        listed.push(listing);
    }
    Ok(listed)
}

fn unnamed() -> KeyError {
    KeyError::Selection(Fault::new("key_not_found", "it has neither id nor label, so nothing can name it"))
}

/// No key of that name, with those that are there.
pub(super) fn missing(lent: &Lent, name: &Name, token: &Token) -> Result<KeyError, Failure> {
    let there = search(&lent.session, &[Attribute::Class(ObjectClass::PRIVATE_KEY)])?;
    let fault = Fault::new("key_not_found", format!("{token} holds no private key with {name}"));
    Ok(KeyError::Selection(fault.hint(Hint::say(listed(&there, "it holds no private key at all", "it holds")))))
}

/// A reference that names a token and no key, with what shows without a login: a question costs no PIN.
pub(super) fn which_key(module: &Module, token: &Token) -> KeyError {
    let shown = peek(module, token, |session| search(session, &[Attribute::Class(ObjectClass::PUBLIC_KEY)])).unwrap_or_default();
    let fault = Fault::new("usage", format!("the reference names {token} and none of its keys"));
    KeyError::Reference(fault.hint(Hint::say(listed(
        &shown,
        "say which key: id= or object=",
        "say which key, id= or object=; it shows",
    ))))
}

fn listed(keys: &[Object], none: &str, some: &str) -> String {
    if keys.is_empty() {
        return none.to_owned();
    }
    let more = if keys.len() > NAMED { format!(" and {} more", keys.len() - NAMED) } else { String::new() };
    let mut named: Vec<String> = keys.iter().take(NAMED).map(Object::to_string).collect();
    named.sort();
    format!("{some} {}{more}", named.join(", "))
}
