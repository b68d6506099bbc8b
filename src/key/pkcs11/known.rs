//! Modules that people use: where they lie on this machine, and what they read from their surroundings.
//!
//! Nothing here is loaded: it is named in hints, and found for a reference that gives a name without a path.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Folders with a `pkcs11` folder or with modules themselves; `*` is one folder of any name.
const FOLDERS: [&str; 9] = [
    "/usr/lib/softhsm",
    "/usr/lib64/softhsm",
    "/usr/local/lib/softhsm",
    "/usr/lib/pkcs11",
    "/usr/lib64/pkcs11",
    "/usr/local/lib/pkcs11",
    "/usr/lib/*/pkcs11",
    "/usr/lib/*/softhsm",
    "/opt/homebrew/lib/softhsm",
];

/// Files that are modules although they lie among other libraries.
const FILES: [&str; 18] = [
    "/usr/lib/*/opensc-pkcs11.so",
    "/usr/lib64/opensc-pkcs11.so",
    "/usr/lib/*/libtpm2_pkcs11.so.1",
    "/usr/lib64/libtpm2_pkcs11.so.1",
    "/usr/lib/*/libykcs11.so.2",
    "/usr/lib64/libykcs11.so.2",
    "/usr/local/lib/libykcs11.so",
    "/usr/lib/*/yubihsm_pkcs11.so",
    "/usr/lib64/yubihsm_pkcs11.so",
    "/usr/lib/*/p11-kit-proxy.so",
    "/usr/lib64/p11-kit-proxy.so",
    "/usr/safenet/lunaclient/lib/libCryptoki2_64.so",
    "/usr/lib/libCryptoki2_64.so",
    "/opt/nfast/toolkits/pkcs11/libcknfast.so",
    "/opt/cloudhsm/lib/libcloudhsm_pkcs11.so",
    "/opt/kms/libkmsp11.so",
    "/usr/lib/libkmsp11.so",
    "/usr/local/lib/libkmsp11.so",
];

/// Not tokens, but lenses in front of another module.
const LENSES: [&str; 2] = ["pkcs11-spy.so", "p11-kit-client.so"];

/// Modules that lie where packages put them, each file once.
pub(super) fn on_this_machine() -> Vec<PathBuf> {
    let in_folders = FOLDERS.iter().flat_map(|f| spread(f)).flat_map(|folder| entries(&folder));
    let found = in_folders.filter(|p| is_module_name(p)).chain(FILES.iter().flat_map(|f| spread(f)).filter(|p| p.is_file()));
    let mut seen = BTreeSet::new();
    found.filter(|path| fs::canonicalize(path).is_ok_and(|target| seen.insert(target))).collect()
}

/// Modules that lie in one folder.
pub(super) fn in_folder(folder: &Path) -> Vec<PathBuf> {
    entries(folder).into_iter().filter(|path| is_module_name(path) && path.is_file()).collect()
}

/// Those of `paths` that are called `name`.
pub(super) fn called(name: &str, paths: Vec<PathBuf>) -> Vec<PathBuf> {
    paths.into_iter().filter(|path| is_called(path, name)).collect()
}

/// Whether the file at `path` is called `name`, which has neither path nor affixes, and no case (RFC 7512 §2.3).
pub(super) fn is_called(path: &Path, name: &str) -> bool {
    path.file_name().is_some_and(|file| bare(&file.to_string_lossy()) == bare(name))
}

/// `libsofthsm2.so`, `libtpm2_pkcs11.so.1` and `SoftHSM2` without what belongs to the system: `softhsm2`, `tpm2_pkcs11`.
fn bare(file: &str) -> String {
    let file = file.to_lowercase();
    let stem = file.find(".so").map_or(file.as_str(), |end| &file[..end]);
    stem.strip_prefix("lib").unwrap_or(stem).to_owned()
}

fn is_module_name(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "so") && !path.file_name().is_some_and(|n| LENSES.iter().any(|l| n == *l))
}

/// The paths that a pattern with at most one `*` folder stands for.
fn spread(pattern: &str) -> Vec<PathBuf> {
    match pattern.split_once("/*/") {
        None => vec![PathBuf::from(pattern)],
        Some((parent, rest)) => entries(Path::new(parent)).into_iter().map(|folder| folder.join(rest)).collect(),
    }
}

