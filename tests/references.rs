//! Key references: RFC 7512 as parser and printer, for any bytes, and held to p11tool, which reads and writes them too.

use proptest::collection::vec;
use proptest::prelude::*;
use ziti_enroller::key::uri::UriError;
use ziti_enroller::key::{KeyReference, KeyUri, Providers};

/// RFC 7512 §2.3, before the `?`.
const PATH: [&str; 12] = [
    "token",
    "serial",
    "manufacturer",
    "model",
    "library-manufacturer",
    "library-description",
    "library-version",
    "slot-id",
    "slot-description",
    "slot-manufacturer",
    "object",
    "id",
];
/// Behind it.
const QUERY: [&str; 3] = ["module-path", "module-name", "pin-source"];

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..40),
        "\\PC{0,12}".prop_map(String::into_bytes),
        "[;/?&=%:. ]{0,8}".prop_map(String::into_bytes)
    ]
}

/// Any reference but those of files, which have a path and no attributes.
fn uri() -> impl Strategy<Value = KeyUri> {
    let attributes = |names: &'static [&'static str]| {
        let all = names.iter().map(|name| proptest::option::of(bytes()).prop_map(move |value| (*name, value)));
        all.collect::<Vec<_>>().prop_shuffle()
    };
    let vendors = proptest::collection::btree_map("x-[a-z0-9_-]{1,12}", bytes(), 0..3);
    (prop_oneof!["pkcs11", "tpm2", "yubi\\+key"], attributes(&PATH), attributes(&QUERY), vendors).prop_map(
        |(scheme, path, query, own)| {
            let mut uri = KeyUri::new(&scheme);
            for (name, value) in path.into_iter().chain(query) {
                if let Some(value) = value {
                    uri.set(name, &value);
                }
            }
            // Whatever is called a PIN is no attribute.
            for (name, value) in own.iter().filter(|(name, _)| !name.split(['-', '_']).any(|word| word == "pin")) {
                uri.set(name, value);
            }
            uri
        },
    )
}

