//! The rules in `P11FAULT`: `;` between them, spaces around them ignored.
//!
//! | rule | effect |
//! |---|---|
//! | `C_Sign:2:0x30` | the 2nd `C_Sign` of the process answers 0x30 and does not reach the real module |
//! | `C_Sign:*:0x30` | so does every one |
//! | `C_Sign:2:0x30-after` | it reaches the real module, whose answer is thrown away for 0x30 |
//! | `C_Sign:1:kill` | the process sends itself SIGKILL before the call reaches the real module |
//! | `C_Sign:1:kill-after` | the same when the real module has answered |
//! | `C_Sign:1:hang` | the call never comes back |
//! | `C_Sign:1:print` | a line is printed to stdout, then the call goes on |
//! | `token-flags:+0x40000` | `C_GetTokenInfo` shows these flags set |
//! | `token-flags:-0x4` | and these cleared |
//! | `lie:extractable` | `C_GetAttributeValue` shows CKA_EXTRACTABLE true |
//! | `lie:sensitive` | CKA_SENSITIVE false |
//! | `lie:ec-point` | the last bit of CKA_EC_POINT turned: another point, and not one of the curve |
//! | `hide:public` | `C_FindObjects` finds no public keys |
//!
//! Of several rules for one function the first that fits the call counts, so `C_Sign:1:print;C_Sign:*:0x30` works. A
//! rule that an earlier one leaves nothing to do is refused, as is everything that is not in the table.
//!
//! Traps. cryptoki calls `C_Sign` twice for a signature, first for the length: the n-th signature is call 2n. And the
//! standard ends a signature when `C_Sign` fails, but a real module that never heard of the call has it still open and
//! answers the next `C_SignInit` of that session with CKR_OPERATION_ACTIVE: `0x30-after` is the faithful failure there.

use cryptoki_sys::{CK_FLAGS, CK_RV};

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Answer(CK_RV),
    AnswerAfter(CK_RV),
    Kill,
    KillAfter,
    Hang,
    Print,
}

/// What callers are shown instead of the truth.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Lies {
    pub set_token_flags: CK_FLAGS,
    pub clear_token_flags: CK_FLAGS,
    pub extractable: bool,
    pub sensitive: bool,
    pub ec_point: bool,
    pub hide_public: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct Fault {
    function: &'static str,
    /// `None`: every call.
    nth: Option<u64>,
    action: Action,
}

/// All that `P11FAULT` asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rules {
    faults: Vec<Fault>,
    pub lies: Lies,
}

impl Rules {
    /// `functions`: the names that a rule may use.
    pub fn parse(text: &str, functions: &'static [&'static str]) -> Result<Self, String> {
        let mut rules = Self::default();
        for rule in text.split(';').map(str::trim).filter(|rule| !rule.is_empty()) {
            rules.add(rule, functions).map_err(|why| format!("P11FAULT rule `{rule}`: {why}"))?;
        }
        Ok(rules)
    }

    /// What to do about the `n`-th call of `function`.
    pub fn action(&self, function: &str, n: u64) -> Option<Action> {
        let fits = |fault: &&Fault| fault.function == function && fault.nth.is_none_or(|nth| nth == n);
        self.faults.iter().find(fits).map(|fault| fault.action)
    }

    fn add(&mut self, rule: &str, functions: &'static [&'static str]) -> Result<(), &'static str> {
        let lies = &mut self.lies;
        match rule.split(':').collect::<Vec<_>>()[..] {
            ["token-flags", flags] => match flags.split_at_checked(1) {
                Some(("+", bits)) => lies.set_token_flags |= hex(bits)?,
                Some(("-", bits)) => lies.clear_token_flags |= hex(bits)?,
                _ => return Err("flags begin with + or -"),
            },
            ["lie", "extractable"] => lies.extractable = true,
            ["lie", "sensitive"] => lies.sensitive = true,
            ["lie", "ec-point"] => lies.ec_point = true,
            ["hide", "public"] => lies.hide_public = true,
            [function, nth, action] => {
                let function = functions.iter().find(|name| **name == function).ok_or("no such function")?;
                let nth = match nth {
                    "*" => None,
                    number => Some(number.parse().ok().filter(|n| *n > 0).ok_or("which call: 1, 2, … or *")?),
                };
                let action = match action {
                    "kill" => Action::Kill,
                    "kill-after" => Action::KillAfter,
                    "hang" => Action::Hang,
                    "print" => Action::Print,
                    rv => match rv.strip_suffix("-after") {
                        Some(rv) => Action::AnswerAfter(hex(rv)?),
                        None => Action::Answer(hex(rv)?),
                    },
                };
                let covers = |fault: &Fault| fault.function == *function && (fault.nth.is_none() || fault.nth == nth);
                if self.faults.iter().any(covers) {
                    return Err("an earlier rule leaves it nothing to do");
                }
                self.faults.push(Fault { function, nth, action });
            }
            _ => return Err("no such rule"),
        }
        Ok(())
    }
}

