//! Downgrades, and the effect of a restart or a damaged file on the version ledger.

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

/// Makes a component take effect by a deployment.
fn deploy(ledger: &mut VersionLedger, component: &VerifiedComponent) {
    let intent = ledger.record(component).unwrap();
    ledger.took_effect(intent).unwrap();
}

/// Makes a component take effect by a rollback.
fn roll_back(ledger: &mut VersionLedger, component: &VerifiedComponent) {
    let intent = ledger.record_rollback(component).unwrap();
    ledger.took_effect(intent).unwrap();
}

#[test]
fn older_versions_are_refused_also_after_a_restart() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let mut first = ledger(directory.path());
    first.check(&verified(&world, "adamw", "1.2.0")).unwrap();
    deploy(&mut first, &verified(&world, "adamw", "1.2.0"));

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
        deploy(&mut first, component);
    }
    let changed = [COMPONENT, &custom_section("changed", b"")].concat();
    let changed = world.store.verify(sign(&changed, "adamw", "1.1.0", &world.key).unwrap()).unwrap();
    for ledger in [&first, &ledger(directory.path())] {
        for component in &deployed {
            assert!(ledger.was_deployed(component), "{component:?}");
        }
        assert!(!ledger.was_deployed(&verified(&world, "adamw", "1.0.5")), "an old version that was never deployed");
        assert!(!ledger.was_deployed(&changed), "other content under a deployed version");
        assert!(!ledger.was_deployed(&verified(&world, "lion", "1.0.0")), "another name");
        // This has no other consequence: as files, the old versions remain refused.
        assert!(matches!(ledger.check(&deployed[1]), Err(TrustError::Downgrade { .. })));
    }
    let mut used = VersionLedger::load(directory.path().join("versions.toml")).unwrap();
    for minor in 1..=2 * MAX_EARLIER_VERSIONS {
        roll_back(&mut used, &deployed[0]);
        deploy(&mut used, &verified(&world, "adamw", &format!("2.0.{minor}")));
        assert!(
            ledger(directory.path()).was_deployed(&deployed[0]),
            "the version that was rolled back to is still remembered"
        );
    }
    for minor in 1..=MAX_EARLIER_VERSIONS {
        deploy(&mut first, &verified(&world, "adamw", &format!("2.{minor}.0")));
    }
    assert!(
        first.was_deployed(&deployed[2]) && !first.was_deployed(&deployed[1]),
        "the number of remembered versions is limited"
    );
}

/// Which of these contents the ledger permits to deploy: three versions, and other content under the second version.
fn allowed(world: &World, directory: &Path) -> [bool; 4] {
    let changed = [COMPONENT, &custom_section("changed", b"")].concat();
    let changed = world.store.verify(sign(&changed, "adamw", "2.0.0", &world.key).unwrap()).unwrap();
    let ledger = ledger(directory);
    let own = ["1.0.0", "2.0.0", "1.5.0"].map(|version| ledger.check(&verified(world, "adamw", version)).is_ok());
    [own[0], own[1], own[2], ledger.check(&changed).is_ok()]
}

#[test]
fn wherever_a_deployment_ends_what_was_in_force_and_what_was_intended_can_be_deployed_after_a_restart() {
    let world = World::new();
    let [good, bad] = ["1.0.0", "2.0.0"].map(|version| verified(&world, "adamw", version));
    let with_good = || {
        let directory = tempfile::tempdir().unwrap();
        let mut ledger = ledger(directory.path());
        deploy(&mut ledger, &good);
        (directory, ledger)
    };
    // A crash between the record and the effect: either version may have been in force.
    let (directory, mut ledger) = with_good();
    let intent = ledger.record(&bad).unwrap();
    assert_eq!(allowed(&world, directory.path()), [true, true, false, false]);

    // It has taken effect: only a rollback can return to the older version, which this ledger knows as a former
    // deployment.
    ledger.took_effect(intent).unwrap();
    assert_eq!(allowed(&world, directory.path()), [false, true, false, false]);
    assert!(ledger.was_deployed(&good));

    // After the rollback the older version is in force, and remains so until a higher version takes effect.
    roll_back(&mut ledger, &good);
    assert_eq!(allowed(&world, directory.path()), [true, true, false, false]);
    deploy(&mut ledger, &good);
    assert_eq!(allowed(&world, directory.path()), [true, true, false, false], "deploying it again changes nothing");
    let later = ledger.record(&verified(&world, "adamw", "3.0.0")).unwrap();
    assert_eq!(allowed(&world, directory.path()), [true, false, false, false], "what was in force, not the highest");
    ledger.took_effect(later).unwrap();
    assert_eq!(allowed(&world, directory.path()), [false; 4]);

    // Refused after it was recorded: it never took effect, so its version can be used for other content.
    let (directory, mut ledger) = with_good();
    let intent = ledger.record(&bad).unwrap();
    ledger.withdraw(intent).unwrap();
    assert_eq!(allowed(&world, directory.path()), [true; 4]);

    // The first version of a name.
    let directory = tempfile::tempdir().unwrap();
    let intent = self::ledger(directory.path()).record(&bad).unwrap();
    assert_eq!(allowed(&world, directory.path()), [false, true, false, false]);
    let mut ledger = self::ledger(directory.path());
    ledger.withdraw(intent).unwrap();
    assert_eq!(allowed(&world, directory.path()), [true; 4]);
}

#[test]
fn a_disk_that_fails_after_the_effect_leaves_a_ledger_that_holds() {
    let world = World::new();
    let [good, bad, worse] = ["1.0.0", "2.0.0", "3.0.0"].map(|version| verified(&world, "adamw", version));
    let directory = tempfile::tempdir().unwrap();
    let mut ledger = ledger(directory.path());
    deploy(&mut ledger, &good);
    let intent = ledger.record(&bad).unwrap();
    // Blocks the next write.
    let obstacle = directory.path().join("versions.toml.tmp");
    fs::create_dir(&obstacle).unwrap();
    assert!(matches!(ledger.took_effect(intent), Err(LedgerError::Write { .. })));
    assert!(ledger.check(&good).is_err(), "the running server knows what has taken effect");
    assert_eq!(allowed(&world, directory.path()), [true, true, false, false], "the file is the same as after a crash");
    assert!(matches!(ledger.record(&worse), Err(LedgerError::Write { .. })));
    fs::remove_dir(&obstacle).unwrap();
    let intent = ledger.record(&worse).unwrap();
    assert_eq!(allowed(&world, directory.path()), [false, true, false, false], "the next change is written");
    ledger.withdraw(intent).unwrap();
    assert_eq!(allowed(&world, directory.path()), [false, true, false, false]);
}

#[test]
fn one_version_is_one_file() {
    let world = World::new();
    let directory = tempfile::tempdir().unwrap();
    let mut ledger = ledger(directory.path());
    deploy(&mut ledger, &verified(&world, "adamw", "1.0.0"));
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
    deploy(&mut ledger, &verified(&world, "adamw", "2.0.0"));
    let before = fs::read_to_string(directory.path().join("versions.toml")).unwrap();
    ledger.record(&verified(&world, "adamw", "1.0.0")).unwrap_err();
    let after = fs::read_to_string(directory.path().join("versions.toml")).unwrap();
    assert_eq!(before, after);
    let names: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(names.len(), 1, "no temporary file remains");
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
