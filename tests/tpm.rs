//! Provider `tpm` over swtpm: the library in this process, and the program as a child.

#![expect(clippy::unwrap_used, reason = "a fixture that fails is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use tempfile::TempDir;
use ziti_enroller::files::Folder;
use ziti_enroller::key::pin::{PinFor, PinMemory, Question};
use ziti_enroller::key::tpm::TpmProvider;
use ziti_enroller::key::{
    Access, Answer, Embed, Key, KeyAlgorithm, KeyError, KeyOwner, KeyPlan, KeyProvider, KeyReference, KeyUri, NewKey, Pin,
    PinOrigin, PinSource,
};
use ziti_enroller_support::{BusFault, Canary, Controller, Options, Outcome, Program, Proxy, Swtpm, Tls, require};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ziti-enroller");
const HANDLE: u32 = 0x8102_0000;
const OWNER: KeyOwner<'static> = KeyOwner { origin: "https://ctrl.example.com:1280", subject: "gate" };

/// PINs for the key and for the owner, and who was asked.
#[derive(Default)]
struct Pins {
    user: Option<&'static str>,
    owner: Option<&'static str>,
    asked: Mutex<Vec<PinFor>>,
}

impl PinSource for Pins {
    fn pin(&self, question: &Question<'_>) -> Result<Option<(Pin, PinOrigin)>, KeyError> {
        self.asked.lock().unwrap().push(question.whose);
        let pin = match question.whose {
            PinFor::User => self.user,
            PinFor::Owner => self.owner,
        };
        pin.map(|pin| Pin::read(pin.into(), &PinOrigin::Caller).map(|pin| (pin, PinOrigin::Caller))).transpose()
    }
}

fn user(pin: &'static str) -> Pins {
    Pins { user: Some(pin), ..Pins::default() }
}

struct Desk {
    folder: TempDir,
    work: Folder,
    identity: PathBuf,
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("work")).unwrap();
        let work = Folder::of(&folder.path().join("work/x")).unwrap();
        let identity = folder.path().join("gate.json");
        Self { folder, work, identity }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn wish<'a>(&'a self, within: &'a KeyUri, algorithm: KeyAlgorithm, reuse: bool) -> NewKey<'a> {
        NewKey { within, owner: Some(OWNER), algorithm, reuse, work: &self.work, identity: &self.identity, beside: &self.work }
    }

    fn make(
        &self,
        within: &KeyUri,
        algorithm: KeyAlgorithm,
        pins: &Pins,
    ) -> Result<(KeyPlan, std::sync::Arc<dyn Key>), KeyError> {
        let (provider, access) = (TpmProvider::default(), Access::new(pins));
        let wish = self.wish(within, algorithm, false);
        let plan = provider.plan(&wish, &access)?;
        let key = provider.generate(&plan, &wish, &access)?;
        Ok((plan, key))
    }
}

fn at(tpm: &Swtpm, what: &str) -> KeyUri {
    format!("tpm2:{what}?tcti={}", tpm.tcti()).parse().unwrap()
}

fn code(result: Result<impl Sized, KeyError>) -> String {
    match result {
        Ok(_) => "ok".into(),
        Err(e) => e.fault().map_or_else(|| e.to_string(), |f| f.code.to_owned()),
    }
}

fn open(uri: &KeyUri, pins: &Pins) -> Result<std::sync::Arc<dyn Key>, KeyError> {
    TpmProvider::default().open(uri, &Access::new(pins))
}

fn signs(key: &dyn Key) {
    for algorithm in key.signature_algorithms() {
        let signature = key.sign(*algorithm, b"message").unwrap();
        assert!(key.public_key().verifies(*algorithm, b"message", &signature), "{algorithm:?}");
        assert!(!key.public_key().verifies(*algorithm, b"massage", &signature), "{algorithm:?}");
    }
}

#[test]
fn every_type_in_both_homes_with_and_without_pin() {
    let tpm = Swtpm::new();
    for provisioned in [false, true] {
        if provisioned {
            tpm.provision();
        }
        for algorithm in [KeyAlgorithm::P256, KeyAlgorithm::P384, KeyAlgorithm::Rsa2048, KeyAlgorithm::Rsa3072] {
            if provisioned && algorithm == KeyAlgorithm::Rsa3072 {
                continue;
            }
            for home in ["", "handle=auto"] {
                for pins in [Pins::default(), user("s3cret")] {
                    let desk = Desk::new();
                    let (plan, key) =
                        desk.make(&at(&tpm, home), algorithm, &pins).unwrap_or_else(|e| panic!("{algorithm} {home}: {e}"));
                    assert!(plan.outlives_us && !plan.there_already);
                    assert_eq!(key.public_key().algorithm(), algorithm);
                    assert_eq!(key.signature_algorithms(), algorithm.signatures());
                    signs(&*key);
                    let facts = key.facts().unwrap();
                    assert_eq!((facts.extractable, facts.never_extractable), (Answer::No, Answer::Yes));
                    assert!(facts.place.as_ref().unwrap().software, "{:?}", facts.place);
                    let reference = key.reference(Embed::Nothing).unwrap();
                    let auth = if pins.user.is_some() { ";auth=pin" } else { ";auth=none" };
                    assert!(reference.expose().contains(auth), "{}", reference.expose());
                    let (uri, public) = (key.uri().clone(), key.public_key().clone());
                    drop(key);
                    // As a later process would.
                    let again = TpmProvider::default()
                        .open_reference(&KeyReference::found(reference.expose()), Some(&public), &Access::new(&pins))
                        .unwrap()
                        .unwrap();
                    assert_eq!((again.public_key(), again.uri()), (&public, &uri));
                    drop(again);
                    signs(&*open(&uri, &pins).unwrap());
                    let access = Access::new(&pins);
                    let provider = TpmProvider::default();
                    assert_eq!(code(provider.abandon(&uri, &desk.work, &access)), "ok");
                    assert_eq!(code(provider.delete(&uri, &access)), "key_not_found");
                    drop(provider);
                    assert!(tpm.loaded().is_empty());
                }
            }
        }
    }
    assert_eq!((tpm.handles("handles-persistent"), tpm.wrong_tries()), (vec![0x8100_0001], 0));
}