/// What lies in a folder, sorted; nothing where it cannot be read, for this is only a hint.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// What a module reads when it starts, by its file name.
const SETTINGS: [(&str, &str); 9] = [
    ("softhsm", "SOFTHSM2_CONF must name its configuration"),
    ("libcryptoki2", "ChrystokiConfigurationPath must name the folder of its configuration"),
    ("cknfast", "look at the CKNFAST_ variables or the file cknfastrc, and at the hardserver"),
    ("cloudhsm", "configure it with configure-pkcs11; its PIN is user:password"),
    ("yubihsm", "YUBIHSM_PKCS11_CONF must name its configuration, else it is sought in the current folder"),
    ("kmsp11", "KMS_PKCS11_CONFIG must name its configuration"),
    ("tpm2_pkcs11", "look at TPM2_PKCS11_STORE and TPM2_PKCS11_TCTI, and whether this user is in group tss"),
    ("ykcs11", "look at pcscd and at its polkit rule"),
    ("opensc", "look at pcscd and at its polkit rule"),
];

/// The setting to look at when this module does not start or shows no token.
pub(super) fn setting(module: &Path) -> Option<&'static str> {
    let name = module.file_name()?.to_string_lossy().to_ascii_lowercase();
    SETTINGS.iter().find(|(part, _)| name.contains(part)).map(|(_, setting)| *setting)
}

/// The environment variables that decide where this module looks.
pub(super) fn variables(module: &Path) -> &'static [&'static str] {
    const VARIABLES: [(&str, &[&str]); 6] = [
        ("softhsm", &["SOFTHSM2_CONF"]),
        ("libcryptoki2", &["ChrystokiConfigurationPath"]),
        ("cknfast", &["CKNFAST_LOADSHARING", "CKNFAST_OVERRIDE_SECURITY_ASSURANCES"]),
        ("yubihsm", &["YUBIHSM_PKCS11_CONF"]),
        ("kmsp11", &["KMS_PKCS11_CONFIG"]),
        ("tpm2_pkcs11", &["TPM2_PKCS11_STORE", "TPM2_PKCS11_TCTI"]),
    ];
    let name = module.file_name().map(|n| n.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    VARIABLES.iter().find(|(part, _)| name.contains(part)).map_or(&[], |(_, variables)| *variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_each_module_reads() {
        for (file, part) in [
            ("/usr/lib/softhsm/libsofthsm2.so", "SOFTHSM2_CONF"),
            ("/usr/safenet/lunaclient/lib/libCryptoki2_64.so", "ChrystokiConfigurationPath"),
            ("/usr/lib/x86_64-linux-gnu/libtpm2_pkcs11.so.1", "TPM2_PKCS11_STORE"),
        ] {
            assert!(setting(Path::new(file)).is_some_and(|s| s.contains(part)), "{file}");
        }
        assert_eq!(setting(Path::new("/lib/other.so")), None);
    }

    #[test]
    fn a_name_has_no_affixes_and_no_case() {
        for (path, name) in [
            ("/usr/lib/softhsm/libsofthsm2.so", "softhsm2"),
            ("/usr/lib/softhsm/libsofthsm2.so", "SoftHSM2"),
            ("/usr/lib/x/libtpm2_pkcs11.so.1", "tpm2_pkcs11"),
            ("/usr/lib/x/opensc-pkcs11.so", "opensc-pkcs11"),
            ("/usr/safenet/lunaclient/lib/libCryptoki2_64.so", "cryptoki2_64"),
        ] {
            assert!(is_called(Path::new(path), name), "{path} {name}");
        }
        assert!(!is_called(Path::new("/usr/lib/softhsm/libsofthsm2.so"), "softhsm"));
        assert!(!is_called(Path::new("/usr/lib/x/onepin-opensc-pkcs11.so"), "opensc-pkcs11"));
    }

    #[test]
    fn names_each_file_once_and_no_lens() {
        let found = on_this_machine();
        let targets: BTreeSet<PathBuf> = found.iter().filter_map(|p| fs::canonicalize(p).ok()).collect();
        assert_eq!(targets.len(), found.len());
        assert!(!found.iter().any(|p| p.ends_with("pkcs11-spy.so")));
    }
}
