//! Room 5: every refusal of `enrollment-protocol.md` 2.8 that a one-time token can meet.

use ziti_enroller_support::Fault;

use super::scenarios;
use super::scene::{Ran, Scene};

/// Refused with this code, the first time and every other.
fn refused(scene: Scene, code: &str, status: u16) -> Ran {
    scene.facing(Fault::Refuse(code.into(), status)).enroll().args(["--retries", "0"]).run()
}

scenarios! {
    fn refused_expired(scene) {
        refused(scene, "ENROLLMENT_EXPIRED", 400)
    }

    fn refused_method(scene) {
        refused(scene, "INVALID_ENROLL_METHOD", 400)
    }

    fn refused_csr(scene) {
        refused(scene, "COULD_NOT_PROCESS_CSR", 400)
    }

    /// The key was made in the token for this enrollment, and is deleted.
    fn refused_csr_of_a_new_token_key(scene) {
        scene.facing(Fault::Refuse("COULD_NOT_PROCESS_CSR".into(), 400)).enroll_in_token().run()
    }

    fn refused_body(scene) {
        refused(scene, "COULD_NOT_PARSE_BODY", 400)
    }

    fn refused_content_type(scene) {
        refused(scene, "INVALID_CONTENT_TYPE", 400)
    }

    fn refused_field(scene) {
        refused(scene, "INVALID_FIELD", 400)
    }

    fn refused_by_validation(scene) {
        refused(scene, "COULD_NOT_VALIDATE", 400)
    }

    /// Controllers copy the codes of their validation library into the status.
    fn refused_with_status_602(scene) {
        refused(scene, "COULD_NOT_VALIDATE", 602)
    }

    fn refused_with_status_601(scene) {
        refused(scene, "COULD_NOT_VALIDATE", 601)
    }

    /// Of routers.
    fn refused_missing_request(scene) {
        refused(scene, "MISSING_OR_INVALID_CSR", 400)
    }

    fn refused_certificate(scene) {
        refused(scene, "CERTIFICATE_FAILED_VALIDATION", 400)
    }

    /// As controllers before 1.6.1 call it, and others for method `ca`.
    fn refused_certificate_by_an_older_name(scene) {
        refused(scene, "CERT_FAILED_VALIDATION", 400)
    }

    fn refused_ca(scene) {
        refused(scene, "ENROLLMENT_CA_NOT_VALID", 400)
    }

    fn refused_without_any_ca(scene) {
        refused(scene, "ENROLLMENT_NO_VALID_CAS", 400)
    }

    fn refused_certificate_without_a_claim(scene) {
        refused(scene, "MISSING_CERT_CLAIM", 400)
    }

    fn refused_by_policy(scene) {
        refused(scene, "INVALID_ENROLLMENT_NOT_ALLOWED", 409)
    }

    fn refused_unauthorized(scene) {
        refused(scene, "UNAUTHORIZED", 401)
    }

    fn refused_certificate_in_use(scene) {
        refused(scene, "CERT_IN_USE", 409)
    }

    /// This one comes without an envelope.
    fn refused_too_large(scene) {
        scene.facing(Fault::EntityTooLarge).enroll().run()
    }

    fn refused_media(scene) {
        refused(scene, "UNSUPPORTED_MEDIA", 415)
    }

    fn token_not_valid_there(scene) {
        refused(scene, "INVALID_ENROLLMENT_TOKEN", 400)
    }

    fn token_gone_meanwhile(scene) {
        refused(scene, "NOT_FOUND", 404)
    }

    fn token_enrolled_already(scene) {
        refused(scene, "INVALID_ENROLLMENT_ALREADY_ENROLLED", 410)
    }

    fn identity_enrolled_already(scene) {
        refused(scene, "ENROLLMENT_IDENTITY_ALREADY_ENROLLED", 409)
    }

    fn too_many_requests(scene) {
        refused(scene, "SERVER_TOO_MANY_REQUESTS", 429)
    }

    fn rate_limited(scene) {
        refused(scene, "RATE_LIMITED", 429)
    }

    fn cluster_without_a_leader(scene) {
        refused(scene, "CLUSTER_NO_LEADER", 503)
    }

    fn controller_takes_too_long(scene) {
        refused(scene, "TIMEOUT", 503)
    }

    fn controller_fails(scene) {
        refused(scene, "UNHANDLED", 500)
    }

    fn controller_panics(scene) {
        scene.facing(Fault::Panic).enroll().args(["--retries", "0"]).run()
    }

    /// It had enrolled us, as the repeat shows.
    fn controller_enrolls_and_fails(scene) {
        scene.facing(Fault::ConsumeThen500).enroll().run()
    }

    fn controller_enrolls_and_drops_the_connection(scene) {
        scene.facing(Fault::DropPostAfter).enroll().run()
    }
}
