//! Where a key is sought: what `--token` says, and what an identity says that was written in another place.

use super::module::Module;
use super::pair::showing;
use super::pool::peek;
use super::reference::Reference;
use super::token::{self, Purpose, Shown, Token, each_once};
use crate::key::{Fault, KeyError, KeyUri, PublicKey};
use crate::text::{Hint, Printable};

/// Attributes of a reference that this provider reads (RFC 7512 §2.3, §2.4).
const ATTRIBUTES: [&str; 9] = ["token", "serial", "manufacturer", "model", "object", "id", "type", "module-path", "pin-source"];

/// What `--token pkcs11:…` takes from its URI, where the reference itself does not say it.
pub(super) const OF_A_TOKEN: [&str; 6] = ["token", "serial", "manufacturer", "model", "module-path", "pin-source"];

/// `uri` with the URI unfolded that may stand for its token, and nothing in it that would be passed over.
pub(super) fn unfolded(uri: &KeyUri) -> Result<KeyUri, KeyError> {
    let usage = |message: String| KeyError::Reference(Fault::new("usage", message));
    if let Some(unknown) = uri.names().find(|name| !ATTRIBUTES.contains(name)) {
        let hint = Hint::say(format!("known are {}", ATTRIBUTES.join(", ")));
        let fault = Fault::new("usage", format!("attribute `{}` of `{uri}` is not known", Printable::new(unknown)));
        return Err(KeyError::Reference(fault.hint(hint)));
    }
    if uri.attribute("type").is_some_and(|t| t != b"private" && t != b"public") {
        return Err(usage(format!("`{uri}` does not name a key: its type must be private")));
    }
    let Some(folded) = uri.attribute("token").filter(|token| token.starts_with(b"pkcs11:")) else { return Ok(uri.clone()) };
    let folded: KeyUri = std::str::from_utf8(folded)
        .map_err(|_| usage("the URI of --token is not UTF-8 text".into()))?
        .parse()
        .map_err(|e| KeyError::Reference(Fault::new("usage", "the URI of --token cannot be read").because(e)))?;
    let folded = unfolded(&folded)?;
    let mut whole = KeyUri::new(uri.scheme());
    for name in ATTRIBUTES {
        let own = uri.attribute(name).filter(|_| name != "token");
        let taken = own.or_else(|| folded.attribute(name).filter(|_| OF_A_TOKEN.contains(&name)));
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
        assert!(whole("pkcs11:slot-id=1").is_err());
        assert!(whole("pkcs11:type=cert").is_err());
        assert!(whole("pkcs11:type=private;id=%01").is_ok());
    }
}
