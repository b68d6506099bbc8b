//! The table of `design.md` section 4, held against the source and the golden files: every code that the program can
//! give is reached, with the exit code and the fate of the token that the table promises.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use ziti_enroller_support::figures;

/// What becomes of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    /// It was not sent.
    Kept,
    /// It was sent, and the controller said no to something else.
    Refused,
    /// It was sent.
    Sent,
    /// Sent before, or not at all: whatever the report says.
    AsSaid,
}

/// Exit code, `error.code`, token. `refused_*` stands for every code of the controller.
const TABLE: &[(i64, &[&str], Token)] = &[
    (2, &["usage"], Token::Kept),
    (
        10,
        &[
            "token_missing",
            "token_empty",
            "token_too_large",
            "token_malformed",
            "token_alg",
            "token_method",
            "token_issuer",
            "token_jti",
        ],
        Token::Kept,
    ),
    (11, &["token_expired"], Token::Kept),
    (
        12,
        &[
            "controller_not_signer",
            "token_damaged",
            "controller_not_key_owner",
            "controller_chain",
            "controller_name",
            "cacerts_unusable",
            "redirect",
        ],
        Token::Kept,
    ),
    (
        20,
        &[
            "module_missing",
            "module_not_pkcs11",
            "module_refused",
            "provider_absent",
            "key_type_unsupported",
            "tpm_missing",
            "tpm_permission",
            "tcti_unknown",
        ],
        Token::Kept,
    ),
    // Before `verify` and after a crash it may have been sent long ago.
    (
        21,
        &["pin_incorrect", "pin_empty", "pin_unreadable", "pin_file_unsafe", "pin_missing", "pin_refused_before"],
        Token::AsSaid,
    ),
    (22, &["pin_locked", "pin_final_try", "pin_expired", "tpm_lockout"], Token::Kept),
    (23, &["key_not_as_promised", "signature_wrong"], Token::Kept),
    (
        24,
        &["token_not_found", "token_ambiguous", "key_not_found", "key_exists", "key_ambiguous", "key_half", "key_type_differs"],
        Token::AsSaid,
    ),
    (25, &["device_error", "device_timeout", "device_gone", "tpm_out_of_memory"], Token::AsSaid),
    // A cluster without a leader has heard the request and keeps the token.
    (30, &["unreachable", "timeout", "proxy"], Token::Refused),
    (31, &["refused_*"], Token::Refused),
    (32, &["token_gone"], Token::Sent),
    (33, &["outcome_unknown", "answer_lost"], Token::Sent),
    (
        40,
        &["answer_unusable", "certificate_other_key", "certificate_chain", "certificate_usage", "certificate_expired"],
        Token::Sent,
    ),
    (
        50,
        &[
            "output_exists",
            "output_is_symlink",
            "output_not_a_file",
            "folder_missing",
            "folder_not_writable",
            "folder_unsafe",
            "disk_full",
            "file_error",
        ],
        Token::Kept,
    ),
    (
        51,
        &[
            "output_exists",
            "output_is_symlink",
            "output_not_a_file",
            "folder_not_writable",
            "disk_full",
            "file_error",
            "journal_damaged",
        ],
        Token::Sent,
    ),
    (60, &["login_refused"], Token::Sent),
    (61, &["login_needs_more"], Token::Sent),
    (70, &["unexpected"], Token::AsSaid),
    (75, &["output_in_use"], Token::Kept),
];

/// Exit codes without an error: done, something is left to do, SIGINT, SIGTERM.
const WITHOUT_ERROR: [i64; 4] = [0, 1, 130, 143];

/// A golden file of a failure.
struct Golden {
    name: String,
    exit: i64,
    code: String,
    spent: String,
    posts: usize,
    before: usize,
}

fn goldens() -> Vec<Golden> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(super::folder()).expect("tests/cmd").map(|file| file.expect("a file").path()).collect();
    files.sort();
    files.iter().filter_map(|file| read(file)).collect()
}

/// `None` for one without a failure in it.
fn read(file: &Path) -> Option<Golden> {
    let text = fs::read_to_string(file).expect("a golden file can be read");
    let json = text.split("--- --format json\n").nth(1)?.split("\n--- ").next()?;
    let report: Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let error = report.get("error")?;
    let exit = text.split("--- exit ").nth(1)?.lines().next()?.parse().expect("an exit code");
    assert_eq!(error["exit"], exit, "{}: two exit codes", file.display());
    let posts = text.split("--- POSTs at the controller: ").nth(1).expect("a count of POSTs").trim_end();
    let number = |text: &str| text.parse().expect("a number of POSTs");
    let (posts, before) = match posts.split_once(" (after ") {
        Some((posts, before)) => (number(posts), number(before.split(' ').next().unwrap_or_default())),
        None => (number(posts), 0),
    };
    let word = |name: &str| error[name].as_str().expect("a word").to_owned();
    let name = file.file_stem().expect("a name").to_string_lossy().into_owned();
    Some(Golden { name, exit, code: word("code"), spent: word("token_spent"), posts, before })
}

/// The codes that the source can give: those of faults, and those of the functions of `error.rs` that name codes.
fn codes_of_the_source() -> BTreeSet<String> {
    let mut codes = BTreeSet::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("src can be listed") {
            let path = entry.expect("src can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).expect("a source file can be read");
                let code = text.split("#[cfg(test)]").next().unwrap_or_default();
                let faults = code.split("Fault::new(").skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"'));
                codes.extend(faults.filter_map(|rest| rest.split('"').next()).map(str::to_owned));
                if path.ends_with("src/error.rs") {
                    codes.extend(named_in_error(code));
                }
            }
        }
    }
    codes
}

