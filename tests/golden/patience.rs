//! What is waited for, how long, and what a device that hangs is given.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use ziti_enroller_support::{Fault, Relay};

use super::scenarios;
use super::scene::{Ran, Scene};
use crate::machine::until;

/// Enrolls with a module that hangs in the first call of this function.
fn hanging_in(scene: &Scene, function: &str) -> Ran {
    scene.enroll_in_token().args(["--device-timeout", "2s"]).fault(&format!("{function}:1:hang")).run()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

scenarios! {
    fn waits_for_the_controller(scene) {
        let port = free_port();
        let scene = scene.holding(|controller| controller.issue_at("gate-7", &format!("https://localhost:{port}")));
        let said = scene.path("said");
        let enroll = scene.enroll().args(["--wait", "20s"]).when("the controller comes up a second later");
        // Standard error goes where it can be read while the program runs.
        enroll.by_shell("exec 3>&2; \"$@\" 2>said; code=$?; cat said >&3; exit $code").watched(|running| {
            until("it waits", || fs::read_to_string(&said).is_ok_and(|said| said.contains("trying again")));
            let relay = Relay::start_on(port, scene.controller.address(), Duration::ZERO);
            let outcome = running.wait();
            drop(relay);
            outcome
        })
    }

    fn waits_for_the_controller_in_vain(scene) {
        let port = free_port();
        let scene = scene.holding(|controller| controller.issue_at("gate-7", &format!("https://localhost:{port}")));
        scene.enroll().args(["--wait", "1s"]).run()
    }

    fn waits_for_a_controller_in_trouble(scene) {
        let scene = scene.facing(Fault::Cacerts500);
        scene.enroll().args(["--wait", "20s"]).when("the controller is well again a second later").watched(|running| {
            scene.controller.wait_for("a request", Duration::from_secs(20), |log| log.requests.iter().any(|r| r.status == Some(500)));
            scene.controller.set_faults([]);
            running.wait()
        })
    }

    fn waits_for_a_leader(scene) {
        scene.facing(Fault::UnavailableOnce).enroll().args(["--wait", "20s"]).run()
    }

    fn waits_for_the_token_in_the_reader(scene) {
        scene.enroll_in_token().args(["--wait", "20s"]).fault("C_GetTokenInfo:1:0xe0").run()
    }

    /// What was refused is refused.
    fn does_not_wait_for_a_refusal(scene) {
        scene.facing(Fault::Refuse("ENROLLMENT_EXPIRED".into(), 400)).enroll().args(["--wait", "20s"]).run()
    }

    fn does_not_wait_for_a_pin(scene) {
        scene.file("pin", "000000");
        scene.enroll_without_pin().args(["--pin-file", "pin", "--wait", "20s"]).run()
    }

    fn device_hangs_at_the_start(scene) {
        hanging_in(&scene, "C_Initialize")
    }

    fn device_hangs_at_the_login(scene) {
        hanging_in(&scene, "C_Login")
    }

    fn device_hangs_making_a_key(scene) {
        hanging_in(&scene, "C_GenerateKeyPair")
    }

    fn device_hangs_in_a_signature(scene) {
        hanging_in(&scene, "C_Sign")
    }

    fn silent_after_the_request(scene) {
        scene.facing(Fault::SilentPost).enroll().args(["--timeout", "1s", "--retries", "0"]).run()
    }

    fn answer_breaks_off(scene) {
        scene.facing(Fault::AnswerCut(700)).enroll().args(["--retries", "0"]).run()
    }

    fn connection_drops_and_the_repeat_works(scene) {
        scene.facing(Fault::DropPostBeforeOnce).enroll().run()
    }

    fn connection_drops_at_every_repeat(scene) {
        scene.facing(Fault::DropPostBefore).enroll().args(["--retries", "3", "--retry-delay", "200ms"]).run()
    }

    fn controller_wants_a_pause(scene) {
        scene.facing(Fault::TooManyOnce).enroll().run()
    }
}
