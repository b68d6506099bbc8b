//! Where a key is sought: what `--token` says, and what an identity says that was written in another place.

use super::module::Module;
use super::pair::showing;
use super::pool::peek;
use super::reference::Reference;
use super::token::{self, Purpose, Shown, Token, each_once};
use super::wanted::{slot_id, version};
use crate::key::{Fault, KeyError, KeyUri, PublicKey};
use crate::text::{Hint, Printable};

/// Attributes of the path that this provider reads: all of RFC 7512 §2.3.
const OF_THE_PATH: [&str; 13] = [
    "token",
    "serial",
    "manufacturer",
    "model",
    "library-manufacturer",
    "library-description",
    "library-version",
    "slot-id",
    "slot-description",
    "slot-manufacturer",
    "object",
    "id",
    "type",
];

/// Attributes of the query that it reads: all of RFC 7512 §2.3 but the PIN itself.
const OF_THE_QUERY: [&str; 3] = ["module-path", "module-name", "pin-source"];

/// What `--token pkcs11:…` does not take from its URI: it names a token, and no key in it.
const OF_A_KEY: [&str; 3] = ["object", "id", "type"];

/// `uri` with the URI unfolded that may stand for its token, and nothing in it that would be passed over. An attribute of
/// another program's (`x-…`) says nothing here behind the `?`, where it is about how to get to the key; before it, it
/// would choose a key by something that we cannot look at, so it is refused like every other unknown one.
pub(super) fn unfolded(uri: &KeyUri) -> Result<KeyUri, KeyError> {
    let usage = |message: String| KeyError::Reference(Fault::new("usage", message));
    if let Some(name) = uri.misplaced(&OF_THE_PATH) {
        let side = if uri.is_in_query(name) { "before" } else { "behind" };
        return Err(usage(format!("attribute `{name}` of `{uri}` belongs {side} the `?`")));
    }
    let passed_over = |name: &str| name.starts_with("x-") && uri.is_in_query(name);
    let known = || OF_THE_PATH.iter().chain(&OF_THE_QUERY);
    if let Some(unknown) = uri.names().find(|name| !known().any(|known| known == name) && !passed_over(name)) {
        let hint = Hint::say(format!("known are {}", known().copied().collect::<Vec<_>>().join(", ")));
        let fault = Fault::new("usage", format!("attribute `{}` of `{uri}` is not known", Printable::new(unknown)));
        return Err(KeyError::Reference(fault.hint(hint)));
    }
    match uri.attribute("type") {
        None | Some(b"private" | b"public") => {}
        Some(b"cert" | b"secret-key" | b"data") => {
            return Err(usage(format!("`{uri}` does not name a key pair: its type must be private")));
        }
        Some(_) => return Err(usage(format!("`{uri}` has a type that RFC 7512 does not know"))),
    }
    let is_wrong = |name: &str, is_number: fn(&[u8]) -> bool| uri.attribute(name).is_some_and(|value| !is_number(value));
    let wrong = [
        ("slot-id", is_wrong("slot-id", |value| slot_id(value).is_some())),
        ("library-version", is_wrong("library-version", |value| version(value).is_some())),
    ];
    if let Some((name, _)) = wrong.iter().find(|(_, is_wrong)| *is_wrong) {
        return Err(usage(format!("value of `{name}` in `{uri}` is not a number")));
    }
    let Some(folded) = uri.attribute("token").filter(|token| is_a_uri(token)) else { return Ok(uri.clone()) };
    let folded: KeyUri = std::str::from_utf8(folded)
        .map_err(|_| usage("the URI of --token is not UTF-8 text".into()))?
        .parse()
        .map_err(|e| KeyError::Reference(Fault::new("usage", "the URI of --token cannot be read").because(e)))?;
    let folded = unfolded(&folded)?;
    let mut whole = KeyUri::new(uri.scheme());
    for &name in known() {
        let own = uri.attribute(name).filter(|_| name != "token");
        let taken = own.or_else(|| folded.attribute(name).filter(|_| !OF_A_KEY.contains(&name)));
        if let Some(value) = taken {
            whole.set(name, value);
        }
    }
    Ok(whole)
}

/// What a reference has led to.
pub(super) struct Lookup {
    pub(super) token: Token,
    /// Another token, or another slot, than it says.
    pub(super) elsewhere: bool,
}

/// What a whole reference says of its token, and nothing of a key in it.
pub(super) fn of_the_token(uri: &KeyUri) -> KeyUri {
    let names = OF_THE_PATH.iter().chain(&OF_THE_QUERY).filter(|name| !OF_A_KEY.contains(name));
    let said = names.filter_map(|name| Some((*name, uri.attribute(name)?)));
    said.fold(KeyUri::new(uri.scheme()), |place, (name, value)| place.with(name, value))
}

/// Whether a token is named by a URI of its own; the scheme has no case (RFC 3986 §3.1).
fn is_a_uri(token: &[u8]) -> bool {
    token.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"pkcs11:"))
}