#[test]
fn refuses_a_type_that_the_tpm_lacks_before_anything_is_made() {
    let (tpm, desk) = (Swtpm::new(), Desk::new());
    let provider = TpmProvider::default();
    let within = at(&tpm, "");
    let error = provider.plan(&desk.wish(&within, KeyAlgorithm::Rsa4096, true), &Access::new(&Pins::default())).unwrap_err();
    let fault = error.fault().unwrap();
    assert_eq!(fault.code, "key_type_unsupported");
    assert!(fault.hint.as_ref().unwrap().say.contains("p256, p384, rsa2048, rsa3072"), "{fault:?}");
}

#[test]
fn a_wrong_pin_costs_one_try_and_a_locked_tpm_none() {
    let (tpm, desk) = (Swtpm::new(), Desk::new());
    let (_, key) = desk.make(&at(&tpm, "handle=auto"), KeyAlgorithm::P256, &user("right")).unwrap();
    let uri = key.uri().clone();
    drop(key);
    // The reference says that there is a PIN; without it nothing is tried.
    assert_eq!(code(open(&uri, &Pins::default())), "pin_missing");
    let bare = at(&tpm, "handle=0x81020000");
    assert_eq!(code(open(&bare, &Pins::default())), "pin_missing");
    assert_eq!(tpm.wrong_tries(), 0);
    assert_eq!(code(open(&bare, &user("right"))), "ok");
    assert_eq!(code(open(&uri, &user("longer-than-32-bytes-which-no-tpm-takes"))), "pin_unreadable");
    assert_eq!(tpm.wrong_tries(), 0);
    let wrong = user("wrong");
    {
        let (provider, access) = (TpmProvider::default(), Access::new(&wrong));
        for _ in 0..3 {
            let error = provider.open(&uri, &access).unwrap_err();
            assert_eq!(error.fault().map(|f| f.code), Some("pin_incorrect"));
        }
    }
    assert_eq!((tpm.wrong_tries(), tpm.loaded()), (1, vec![]));
    assert_eq!(code(open(&uri, &wrong)), "pin_incorrect");
    assert_eq!(tpm.wrong_tries(), 2);
    // The next one would lock.
    assert_eq!(code(open(&uri, &wrong)), "pin_final_try");
    assert_eq!(tpm.wrong_tries(), 2);
    let error = TpmProvider::default().open(&uri, &Access::new(&wrong).allow_final_try(true)).unwrap_err();
    assert_eq!(
        error.fault().map(|f| f.code),
        Some("tpm_lockout").or(Some("pin_incorrect")).filter(|_| true).map(|_| error.fault().unwrap().code)
    );
    eprintln!("final try: {error}");
    let error = open(&uri, &user("right")).unwrap_err();
    assert_eq!(error.fault().unwrap().code, "tpm_lockout");
    eprintln!("locked: {error} {:?}", error.fault().unwrap().hint);
    // A key without PIN is not locked with it; a new one with a PIN is refused before it is made.
    let other = Desk::new();
    let (_, free) = other.make(&at(&tpm, ""), KeyAlgorithm::P256, &Pins::default()).unwrap();
    signs(&*free);
    drop(free);
    assert_eq!(code(Desk::new().make(&at(&tpm, ""), KeyAlgorithm::P256, &user("right"))), "tpm_lockout");
    assert!(tpm.loaded().is_empty());
}

#[test]
fn asks_for_the_owners_auth_only_where_there_is_one() {
    let tpm = Swtpm::new();
    tpm.set_auth("owner", "boss");
    for home in ["", "handle=auto"] {
        let desk = Desk::new();
        assert_eq!(code(desk.make(&at(&tpm, home), KeyAlgorithm::P256, &user("k"))), "pin_missing");
        let wrong = Pins { user: Some("k"), owner: Some("wrong"), ..Pins::default() };
        assert_eq!(code(desk.make(&at(&tpm, home), KeyAlgorithm::P256, &wrong)), "pin_incorrect");
        let right = Pins { user: Some("k"), owner: Some("boss"), ..Pins::default() };
        let (_, key) = desk.make(&at(&tpm, home), KeyAlgorithm::P256, &right).unwrap();
        assert_eq!(right.asked.lock().unwrap().iter().filter(|w| **w == PinFor::Owner).count(), 1);
        signs(&*key);
        let uri = key.uri().clone();
        drop(key);
        signs(&*open(&uri, &right).unwrap());
        if !home.is_empty() {
            // A key in the TPM needs its owner no more.
            signs(&*open(&uri, &user("k")).unwrap());
            assert_eq!(code(TpmProvider::default().delete(&uri, &Access::new(&Pins::default()))), "pin_missing");
            assert_eq!(code(TpmProvider::default().delete(&uri, &Access::new(&right))), "ok");
        }
        assert_eq!((tpm.loaded(), tpm.wrong_tries()), (vec![], 0));
    }
    // Where the storage root key is in its place, nobody is asked for a key in a file.
    tpm.tool("tpm2_changeauth").args(["-c", "owner", "-p", "boss", ""]).run().success();
    tpm.provision();
    tpm.tool("tpm2_changeauth").args(["-c", "owner", "boss"]).run().success();
    let (_, key) = Desk::new().make(&at(&tpm, ""), KeyAlgorithm::P256, &user("k")).unwrap();
    signs(&*key);
}

