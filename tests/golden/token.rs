//! Room 1: tokens that no controller has made, or not for this program.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use super::scenarios;
use super::scene::{Ran, Scene};

/// Enrolls with this text in the token's file.
fn with_text(scene: &Scene, text: impl AsRef<[u8]>) -> Ran {
    scene.file("gate-7.jwt", text);
    scene.command("enroll --jwt gate-7.jwt").run()
}

/// Header and claims as they are, and some signature.
fn with_parts(scene: &Scene, header: &str, claims: &str) -> Ran {
    let parts = [header, claims, "signature"].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
    with_text(scene, parts.join("."))
}

/// With this as `alg` of a token that is right but for that.
fn with_algorithm(scene: Scene, alg: &str) -> Ran {
    scene.holding(|controller| controller.token("gate-7").header("alg", alg).issue()).enroll().run()
}

fn with_claim(scene: Scene, name: &str, value: &str) -> Ran {
    scene.holding(|controller| controller.token("gate-7").claim(name, value).issue()).enroll().run()
}

fn without_claim(scene: Scene, name: &str) -> Ran {
    scene.holding(|controller| controller.token("gate-7").without_claim(name).issue()).enroll().run()
}

scenarios! {
    fn token_not_given(scene) {
        scene.command("enroll").run()
    }

    fn token_file_missing(scene) {
        scene.command("enroll --jwt gate-7.jwt").run()
    }

    fn token_file_is_a_folder(scene) {
        std::fs::create_dir(scene.path("gate-7.jwt")).expect("the machine's folder is writable");
        scene.command("enroll --jwt gate-7.jwt").run()
    }

    fn token_empty(scene) {
        with_text(&scene, "\n")
    }

    fn token_is_no_jwt(scene) {
        with_text(&scene, "please find the token attached")
    }

    fn token_of_two_parts(scene) {
        let whole = scene.token.compact();
        with_text(&scene, whole.rsplit_once('.').expect("a token has three parts").0)
    }

    fn token_is_not_base64(scene) {
        with_text(&scene, scene.token.compact().replacen("ey", "e*", 1))
    }

    fn token_is_not_json(scene) {
        with_parts(&scene, "alg=ES256", "{}")
    }

    fn token_has_a_claim_twice(scene) {
        with_parts(&scene, r#"{"alg":"ES256"}"#, r#"{"em":"ott","iss":"https://a:1280","iss":"https://b:1280"}"#)
    }

    fn token_is_binary(scene) {
        with_text(&scene, [0x7f, b'E', b'L', b'F', 0, 0xff, 0xfe])
    }

    fn token_of_one_mebibyte(scene) {
        with_text(&scene, "ey".repeat(1 << 19))
    }

    fn token_alg_none(scene) {
        with_algorithm(scene, "none")
    }

    fn token_alg_hs256(scene) {
        with_algorithm(scene, "HS256")
    }

    fn token_alg_ps256(scene) {
        with_algorithm(scene, "PS256")
    }

    fn token_alg_eddsa(scene) {
        with_algorithm(scene, "EdDSA")
    }

    /// The controller's key is of a curve.
    fn token_alg_of_another_key(scene) {
        with_algorithm(scene, "RS256")
    }

    fn token_header_must_be_understood(scene) {
        scene.holding(|controller| controller.token("gate-7").header("crit", "exp").issue()).enroll().run()
    }

    fn token_method_missing(scene) {
        without_claim(scene, "em")
    }

    fn token_method_unknown(scene) {
        with_claim(scene, "em", "magic")
    }

    fn token_of_a_router(scene) {
        with_claim(scene, "em", "erott")
    }

    fn token_of_a_transit_router(scene) {
        with_claim(scene, "em", "trott")
    }

    fn token_issuer_missing(scene) {
        without_claim(scene, "iss")
    }

    fn token_issuer_without_tls(scene) {
        with_claim(scene, "iss", "http://localhost:1280")
    }

    fn token_issuer_with_a_user(scene) {
        with_claim(scene, "iss", "https://admin@localhost:1280")
    }

    fn token_issuer_with_a_path(scene) {
        with_claim(scene, "iss", "https://localhost:1280/edge")
    }

    fn token_id_missing(scene) {
        without_claim(scene, "jti")
    }

    fn token_subject_leaves_the_folder(scene) {
        with_claim(scene, "sub", "../../etc/passwd")
    }

    fn token_expiry_missing(scene) {
        without_claim(scene, "exp")
    }

    fn token_expired(scene) {
        let ago = Duration::from_secs(6 * 60 + 20);
        scene.holding(|controller| controller.token("gate-7").expired_since(ago).issue()).enroll().run()
    }

    /// Our clock may be off by so much: the controller decides.
    fn token_expired_just_now(scene) {
        let ago = Duration::from_secs(4 * 60);
        scene.holding(|controller| controller.token("gate-7").expired_since(ago).issue()).enroll().run()
    }
}