/// The same reference as somebody else may write it: any byte encoded or not where the RFC leaves that open, digits of
/// either case, parts in any order.
fn spelled() -> impl Strategy<Value = (Vec<(&'static str, Vec<u8>)>, String)> {
    let part = |name: &'static str| (Just(name), vec((any::<u8>(), any::<bool>(), any::<bool>()), 0..20));
    let parts = |names: &'static [&'static str]| {
        proptest::sample::subsequence(names.to_vec(), 0..=names.len())
            .prop_flat_map(move |names| names.into_iter().map(part).collect::<Vec<_>>().prop_shuffle())
    };
    (parts(&PATH), parts(&QUERY)).prop_map(|(path, query)| {
        let write = |(name, value): &(&'static str, Vec<(u8, bool, bool)>), plain: &str| {
            let value = value.iter().map(|(byte, encode, upper)| match (*byte as char, encode) {
                // An id without any `%` could be taken for hexadecimal digits.
                (c, false) if *name != "id" && c.is_ascii() && (c.is_ascii_alphanumeric() || plain.contains(c)) => c.to_string(),
                _ if *upper => format!("%{byte:02X}"),
                _ => format!("%{byte:02x}"),
            });
            format!("{name}={}", value.collect::<String>())
        };
        let path_text: Vec<String> = path.iter().map(|part| write(part, "-._~:[]@!$'()*+,=&")).collect();
        let query_text: Vec<String> = query.iter().map(|part| write(part, "-._~:[]@!$'()*+,=/?|")).collect();
        let mark = if query_text.is_empty() { "" } else { "?" };
        let text = format!("PKCS11:{}{mark}{}", path_text.join(";"), query_text.join("&"));
        let plain =
            |(name, value): (&'static str, Vec<(u8, bool, bool)>)| (name, value.into_iter().map(|(byte, ..)| byte).collect());
        (path.into_iter().chain(query).map(plain).collect(), text)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_printed_is_read_back(uri in uri()) {
        let text = uri.to_string();
        prop_assert_eq!(text.parse::<KeyUri>(), Ok(uri), "{}", text);
        // And it is what RFC 7512 §2.3 and RFC 3986 let stand in a URI.
        prop_assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%:=;?&/,+".contains(&b)), "{}", text);
    }

    #[test]
    fn what_others_write_is_read_and_printed_in_one_form((parts, text) in spelled()) {
        let uri: KeyUri = text.parse().map_err(|error: UriError| TestCaseError::fail(format!("{text}: {error}")))?;
        for (name, value) in &parts {
            prop_assert_eq!(uri.attribute(name), Some(value.as_slice()), "{} of {}", name, text);
        }
        prop_assert_eq!(uri.names().count(), parts.len());
        let printed = uri.to_string();
        prop_assert_eq!(printed.parse::<KeyUri>().map(|again| again.to_string()), Ok(printed));
    }

    #[test]
    fn any_path_of_a_file_is_read_back(path in vec(1_u8.., 1..40)) {
        use std::os::unix::ffi::OsStrExt;
        let uri = KeyUri::file(std::path::Path::new(std::ffi::OsStr::from_bytes(&path)));
        prop_assert_eq!(uri.to_string().parse::<KeyUri>(), Ok(uri));
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC*") {
        read_or_refused(&text);
    }

    #[test]
    fn any_text_behind_the_scheme_is_read_or_refused(text in "(pkcs11|tpm2|file):[a-z%;?&=0-9:/-]*\\PC{0,4}[a-z%;?&=0-9:/-]*") {
        read_or_refused(&text);
    }

    /// What stands in identities has a grammar of its own; whatever of it can be read is a reference for people, without
    /// its PIN.
    #[test]
    fn any_reference_of_an_identity_is_read_or_refused(text in "pkcs11:/{0,3}[a-z.%/]{0,12}(\\?[a-z0-9=&%x]{0,40})?(&pin=s3cr3t)?") {
        let located = Providers::compiled_in().locate(&KeyReference::found(&text));
        if let Some(Ok(uri)) = located {
            prop_assert!(!format!("{uri} {uri:?}").contains("s3cr3t"), "{}", text);
            prop_assert_eq!(uri.to_string().parse::<KeyUri>(), Ok(uri), "{}", text);
        } else if let Some(Err(error)) = located {
            prop_assert!(!format!("{error} {error:?}").contains("s3cr3t"), "{}", text);
        }
    }

    /// Wherever it stands and however it is written, it is not said again.
    #[test]
    fn no_pin_is_ever_printed(before in "[a-z;=%0-9]{0,12}", after in "[a-z;&=%?0-9]{0,12}", query: bool) {
        let text = format!("pkcs11:{}{}pin-value=s3cr3t{}", before, if query { "?" } else { ";" }, after);
        let said = match text.parse::<KeyUri>() {
            Ok(uri) => format!("{uri} {uri:?}"),
            Err(error) => format!("{error} {error:?}"),
        };
        // Behind an attribute's name and `=`, it is the value of that attribute.
        prop_assume!(before.is_empty() || query || !before.contains('='));
        prop_assert!(!said.contains("s3cr3t"), "{}: {}", text, said);
    }
}

fn read_or_refused(text: &str) {
    if let Ok(uri) = text.parse::<KeyUri>() {
        assert_eq!(uri.to_string().parse::<KeyUri>(), Ok(uri), "{text}");
    }
}

/// Over real tokens.
mod with_tokens {
    use std::path::Path;

    use serde_json::{Value, json};
    use ziti_enroller_support::{Controller, KeyType, Options, Program, SoftHsm, require};

    use crate::machine::{Failed, Fixture, InToken, Machine, TokenObject, report, text};

    /// Label of a token, at most 32 bytes of UTF-8, and of keys, with ids.
    const TOKEN: &str = "Gate ü;/%?&=+ #7";
    const KEYS: [(&str, &str); 5] =
        [("Schlüssel 50%; a/b?c&d=e+f", "00ff25"), ("钥匙 🔑", "3b2f"), ("a", "303132"), ("%41", "00"), ("ziti:x.1", "0a0d")];

    /// How p11tool ends where nothing fits.
    const NOTHING_FOUND: i32 = 2;

    /// A token with such a label beside the first one, and such keys in it.
    fn nasty() -> (Machine<InToken>, String) {
        let mut machine = Machine::<InToken>::new();
        let token = machine.keys.hsm.add_token(TOKEN, "13572468");
        for (label, id) in KEYS {
            let tool = Program::new(require("pkcs11-tool", "opensc")).envs(machine.keys.hsm.env()).arg("--module");
            let tool = tool.arg(machine.keys.hsm.real_module()).args(["--token-label", TOKEN, "--login", "--pin", &token.pin]);
            tool.args(["--keypairgen", "--key-type", "EC:prime256v1", "--label", label, "--id", id]).run().success();
        }
        (machine, token.pin)
    }

    /// p11tool with the module that our references name.
    fn p11tool(hsm: &SoftHsm, pin: &str) -> Program {
        let tool = Program::new(require("p11tool", "gnutls-bin")).envs(hsm.env()).arg("--provider").arg(hsm.module());
        tool.args(["--login", "--set-pin", pin, "--only-urls"])
    }

    fn urls(listed: &str) -> Vec<String> {
        let lines = listed.lines().map(|line| line.trim().trim_start_matches("URL: "));
        lines.filter(|line| line.starts_with("pkcs11:")).map(str::to_owned).collect()
    }

    /// The public key that p11tool finds by `uri`, DER.
    fn exported(hsm: &SoftHsm, pin: &str, uri: &str) -> Vec<u8> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        let tool = Program::new(require("p11tool", "gnutls-bin")).envs(hsm.env()).arg("--provider").arg(hsm.module());
        tool.args(["--login", "--set-pin", pin, "--export-pubkey", uri, "--outfile"]).arg(file.path()).run().success();
        let pem = std::fs::read(file.path()).expect("p11tool has written it");
        x509_cert::der::pem::decode_vec(pem.trim_ascii()).expect("p11tool writes PEM").1
    }

    fn pin_file(machine: &Machine<InToken>) -> String {
        text(&machine.keys.hsm.tokens()[1].pin_file)
    }

    fn module_path(uri: &str, module: &Path) -> String {
        format!("{uri}?module-path={}", text(module))
    }

    #[test]
    fn what_p11tool_prints_is_found() {
        let controller = Controller::start(Options::default());
        let (machine, pin) = nasty();
        let hsm = &machine.keys.hsm;
        let tokens = urls(&p11tool(hsm, &pin).arg("--list-tokens").run().success().stdout);
        let ours: Vec<&String> = tokens.iter().filter(|uri| uri.contains("Gate")).collect();
        let [token] = ours.as_slice() else { panic!("one token: {tokens:?}") };
        let keys = urls(&p11tool(hsm, &pin).args(["--list-privkeys", token]).run().success().stdout);
        assert_eq!(keys.len(), KEYS.len(), "{keys:?}");
        for (number, uri) in keys.iter().enumerate() {
            let issued = controller.issue(&format!("gate-{number}"));
            let file = issued.write(machine.folder());
            let enroll =
                machine.program().args(["enroll", "--format", "json", "--pin-file", &pin_file(&machine), "--jwt"]).arg(file);
            let said = report(&enroll.args(["--key", &module_path(uri, &hsm.module())]).run());
            assert_eq!(said["key"]["created"], json!(false));
            let identity = machine.identity(&issued);
            assert_eq!(identity.public_key(), exported(hsm, &pin, uri), "{uri}");
            // What the identity holds is a reference too, of the SDKs' own kind.
            let again = controller.issue(&format!("hatch-{number}"));
            let enroll = machine.program().args(["enroll", "--format", "json", "--pin-file", &pin_file(&machine), "--jwt"]);
            let said = report(&enroll.arg(again.write(machine.folder())).args(["--key", identity.key()]).run());
            assert_eq!(machine.identity(&again).public_key(), identity.public_key());
            assert_eq!(exported(hsm, &pin, said["key"]["reference"].as_str().expect("text")), identity.public_key());
        }
        // As --token, its own name for the token.
        let list = machine.program().args(["list", "keys", "--format", "json", "--pin-file", &pin_file(&machine), "--module"]);
        let said = report(&list.arg(hsm.module()).args(["--token", token]).run());
        assert_eq!(said["keys"].as_array().map(Vec::len), Some(KEYS.len()));
    }

    #[test]
    fn what_we_print_p11tool_finds() {
        let (machine, pin) = nasty();
        let hsm = &machine.keys.hsm;
        let list = |what: &str| {
            let list = machine.program().args(["list", what, "--format", "json", "--module"]).arg(hsm.module());
            let list = if what == "keys" { list.args(["--token", TOKEN, "--pin-file", &pin_file(&machine)]) } else { list };
            report(&list.run())[what].as_array().expect("a list").clone()
        };
        let reference = |listed: &Value| listed["reference"].as_str().expect("a reference is text").to_owned();
        let tokens = list("tokens");
        let named: Vec<&Value> = tokens.iter().filter(|token| token["obstacle"].is_null()).collect();
        assert_eq!(named.len(), 2, "{tokens:?}");
        for token in named {
            // Without a login it lists what anybody sees: here that it is this token and no other.
            let tool = Program::new(require("p11tool", "gnutls-bin")).envs(hsm.env()).arg("--provider").arg(hsm.module());
            let listed = tool.args(["--only-urls", "--list-all", &reference(token)]).run();
            let (code, expected) = if token["label"] == TOKEN { (0, KEYS.len()) } else { (NOTHING_FOUND, 0) };
            assert_eq!((listed.code, urls(&listed.stdout).len()), (Some(code), expected), "{token}: {listed}");
        }
        let empty = tokens.iter().find(|token| token["label"] == "").expect("SoftHSM has an empty slot");
        assert!(reference(empty).starts_with("pkcs11:slot-id="), "{empty}");
        let keys = list("keys");
        assert_eq!(keys.len(), KEYS.len());
        for key in &keys {
            let der = exported(hsm, &pin, &reference(key));
            assert_eq!(key["spki_sha256"], json!(sha256(&der)), "{key}");
            let listed = urls(&p11tool(hsm, &pin).args(["--list-privkeys", &reference(key)]).run().success().stdout);
            assert_eq!(listed.len(), 1, "{key}: {listed:?}");
        }
        let labels: Vec<&str> = keys.iter().filter_map(|key| key["label"].as_str()).collect();
        assert!(KEYS.iter().all(|(label, _)| labels.contains(label)), "{labels:?}");
    }

    fn sha256(der: &[u8]) -> String {
        let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        std::fs::write(file.path(), der).expect("a temporary file can be written");
        let said = Program::new(require("openssl", "openssl")).args(["dgst", "-sha256", "-r"]).arg(file.path()).run().success();
        said.stdout.split(' ').next().expect("a hash").to_owned()
    }

    /// What `list tokens` finds by these attributes.
    fn found(machine: &Machine<InToken>, attributes: &str) -> usize {
        let reference = module_path(&format!("pkcs11:{attributes}"), &machine.keys.hsm.module());
        let said = report(&machine.program().args(["list", "tokens", "--format", "json", &reference]).run());
        said["tokens"].as_array().expect("a list").iter().filter(|token| token["obstacle"].is_null()).count()
    }

    #[test]
    fn every_attribute_narrows_what_is_meant() {
        let machine = Machine::<InToken>::new();
        let hsm = &machine.keys.hsm;
        let tool = Program::new(require("pkcs11-tool", "opensc")).envs(hsm.env()).arg("--module").arg(hsm.real_module());
        let slots = tool.arg("--list-slots").run().success().stdout;
        let id = slots.split("Slot ").nth(1).and_then(|slot| slot.split('(').nth(1)).and_then(|id| id.split(')').next());
        let id = u64::from_str_radix(id.expect("a slot").trim_start_matches("0x"), 16).expect("a number");
        let description = slots.split("): ").nth(1).and_then(|text| text.lines().next()).expect("a description").trim();
        let serial = hsm.serial();
        for (attributes, others) in [
            ("token=ziti-test".to_owned(), "token=other"),
            ("token=ziti-test%20%20".to_owned(), "token=ziti"),
            (format!("serial={serial}"), "serial=0"),
            ("manufacturer=SoftHSM%20project".to_owned(), "manufacturer="),
            ("model=SoftHSM%20v2".to_owned(), "model=SoftHSM"),
            (format!("slot-id={id}"), "slot-id=987654321"),
            (format!("slot-description={}", description.replace(' ', "%20")), "slot-description=SoftHSM"),
            ("slot-manufacturer=SoftHSM%20project".to_owned(), "slot-manufacturer=other"),
        ] {
            assert_eq!((found(&machine, &attributes), found(&machine, others)), (1, 0), "{attributes}");
        }
        for (right, wrong) in [
            ("library-manufacturer=SoftHSM", "library-manufacturer=other"),
            ("library-description=Implementation%20of%20PKCS11", "library-description="),
            ("library-version=2.6", "library-version=2"),
        ] {
            assert_eq!(found(&machine, right), 1, "{right}");
            let reference = module_path(&format!("pkcs11:{wrong}"), &hsm.module());
            let outcome = machine.program().args(["list", "tokens", "--format", "json", &reference]).run();
            Failed::with(outcome, 24, "token_not_found").says("is not the one that the reference means").hints("--module");
        }
        assert_eq!(hsm.count("C_Login"), 0);
    }

    #[test]
    fn an_empty_attribute_is_that_of_a_key_without_one() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::new();
        machine.keys.make_pair("mine", "01", KeyType::P256);
        let make = machine.keys.tool().args(["--keypairgen", "--key-type", "EC:prime256v1", "--label", "bare"]);
        make.run().success();
        let bare: Vec<TokenObject> = machine.keys.objects().into_iter().filter(|object| object.label == "bare").collect();
        assert!(bare.iter().all(|object| object.id.is_empty()) && bare.len() == 2, "{bare:?}");
        let enroll = |path: &str| {
            let key = module_path(&format!("pkcs11:{path}"), &machine.keys.hsm.module());
            machine.enroll_with(&controller.issue("gate-7")).args(["--key", &key, "--force"]).run()
        };
        report(&enroll("object=bare;id="));
        Failed::with(enroll("object=mine;id="), 24, "key_not_found").says("no id").spent("no");
        Failed::with(enroll("id=;object="), 2, "usage").says("none of its keys").spent("no");
    }

    #[test]
    fn what_is_no_reference_is_refused_before_anything_is_loaded() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::new();
        let module = machine.keys.hsm.module();
        for (key, says) in [
            ("pkcs11:token=a;token=b", "twice"),
            ("pkcs11:token=a;x-shelf=3", "x-shelf"),
            ("pkcs11:tokn=a;object=k", "tokn"),
            ("pkcs11:type=cert;object=k", "its type must be private"),
            ("pkcs11:slot-id=first;object=k", "slot-id"),
            ("pkcs11:id=%0", "without two hexadecimal digits"),
            ("pkcs11:id=0x012", "odd number"),
        ] {
            let outcome = machine.enroll_with(&controller.issue("gate-7")).args(["--key", &module_path(key, &module)]).run();
            Failed::with(outcome, 2, "usage").says(says).spent("no");
        }
        assert_eq!((machine.keys.hsm.calls(), controller.enroll_posts()), (Vec::new(), 0));
    }

    /// Another program's way to the key is passed over, as RFC 7512 lets it stand behind the `?`.
    #[test]
    fn what_belongs_to_another_program_is_passed_over_behind_the_question_mark() {
        let machine = Machine::<InToken>::new();
        let reference = format!("{}&x-hurry=yes", module_path("pkcs11:token=ziti-test", &machine.keys.hsm.module()));
        report(&machine.program().args(["list", "tokens", "--format", "json", &reference]).run());
    }

    #[test]
    fn a_module_is_found_by_its_name() {
        let controller = Controller::start(Options::default());
        let machine = Machine::<InToken>::new();
        let real = machine.keys.hsm.real_module();
        let enroll = |name: &str, key: &str| {
            let program = machine.enroll_with(&controller.issue(name)).env("PKCS11_MODULE_PATH", "/nonexistent.so");
            program.args(["--provider", "pkcs11", "--key", key, "--create"]).run()
        };
        let said = report(&enroll("gate-7", "pkcs11:token=ziti-test;object=a?module-name=SoftHSM2"));
        let reference = said["key"]["reference"].as_str().expect("a reference is text");
        let named = reference.split("module-path=").nth(1).expect("the module is in the reference");
        let same = |path: &str| std::fs::canonicalize(path).expect("the module is there");
        assert_eq!(same(named), same(&text(&real)));

        // In a folder of one's own: p11fault, as it was built.
        let module = machine.keys.hsm.module();
        let folder = text(module.parent().expect("a module lies in a folder"));
        let key = format!("pkcs11:token=ziti-test;object=b?module-path={folder}&module-name=p11fault");
        report(&enroll("gate-8", &key));
        let key = format!("pkcs11:token=ziti-test;object=c?module-path={}&module-name=softhsm2", text(&module));
        Failed::with(enroll("gate-9", &key), 2, "usage").says("is not the name of").spent("no");
    }

    #[test]
    fn a_name_that_no_module_has_loads_none() {
        let machine = Machine::<InToken>::new();
        let trace = machine.path("trace");
        let strace =
            Program::new(require("strace", "strace")).envs(machine.keys.surroundings()).args(["-f", "-e", "trace=openat", "-o"]);
        let strace = strace.arg(&trace).arg(crate::machine::PROGRAM);
        let outcome = strace.args(["list", "tokens", "--format", "json", "pkcs11:?module-name=nosuchmodule"]).run();
        Failed::with(outcome, 20, "module_missing").says("no module called \"nosuchmodule\" is on this machine").hints("softhsm");
        let opened = std::fs::read_to_string(trace).expect("strace has written it");
        let modules = opened.lines().filter(|line| line.contains("pkcs11.so") || line.contains("libsofthsm2.so"));
        assert_eq!(modules.count(), 0, "{opened}");
    }
}