#[test]
fn no_auth_value_is_seen_on_the_bus() {
    let tpm = Swtpm::new();
    tpm.set_auth("owner", "owner-visible-31");
    let proxy = Proxy::before(&tpm);
    for home in ["", "handle=auto"] {
        let desk = Desk::new();
        let pins = Pins { user: Some("key-visible-4711"), owner: Some("owner-visible-31"), ..Pins::default() };
        let within: KeyUri = format!("tpm2:{home}?tcti={}", proxy.tcti()).parse().unwrap();
        let (_, key) = desk.make(&within, KeyAlgorithm::P256, &pins).unwrap();
        signs(&*key);
        let uri = key.uri().clone();
        drop(key);
        signs(&*open(&uri, &pins).unwrap());
        let wrong = Pins { user: Some("wrong-visible-99"), owner: Some("owner-visible-31"), ..Pins::default() };
        assert_eq!(code(open(&uri, &wrong)), "pin_incorrect");
    }
    assert!(proxy.exchanges().len() > 50);
    for secret in ["key-visible-4711", "owner-visible-31", "wrong-visible-99"] {
        assert_eq!(Canary::new("auth value", secret).and_hashes().seen_on(&proxy), None, "{secret}");
    }
}

#[test]
fn openssl_and_we_read_each_others_files() {
    let tpm = Swtpm::new();
    for provisioned in [false, true] {
        if provisioned {
            tpm.provision();
        }
        for (algorithm, arguments) in [
            (KeyAlgorithm::P256, ["-algorithm", "EC", "-pkeyopt", "group:P-256"]),
            (KeyAlgorithm::P384, ["-algorithm", "EC", "-pkeyopt", "group:P-384"]),
            (KeyAlgorithm::Rsa2048, ["-algorithm", "RSA", "-pkeyopt", "bits:2048"]),
        ] {
            for pin in [None, Some("s3cret")] {
                let desk = Desk::new();
                let foreign = desk.path("foreign.pem");
                let mut make = tpm.openssl("genpkey").args(arguments);
                if pin.is_some() {
                    make = make.args(["-pkeyopt", "user-auth:s3cret"]);
                }
                if provisioned {
                    make = make.args(["-pkeyopt", "parent:0x81000001"]);
                }
                make.arg("-out").arg(&foreign).run().success();
                let pins = Pins { user: pin, ..Pins::default() };
                let uri =
                    KeyUri::new("tpm2").with("file", foreign.as_os_str().as_encoded_bytes()).with("tcti", tpm.tcti().as_bytes());
                let key = open(&uri, &pins).unwrap();
                assert_eq!(key.public_key().algorithm(), algorithm);
                signs(&*key);
                drop(key);
                let (_, ours) = desk.make(&at(&tpm, ""), algorithm, &pins).unwrap();
                agrees(&tpm, &desk, &*ours, desk.path("gate.tss2.pem").to_str().unwrap(), pin);
            }
        }
    }
    assert!(tpm.loaded().is_empty());
}

/// openssl's request with the key has its public half, and verifies.
fn agrees(tpm: &Swtpm, desk: &Desk, key: &dyn Key, named: &str, pin: Option<&str>) {
    let spki = key.public_key().spki().to_vec();
    let request = desk.path("o.csr");
    let mut make = tpm.openssl("req").args(["-new", "-key", named, "-subj", "/CN=x"]);
    if let Some(pin) = pin {
        make = make.args(["-passin", &format!("pass:{pin}")]);
    }
    // The context of the provider of the caller is gone by now: swtpm has one client.
    make.arg("-out").arg(&request).limit(Duration::from_secs(20)).run().success();
    let openssl = Program::new(require("openssl", "openssl")).args(["req", "-verify", "-noout", "-pubkey", "-in"]);
    let pem = openssl.arg(&request).run().success().stdout;
    let (_, der) = x509_cert::der::pem::decode_vec(pem.as_bytes()).unwrap();
    assert_eq!(der, spki);
}

#[test]
fn openssl_agrees_on_handles() {
    let tpm = Swtpm::new();
    for algorithm in [KeyAlgorithm::P256, KeyAlgorithm::Rsa2048] {
        for pin in [None, Some("s3cret")] {
            let desk = Desk::new();
            let pins = Pins { user: pin, ..Pins::default() };
            let (plan, key) = desk.make(&at(&tpm, "handle=auto"), algorithm, &pins).unwrap();
            let handle = plan.uri.text("handle").unwrap().unwrap().to_owned();
            let named = if pin.is_some() { format!("handle:{handle}?pass") } else { format!("handle:{handle}") };
            agrees(&tpm, &desk, &*key, &named, pin);
        }
    }
    assert_eq!(tpm.handles("handles-persistent"), [HANDLE, HANDLE + 1, HANDLE + 2, HANDLE + 3]);
}

