//! Files that were truncated, or that are still being written: no prefix of a file is accepted as the whole file.

mod common;

use std::fs;

use common::{COMPONENT, World, key, parse, publisher};
use proptest::prelude::*;
use stepbox_trust::{LedgerError, SigningKey, TrustStore, TrustStoreError, VersionLedger, sign};

/// A policy with any number of parts, so that truncation leaves it syntactically valid at many places.
fn policies() -> impl Strategy<Value = String> {
    let keys: Vec<_> = (0..3).map(|_| SigningKey::generate().unwrap()).collect();
    let publishers: Vec<_> =
        keys.iter().zip(["A", "B", "C"]).map(|(own, name)| (publisher(name, own), own.public_key().id())).collect();
    let next = SigningKey::generate().unwrap();
    (any::<[bool; 7]>(), 1..4_usize, "[ -~\n]{0,20}").prop_map(move |(has, count, comment)| {
        let [format, revoked, minimum, namespaces, period, rule, comments] = has;
        let mut text = if format { "format = 1\n".to_owned() } else { String::new() };
        if revoked {
            text += &format!("revoked_keys = [\n  '{}',\n  'feedfeedfeedfeedfeedfeed',\n]\n", publishers[0].1);
        }
        if minimum {
            text += "minimum_versions = { adamw = '1.0.0', lion = '1.2.0' }\n";
        }
        for (entry, _) in &publishers[..count] {
            text += entry;
            text += if namespaces { "namespaces = ['team-a/*', 'lion']\n" } else { "" };
            text += if comments { "# as agreed\n\n" } else { "" };
        }
        if period {
            text += &key(&next, "valid_from = 2026-01-01\nvalid_until = '2026-12-31'");
        }
        if rule && count > 1 {
            text += "[[rule]]\nnames = ['team-a/*']\nsigners = [\"A\", \"\"\"B\"\"\"]\nthreshold = 2\n";
        }
        let comment = comment.replace('\n', "\n# ");
        text + if comments { "  [end]  \r\n\n" } else { "[end]\n" } + "# " + &comment + "\n"
    })
}

/// Every strict prefix is refused, or has the same meaning.
fn check_beginnings(policy: &str) {
    let whole = format!("{:?}", TrustStore::parse(policy).unwrap());
    let end = policy.rfind("[end]").unwrap() + "[end]".len();
    for length in (0..policy.len()).filter(|length| policy.is_char_boundary(*length)) {
        match TrustStore::parse(&policy[..length]) {
            Ok(store) => {
                assert!(length >= end, "a prefix of {length} bytes is accepted:\n{}", &policy[..length]);
                assert_eq!(format!("{store:?}"), whole);
            }
            Err(TrustStoreError::Incomplete | TrustStoreError::Toml(_)) => {}
            Err(other) => panic!("{length} bytes: {other}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_beginning_of_a_trust_file_passes_for_the_whole(policy in policies()) {
        check_beginnings(&policy);
    }
}

#[test]
fn no_beginning_of_the_documented_trust_file_passes_for_the_whole() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/signing.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once("```toml\n").unwrap();
    check_beginnings(rest.split_once("```").unwrap().0);
}

#[test]
fn a_trust_file_without_its_end_is_told_what_to_add() {
    let world = World::new();
    let lines = publisher("Example", &world.key);
    let unmarked = TrustStore::parse(&lines).unwrap_err();
    assert!(matches!(unmarked, TrustStoreError::Incomplete));
    assert!(unmarked.to_string().contains("add `[end]` as its last line"), "{unmarked}");
    let early = TrustStore::parse(&format!("[end]\n{lines}")).unwrap_err();
    assert!(matches!(early, TrustStoreError::Incomplete), "an end mark that is not at the end: {early}");
    for wrong in ["end = 1", "[end]\npublishers = 1\n[end]", "[end]\nextra = 1"] {
        let error = TrustStore::parse(&format!("{wrong}\n{lines}[end]\n")).unwrap_err();
        assert!(matches!(error, TrustStoreError::Toml(_)), "{wrong}: {error}");
    }
    // Unknown fields are reported even if the end mark is missing.
    assert!(matches!(TrustStore::parse("revoked_kyes = []"), Err(TrustStoreError::Toml(_))));
    assert!(parse(&lines).is_ok());
}

#[test]
fn no_beginning_of_a_ledger_passes_for_the_whole() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("versions.toml");
    let mut ledger = VersionLedger::load(&path).unwrap();
    let mut record = |name: &str, version: &str| {
        let component = world.store.verify(sign(COMPONENT, name, version, &world.key).unwrap()).unwrap();
        let intent = ledger.record(&component).unwrap();
        ledger.took_effect(intent).unwrap();
        component
    };
    for (name, version) in [("adamw", "1.0.0"), ("adamw", "2.0.0"), ("end", "1.0.0")] {
        record(name, version);
    }
    let newest = record("lion", "2.0.0");
    let whole = fs::read_to_string(&path).unwrap();
    for length in 0..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        match VersionLedger::load(&path) {
            Ok(ledger) => {
                assert_eq!(&whole[length..], "\n", "only the last newline may be missing");
                assert!(ledger.was_deployed(&newest));
            }
            Err(LedgerError::Incomplete { .. } | LedgerError::Malformed { .. }) => {}
            Err(other) => panic!("{length} bytes: {other}"),
        }
    }

    // An entry that someone removed on purpose, or a ledger of a Stepbox that wrote no end mark: the error contains the
    // line.
    let (without_mark, _) = whole.trim_end().rsplit_once('\n').unwrap();
    fs::write(&path, without_mark).unwrap();
    let error = VersionLedger::load(&path).unwrap_err();
    let LedgerError::Incomplete { end_mark, .. } = &error else { panic!("{error}") };
    assert!(error.to_string().contains(end_mark.as_str()), "{error}");
    fs::write(&path, format!("{without_mark}\n{end_mark}\n")).unwrap();
    VersionLedger::load(&path).unwrap();
    let fewer = whole.replace("[lion]\n", "[lion.gone]\n");
    fs::write(&path, fewer).unwrap();
    VersionLedger::load(&path).unwrap_err();
}
