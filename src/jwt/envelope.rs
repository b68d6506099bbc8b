//! The envelope of a JWT in compact form (RFC 7515 §7.1): base64url and JSON, strictly.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::{TokenError, malformed};

/// The bytes of a segment.
pub(super) fn decode(what: &str, segment: &str) -> Result<Vec<u8>, TokenError> {
    BASE64_URL_SAFE_NO_PAD.decode(segment).map_err(|_| malformed(format!("its {what} part is not base64url without padding")))
}

/// The JSON object of a segment; no name stands in it twice.
pub(super) fn object(what: &str, segment: &str) -> Result<Map<String, Value>, TokenError> {
    let bytes = decode(what, segment)?;
    let unique: Unique = serde_json::from_slice(&bytes).map_err(|e| {
        let twice = e.to_string().contains(TWICE);
        malformed(format!("its {what} part {}", if twice { "has the same name twice" } else { "is not a JSON object" }))
    })?;
    Ok(unique.0)
}

/// A claim that must be text where it is there.
pub(super) fn string<'a>(claims: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, TokenError> {
    match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(malformed(format!("`{name}` is not text"))),
    }
}

const TWICE: &str = "the same name twice";

/// A JSON object in which no name stands twice; serde_json alone would keep the last, other readers keep the first.
struct Unique(Map<String, Value>);

impl<'de> serde::Deserialize<'de> for Unique {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> serde::de::Visitor<'de> for Names {
            type Value = Unique;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut access: A) -> Result<Unique, A::Error> {
                let mut map = Map::new();
                while let Some((name, value)) = access.next_entry::<String, Value>()? {
                    if map.insert(name, value).is_some() {
                        return Err(serde::de::Error::custom(TWICE));
                    }
                }
                Ok(Unique(map))
            }
        }
        deserializer.deserialize_map(Names)
    }
}