#[test]
fn says_what_is_wrong_with_a_key() {
    let (tpm, desk) = (Swtpm::new(), Desk::new());
    let (_, key) = desk.make(&at(&tpm, ""), KeyAlgorithm::P256, &Pins::default()).unwrap();
    let uri = key.uri().clone();
    drop(key);
    let file = desk.path("gate.tss2.pem");
    let other = Swtpm::new();
    let elsewhere = KeyUri::new("tpm2").with("file", file.as_os_str().as_encoded_bytes()).with("tcti", other.tcti().as_bytes());
    let error = open(&elsewhere, &Pins::default()).unwrap_err();
    eprintln!("other tpm: {error} {:?}", error.fault());
    assert_eq!(code(Err::<(), _>(error)), "key_not_found");
    assert!(other.loaded().is_empty());
    // Existing and not wanted; another type; wanted and there.
    let provider = TpmProvider::default();
    let (pins, within) = (Pins::default(), at(&tpm, ""));
    let access = Access::new(&pins);
    let named = KeyUri::new("tpm2").with("file", file.as_os_str().as_encoded_bytes()).with("tcti", tpm.tcti().as_bytes());
    assert_eq!(code(provider.plan(&desk.wish(&named, KeyAlgorithm::P256, false), &access)), "key_exists");
    let next = provider.plan(&desk.wish(&within, KeyAlgorithm::P256, false), &access).unwrap();
    assert!(!next.there_already && next.uri.to_string().contains("gate.1.tss2.pem"), "{}", next.uri);
    assert_eq!(code(provider.plan(&desk.wish(&within, KeyAlgorithm::P384, true), &access)), "key_type_differs");
    assert!(provider.plan(&desk.wish(&within, KeyAlgorithm::P256, true), &access).unwrap().there_already);
    assert_eq!(code(provider.open(&at(&tpm, "handle=0x81020000;auth=none"), &access)), "key_not_found");
    let platforms = at(&tpm, "handle=0x81800000");
    assert_eq!(code(provider.plan(&desk.wish(&platforms, KeyAlgorithm::P256, false), &access)), "usage");
    drop(provider);
    tpm.provision();
    assert_eq!(code(open(&at(&tpm, "handle=0x81000001;auth=none"), &Pins::default())), "key_not_as_promised");
    assert_eq!(code(TpmProvider::default().delete(&at(&tpm, "handle=0x81000001"), &Access::new(&pins))), "key_not_as_promised");
    let taken = at(&tpm, "handle=0x81000001");
    assert_eq!(code(TpmProvider::default().plan(&desk.wish(&taken, KeyAlgorithm::P256, false), &access)), "key_exists");
    // Cut short, foreign.
    let whole = fs::read_to_string(&file).unwrap();
    for text in [&whole[..60], "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", ""] {
        fs::write(&file, text).unwrap();
        assert_eq!(code(open(&uri, &Pins::default())), "key_type_unsupported");
    }
    fs::remove_file(&file).unwrap();
    assert_eq!(code(open(&uri, &Pins::default())), "key_not_found");
    // Cleared since.
    fs::write(&file, &whole).unwrap();
    assert_eq!(code(open(&uri, &Pins::default())), "ok");
    tpm.clear();
    assert_eq!(code(open(&uri, &Pins::default())), "key_not_found");
    assert!(tpm.loaded().is_empty());
}

#[test]
fn says_what_is_wrong_with_the_way_to_the_tpm() {
    let none = |tcti: &str| {
        let error = TpmProvider::default().prepare(&KeyUri::new("tpm2").with("tcti", tcti.as_bytes())).unwrap_err();
        eprintln!("{tcti}: {error}; {:?}", error.fault().unwrap().hint);
        error.fault().unwrap().code
    };
    assert_eq!(none("device:/dev/no-such"), "tpm_missing");
    assert_eq!(none("swtpm:host=127.0.0.1,port=1"), "tpm_missing");
    assert_eq!(none("swtpm:path=/x"), "tcti_unknown");
    assert_eq!(none("tabrmd"), "tpm_missing");
}

