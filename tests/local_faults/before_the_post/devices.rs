//! Faults of the places where keys live, and of PINs.

use std::fs;

#[cfg(feature = "tpm")]
use ziti_enroller_support::{BusFault, Proxy, Swtpm};
use ziti_enroller_support::{Program, require};

use super::{Case, Fault, faults, set_mode};
#[cfg(feature = "tpm")]
use crate::machine::tpm::OnTpm;
use crate::machine::{Fixture, InFiles, InTokenOf, Make, text};

/// Of keys in files.
pub fn of_key_files() -> Vec<Fault<InFiles>> {
    faults! {
        "the key file is missing", 24, "key_not_found" => |case| case.with_key("none").run();
        "the key file is no key", 20, "key_type_unsupported" => |case| {
            let file = case.file("gate.pem", "hello\n");
            case.bare().args(["--key", &text(&file)]).run()
        };
        "the key file may not be read", 50, "file_error" => |case| {
            let file = case.file("gate.pem", "");
            super::failing(case.bare().args(["--key", &text(&file)]), "?open,openat", 1, "EACCES", &[file]).run()
        };
        "the key file is a folder", 50, "file_error" => |case| case.bare().args(["--key", &text(&case.folder)]).run();
        "the key file is there already", 24, "key_exists" => |case| case.with_key("clean").arg("--create").run();
        "the key file is of a type that is not used", 20, "key_type_unsupported" => |case| {
            let file = case.path("gate.pem");
            let openssl = Program::new(require("openssl", "openssl")).args(["genpkey", "-algorithm", "ED25519", "-out"]);
            openssl.arg(&file).run().success();
            case.bare().args(["--key", &text(&file)]).run()
        };
        "the folder of the new key file is missing", 50, "folder_missing" => |case| {
            case.bare().args(["--key", &text(&case.path("none/gate.pem")), "--create"]).run()
        };
        "everyone may write to the folder of the new key file", 50, "folder_unsafe" => |case| {
            fs::create_dir(case.path("keys")).expect("the folder is ours");
            set_mode(&case.path("keys"), 0o777);
            case.bare().args(["--key", &text(&case.path("keys/gate.pem")), "--create"]).run()
        };
        "the disk is full when the key is written", 50, "disk_full" => |case| {
            let program = case.bare().args(["--key", &text(&case.path("gate.pem")), "--create"]);
            super::failing(program, "write", 1, "ENOSPC", &[case.path(".gate.pem.part")]).run()
        };
    }
}

fn with_pin<F: Fixture>(case: &Case<'_, F>, pin: impl AsRef<[u8]>) -> Program {
    let file = case.file("pin", pin);
    case.without_pin().arg("--pin-file").arg(file)
}

/// Of PINs that are never tried.
fn of_pins<F: Fixture>() -> Vec<Fault<F>> {
    faults! {
        "the PIN file is missing", 21, "pin_unreadable" => |case| {
            case.without_pin().arg("--pin-file").arg(case.path("none")).run()
        };
        "the PIN file is a folder", 21, "pin_unreadable" => |case| case.without_pin().arg("--pin-file").arg(&case.folder).run();
        "the PIN file may not be read", 21, "pin_unreadable" => |case| {
            super::failing(with_pin(case, "123456"), "openat", 1, "EACCES", &[case.path("pin")]).run()
        };
        "the PIN file is empty", 21, "pin_empty" => |case| with_pin(case, "").run();
        "the PIN file holds a NUL", 21, "pin_unreadable" => |case| with_pin(case, "12\x0034").run();
        "everyone may write to the PIN file", 21, "pin_file_unsafe" => |case| {
            let program = with_pin(case, "123456");
            set_mode(&case.path("pin"), 0o666);
            program.run()
        };
    }
}

fn broken<T: Make>(case: &Case<'_, InTokenOf<T>>, rules: &str) -> Program {
    case.enroll().env("P11FAULT", rules)
}

fn with_module<T: Make>(case: &Case<'_, InTokenOf<T>>, module: &str) -> Program {
    case.bare().args(["--provider", "pkcs11", "--module", module]).args(case.machine.keys.pin())
}