fn hex(text: &str) -> Result<CK_RV, &'static str> {
    let digits = text.strip_prefix("0x").filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    digits.and_then(|digits| CK_RV::from_str_radix(digits, 16).ok()).ok_or("no such action, and no number like 0x30")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FUNCTIONS: &[&str] = &["C_Initialize", "C_Sign", "C_SignInit", "C_GenerateKeyPair"];

    fn parse(text: &str) -> Rules {
        Rules::parse(text, FUNCTIONS).unwrap()
    }

    #[test]
    fn nothing_asked_is_nothing_done() {
        assert_eq!(parse(""), Rules::default());
        assert_eq!(parse(" ; ;"), Rules::default());
        assert_eq!(parse("").action("C_Sign", 1), None);
    }

    #[test]
    fn a_numbered_rule_is_for_that_call_of_that_function() {
        let rules = parse("C_Sign:2:0x30");
        assert_eq!(rules.action("C_Sign", 1), None);
        assert_eq!(rules.action("C_Sign", 2), Some(Action::Answer(0x30)));
        assert_eq!(rules.action("C_Sign", 3), None);
        assert_eq!(rules.action("C_SignInit", 2), None);
    }

    #[test]
    fn a_star_is_for_every_call() {
        let rules = parse("C_Sign:*:0x05");
        assert!((1..100).all(|n| rules.action("C_Sign", n) == Some(Action::Answer(5))));
    }

    #[test]
    fn the_first_rule_that_fits_counts() {
        let rules = parse("C_Sign:1:print; C_Sign:*:0x30");
        assert_eq!(rules.action("C_Sign", 1), Some(Action::Print));
        assert_eq!(rules.action("C_Sign", 2), Some(Action::Answer(0x30)));
    }

    #[test]
    fn every_action_has_its_word() {
        for (word, action) in [
            ("kill", Action::Kill),
            ("kill-after", Action::KillAfter),
            ("hang", Action::Hang),
            ("print", Action::Print),
            ("0xa0", Action::Answer(0xa0)),
            ("0xa0-after", Action::AnswerAfter(0xa0)),
            ("0x80000001", Action::Answer(0x8000_0001)),
        ] {
            assert_eq!(parse(&format!("C_GenerateKeyPair:1:{word}")).action("C_GenerateKeyPair", 1), Some(action));
        }
    }

    #[test]
    fn lies_add_up() {
        let rules = parse("token-flags:+0x40000;token-flags:+0x10000;token-flags:-0x4;lie:extractable;hide:public");
        assert_eq!(
            rules.lies,
            Lies { set_token_flags: 0x50000, clear_token_flags: 4, extractable: true, hide_public: true, ..Lies::default() }
        );
        assert!(parse("lie:sensitive").lies.sensitive);
        assert!(parse("lie:ec-point").lies.ec_point);
    }

    #[test]
    fn refuses_everything_else_and_names_it() {
        for rule in [
            "C_Sing:1:kill",
            "C_Sign",
            "C_Sign:1",
            "C_Sign:1:kill:2",
            "C_Sign:0:kill",
            "C_Sign:-1:kill",
            "C_Sign::kill",
            "C_Sign:x:kill",
            "C_Sign:1:Kill",
            "C_Sign:1:48",
            "C_Sign:1:0x",
            "C_Sign:1:0x-after",
            "C_Sign:1:hang-after",
            "C_Sign:1:0x+3",
            "C_Sign:1:0x1ffffffffffffffff",
            "c_sign:1:kill",
            "token-flags:0x4",
            "token-flags:",
            "token-flags:+4",
            "lie:extractible",
            "lie:",
            "hide:private",
            "kill",
            "é",
        ] {
            let refused = Rules::parse(&format!("C_Initialize:1:print;{rule}"), FUNCTIONS);
            assert!(refused.as_ref().is_err_and(|why| why.contains(&format!("`{rule}`"))), "{rule}: {refused:?}");
        }
    }

    #[test]
    fn refuses_a_rule_that_never_comes_into_force() {
        for rules in ["C_Sign:1:kill;C_Sign:1:hang", "C_Sign:*:kill;C_Sign:7:hang", "C_Sign:*:kill;C_Sign:*:kill"] {
            assert!(Rules::parse(rules, FUNCTIONS).is_err_and(|why| why.contains("nothing to do")), "{rules}");
        }
    }
}