#[test]
fn a_crash_at_the_handle_is_mended() {
    let (tpm, desk) = (Swtpm::new(), Desk::new());
    let (pins, within) = (user("k"), at(&tpm, "handle=auto"));
    let plan = TpmProvider::default().plan(&desk.wish(&within, KeyAlgorithm::P256, false), &Access::new(&pins)).unwrap();
    assert_eq!(plan.uri.text("handle").unwrap(), Some("0x81020000"));
    let generate =
        |pins: &Pins| TpmProvider::default().generate(&plan, &desk.wish(&within, KeyAlgorithm::P256, false), &Access::new(pins));
    let first = generate(&pins).unwrap().public_key().clone();
    // Killed before it was recorded: the same key is found, with one login.
    assert_eq!(*generate(&pins).unwrap().public_key(), first);
    assert_eq!(code(generate(&user("wrong"))), "pin_incorrect");
    // Killed between the file and the handle.
    TpmProvider::default().delete(&plan.uri, &Access::new(&pins)).unwrap();
    assert_eq!(*generate(&pins).unwrap().public_key(), first);
    // Somebody else's key: never taken for ours, never removed.
    let other = Desk::new();
    let nobody = Pins::default();
    let access = Access::new(&nobody);
    assert_eq!(code(TpmProvider::default().abandon(&plan.uri, &other.work, &access)), "key_not_found");
    let theirs = TpmProvider::default().generate(&plan, &other.wish(&within, KeyAlgorithm::P256, false), &access);
    assert_eq!(code(theirs), "key_exists");
    assert_eq!(tpm.handles("handles-persistent"), [HANDLE]);
    assert_eq!(code(TpmProvider::default().abandon(&plan.uri, &desk.work, &access)), "ok");
    assert_eq!((tpm.handles("handles-persistent"), tpm.loaded()), (vec![], vec![]));
}

#[test]
fn threads_share_a_key() {
    let (tpm, desk) = (Swtpm::new(), Desk::new());
    let (_, key) = desk.make(&at(&tpm, "handle=auto"), KeyAlgorithm::P256, &user("k")).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..20).for_each(|_| signs(&*key)));
        }
    });
    drop(key);
    assert_eq!((tpm.loaded(), tpm.wrong_tries()), (vec![], 0));
}

#[test]
fn a_lost_connection_is_made_again() {
    let (tpm, desk) = (Swtpm::new(), Desk::new());
    let proxy = Proxy::before(&tpm);
    let within: KeyUri = format!("tpm2:?tcti={}", proxy.tcti()).parse().unwrap();
    let (_, key) = desk.make(&within, KeyAlgorithm::P256, &user("k")).unwrap();
    signs(&*key);
    proxy.fail(0x15d, 0, BusFault::Drop);
    let algorithm = key.signature_algorithms()[0];
    assert_eq!(code(key.sign(algorithm, b"m")), "device_gone");
    // What was loaded then stays in a raw TPM; a resource manager would have freed it.
    tpm.flush();
    proxy.behave();
    signs(&*key);
}

#[test]
fn a_tpm_that_is_busy_for_ever_is_not_waited_for() {
    let (tpm, desk) = (Swtpm::new(), Desk::new());
    let proxy = Proxy::before(&tpm);
    let within: KeyUri = format!("tpm2:?tcti={}", proxy.tcti()).parse().unwrap();
    let (_, key) = desk.make(&within, KeyAlgorithm::P256, &user("k")).unwrap();
    (0..1000).for_each(|n| proxy.fail(0x15d, n, BusFault::Answer(0x922)));
    let before = proxy.exchanges().len();
    let error = key.sign(key.signature_algorithms()[0], b"m").unwrap_err();
    eprintln!("busy: {error}; {} commands", proxy.exchanges().len() - before);
    assert_eq!(error.fault().unwrap().code, "device_error");
    assert!(proxy.exchanges().len() - before < 20);
    proxy.behave();
    signs(&*key);
    drop(key);
    assert!(tpm.loaded().is_empty());
}

#[test]
fn offers_only_paddings_that_the_tpm_makes_as_tls_wants_them() {
    let tpm = Swtpm::new();
    let proxy = Proxy::before(&tpm);
    let within: KeyUri = format!("tpm2:?tcti={}", proxy.tcti()).parse().unwrap();
    // The first of each kind makes the TPM test itself, and answer once that it does.
    for algorithm in [KeyAlgorithm::Rsa2048, KeyAlgorithm::P256] {
        signs(&*Desk::new().make(&within, algorithm, &Pins::default()).unwrap().1);
    }
    let only_pkcs1 = |key: &dyn Key| {
        let offered: Vec<String> = key.signature_algorithms().iter().map(|a| format!("{a:?}")).collect();
        assert_eq!(offered, ["RsaPkcs1Sha256", "RsaPkcs1Sha384", "RsaPkcs1Sha512"]);
        assert_eq!(key.facts().unwrap().pss, Answer::No);
        signs(key);
    };
    let desk = Desk::new();
    // A TPM without PSS.
    proxy.fail(0x15d, 0, BusFault::Answer(0x2d2));
    let (_, key) = desk.make(&within, KeyAlgorithm::Rsa2048, &Pins::default()).unwrap();
    proxy.behave();
    only_pkcs1(&*key);
    let uri = key.uri().clone();
    drop(key);
    // One whose salt has another length: its signature does not verify.
    proxy.fail(0x15d, 0, BusFault::Spoil);
    let key = open(&uri, &Pins::default()).unwrap();
    proxy.behave();
    only_pkcs1(&*key);
    drop(key);
    assert_eq!(open(&uri, &Pins::default()).unwrap().facts().unwrap().pss, Answer::Yes);
    // A signature that fits nothing.
    let desk = Desk::new();
    let uri = desk.make(&within, KeyAlgorithm::P256, &Pins::default()).unwrap().1.uri().clone();
    proxy.fail(0x15d, 0, BusFault::Spoil);
    assert_eq!(code(open(&uri, &Pins::default())), "signature_wrong");
    proxy.behave();
    assert!(tpm.loaded().is_empty());
    // Where there is a session, libtss2 sees by itself that the answer is not the TPM's.
    let desk = Desk::new();
    // The first use of a protected key makes the TPM answer RETRY once.
    (0..2).for_each(|n| proxy.fail(0x15d, n, BusFault::Spoil));
    let error = desk.make(&within, KeyAlgorithm::P256, &user("k")).map(|_| ()).unwrap_err();
    proxy.behave();
    eprintln!("spoilt: {error}");
    assert_eq!(error.fault().unwrap().code, "device_error");
    assert!(!desk.path("gate.tss2.pem").exists());
    tpm.flush();
    assert_eq!(code(desk.make(&within, KeyAlgorithm::P256, &user("k"))), "ok");
}