/// In `fn code` and the functions beside it whose name ends so.
fn named_in_error(source: &str) -> BTreeSet<String> {
    let is_code =
        |word: &&str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let mut codes = BTreeSet::new();
    for function in source.split("fn ").filter(|rest| rest.split('(').next().is_some_and(|name| name.ends_with("code"))) {
        if function.starts_with("exit_code") || function.split('(').next().is_some_and(|name| name.ends_with("exit_code")) {
            continue;
        }
        codes.extend(function.split('"').skip(1).step_by(2).filter(is_code).map(str::to_owned));
        if function.contains("refused_{}") {
            codes.insert("refused_*".to_owned());
        }
    }
    codes
}

fn rows() -> impl Iterator<Item = (i64, &'static str, Token)> {
    TABLE.iter().flat_map(|(exit, codes, token)| codes.iter().map(|code| (*exit, *code, *token)))
}

fn is_of(golden: &Golden, exit: i64, code: &str) -> bool {
    let named = golden.code == code || code.strip_suffix('*').is_some_and(|start| golden.code.starts_with(start));
    golden.exit == exit && named
}

#[test]
fn every_code_is_reached() {
    let goldens = goldens();
    let mut wrong = Vec::new();
    let mut table = String::new();
    let mut reached = BTreeSet::new();
    for (exit, code, _) in rows() {
        let runs: Vec<&Golden> = goldens.iter().filter(|golden| is_of(golden, exit, code)).collect();
        if runs.is_empty() {
            wrong.push(format!("no golden run reaches {exit} {code}"));
        } else {
            reached.insert(code);
        }
        let all = |what: fn(&Golden) -> String| runs.iter().copied().map(what).collect::<BTreeSet<_>>();
        let spent = all(|run| run.spent.clone()).into_iter().collect::<Vec<_>>().join(" ");
        let sent = |run: &Golden| if run.before > 0 { format!("{}+{}", run.before, run.posts) } else { run.posts.to_string() };
        let posts = all(sent).into_iter().collect::<Vec<_>>().join(" ");
        let names = runs.iter().map(|run| run.name.as_str()).collect::<Vec<_>>().join(" ");
        writeln!(table, "{exit}\t{code}\t{spent}\t{posts}\t{}\t{names}", runs.len()).expect("a string can be written to");
    }
    let promised: BTreeSet<&str> = rows().map(|(_, code, _)| code).collect();
    let given = codes_of_the_source();
    wrong.extend(given.iter().filter(|code| !promised.contains(code.as_str())).map(|code| format!("{code} is not in the table")));
    wrong.extend(promised.iter().filter(|code| !given.contains(**code)).map(|code| format!("nothing in src gives {code}")));
    fs::write(figures::folder().join("codes.tsv"), table).expect("the folder of the build is writable");
    figures::record("error codes reached by golden runs", promised.len(), reached.len(), "0");
    assert!(super::is_updating() || wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_failure_is_in_the_table_and_tells_the_truth_about_the_token() {
    let mut wrong = Vec::new();
    for golden in goldens() {
        let Golden { name, exit, code, spent, posts, before } = &golden;
        let Some((.., token)) = rows().find(|(exit, code, _)| is_of(&golden, *exit, code)) else {
            wrong.push(format!("{name}: {exit} {code} is not in the table"));
            continue;
        };
        let promise = match token {
            Token::Kept => spent == "no" && *posts == 0,
            Token::Refused => spent == "no",
            Token::Sent => spent != "no",
            Token::AsSaid => true,
        };
        // Whatever was promised: nothing was sent, or it may be gone.
        let counted = match spent.as_str() {
            "no" => *posts == 0 || token == Token::Refused,
            _ => posts + before > 0,
        };
        if !promise || !counted {
            wrong.push(format!("{name}: {exit} {code} says `{spent}` after {posts} requests, {before} before"));
        }
    }
    assert!(super::is_updating() || wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_exit_code_without_an_error_is_reached() {
    let exit = |file: &PathBuf| {
        let text = fs::read_to_string(file).expect("a golden file can be read");
        let code = text.split("--- exit ").nth(1).and_then(|rest| rest.lines().next()).expect("an exit code");
        code.parse::<i64>().expect("an exit code is a number")
    };
    let files: Vec<PathBuf> =
        fs::read_dir(super::folder()).expect("tests/cmd").map(|file| file.expect("a file").path()).collect();
    let reached: BTreeSet<i64> = files.iter().map(exit).collect();
    let promised: BTreeSet<i64> = TABLE.iter().map(|(exit, ..)| *exit).chain(WITHOUT_ERROR).collect();
    assert!(super::is_updating() || reached == promised, "reached {reached:?} of {promised:?}");
}

/// So that a code has one room.
#[test]
fn no_code_stands_in_the_table_twice_but_for_files() {
    let mut exits: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
    for (exit, code, _) in rows() {
        exits.entry(code).or_default().push(exit);
    }
    for (code, exits) in exits {
        assert!(exits.len() == 1 || exits == [50, 51], "{code}: {exits:?}");
    }
}
