//! The PIN is nowhere: not in a command line, an environment, an output, a file, a system call, or on the bus of a TPM;
//! whatever was done with it, and however that ended. Nor is the enrollment token, but in its own file.
//!
//! What looks for it, and the few exceptions, is `tests/support/src/canary.rs`. Left out because it is their purpose to hold
//! the PIN: the identity of `--embed-pin` (that one file, and nothing else), and `exec`. Not searched: the state of swtpm,
//! which is a TPM and holds the auth values of its keys.

mod controls;
mod dumps;
mod embedded;
mod place;
mod scenarios;
mod stage;

use std::panic::catch_unwind;
use std::path::Path;

use ziti_enroller_support::canary::Found;
use ziti_enroller_support::{Search, figures};

use crate::machine::tpm::{InTpmFile, InTpmHandle};
use crate::machine::{InKryoptic, InToken, InTpm2Pkcs11, PROGRAM};
use place::Place;
use scenarios::Scenario;
use stage::{PIN, Stage};

/// How many scenarios were promised; one place alone has them.
const PROMISED: usize = 40;

/// Each scenario at a place of its own.
fn hold<F: Place>(scenarios: &[Scenario<F>]) {
    let (mut wrong, mut opened, mut shown) = (Vec::new(), 0, 0);
    for (number, (name, play)) in scenarios.iter().enumerate() {
        // Every other one for a script.
        let held = catch_unwind(|| {
            let mut stage = Stage::<F>::new(PIN, number % 2 == 1);
            let found = play(&mut stage);
            is_clean(&stage.search(), &found).map(|opened| (opened, found.shown))
        });
        match held {
            Ok(Ok(seen)) => (opened, shown) = (opened + seen.0, shown + seen.1),
            Ok(Err(why)) => wrong.push(format!("{name}: {why}")),
            Err(why) => wrong.push(format!("{name}: {}", why.downcast_ref::<String>().map_or("it panicked", String::as_str))),
        }
    }
    let all = scenarios.len();
    figures::record(&format!("scenarios in which the PIN is nowhere, {}", F::NAME), all, all - wrong.len(), "");
    assert!(wrong.is_empty(), "{} of {all}:\n{}", wrong.len(), wrong.join("\n"));
    // A search that sees nothing finds nothing.
    assert!(opened > all / 2, "of {all} scenarios, only {opened} have opened a PIN, a token or a terminal");
    assert!(shown > all / 2, "in {all} scenarios, /proc showed only {shown} processes");
}

/// Nothing was found, and no core could be dumped whenever a secret was opened; says how often that was.
fn is_clean(search: &Search<'_>, found: &Found) -> Result<usize, String> {
    let is_secret = |path: &str| path == "/dev/tty" || path.starts_with("/proc/self/fd/") || search.is_place(path);
    let opened = found.trace.dumps_forbidden_before(Path::new(PROGRAM), is_secret)?;
    match &found.hits[..] {
        [] => Ok(opened),
        hits => Err(format!("{}\n{}", hits.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"), found.outcome)),
    }
}

fn everything<F: Place>() -> Vec<Scenario<F>> {
    [scenarios::sources(), scenarios::commands(), scenarios::outcomes()].concat()
}

mod the_pin_is_nowhere {
    use super::*;

    #[test]
    fn with_softhsm() {
        let scenarios = [everything::<InToken>(), scenarios::of_a_module(), scenarios::in_the_wrong_option()].concat();
        assert!(scenarios.len() >= PROMISED, "{}", scenarios.len());
        hold(&scenarios);
    }

    #[test]
    fn with_kryoptic() {
        hold(&everything::<InKryoptic>());
    }

    #[test]
    fn with_tpm2_pkcs11() {
        hold(&everything::<InTpm2Pkcs11>());
    }

    #[test]
    fn with_keys_in_tpm_files() {
        hold(&[everything::<InTpmFile>(), scenarios::of_a_tpm()].concat());
    }

    #[test]
    fn with_keys_at_tpm_handles() {
        hold(&[everything::<InTpmHandle>(), scenarios::of_a_tpm()].concat());
    }
}