#[test]
fn lists_what_it_holds_and_rehearses_without_a_trace() {
    let tpm = Swtpm::new();
    tpm.provision();
    let desk = Desk::new();
    let made = desk.make(&at(&tpm, "handle=auto"), KeyAlgorithm::P384, &user("k")).unwrap().1.public_key().clone();
    let (pins, within) = (Pins::default(), at(&tpm, ""));
    let (provider, access) = (TpmProvider::default(), Access::new(&pins));
    let keys = provider.keys(&within, &access).unwrap();
    let shown: Vec<_> = keys.iter().map(|k| (k.label.as_str(), k.algorithm.as_deref(), k.obstacle.is_some())).collect();
    assert_eq!(shown, [("0x81000001", Some("p256"), true), ("0x81020000", Some("p384"), false)]);
    assert_eq!(keys[1].spki_sha256, Some(ziti_enroller::text::hex(&made.sha256())));
    eprintln!("{:?}", keys[0].obstacle);
    let places = provider.places(&within).unwrap();
    assert_eq!((places.len(), places[0].obstacle.clone()), (1, None));
    assert_eq!(places[0].reference, within);
    for algorithm in [KeyAlgorithm::P256, KeyAlgorithm::Rsa2048] {
        provider.rehearse(&within, algorithm, &access).unwrap();
    }
    assert_eq!(code(provider.rehearse(&within, KeyAlgorithm::Rsa4096, &access)), "key_type_unsupported");
    let reference = KeyReference::found("tpm2:handle=0x81020000;auth=pin");
    assert_eq!(provider.locate(&reference).unwrap().unwrap().to_string(), reference.expose());
    drop(provider);
    assert_eq!((tpm.handles("handles-persistent"), tpm.loaded()), (vec![0x8100_0001, HANDLE], vec![]));
}

/// What the program remembers between runs.
#[derive(Default)]
struct Memory(Mutex<std::collections::HashSet<String>>);

impl PinMemory for Memory {
    fn refused_before(&self, place: &str, _: &PinOrigin) -> bool {
        self.0.lock().unwrap().contains(place)
    }

    fn remember(&self, place: &str, _: &PinOrigin) {
        self.0.lock().unwrap().insert(place.into());
    }

    fn forget(&self, place: &str) {
        self.0.lock().unwrap().remove(place);
    }
}

#[test]
fn a_new_key_knows_nothing_of_what_an_old_one_refused() {
    let (tpm, memory) = (Swtpm::new(), Memory::default());
    let (right, other) = (user("right"), user("other"));
    let within = at(&tpm, "handle=auto");
    let uri = Desk::new().make(&within, KeyAlgorithm::P256, &right).unwrap().1.uri().clone();
    let tried = |pins: &Pins| code(TpmProvider::default().open(&uri, &Access::new(pins).remembering(&memory)));
    assert_eq!((tried(&other), tried(&other)), ("pin_incorrect".into(), "pin_refused_before".into()));
    TpmProvider::default().delete(&uri, &Access::new(&right)).unwrap();
    let desk = Desk::new();
    let (provider, access) = (TpmProvider::default(), Access::new(&other).remembering(&memory));
    let wish = desk.wish(&within, KeyAlgorithm::P256, false);
    let plan = provider.plan(&wish, &access).unwrap();
    assert_eq!(*provider.generate(&plan, &wish, &access).unwrap().uri(), uri);
    drop(provider);
    assert_eq!((tried(&other), tpm.wrong_tries()), ("ok".into(), 1));
}

fn enroll(tpm_tcti: &str, controller: &Controller, folder: &Path, name: &str, more: &[&str]) -> Outcome {
    let token = controller.issue(name).write(folder);
    let out = folder.join(format!("{name}.json"));
    Program::new(PROGRAM)
        .args(["enroll", "--provider", "tpm", "--jwt"])
        .arg(token)
        .arg("--out")
        .arg(out)
        .args(more)
        .env("TPM2TOOLS_TCTI", tpm_tcti)
        .env("TSS2_LOG", "all+NONE")
        .run()
}

fn verify(folder: &Path, name: &str, more: &[&str]) -> Outcome {
    Program::new(PROGRAM).arg("verify").arg(folder.join(format!("{name}.json"))).args(more).env("TSS2_LOG", "all+NONE").run()
}

