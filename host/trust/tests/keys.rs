//! Key files: who may read them, and that standard tools can read them.
#![cfg(unix)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use stepbox_test_skip::skip;
use stepbox_trust::{KeyError, KeyId, PublicKey, SigningKey};

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_key_comes_back_from_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let (file, public_file) = (directory.path().join("key"), directory.path().join("key.pub"));
    let key = SigningKey::generate().unwrap();
    key.create_file(&file).unwrap();
    key.public_key().create_file(&public_file).unwrap();
    assert_eq!(mode(&file), 0o600);
    assert_eq!(SigningKey::load(&file).unwrap().public_key(), key.public_key());
    assert_eq!(PublicKey::load(&public_file).unwrap(), key.public_key());
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key");
    SigningKey::generate().unwrap().create_file(&file).unwrap();
    for open in [0o644, 0o640, 0o604, 0o620, 0o777] {
        fs::set_permissions(&file, fs::Permissions::from_mode(open)).unwrap();
        let error = SigningKey::load(&file).unwrap_err();
        assert!(matches!(error, KeyError::TooOpen { mode, .. } if mode == open), "{error}");
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
    SigningKey::load(&file).unwrap();
}

#[test]
fn keys_are_never_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key");
    let key = SigningKey::generate().unwrap();
    key.create_file(&file).unwrap();
    let other = SigningKey::generate().unwrap();
    assert!(matches!(other.create_file(&file), Err(KeyError::Exists { .. })));
    assert_eq!(SigningKey::load(&file).unwrap().public_key(), key.public_key());
}

#[test]
fn a_file_of_another_kind_is_named_as_such() {
    let directory = tempfile::tempdir().unwrap();
    let (file, public_file) = (directory.path().join("key"), directory.path().join("key.pub"));
    let key = SigningKey::generate().unwrap();
    key.create_file(&file).unwrap();
    key.public_key().create_file(&public_file).unwrap();
    assert!(matches!(PublicKey::load(&file), Err(KeyError::NotAPublicKey { .. })));
    fs::set_permissions(&public_file, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(matches!(SigningKey::load(&public_file), Err(KeyError::NotASigningKey { .. })));
    assert!(matches!(SigningKey::load(directory.path().join("none")), Err(KeyError::Read { .. })));
    fs::write(&public_file, vec![b'a'; 1 << 20]).unwrap();
    assert!(matches!(PublicKey::load(&public_file), Err(KeyError::Read { .. })));
}

#[test]
fn nothing_secret_is_printed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key");
    let key = SigningKey::generate().unwrap();
    key.create_file(&file).unwrap();
    assert_eq!(format!("{key:?}"), format!("SigningKey({})", key.public_key().id()));
    fs::write(&file, fs::read_to_string(&file).unwrap().replace("MC4C", "MC4D")).unwrap();
    let secret = fs::read_to_string(&file).unwrap();
    let secret = secret.lines().nth(1).unwrap();
    let error = SigningKey::load(&file).unwrap_err();
    assert!(!format!("{error} {error:?}").contains(&secret[10..30]));
}

#[test]
fn key_ids_are_read_as_they_are_printed() {
    let id = SigningKey::generate().unwrap().public_key().id();
    assert_eq!(id.to_string().len(), 24);
    assert_eq!(id.to_string().parse::<KeyId>().unwrap(), id);
    for wrong in ["", "12", "0123456789abcdef0123456g", "0123456789abcdef012345678"] {
        assert!(wrong.parse::<KeyId>().is_err(), "{wrong}");
    }
}

/// `openssl` reads both files and derives the same public key. Skipped if it is not installed.
#[test]
fn openssl_reads_the_key_files() {
    let directory = tempfile::tempdir().unwrap();
    let (file, public_file) = (directory.path().join("key"), directory.path().join("key.pub"));
    let key = SigningKey::generate().unwrap();
    key.create_file(&file).unwrap();
    key.public_key().create_file(&public_file).unwrap();
    let openssl = |arguments: &[&str], file: &std::path::Path| {
        let output = Command::new("openssl").args(arguments).arg("-in").arg(file).output()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::io::Result::Ok(String::from_utf8(output.stdout).unwrap())
    };
    let Ok(derived) = openssl(&["pkey", "-pubout"], &file) else {
        return skip("there is no `openssl` to run");
    };
    assert_eq!(derived, key.public_key().to_pem());
    assert_eq!(openssl(&["pkey", "-pubin"], &public_file).unwrap(), key.public_key().to_pem());

    let made = directory.path().join("made");
    fs::write(&made, openssl(&["pkey"], &file).unwrap()).unwrap();
    fs::set_permissions(&made, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(SigningKey::load(&made).unwrap().public_key(), key.public_key());
}
