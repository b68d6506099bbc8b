//! Why a TPM cannot be reached, and what to do about it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;

use super::error::Failure;
use super::tcti::Tcti;
use crate::files;
use crate::key::{Fault, KeyError};
use crate::text::{Hint, Printable, shell_word};

/// Refuses a device that is not there, or that we may not open, before libtss2 says so without a reason.
///
/// # Errors
/// [`KeyError::Unavailable`] `tpm_missing`, `tpm_permission`.
pub(super) fn must_be_there(tcti: &Tcti) -> Result<(), KeyError> {
    let Some(device) = tcti.device() else { return Ok(()) };
    match accessat(CWD, device, Access::READ_OK | Access::WRITE_OK, AtFlags::EACCESS) {
        Err(Errno::NOENT | Errno::NOTDIR) => Err(no_device(device)),
        Err(errno @ (Errno::ACCESS | Errno::PERM | Errno::ROFS)) => Err(not_allowed(device, errno)),
        _ => Ok(()),
    }
}

/// What a failed connection means.
pub(super) fn unreachable(tcti: &Tcti, failure: Failure) -> KeyError {
    let native = failure.native();
    let fault = |message: String| Fault::new("tpm_missing", message).native(native);
    KeyError::Unavailable(match tcti {
        Tcti::Device(path) => fault(format!("the TPM at {} cannot be opened", path.display())).hint(Hint::say(
            "another program may have it to itself: all can share it through the kernel's resource manager, --tcti device:/dev/tpmrm0",
        )),
        Tcti::Simulator(name, host, port) => fault(format!("no TPM answers at {tcti}")).hint(Hint::say(format!(
            "start {name} on {host} with its control channel on port {}; the library libtss2-tcti-{name} must be installed",
            port + 1
        ))),
        Tcti::Daemon(..) => fault(format!("no TPM answers at {tcti}"))
            .hint(Hint::say("see that tpm2-abrmd runs, and that the library libtss2-tcti-tabrmd is installed; --tcti device:/dev/tpmrm0 needs neither")),
    })
}

fn no_device(device: &Path) -> KeyError {
    let fault = Fault::new("tpm_missing", format!("there is no TPM at {}", device.display()));
    KeyError::Unavailable(fault.hint(Hint::say(format!(
        "see that it is enabled in the firmware; a container needs --device={}; another way to a TPM is named with --tcti",
        shell_word(&device.to_string_lossy())
    ))))
}

fn not_allowed(device: &Path, errno: Errno) -> KeyError {
    let shown = shell_word(&device.to_string_lossy());
    let fault = |whose: String| {
        let message = format!("this user may not use the TPM at {}{whose}", device.display());
        Fault::new("tpm_permission", message).because(std::io::Error::from(errno))
    };
    let Ok(meta) = device.metadata() else { return KeyError::Unavailable(fault(String::new())) };
    let gid = meta.gid();
    let name = group(gid);
    let whose = format!(", which belongs to group {gid} ({})", name.as_ref().map_or("no name here", Printable::as_str));
    let hint = match &name {
        Some(name) => Hint::run(
            format!("join that group and log in again; a container needs --device={shown} --group-add={gid}"),
            format!("sudo usermod -aG {} \"$(id -un)\"", shell_word(name.as_str())),
        ),
        None => Hint::say(format!("run this in group {gid}; a container needs --device={shown} --group-add={gid}")),
    };
    KeyError::Unavailable(fault(whose).hint(hint))
}

/// The name of a group, from /etc/group.
fn group(gid: u32) -> Option<Printable> {
    let table = files::read_file(Path::new("/etc/group"), 1 << 20).ok()?;
    let table = String::from_utf8_lossy(&table).into_owned();
    name_in(&table, gid).map(Printable::new)
}

fn name_in(table: &str, gid: u32) -> Option<&str> {
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_name_of_a_group() {
        let table = "root:x:0:\n+\ntss:x:114:alice\n";
        assert_eq!((name_in(table, 114), name_in(table, 0), name_in(table, 7)), (Some("tss"), Some("root"), None));
    }

    #[test]
    fn says_which_device_is_missing() {
        let error = must_be_there(&Tcti::parse("device:/dev/no-such-tpm").unwrap()).unwrap_err();
        assert_eq!(error.fault().map(|f| f.code), Some("tpm_missing"));
        assert!(error.to_string().contains("/dev/no-such-tpm"));
    }

    #[test]
    fn says_which_group_may_use_it() {
        let KeyError::Unavailable(fault) = not_allowed(Path::new("/"), Errno::ACCESS) else { panic!() };
        assert_eq!(fault.code, "tpm_permission");
        assert!(fault.message.contains("group 0 (root)"), "{}", fault.message);
        assert!(fault.hint.unwrap().say.contains("--group-add=0"));
    }
}