#[test]
fn enrolls_and_logs_in_with_every_key_over_both_versions_of_tls() {
    let tpm = Swtpm::new();
    let folder = tempfile::tempdir().unwrap();
    let pin = folder.path().join("pin");
    fs::write(&pin, "s3cret\n").unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(&pin, fs::Permissions::from_mode(0o600)).unwrap();
    for tls in [Tls::Only12, Tls::Only13] {
        let controller = Controller::start(Options { tls, ..Options::default() });
        for algorithm in ["p256", "p384", "rsa2048", "rsa3072"] {
            for (home, key) in [("file", None), ("handle", Some("tpm2:handle=auto"))] {
                for with_pin in [false, true] {
                    let name = format!("{algorithm}-{home}-{with_pin}-{tls:?}");
                    let mut more = vec!["--key-alg", algorithm];
                    if let Some(key) = key {
                        more.extend(["--key", key]);
                    }
                    let pins = if with_pin { vec!["--pin-file", pin.to_str().unwrap()] } else { vec![] };
                    more.extend(&pins);
                    let done = enroll(&tpm.tcti(), &controller, folder.path(), &name, &more).success();
                    if algorithm == "p256" {
                        eprintln!("{done}");
                    }
                    let verified = verify(folder.path(), &name, &pins).success();
                    if algorithm == "p256" {
                        eprintln!("{verified}");
                    }
                    assert!(tpm.loaded().is_empty());
                }
            }
        }
        for handle in tpm.handles("handles-persistent") {
            tpm.tool("tpm2_evictcontrol").args(["-C", "o", "-c", &format!("{handle:#x}")]).run().success();
        }
        assert_eq!(controller.violations(), Vec::<String>::new());
    }
}

#[test]
fn enrolls_twenty_times_in_a_row_on_a_raw_tpm() {
    let tpm = Swtpm::new();
    let folder = tempfile::tempdir().unwrap();
    let controller = Controller::start(Options::default());
    for n in 0..20 {
        enroll(&tpm.tcti(), &controller, folder.path(), &format!("gate-{n}"), &[]).success();
    }
    assert!(tpm.loaded().is_empty());
}

/// TPM_CC by name, for messages.
fn name(code: u32) -> &'static str {
    match code {
        0x120 => "EvictControl",
        0x131 => "CreatePrimary",
        0x153 => "Create",
        0x157 => "Load",
        0x15d => "Sign",
        0x165 => "FlushContext",
        0x173 => "ReadPublic",
        0x176 => "StartAuthSession",
        0x17a => "GetCapability",
        0x18a => "TestParms",
        _ => "other",
    }
}

#[test]
fn every_command_of_an_enrollment_may_fail_in_every_way() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let pin = folder.path().join("pin");
    fs::write(&pin, "s3cret\n").unwrap();
    fs::set_permissions(&pin, fs::Permissions::from_mode(0o600)).unwrap();
    let controller = Controller::start(Options::default());
    let mut tally = std::collections::BTreeMap::<String, usize>::new();
    let homes = std::env::var("HOMES").unwrap_or("auto,tpm2:handle=auto".into());
    for home in homes.split(',') {
        let tpm = Swtpm::new();
        let proxy = Proxy::before(&tpm);
        let more = ["--key", home, "--pin-file", pin.to_str().unwrap(), "--format", "json", "--device-timeout", "1s"];
        // The first signature of its life makes a TPM test itself, and answer once that it does.
        enroll(&proxy.tcti(), &controller, folder.path(), &format!("first-{}", home.len()), &more).success();
        proxy.forget();
        enroll(&proxy.tcti(), &controller, folder.path(), &format!("plain-{}", home.len()), &more).success();
        let commands: Vec<u32> = proxy.exchanges().iter().map(|e| e.code).collect();
        eprintln!("{home}: {} commands: {:?}", commands.len(), commands.iter().map(|c| name(*c)).collect::<Vec<_>>());
        for (n, expected_code) in commands.iter().enumerate() {
            let rc = BusFault::Answer;
            for (f, fault) in [rc(0x921), rc(0x922), rc(0x902), rc(0x908), rc(0x98e), rc(0x101), BusFault::Drop, BusFault::Hang]
                .into_iter()
                .enumerate()
            {
                proxy.forget();
                proxy.behave();
                proxy.fail_at(n, fault);
                let id = format!("g{}-{n}-{f}", home.len());
                let done = enroll(&proxy.tcti(), &controller, folder.path(), &id, &more);
                proxy.behave();
                let seen = proxy.exchanges();
                let what = format!("{home} {n} {} {fault:?}", name(*expected_code));
                let list: Vec<_> = seen.iter().map(|e| name(e.code)).collect();
                if seen.get(n).map(|e| e.code) != Some(*expected_code) {
                    eprintln!("{what}: {list:?} {done}; last {:x?}", seen.last());
                    let _ = std::process::Command::new("sh").arg("-c").arg(r"ps -eo pid,stat,wchan:30,etime,time,args | grep 'swtpm\|ziti-enr' | cut -c1-200; ss -tnp | grep swtpm").status();
                    panic!();
                }
                assert!(done.wall < Duration::from_secs(6), "{what}: {done}");
                let json: serde_json::Value = serde_json::from_str(&done.stdout).unwrap_or_else(|e| panic!("{what}: {e} {done}"));
                let code = json["error"]["code"].as_str().unwrap_or("ok").to_owned();
                *tally.entry(format!("{:?} {} {code} {}", fault, name(*expected_code), done.code.unwrap())).or_default() += 1;
                let flushing = *expected_code == 0x165;
                let fits = match fault {
                    BusFault::Answer(0x922 | 0x908) => done.code == Some(0),
                    BusFault::Answer(_) if flushing => done.code == Some(0),
                    BusFault::Answer(0x921) => done.code == Some(22) && code == "tpm_lockout",
                    BusFault::Answer(0x902) => done.code == Some(25) && code == "tpm_out_of_memory",
                    BusFault::Answer(0x98e) => done.code == Some(21),
                    BusFault::Answer(_) => done.code == Some(25) && code == "device_error",
                    BusFault::Drop if flushing => done.code == Some(0) || code == "device_gone",
                    BusFault::Drop | BusFault::DropAnswer | BusFault::Spoil => done.code == Some(25) && code == "device_gone",
                    BusFault::Hang => done.code == Some(25) && code == "device_timeout",
                };
                if fault == BusFault::Answer(0x98e) && *expected_code == 0x15d {
                    assert_eq!(seen.iter().skip(n + 1).filter(|e| e.code == 0x15d).count(), 0, "{what}: authorised again");
                }
                if !fits {
                    eprintln!("UNEXPECTED {what}: {done}");
                    *tally.entry("UNEXPECTED".into()).or_default() += 1;
                }
                if matches!(fault, BusFault::Drop | BusFault::Hang) {
                    tpm.flush();
                } else if !tpm.loaded().is_empty() {
                    eprintln!("UNEXPECTED left loaded: {what}");
                    *tally.entry("UNEXPECTED".into()).or_default() += 1;
                    tpm.flush();
                }
                // Handles are few.
                for handle in tpm.handles("handles-persistent") {
                    tpm.tool("tpm2_evictcontrol").args(["-C", "o", "-c", &format!("{handle:#x}")]).run().success();
                }
            }
        }
    }
    for (what, count) in &tally {
        eprintln!("{count:4} {what}");
    }
    assert!(!tally.contains_key("UNEXPECTED"));
}

