//! `verify`, `inspect`, `version`.

use ziti_enroller_support::Fault;

use super::scenarios;
use super::scene::Scene;

/// A scene with an identity whose key is in the file.
fn enrolled(scene: Scene) -> Scene {
    scene.enroll().succeeds();
    scene
}

/// A scene with an identity whose key is in the token.
fn enrolled_in_token(scene: Scene) -> Scene {
    scene.enroll_in_token().succeeds();
    scene
}

scenarios! {
    fn verified_with_a_key_in_the_identity(scene) {
        enrolled(scene).verify().run()
    }

    fn verified_with_a_token_key(scene) {
        enrolled_in_token(scene).verify().run()
    }

    fn verify_refused(scene) {
        enrolled(scene).facing(Fault::Login401).verify().run()
    }

    fn verify_wants_a_second_factor(scene) {
        enrolled(scene).facing(Fault::LoginMfa).verify().run()
    }

    fn verify_too_many_requests(scene) {
        enrolled(scene).facing(Fault::LoginTooManyOnce).verify().run()
    }

    fn verify_controller_silent(scene) {
        enrolled(scene).facing(Fault::SilentAccept).verify().args(["--timeout", "1s"]).run()
    }

    fn verify_controller_gone(scene) {
        let scene = enrolled(scene);
        let identity = std::fs::read_to_string(scene.path("gate-7.json")).expect("there is an identity");
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        scene.file("gate-7.json", identity.replace(&scene.controller.port().to_string(), &nobody.to_string()));
        scene.verify().run()
    }

    fn verify_key_missing(scene) {
        let scene = enrolled_in_token(scene);
        let key = scene.keys().of_class("Private Key Object").remove(0);
        scene.keys().remove("privkey", &key.id);
        scene.keys().remove("pubkey", &key.id);
        scene.verify().run()
    }

    fn verify_wrong_pin(scene) {
        let scene = enrolled_in_token(scene);
        scene.file("pin", "000000");
        scene.command("verify gate-7.json --pin-file pin").run()
    }

    fn verify_device_gone_in_the_handshake(scene) {
        // The first signature proves the key; it takes two calls.
        enrolled_in_token(scene).verify().fault("C_Sign:3:0x32;C_Sign:4:0x32;C_Sign:5:0x32;C_Sign:6:0x32").run()
    }

    fn verify_identity_missing(scene) {
        scene.verify().run()
    }

    fn verify_identity_is_no_json(scene) {
        scene.file("gate-7.json", "-----BEGIN NONSENSE-----");
        scene.verify().run()
    }

    fn verify_identity_without_a_key(scene) {
        let scene = enrolled(scene);
        let text = std::fs::read_to_string(scene.path("gate-7.json")).expect("there is an identity");
        let mut identity: serde_json::Value = serde_json::from_str(&text).expect("an identity is JSON");
        identity["id"]["key"] = "".into();
        scene.file("gate-7.json", identity.to_string());
        scene.verify().run()
    }

    fn inspect_token(scene) {
        scene.token.write(&scene.path(""));
        scene.command("inspect gate-7.jwt").run()
    }

    fn inspect_identity(scene) {
        enrolled(scene).command("inspect gate-7.json").run()
    }

    fn inspect_identity_with_a_token_key(scene) {
        enrolled_in_token(scene).command("inspect gate-7.json").run()
    }

    fn inspect_certificate(scene) {
        scene.file("ca.pem", scene.controller.ca_pem());
        scene.command("inspect ca.pem").run()
    }

    fn inspect_nothing_known(scene) {
        scene.file("notes.txt", "buy milk\n");
        scene.command("inspect notes.txt").run()
    }

    fn inspect_file_missing(scene) {
        scene.command("inspect gate-7.json").run()
    }

    fn version(scene) {
        scene.command("version").run()
    }
}
