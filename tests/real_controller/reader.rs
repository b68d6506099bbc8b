//! What we write is read by programs of others: `ZITI_READER` names one that is given an identity file, opens it with another
//! library than ours, logs in, prints the identity's name, and ends with 0.

use std::path::{Path, PathBuf};

use ziti_enroller_support::{Outcome, Program, SoftHsm, Tpm2Pkcs11};

use super::controllers::AnyController;
use super::machine::{Fixture, InFiles, InTokenOf, Machine, Make, report, text};
use super::real::RealController;
use super::{Story, tell};

fn read<F: Fixture>(machine: &Machine<F>, identity: &Path) -> Outcome {
    let reader = std::env::var_os("ZITI_READER").map(PathBuf::from).filter(|path| path.is_file());
    let reader = reader.expect("name a program that opens an identity file with an OpenZiti SDK: ZITI_READER=/path/to/reader");
    let read = Program::new(reader).envs(machine.keys.surroundings()).current_dir(machine.folder()).arg(identity).run();
    // A program that ends without a word to its module leaves what a killed one leaves.
    machine.keys.after_a_kill();
    read
}

/// Enrolls with these options, has it read, and renews it to a new key, which is read too.
fn is_read<F: Fixture>(at: &dyn AnyController, machine: &Machine<F>, name: &str, place: &[String]) {
    let token = at.issue(name, machine.folder());
    let enroll = machine.program().args(["enroll", "--format", "json", "--provider", F::PROVIDER]).args(place);
    report(&enroll.args(machine.keys.pin()).arg("--jwt").arg(&token.file).run());
    let who = read(machine, &token.out()).success();
    assert!(who.stdout.contains(name), "{who}");
    let renew = machine.program().args(["renew", "--rotate", "--force", "--format", "json", "--provider", F::PROVIDER]);
    report(&renew.args(place).args(machine.keys.pin()).arg(token.out()).run());
    let who = read(machine, &token.out()).success();
    assert!(who.stdout.contains(name), "{who}");
}

fn file_key_is_read(at: &dyn AnyController) {
    is_read(at, &Machine::<InFiles>::new(), "read-file", &[]);
}

/// By the module itself: p11fault does not stand between. What we append to the reference is in it.
fn token_key_is_read<T: Make>(at: &dyn AnyController) {
    let machine = Machine::<InTokenOf<T>>::new();
    let algorithms = if T::HAS_PSS { &["p256", "p384", "rsa2048"][..] } else { &["p256"] };
    for algorithm in algorithms {
        let place =
            ["--module".to_owned(), text(&machine.keys.hsm.real_module()), "--token".into(), machine.keys.hsm.label().into()];
        let place = [&place[..], &["--embed-pin".to_owned(), "--key-alg".into(), (*algorithm).into()]].concat();
        is_read(at, &machine, &format!("read-{}-{algorithm}", T::NAME), &place);
    }
}

#[test]
#[ignore = "needs ZITI_BIN and ZITI_READER"]
fn identities_are_read_by_a_program_of_others() {
    let controller = RealController::start();
    let stories: [(&str, Story); 3] = [
        (InFiles::NAME, ("read by another library", file_key_is_read)),
        (SoftHsm::NAME, ("read by another library", token_key_is_read::<SoftHsm>)),
        (Tpm2Pkcs11::NAME, ("read by another library", token_key_is_read::<Tpm2Pkcs11>)),
    ];
    for (place, story) in stories {
        tell(place, &[story], &[&controller]);
    }
}

/// The other way round: what our reference says that no SDK reads, none reads.
#[cfg(feature = "tpm")]
#[test]
#[ignore = "needs ZITI_BIN and ZITI_READER"]
fn key_of_a_tpm_is_for_us_alone() {
    let controller = RealController::start();
    let machine = Machine::<super::InTpmFile>::new();
    let token = controller.issue("read-tpm", machine.folder());
    let said = report(&super::enroll(&machine, &token.file, &[]).run());
    assert_eq!(said["readers"], serde_json::json!(["ziti-enroller"]));
    assert_ne!(read(&machine, &token.out()).code, Some(0));
}