/// Of PKCS#11 tokens of every make.
pub fn of_tokens<T: Make>() -> Vec<Fault<InTokenOf<T>>> {
    let own: Vec<Fault<InTokenOf<T>>> = faults! {
        "no PIN is given", 21, "pin_missing" => |case| case.without_pin().run();
        "the PIN is wrong", 21, "pin_incorrect" => |case| with_pin(case, "not-the-PIN").run();
        "the PIN is locked", 22, "pin_locked" => |case| broken(case, "token-flags:+0x40000").run();
        "the PIN would be locked", 22, "pin_final_try" => |case| broken(case, "token-flags:+0x20000").run();
        "the PIN has expired", 22, "pin_expired" => |case| broken(case, "C_Login:*:0xa3").run();
        "no module is named", 20, "module_missing" => |case| case.bare().args(["--provider", "pkcs11"]).run();
        "the module is missing", 20, "module_missing" => |case| with_module(case, "/nonexistent.so").run();
        "the module is a text file", 20, "module_not_pkcs11" => |case| {
            let module = case.file("module.so", "hello\n");
            with_module(case, &text(&module)).run()
        };
        "everyone may write to the module", 20, "module_refused" => |case| {
            let module = case.file("module.so", "hello\n");
            set_mode(&module, 0o666);
            with_module(case, &text(&module)).run()
        };
        "the module does not start", 20, "module_refused" => |case| broken(case, "C_Initialize:1:0x5").run();
        "no such token", 24, "token_not_found" => |case| {
            with_module(case, &text(&case.machine.keys.hsm.module())).args(["--token", "another"]).run()
        };
        "the reader is empty", 24, "token_not_found" => |case| broken(case, "C_GetTokenInfo:*:0xe0").run();
        "the token is pulled before the login", 25, "device_gone" => |case| broken(case, "C_OpenSession:*:0xe0").run();
        "no such key", 24, "key_not_found" => |case| case.with_key("none").args(case.machine.keys.pin()).run();
        "the device fails when the key is made", 25, "device_error" => |case| broken(case, "C_GenerateKeyPair:*:0x30").run();
        "the device is full", 25, "device_error" => |case| broken(case, "C_GenerateKeyPair:*:0x31").run();
        "the mechanism is missing", 20, "key_type_unsupported" => |case| broken(case, "C_GenerateKeyPair:*:0x70").run();
        "the new key can leave the token", 23, "key_not_as_promised" => |case| broken(case, "lie:extractable").run();
        "the device cannot sign", 25, "device_error" => |case| broken(case, "C_Sign:*:0x30").run();
        "the device is gone when it is to sign", 25, "device_gone" => |case| broken(case, "C_Sign:*:0x32").run();
        "the device hangs", 25, "device_timeout" => |case| {
            broken(case, "C_Login:*:hang").args(["--device-timeout", "300ms"]).run()
        };
    };
    of_pins().into_iter().chain(own).collect()
}

/// TPM_CC of a command that every new key needs, and of one that every key needs.
#[cfg(feature = "tpm")]
const CREATE: u32 = 0x153;
#[cfg(feature = "tpm")]
const SIGN: u32 = 0x15d;

/// An enrollment over a bus on which this happens.
#[cfg(feature = "tpm")]
fn over_a_bus<F: OnTpm>(case: &Case<'_, F>, command: u32, fault: BusFault) -> ziti_enroller_support::Outcome {
    let proxy = Proxy::before(case.machine.keys.tpm());
    proxy.fail(command, 0, fault);
    at(case, &proxy.tcti()).args(["--device-timeout", "500ms"]).run()
}

#[cfg(feature = "tpm")]
fn at<F: OnTpm>(case: &Case<'_, F>, tcti: &str) -> Program {
    let own = case.machine.keys.tpm().tcti();
    let place = case.machine.keys.place().into_iter().map(|word| if word == own { tcti.to_owned() } else { word });
    case.bare().args(["--provider", "tpm"]).args(place).args(case.machine.keys.pin())
}

/// Of TPMs, with keys in either place.
#[cfg(feature = "tpm")]
pub fn of_tpms<F: OnTpm>() -> Vec<Fault<F>> {
    let own: Vec<Fault<F>> = faults! {
        "the key wants a PIN", 21, "pin_missing" => |case| case.with_key("clean").run();
        "the PIN is wrong", 21, "pin_incorrect" => |case| {
            let pin = case.file("pin", "not-the-PIN");
            case.with_key("clean").arg("--pin-file").arg(pin).run()
        };
        "no such device", 20, "tpm_missing" => |case| at(case, "device:/nonexistent").run();
        "nobody answers", 20, "tpm_missing" => |case| {
            let mut tpm = Swtpm::new();
            tpm.kill();
            at(case, &tpm.tcti()).run()
        };
        "the way to it is unknown", 20, "tcti_unknown" => |case| at(case, "libtpms").run();
        "the connection drops", 25, "device_gone" => |case| over_a_bus(case, CREATE, BusFault::Drop);
        "it hangs", 25, "device_timeout" => |case| over_a_bus(case, CREATE, BusFault::Hang);
        "it is out of memory", 25, "tpm_out_of_memory" => |case| over_a_bus(case, CREATE, BusFault::Answer(0x902));
        "it fails", 25, "device_error" => |case| over_a_bus(case, CREATE, BusFault::Answer(0x101));
        "its signature is changed on its way", 25, "device_error" => |case| over_a_bus(case, SIGN, BusFault::Spoil);
        "it is locked", 22, "tpm_lockout" => |case| over_a_bus(case, SIGN, BusFault::Answer(0x921));
        "it makes no such key", 20, "key_type_unsupported" => |case| case.enroll().args(["--key-alg", "rsa4096"]).run();
        "its owner has an auth value", 21, "pin_missing" => |case| {
            let tpm = Swtpm::new();
            tpm.set_auth("owner", "boss");
            at(case, &tpm.tcti()).run()
        };
        "no such key", 24, "key_not_found" => |case| case.with_key("none").args(case.machine.keys.pin()).run();
        "the key is of another TPM", 24, "key_not_found" => |case| {
            let tpm = Swtpm::new();
            let reference = case.machine.keys.reference("clean").replace(&case.machine.keys.tpm().tcti(), &tpm.tcti());
            case.bare().args(["--key", &reference]).args(case.machine.keys.pin()).run()
        };
        "the key is there already", 24, "key_exists" => |case| {
            case.with_key("clean").arg("--create").args(case.machine.keys.pin()).run()
        };
    };
    of_pins().into_iter().chain(own).collect()
}