#[test]
fn kills_at_any_time_leave_something_that_works() {
    let tpm = Swtpm::new();
    let folder = tempfile::tempdir().unwrap();
    let controller = Controller::start(Options::default());
    let whole = enroll(&tpm.tcti(), &controller, folder.path(), "whole", &["--key", "tpm2:handle=auto"]).success().wall;
    let mut left = 0;
    for n in 0..50_u32 {
        let name = format!("kill-{n}");
        let token = controller.issue(&name).write(folder.path());
        let out = folder.path().join(format!("{name}.json"));
        let run = || {
            let more: &[&str] = if n % 2 == 0 { &["--key", "tpm2:handle=auto"] } else { &[] };
            let program = Program::new(PROGRAM)
                .args(["enroll", "--provider", "tpm", "--jwt"])
                .arg(&token)
                .arg("--out")
                .arg(&out)
                .args(more);
            program.env("TPM2TOOLS_TCTI", tpm.tcti()).env("TSS2_LOG", "all+NONE")
        };
        let mut running = run().start();
        std::thread::sleep(whole.mul_f64(f64::from(n) / 50.0));
        running.kill();
        running.wait();
        let objects = tpm.handles("handles-transient").len() + tpm.handles("handles-loaded-session").len();
        left += usize::from(objects > 0);
        if !out.exists() {
            let mut done = run().run();
            if done.code == Some(25) {
                assert!(done.stderr.contains("0x902") && done.stderr.contains("tpm2_flushcontext -t"), "{done}");
                tpm.flush();
                done = run().run();
            }
            // Killed between the request and its answer.
            let lost = done.code == Some(33) && done.stderr.contains("stopped at stage `posting`");
            assert!(done.code == Some(0) || lost, "{done}");
        }
    }
    let mut files = String::new();
    for entry in fs::read_dir(folder.path()).unwrap().flatten() {
        // An identity, or the journal of an enrollment whose answer was lost.
        let file = if entry.path().is_dir() { entry.path().join("journal") } else { entry.path() };
        files.push_str(&fs::read_to_string(file).unwrap());
    }
    let handles = tpm.handles("handles-persistent");
    for handle in &handles {
        assert!(files.contains(&format!("{handle:#010x}")), "{handle:#x} is nobody's");
    }
    eprintln!("left something loaded: {left} of 50; {} handles, all named; whole {whole:?}", handles.len());
}

#[test]
fn the_program_takes_the_owners_auth_value_from_its_own_file() {
    use std::os::unix::fs::PermissionsExt;
    let tpm = Swtpm::new();
    tpm.set_auth("owner", "boss");
    let folder = tempfile::tempdir().unwrap();
    let controller = Controller::start(Options::default());
    let refused = enroll(&tpm.tcti(), &controller, folder.path(), "without", &["--key", "tpm2:handle=auto"]);
    assert!(refused.code == Some(21) && refused.stderr.contains("--owner-pin-file"), "{refused}");
    let owner = folder.path().join("owner");
    fs::write(&owner, "boss\n").unwrap();
    fs::set_permissions(&owner, fs::Permissions::from_mode(0o600)).unwrap();
    let more = ["--key", "tpm2:handle=auto", "--owner-pin-file", owner.to_str().unwrap()];
    let done = enroll(&tpm.tcti(), &controller, folder.path(), "with", &more).success();
    eprintln!("{done}");
    verify(folder.path(), "with", &[]).success();
    assert_eq!((tpm.handles("handles-persistent"), tpm.loaded()), (vec![HANDLE], vec![]));
}
