//! The derived name of a key: found again when everything else is lost.

use super::encoding::sha256;

/// CKA_ID and label that follow from whose key it is, for a device that stores such names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyName {
    /// Identifier, 16 bytes (the C SDK takes at most 32).
    pub id: [u8; 16],
    /// Label: `ziti:<subject>`, later generations `ziti:<subject>.<n>`.
    pub label: String,
}

/// Whose key it is: an identity of one controller.
#[derive(Clone, Copy, Debug)]
pub struct KeyOwner<'a> {
    /// The controller, `https://host:port`, lower case, the port always written.
    pub origin: &'a str,
    /// The identity's id.
    pub subject: &'a str,
}

impl KeyOwner<'_> {
    /// The name of the `generation`th key of this owner, counted from 0.
    ///
    /// The id is the first 16 bytes of SHA-256 over `ziti-enroller/1` 00 origin 00 subject, then 00 and the decimal
    /// generation where that is not 0.
    pub fn name(&self, generation: u32) -> KeyName {
        let mut bytes = format!("ziti-enroller/1\0{}\0{}", self.origin, self.subject).into_bytes();
        let mut label = format!("ziti:{}", self.subject);
        if generation > 0 {
            bytes.extend_from_slice(format!("\0{generation}").as_bytes());
            label = format!("{label}.{generation}");
        }
        let mut id = [0; 16];
        id.copy_from_slice(&sha256(&bytes)[..16]);
        KeyName { id, label }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::hex;

    const OWNER: KeyOwner<'_> = KeyOwner { origin: "https://ctrl.example.com:1280", subject: "W4kErfsB6a" };

    /// `printf 'ziti-enroller/1\0https://ctrl.example.com:1280\0W4kErfsB6a' | sha256sum`
    #[test]
    fn the_id_never_changes_between_releases() {
        assert_eq!(hex(&OWNER.name(0).id), "7c84c9476c0ce8741e167519d28cbe7c");
        assert_eq!(hex(&OWNER.name(1).id), "4a462d1583cdd8da8d4110850a37f3e5");
    }

    #[test]
    fn labels_say_whose_and_which() {
        assert_eq!(OWNER.name(0).label, "ziti:W4kErfsB6a");
        assert_eq!(OWNER.name(2).label, "ziti:W4kErfsB6a.2");
    }
}