/// The token that a reference means. Serial, label and slot say where to look; `expected`, the public key that the
/// certificate has, decides where they do not fit any more: the one token that shows it is taken. All this without a
/// login, so that no PIN is tried on a token that happens to have the number or name of another.
///
/// # Errors
/// `token_not_found`, `token_ambiguous`.
pub(super) fn of(module: &Module, reference: &Reference, expected: Option<&PublicKey>) -> Result<Lookup, KeyError> {
    let Shown { tokens: shown, unread } = module.tokens()?;
    let (said, named) = named(&shown, reference);
    let as_said = |token: &Token| {
        // The slot is what other readers go by.
        let elsewhere = reference.slot.as_ref().is_some_and(|slots| !slots.0.contains(&token.slot.id()));
        Ok(Lookup { token: token.clone(), elsewhere })
    };
    let Some(key) = expected else {
        return match named.as_slice() {
            [one] => as_said(one),
            [] => Err(unread.unwrap_or_else(|| token::not_found(&each_once(shown), &said, Purpose::Use, module.path()))),
            several => Err(token::ambiguous(several, module.path())),
        };
    };
    let shows = |token: &Token| peek(module, token, |session| showing(session, key)).is_ok_and(|objects| !objects.is_empty());
    if let [one] = named.as_slice()
        && shows(one)
    {
        return as_said(one);
    }
    let all = each_once(shown.clone());
    let showing: Vec<&Token> = all.iter().filter(|token| shows(token)).collect();
    match (showing.as_slice(), named.as_slice()) {
        ([one], _) => {
            log::warn!("the identity names{said} of {module}, but its key is in {one}, which is used");
            Ok(Lookup { token: (*one).clone(), elsewhere: true })
        }
        // A token may show its public keys after the login only.
        ([], [one]) => as_said(one),
        ([], []) => Err(unread.unwrap_or_else(|| token::not_found(&all, &said, Purpose::Use, module.path()))),
        ([], several) | (several, _) => Err(token::ambiguous(several, module.path())),
    }
}

/// What the reference says of its token, and the tokens that it fits: by serial, else by label, else by slot, else all.
fn named<'a>(shown: &'a [Token], reference: &Reference) -> (String, Vec<&'a Token>) {
    let fitting = |fits: &dyn Fn(&Token) -> bool| -> Vec<&'a Token> {
        let all = shown.iter().filter(|t| t.is_fit_for(Purpose::Use) && fits(t));
        all.fold(Vec::new(), |mut once, token| {
            if !token.identity.has_serial() || !once.iter().any(|known: &&Token| known.identity == token.identity) {
                once.push(token);
            }
            once
        })
    };
    match (&reference.serial, &reference.token, &reference.slot) {
        (Some(serial), label, _) => {
            let mut named = fitting(&|t| t.identity.serial == *serial);
            // Partitions of one device may share its serial number.
            if named.len() > 1
                && let Some(label) = label
            {
                named.retain(|t| t.identity.label == *label);
            }
            (format!(" with serial {:?}", Printable::new(serial)), named)
        }
        (None, Some(label), _) => (format!(" {:?}", Printable::new(label)), fitting(&|t| t.identity.label == *label)),
        (None, None, Some(slots)) => {
            let there = slots.0.iter().find(|slot| shown.iter().any(|t| t.slot.id() == **slot));
            (format!(" in slot {:#x}", slots.0[0]), there.map(|slot| fitting(&|t| t.slot.id() == *slot)).unwrap_or_default())
        }
        (None, None, None) => (String::new(), fitting(&|_| true)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(uri: &str) -> Result<String, KeyError> {
        unfolded(&uri.parse().unwrap()).map(|uri| uri.to_string())
    }

    #[test]
    fn unfolds_a_uri_given_as_token() {
        let folded = "pkcs11:token=pkcs11%3Atoken%3Dedge%3Bserial%3Daa%3Fmodule-path%3D%2Fa.so;object=k?module-path=/b.so";
        assert_eq!(whole(folded).unwrap(), "pkcs11:token=edge;serial=aa;object=k?module-path=/b.so");
        assert_eq!(whole("pkcs11:token=edge").unwrap(), "pkcs11:token=edge");
        // An object that slipped into the URI of a token names no key.
        assert_eq!(whole("pkcs11:token=pkcs11%3Atoken%3Dedge%3Bobject%3Dother").unwrap(), "pkcs11:token=edge");
    }

    #[test]
    fn passes_over_nothing() {
        for refused in [
            "pkcs11:x-shelf=1;token=edge",
            "pkcs11:token=edge?x-hurry=yes&colour=red",
            "pkcs11:tokens=edge",
            "pkcs11:token=edge;module-path=/a.so",
            "pkcs11:?token=edge",
            "pkcs11:type=cert",
            "pkcs11:type=secret",
            "pkcs11:type=",
            "pkcs11:slot-id=0x1",
            "pkcs11:slot-id=",
            "pkcs11:library-version=2.x",
        ] {
            assert!(whole(refused).is_err(), "{refused}");
        }
        for taken in [
            "pkcs11:type=private;id=%01",
            "pkcs11:slot-id=1;slot-description=a;slot-manufacturer=b",
            "pkcs11:library-manufacturer=a;library-description=b;library-version=2",
            "pkcs11:token=edge?module-name=softhsm2&x-hurry=yes",
            "pkcs11:token=PKCS11%3Atoken%3Dedge",
        ] {
            assert!(whole(taken).is_ok(), "{taken}");
        }
    }
}
