//! Room 6: the identity file, plain data.
//!
//! Top level `ztAPI`, `ztAPIs`, `id` with `key`, `cert`, `ca`, in this order and nothing else: the JVM SDK refuses unknown
//! members inside `id`, the C tunneler drops unknown ones elsewhere. See `identity/opened.rs` for one with its key in hand.

pub mod opened;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::certificate::{Anchors, CertificateError, Chain};
use crate::key::KeyReference;
use crate::origin::{Origin, OriginError};

pub use opened::OpenedIdentity;

/// Largest identity file that is read, in bytes. One that the JVM SDK reads has at most 16 KiB.
pub const LARGEST: u64 = 1024 * 1024;
const PEM: &str = "pem:";

/// An identity file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Not the JSON of an identity.
    #[error("it is not the JSON of an identity: {0}")]
    Form(String),
    /// No address of a controller.
    #[error("`{0}` is no address of a controller")]
    Address(String, #[source] OriginError),
    /// `id.cert` or `id.ca`.
    #[error("its `{0}` cannot be used")]
    Certificates(&'static str, #[source] CertificateError),
    /// `id.key`, `id.cert` or `id.ca` is a file that is not read.
    #[error("its `{0}` refers to a file that cannot be read")]
    Referred(&'static str, #[source] crate::files::FileError),
    /// It has no key or no certificate to log in with.
    #[error("it has no `{0}`")]
    Missing(&'static str),
    /// A private key is in it, though the key is elsewhere.
    #[error("a private key would be in it, though the key is in a device")]
    HoldsAKey,
}

/// An identity: where to connect, as whom, and whom to trust.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Addresses of the controllers' client API, the preferred first.
    pub apis: Vec<String>,
    /// The private key, or where it is.
    pub key: KeyReference,
    /// The certificate and its intermediates.
    pub chain: Chain,
    /// The network's CA certificates.
    pub anchors: Anchors,
}

#[derive(Serialize, Deserialize)]
struct File {
    #[serde(rename = "ztAPI", skip_serializing_if = "Option::is_none")]
    api: Option<String>,
    #[serde(rename = "ztAPIs", skip_serializing_if = "Option::is_none")]
    apis: Option<Vec<String>>,
    id: Option<Id>,
    /// What other programs keep there: `configTypes`, `enableHa`, …
    #[serde(flatten)]
    others: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct Id {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cert: Option<String>,
    ca: Option<String>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// An identity file without an identity: where a network is, and whom to trust there. Who has it logs in with a password,
/// or with the token of an identity provider.
#[derive(Clone, Debug)]
pub struct Network {
    /// Addresses of the controllers' client API, the preferred first.
    pub apis: Vec<String>,
    /// The network's CA certificates.
    pub anchors: Anchors,
}

impl Identity {
    /// The client API of the controller at `origin`, as identity files name it; the port is always written.
    pub fn api_of(origin: &Origin) -> String {
        format!("{origin}/edge/client/v1")
    }

    /// The text of the file: one line of JSON and a newline.
    ///
    /// Unless the key reference itself holds the key, the text is searched for one and refused.
    ///
    /// # Errors
    /// [`IdentityError::HoldsAKey`], [`IdentityError::Missing`].
    pub fn to_json(&self) -> Result<String, IdentityError> {
        let file = File {
            api: Some(self.apis.first().ok_or(IdentityError::Missing("ztAPI"))?.clone()),
            apis: Some(self.apis.clone()),
            id: Some(Id {
                key: Some(self.key.expose().to_owned()),
                cert: Some(format!("{PEM}{}", self.chain.to_pem())),
                ca: Some(format!("{PEM}{}", self.anchors.to_pem())),
                others: Map::new(),
            }),
            others: Map::new(),
        };
        let text = written(&file)?;
        if !self.key.holds_the_key() && (text.contains("PRIVATE KEY") || KeyReference::found(self.key.expose()).holds_the_key()) {
            return Err(IdentityError::HoldsAKey);
        }
        Ok(text)
    }

    /// The text of `old`, an identity file of whatever maker, with the certificate of this one, and with its key, CA
    /// certificates and addresses where those are others. Whatever else is in the file stays as it is.
    ///
    /// # Errors
    /// As [`to_json`](Self::to_json) and [`parse`](Self::parse).
    pub fn to_json_over(&self, old: &[u8]) -> Result<String, IdentityError> {
        // Judged as if it were written anew.
        self.to_json()?;
        let before = Self::parse(old)?;
        let mut file: File = serde_json::from_slice(old).map_err(|e| IdentityError::Form(no_excerpt(&e)))?;
        let id = file.id.as_mut().ok_or(IdentityError::Missing("id"))?;
        id.cert = Some(format!("{PEM}{}", self.chain.to_pem()));
        if before.key.expose() != self.key.expose() {
            id.key = Some(self.key.expose().to_owned());
        }
        if before.anchors != self.anchors {
            id.ca = Some(format!("{PEM}{}", self.anchors.to_pem()));
        }
        if before.apis != self.apis {
            file.api = self.apis.first().cloned();
            file.apis = Some(self.apis.clone());
        }
        written(&file)
    }

    /// Reads a file of whatever maker: `pem:`, bare PEM, and `file://` are taken for `cert` and `ca`.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn parse(text: &[u8]) -> Result<Self, IdentityError> {
        let file: File = serde_json::from_slice(text).map_err(|e| IdentityError::Form(no_excerpt(&e)))?;
        let (apis, id) = file.apis_and_id()?;
        let chain = Chain::from_pem(&pem("cert", id.cert)?).map_err(|e| IdentityError::Certificates("cert", e))?;
        let anchors = Anchors::from_pem(&pem("ca", id.ca)?).map_err(|e| IdentityError::Certificates("ca", e))?;
        let key = KeyReference::found(id.key.filter(|k| !k.is_empty()).ok_or(IdentityError::Missing("key"))?);
        let identity = Self { apis, key, chain, anchors };
        identity.origin()?;
        Ok(identity)
    }

    /// The controller that it prefers.
    ///
    /// # Errors
    /// [`IdentityError::Address`], [`IdentityError::Missing`].
    pub fn origin(&self) -> Result<Origin, IdentityError> {
        first_origin(&self.apis)
    }
}

fn written(file: &File) -> Result<String, IdentityError> {
    serde_json::to_string(file).map(|text| text + "\n").map_err(|e| IdentityError::Form(e.to_string()))
}

impl Network {
    /// The text of the file: one line of JSON and a newline.
    ///
    /// # Errors
    /// [`IdentityError::Missing`].
    pub fn to_json(&self) -> Result<String, IdentityError> {
        let file = File {
            api: Some(self.apis.first().ok_or(IdentityError::Missing("ztAPI"))?.clone()),
            apis: Some(self.apis.clone()),
            id: Some(Id { key: None, cert: None, ca: Some(format!("{PEM}{}", self.anchors.to_pem())), others: Map::new() }),
            others: Map::new(),
        };
        written(&file)
    }

    /// Reads a file of whatever maker; a key and a certificate in it are not looked at.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn parse(text: &[u8]) -> Result<Self, IdentityError> {
        let file: File = serde_json::from_slice(text).map_err(|e| IdentityError::Form(no_excerpt(&e)))?;
        let (apis, id) = file.apis_and_id()?;
        let anchors = Anchors::from_pem(&pem("ca", id.ca)?).map_err(|e| IdentityError::Certificates("ca", e))?;
        first_origin(&apis)?;
        Ok(Self { apis, anchors })
    }

    /// Whether a file is one without an identity.
    pub fn is_all_of(text: &[u8]) -> bool {
        let id = serde_json::from_slice::<File>(text).ok().and_then(|file| file.id);
        id.is_some_and(|id| id.key.is_none() && id.cert.is_none() && id.ca.is_some())
    }

    /// The controller that it prefers.
    ///
    /// # Errors
    /// [`IdentityError::Address`], [`IdentityError::Missing`].
    pub fn origin(&self) -> Result<Origin, IdentityError> {
        first_origin(&self.apis)
    }
}

impl File {
    fn apis_and_id(self) -> Result<(Vec<String>, Id), IdentityError> {
        let id = self.id.ok_or(IdentityError::Missing("id"))?;
        let mut apis = self.apis.unwrap_or_default();
        if apis.is_empty() {
            apis.extend(self.api);
        }
        Ok((apis, id))
    }
}

/// The text of a member that is within the file, or in one that it names.
fn pem(name: &'static str, value: Option<String>) -> Result<Vec<u8>, IdentityError> {
    let value = value.filter(|v| !v.is_empty()).ok_or(IdentityError::Missing(name))?;
    if value.contains("-----BEGIN") {
        return Ok(value.strip_prefix(PEM).unwrap_or(&value).as_bytes().to_vec());
    }
    let path = value.strip_prefix("file://").unwrap_or(&value);
    crate::files::read_file(path.as_ref(), LARGEST).map_err(|e| IdentityError::Referred(name, e))
}

fn first_origin(apis: &[String]) -> Result<Origin, IdentityError> {
    let api = apis.first().ok_or(IdentityError::Missing("ztAPI"))?;
    Origin::of_url(api).map_err(|e| IdentityError::Address(crate::text::Printable::new(api).as_str().to_owned(), e))
}

/// serde_json quotes unknown variants and values, which may be a key; only the kind and place of the mistake are passed on.
fn no_excerpt(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Syntax => "not JSON",
        serde_json::error::Category::Eof => "it ends too early",
        serde_json::error::Category::Data => "a member is of the wrong type",
        serde_json::error::Category::Io => "unreadable",
    };
    format!("{what}, line {}", error.line())
}
