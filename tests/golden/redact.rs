//! What differs from run to run, in brackets.

/// Replaces what is known to be different each time, then what looks like it.
pub fn redact(text: &str, known: &[(String, &str)]) -> String {
    let mut known: Vec<&(String, &str)> = known.iter().filter(|(value, _)| !value.is_empty()).collect();
    // The longest first: a path before the folder that it begins with.
    known.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
    let text = known.iter().fold(text.to_owned(), |text, (value, name)| text.replace(value.as_str(), name));
    let text = certificates(&text);
    let text = behind(&text, &["localhost:", "127.0.0.1:", "127.0.0.1,port="], "[PORT]", |c| c.is_ascii_digit(), 1);
    let text = behind(&text, &["spiffe://"], "[SPIFFE ID]", |c| c.is_ascii_alphanumeric() || "/.-_~[]".contains(c), 1);
    // An id of a reference, whether in hexadecimal or percent-encoded.
    let text = behind(&text, &["id="], "[KEY ID]", |c| c.is_ascii_alphanumeric() || "%._~-".contains(c), 16);
    let text = behind(&text, &["slot=", "slot "], "[SLOT]", |c| c.is_ascii_alphanumeric(), 6);
    let text = behind(&text, &["handle "], "[HANDLE]", |c| c.is_ascii_digit(), 1);
    let text = behind(&text, &["Z ("], "[DAYS]", |c| c.is_ascii_digit(), 1);
    // A number stays one, for what is redacted is read as JSON.
    let text = behind(&text, &["\"days_left\":"], "0", |c| c.is_ascii_digit(), 1);
    let text = behind(&text, &["\"authenticator\":\""], "[AUTHENTICATOR]", |c| c.is_ascii_alphanumeric(), 10);
    // Of the test's own CAs.
    let text = behind(&text, &["Signing CA ", "Root CA "], "[SERIAL]", |c| c.is_ascii_hexdigit(), 8);
    let text = behind(&text, &["on this machine: "], "[MODULES]", |c| c != '"' && c != '\n', 1);
    let text = runs(&text, |c| c.is_ascii_hexdigit() && !c.is_ascii_uppercase(), |run| (run.len() >= 16).then_some("[HEX]"));
    let time = |run: &str| is_like(run, "2000-00-00T00:00:00Z").then_some("[TIME]");
    runs(&text, |c| c.is_ascii_digit() || "-:TZ".contains(c), time)
}

/// Hides the content of certificates in PEM.
fn certificates(text: &str) -> String {
    let mut parts = text.split("-----BEGIN CERTIFICATE-----");
    let mut done = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        done.push_str("[CERTIFICATE]");
        done.push_str(part.split_once("-----END CERTIFICATE-----").map_or(part, |(_, rest)| rest));
    }
    done
}

/// Replaces the longest run of `fits` behind each of `starts`, where it has at least so many characters and is a whole word.
fn behind(text: &str, starts: &[&str], name: &str, fits: impl Fn(char) -> bool, at_least: usize) -> String {
    let mut done = text.to_owned();
    for start in starts {
        let mut parts = done.split(start);
        let mut next = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            next.push_str(start);
            let end = part.find(|c| !fits(c)).unwrap_or(part.len());
            let is_all = !part[end..].starts_with(char::is_alphanumeric);
            next.push_str(if end >= at_least && is_all { name } else { &part[..end] });
            next.push_str(&part[end..]);
        }
        done = next;
    }
    done
}

/// Replaces the runs of `fits` that `name` has a name for.
fn runs(text: &str, fits: impl Fn(char) -> bool, name: impl Fn(&str) -> Option<&'static str>) -> String {
    let mut done = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(&fits) {
        let end = rest[start..].find(|c| !fits(c)).map_or(rest.len(), |length| start + length);
        done.push_str(&rest[..start]);
        done.push_str(name(&rest[start..end]).unwrap_or(&rest[start..end]));
        rest = &rest[end..];
    }
    done + rest
}

/// Whether digits stand where `pattern` has some, and all else is the same.
fn is_like(text: &str, pattern: &str) -> bool {
    text.len() == pattern.len()
        && text.chars().zip(pattern.chars()).all(|(c, p)| if p.is_ascii_digit() { c.is_ascii_digit() } else { c == p })
}

#[test]
fn hides_what_differs_and_nothing_else() {
    let known = [("/tmp/a".to_owned(), "[DIR]"), ("/tmp/a/b".to_owned(), "[MODULE]")];
    for (text, seen) in [
        ("cannot read /tmp/a/b in /tmp/a/c", "cannot read [MODULE] in [DIR]/c"),
        ("https://localhost:4711/x, 127.0.0.1:1", "https://localhost:[PORT]/x, 127.0.0.1:[PORT]"),
        ("handle 12, handle 0x81020000", "handle [HANDLE], handle 0x81020000"),
        ("swtpm:host=127.0.0.1,port=4711", "swtpm:host=127.0.0.1,port=[PORT]"),
        ("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\nx", "[CERTIFICATE]\nx"),
        ("until 2027-01-02T03:04:05Z, not 2027", "until [TIME], not 2027"),
        ("id=%01%02;id=00112233445566778899aabbccddeeff?x", "id=%01%02;id=[KEY ID]?x"),
        ("SHA-1 00112233445566778899aabbccddeeff00112233, face", "SHA-1 [HEX], face"),
        ("until 2027-01-02T03:04:05Z (364 days left)", "until [TIME] ([DAYS] days left)"),
        ("{\"days_left\":364,\"authenticator\":\"W4kErfsB6a\"}", "{\"days_left\":0,\"authenticator\":\"[AUTHENTICATOR]\"}"),
    ] {
        assert_eq!(redact(text, &known), seen);
    }
}
