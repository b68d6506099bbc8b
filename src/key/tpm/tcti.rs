//! [`Tcti`]: the way to a TPM, as tpm2-tools and libtss2 write it: `device:/dev/tpmrm0`, `swtpm:host=127.0.0.1,port=2321`.
//!
//! tss-esapi 7.7 reads such a string with patterns that take no notice of what they do not know: `swtpm:path=/sock` means
//! `swtpm:host=localhost,port=2321` to it. So everything is read here, and only what was understood goes on.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::key::{Fault, KeyError};
use crate::text::{Hint, Printable};

/// What is used where nothing is said: the kernel's resource manager, which shares the TPM between programs.
const DEVICE: &str = "/dev/tpmrm0";
/// Port of a simulator where none is said; its control channel is on the next one.
const PORT: u16 = 2321;
/// The D-Bus name of the resource manager daemon.
const BUS_NAME: &str = "com.intel.tss2.Tabrmd";

/// A way to a TPM that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tcti {
    /// A character device of the kernel.
    Device(PathBuf),
    /// swtpm or the Microsoft simulator, over TCP: name, host, port.
    Simulator(&'static str, String, u16),
    /// tpm2-abrmd over D-Bus: bus name, and `system` or `session`.
    Daemon(String, &'static str),
}

impl Default for Tcti {
    fn default() -> Self {
        Self::Device(PathBuf::from(DEVICE))
    }
}

impl Tcti {
    /// Reads `name[:configuration]`.
    ///
    /// # Errors
    /// [`KeyError::Unavailable`] `tcti_unknown` for another name, an unknown or repeated key, or a value out of range.
    pub(super) fn parse(text: &str) -> Result<Self, KeyError> {
        let (name, configuration) = text.split_once(':').unwrap_or((text, ""));
        let known = match name {
            "device" => device(configuration),
            "swtpm" => simulator("swtpm", configuration),
            "mssim" => simulator("mssim", configuration),
            "tabrmd" => daemon(configuration),
            _ => Err(format!("there is no `{}`", Printable::new(name))),
        };
        known.map_err(|why| {
            let fault = Fault::new("tcti_unknown", format!("the TCTI `{}` is not understood: {why}", Printable::new(text)));
            KeyError::Unavailable(fault.hint(Hint::say(
                "known are device:PATH, swtpm:host=HOST,port=PORT, mssim:host=HOST,port=PORT and tabrmd:bus_name=NAME,bus_type=TYPE",
            )))
        })
    }

    /// The device file, where it is one.
    pub(super) fn device(&self) -> Option<&Path> {
        match self {
            Self::Device(path) => Some(path),
            Self::Simulator(..) | Self::Daemon(..) => None,
        }
    }
}

impl fmt::Display for Tcti {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(path) => write!(f, "device:{}", path.display()),
            Self::Simulator(name, host, port) => write!(f, "{name}:host={host},port={port}"),
            Self::Daemon(name, kind) => write!(f, "tabrmd:bus_name={name},bus_type={kind}"),
        }
    }
}

fn device(path: &str) -> Result<Tcti, String> {
    match path {
        "" => Ok(Tcti::default()),
        _ if path.starts_with('/') => Ok(Tcti::Device(PathBuf::from(path))),
        _ => Err("the path of a device begins with `/`".into()),
    }
}

fn simulator(name: &'static str, configuration: &str) -> Result<Tcti, String> {
    let [host, port] = values(configuration, ["host", "port"])?;
    let host = host.unwrap_or("localhost");
    // RFC 1123 §2.1; whether the name exists is found out by connecting.
    let label = |l: &str| !l.is_empty() && l.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') && !l.starts_with('-');
    if host.parse::<IpAddr>().is_err() && !host.split('.').all(label) {
        return Err("`host` is neither a name nor an address".into());
    }
    let port = match port {
        None => PORT,
        // The control channel needs the port after it.
        Some(port) => port.parse().ok().filter(|p| (1..u16::MAX).contains(p)).ok_or("`port` is not a number from 1 to 65534")?,
    };
    Ok(Tcti::Simulator(name, host.to_owned(), port))
}

fn daemon(configuration: &str) -> Result<Tcti, String> {
    let [name, kind] = values(configuration, ["bus_name", "bus_type"])?;
    let name = name.unwrap_or(BUS_NAME);
    let element = |e: &str| !e.is_empty() && e.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    if !name.contains('.') || !name.split('.').all(element) {
        return Err("`bus_name` is not a name of D-Bus".into());
    }
    let kind = match kind {
        None | Some("system") => "system",
        Some("session") => "session",
        Some(_) => return Err("`bus_type` is neither system nor session".into()),
    };
    Ok(Tcti::Daemon(name.to_owned(), kind))
}

/// The values of `key=value,key=value`.
fn values<'a, const N: usize>(configuration: &'a str, keys: [&str; N]) -> Result<[Option<&'a str>; N], String> {
    let mut values = [None; N];
    for part in configuration.split(',').filter(|p| !p.is_empty()) {
        let (key, value) =
            part.split_once('=').ok_or_else(|| format!("`{}` is not of the form key=value", Printable::new(part)))?;
        let Some(i) = keys.iter().position(|k| *k == key) else {
            return Err(format!(
                "it has no `{}` here, only {}",
                Printable::new(key),
                keys.map(|k| format!("`{k}`")).join(" and ")
            ));
        };
        if values[i].replace(value).is_some() {
            return Err(format!("`{key}` is given twice"));
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_libtss2_reads() {
        for (text, canonical) in [
            ("device", "device:/dev/tpmrm0"),
            ("device:/dev/tpm0", "device:/dev/tpm0"),
            ("swtpm", "swtpm:host=localhost,port=2321"),
            ("swtpm:port=4711,host=127.0.0.1", "swtpm:host=127.0.0.1,port=4711"),
            ("swtpm:host=::1", "swtpm:host=::1,port=2321"),
            ("mssim:host=tpm.example.com", "mssim:host=tpm.example.com,port=2321"),
            ("tabrmd", "tabrmd:bus_name=com.intel.tss2.Tabrmd,bus_type=system"),
            ("tabrmd:bus_type=session", "tabrmd:bus_name=com.intel.tss2.Tabrmd,bus_type=session"),
        ] {
            let tcti = Tcti::parse(text).unwrap();
            assert_eq!(tcti.to_string(), canonical);
            assert_eq!(Tcti::parse(canonical).unwrap(), tcti);
        }
    }

    #[test]
    fn refuses_what_tss_esapi_would_misread() {
        for text in [
            "",
            "swtpm:path=/run/tpm.sock",
            "swtpm:host=a,prot=1",
            "swtpm:port=65535",
            "swtpm:port=0",
            "swtpm:port=1,port=2",
            "swtpm:host=",
            "swtpm:4711",
            "device:tpm0",
            "device:host=x",
            "/dev/tpmrm0",
            "libtpms",
            "cmd:nc",
            "tabrmd:bus_type=x",
            "tabrmd:bus_name=x",
            "libtss2-tcti-device.so.0:/dev/tpmrm0",
            "mssim:host=a_b",
        ] {
            let error = Tcti::parse(text).unwrap_err();
            assert_eq!(error.fault().map(|f| f.code), Some("tcti_unknown"), "{text}");
        }
    }
}
