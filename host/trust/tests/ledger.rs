//! Downgrades, and what a restart or a damaged file does to the memory of versions.

mod common;

use std::fs;
use std::path::Path;

use common::{COMPONENT, World, custom_section};
use stepbox_trust::{LedgerError, MAX_EARLIER_VERSIONS, TrustError, VerifiedComponent, VersionLedger, sign};

fn verified(world: &World, name: &str, version: &str) -> VerifiedComponent {
    let signed = sign(COMPONENT, name, version, &world.key).unwrap();
    world.store.verify(signed).unwrap()
}

fn ledger(directory: &Path) -> VersionLedger {
    VersionLedger::load(directory.join("versions.toml")).unwrap()
}

#[test]
fn older_versions_are_refused_also_after_a_restart() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let mut first = ledger(directory.path());
    first.check(&verified(&world, "adamw", "1.2.0")).unwrap();
    first.record(&verified(&world, "adamw", "1.2.0")).unwrap();

    for ledger in [&first, &ledger(directory.path())] {
        for older in ["1.1.9", "1.2.0-rc.1", "0.9.0"] {
            let error = ledger.check(&verified(&world, "adamw", older)).unwrap_err();
            assert!(matches!(error, TrustError::Downgrade { .. }), "{error}");
            assert!(error.to_string().contains(older), "{error}");
            assert!(error.to_string().contains("1.2.0"), "{error}");
        }
        for allowed in ["1.2.0", "1.2.1-rc.1", "1.10.0"] {
            ledger.check(&verified(&world, "adamw", allowed)).unwrap();
        }
        ledger.check(&verified(&world, "lion", "0.1.0")).unwrap();
    }
}

#[test]
fn a_rollback_finds_what_was_deployed_and_no_other_old_file_also_after_a_restart() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let mut first = ledger(directory.path());
    let deployed: Vec<_> = ["1.0.0", "1.1.0", "2.0.0"].map(|version| verified(&world, "adamw", version)).into();
    for component in &deployed {
        assert!(!first.was_deployed(component));
        first.record(component).unwrap();
    }
    let changed = [COMPONENT, &custom_section("changed", b"")].concat();
    let changed = world.store.verify(sign(&changed, "adamw", "1.1.0", &world.key).unwrap()).unwrap();
    for ledger in [&first, &ledger(directory.path())] {
        for component in &deployed {
            assert!(ledger.was_deployed(component), "{component:?}");
        }
        assert!(!ledger.was_deployed(&verified(&world, "adamw", "1.0.5")), "an old version that was never deployed");
        assert!(!ledger.was_deployed(&changed), "other content under a version that was");
        assert!(!ledger.was_deployed(&verified(&world, "lion", "1.0.0")), "another name");
        // Nothing else follows from it: by file the old ones stay refused.
        assert!(matches!(ledger.check(&deployed[1]), Err(TrustError::Downgrade { .. })));
    }
    let mut used = VersionLedger::load(directory.path().join("versions.toml")).unwrap();
    for minor in 1..=2 * MAX_EARLIER_VERSIONS {
        used.record_rollback(&deployed[0]).unwrap();
        used.record(&verified(&world, "adamw", &format!("2.0.{minor}"))).unwrap();
        assert!(ledger(directory.path()).was_deployed(&deployed[0]), "what is gone back to again is not forgotten");
    }
    for minor in 1..=MAX_EARLIER_VERSIONS {
        first.record(&verified(&world, "adamw", &format!("2.{minor}.0"))).unwrap();
    }
    assert!(first.was_deployed(&deployed[2]) && !first.was_deployed(&deployed[1]), "only so many are remembered");
}

#[test]
fn a_retracted_record_leaves_the_ledger_as_it_was_before() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let mut first = ledger(directory.path());
    let (good, refused) = (verified(&world, "adamw", "1.0.0"), verified(&world, "adamw", "1.1.0"));
    first.record(&refused).unwrap();
    first.retract(&refused).unwrap();
    assert!(!ledger(directory.path()).was_deployed(&refused));
    first.record(&good).unwrap();
    let before = fs::read(directory.path().join("versions.toml")).unwrap();
    first.record(&refused).unwrap();
    first.retract(&refused).unwrap();
    assert_eq!(fs::read(directory.path().join("versions.toml")).unwrap(), before);
    first.check(&good).unwrap();
    first.record(&refused).unwrap();
    first.retract(&good).unwrap();
    assert!(matches!(first.check(&good), Err(TrustError::Downgrade { .. })), "only the highest is retracted");
}

#[test]
fn one_version_is_one_file() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let mut ledger = ledger(directory.path());
    ledger.record(&verified(&world, "adamw", "1.0.0")).unwrap();
    let changed = [COMPONENT, &custom_section("changed", b"")].concat();
    let changed = sign(&changed, "adamw", "1.0.0", &world.key).unwrap();
    let changed = world.store.verify(changed).unwrap();
    assert!(matches!(ledger.check(&changed), Err(TrustError::VersionReused { .. })));
    assert!(matches!(ledger.record(&changed), Err(LedgerError::Refused(TrustError::VersionReused { .. }))));
}

#[test]
fn a_refused_record_leaves_the_file_as_it_was() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let mut ledger = ledger(directory.path());
    ledger.record(&verified(&world, "adamw", "2.0.0")).unwrap();
    let before = fs::read_to_string(directory.path().join("versions.toml")).unwrap();
    ledger.record(&verified(&world, "adamw", "1.0.0")).unwrap_err();
    let after = fs::read_to_string(directory.path().join("versions.toml")).unwrap();
    assert_eq!(before, after);
    let names: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "no temporary file is left over");
}

#[test]
fn what_cannot_be_written_is_not_remembered() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let mut ledger = VersionLedger::load(directory.path().join("missing/versions.toml")).unwrap();
    let result = ledger.record(&verified(&world, "adamw", "2.0.0"));
    assert!(matches!(result, Err(LedgerError::Write { .. })));
    ledger.check(&verified(&world, "adamw", "1.0.0")).unwrap();
}

#[test]
fn a_damaged_ledger_is_not_an_empty_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("versions.toml");
    for damaged in ["[adamw]\nversion = '1.0.0'\n", "[adamw", "adamw = 1", "\u{1}"] {
        fs::write(&path, damaged).unwrap();
        let error = VersionLedger::load(&path).unwrap_err();
        assert!(matches!(error, LedgerError::Malformed { .. }), "{error}");
        assert!(error.to_string().contains("versions.toml"), "{error}");
    }
    fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(matches!(VersionLedger::load(&path), Err(LedgerError::Read { .. })));
}
