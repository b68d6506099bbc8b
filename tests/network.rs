//! A token of the network: whom to trust, and no identity.

use std::fs;

use serde_json::{Value, json};
use ziti_enroller_support::{Controller, Like, Options, Tls, Token};

use crate::machine::{InFiles, Machine, ending, report};

fn network_file(machine: &Machine<InFiles>, token: &Token) -> Value {
    let text = fs::read_to_string(machine.out(token)).expect("there is a file");
    serde_json::from_str(&text).expect("it is JSON")
}

/// One connection, one request, and nothing is posted.
#[test]
fn leaves_a_file_that_says_where_the_network_is_and_whom_to_trust() {
    for (tls, like) in [(Tls::Only12, Like::V1_4), (Tls::Only13, Like::V2_1)] {
        let controller = Controller::start(Options { tls, like, ..Options::default() });
        let machine = Machine::<InFiles>::new();
        let token = controller.network_token("edge");
        let said = report(&machine.enroll_with(&token).run());
        assert_eq!((&said["identity"]["id"], &said["key"], &said["certificate"]), (&Value::Null, &Value::Null, &Value::Null));
        assert_eq!(said["readers"], json!(["ziti-enroller", "C SDK", "JVM SDK"]));
        let counts = controller.counts();
        assert_eq!((counts.connections, counts.handshakes, counts.requests, counts.enroll_posts), (1, 1, 1, 0));
        assert!(controller.violations().is_empty(), "{:?}", controller.violations());
        let file = network_file(&machine, &token);
        let api = format!("{}/edge/client/v1", controller.url());
        assert_eq!((&file["ztAPI"], &file["ztAPIs"]), (&json!(api), &json!([api])));
        let id = file["id"].as_object().expect("an object");
        assert_eq!(id.keys().collect::<Vec<_>>(), ["ca"]);
        assert_eq!(id["ca"].as_str().expect("text").matches("BEGIN CERTIFICATE").count(), 2);
        assert!(!machine.work(&token).exists());
    }
}

#[test]
fn goes_on_wherever_it_was_killed() {
    let events =
        ["recorded-trusted", "recorded-keyed", "recorded-ready", "identity_written", "identity_renamed", "entering-done"];
    for event in events {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InFiles>::new();
        let token = controller.network_token("edge");
        let killed = ending(machine.enroll_with(&token), event, "kill").run();
        assert_eq!(killed.signal, Some(9), "{event}: {killed}");
        report(&machine.enroll_with(&token).run());
        assert_eq!(network_file(&machine, &token)["ztAPI"], format!("{}/edge/client/v1", controller.url()), "{event}");
        assert!(!machine.work(&token).exists(), "{event}");
        assert_eq!(controller.enroll_posts(), 0, "{event}");
    }
}
