//! Other tools verify our signatures, and we verify theirs.

mod common;

use std::io::Cursor;

use common::{COMPONENT, SIGNED_CONTENT, World, parse, publisher};
use stepbox_trust::{Digest, PublicKey, SigningKey, TrustError, add_signature, sign};
use wasmsign2::{Module, PublicKeySet};

fn reference_public_key(world: &World) -> wasmsign2::PublicKey {
    wasmsign2::PublicKey::from_pem(&world.key.public_key().to_pem()).unwrap().attach_default_key_id()
}

fn reference_secret_key(key: &SigningKey) -> wasmsign2::SecretKey {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key");
    key.create_file(&file).unwrap();
    wasmsign2::SecretKey::from_pem(&std::fs::read_to_string(file).unwrap()).unwrap()
}

#[test]
fn the_reference_implementation_names_keys_as_we_do() {
    let world = World::new();
    let id = world.key.public_key().id();
    assert_eq!(reference_public_key(&world).key_id().unwrap()[..], id.as_bytes()[..]);
}

#[test]
fn the_reference_implementation_verifies_what_we_sign() {
    let world = World::new();
    let key = reference_public_key(&world);
    key.verify(&mut Cursor::new(&world.signed), None).unwrap();
    // The form that its command line reads, as `docs/signing.md` creates it.
    let raw = [&[1], &world.key.public_key().as_bytes()[..]].concat();
    assert_eq!(wasmsign2::PublicKey::from_bytes(&raw).unwrap().attach_default_key_id(), key);
    let mut damaged = world.signed.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert!(key.verify(&mut Cursor::new(&damaged), None).is_err());
}

#[test]
fn we_verify_what_the_reference_implementation_signs() {
    let world = World::new();
    let id = world.key.public_key().id().as_bytes().to_vec();
    // Without our signature section, but with our manifest: the starting point of a publisher with a different signing
    // tool.
    let unsigned = [&world.signed[..8], &world.signed[SIGNED_CONTENT..]].concat();
    let module = Module::deserialize(&mut Cursor::new(unsigned)).unwrap();
    let secret = reference_secret_key(&world.key);

    let mut signed = Vec::new();
    secret.sign(module.clone(), Some(&id)).unwrap().serialize(&mut signed).unwrap();
    assert_eq!(signed, world.signed, "both tools produce the same bytes");

    let mut without_key_id = Vec::new();
    secret.sign(module, None).unwrap().serialize(&mut without_key_id).unwrap();
    assert!(matches!(
        world.store.verify(without_key_id),
        Err(TrustError::MalformedSignature { reason }) if reason.contains("key id")
    ));
}

/// A second signer, and the file signed by both.
fn signed_by_two(world: &World) -> (SigningKey, Vec<u8>) {
    let second = SigningKey::generate().unwrap();
    let signed = add_signature(&world.signed, &second).unwrap();
    (second, signed)
}

fn reference_key(key: &SigningKey) -> wasmsign2::PublicKey {
    wasmsign2::PublicKey::from_pem(&key.public_key().to_pem()).unwrap().attach_default_key_id()
}

#[test]
fn the_reference_implementation_verifies_each_of_two_signatures() {
    let world = World::new();
    let (second, signed) = signed_by_two(&world);
    let [one, two, stranger] = [&world.key, &second, &SigningKey::generate().unwrap()].map(reference_key);
    one.verify(&mut Cursor::new(&signed), None).unwrap();
    two.verify(&mut Cursor::new(&signed), None).unwrap();
    assert!(stranger.verify(&mut Cursor::new(&signed), None).is_err());
    let all = PublicKeySet::new([one.clone(), two.clone(), stranger].into());
    assert_eq!(all.verify(&mut Cursor::new(&signed), None).unwrap(), [&one, &two].into());
    // A key without its ID, as the command line reads it.
    let raw = [&[1], &second.public_key().as_bytes()[..]].concat();
    wasmsign2::PublicKey::from_bytes(&raw).unwrap().verify(&mut Cursor::new(&signed), None).unwrap();
    let mut damaged = signed.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert!(two.verify(&mut Cursor::new(&damaged), None).is_err());
}

#[test]
fn we_verify_what_the_reference_implementation_signs_twice() {
    let world = World::new();
    let (second, ours) = signed_by_two(&world);
    let sign = |file: &[u8], key: &SigningKey| {
        let module = Module::deserialize(&mut Cursor::new(file)).unwrap();
        let id = key.public_key().id().as_bytes().to_vec();
        let mut signed = Vec::new();
        reference_secret_key(key)
            .sign_multi(module, Some(&id), false, false)
            .unwrap()
            .0
            .serialize(&mut signed)
            .unwrap();
        signed
    };
    let unsigned = [&world.signed[..8], &world.signed[SIGNED_CONTENT..]].concat();
    let mut signers = [&world.key, &second];
    signers.sort_by_key(|key| key.public_key().id());
    let [first, last] = signers;

    let both = sign(&sign(&unsigned, first), last);
    assert_eq!(both, ours, "both tools produce the same bytes");
    let store = parse(&[publisher("One", &world.key), publisher("Two", &second)].concat()).unwrap();
    assert_eq!(store.verify(both).unwrap().signers().count(), 2);

    // The other tool appends signatures. We accept only the order of key IDs, and establish it when we sign.
    let turned = sign(&sign(&unsigned, last), first);
    assert!(matches!(
        store.verify(&*turned),
        Err(TrustError::MalformedSignature { reason }) if reason.contains("order")
    ));
    let third = SigningKey::generate().unwrap();
    let in_order = add_signature(&turned, &third).unwrap();
    assert_eq!(in_order, add_signature(&ours, &third).unwrap());
    reference_key(&third).verify(&mut Cursor::new(&in_order), None).unwrap();
    store.verify(in_order).unwrap();
}

/// The expected digest was computed from the layout in `docs/signing.md` with `openssl pkeyutl`, without this crate. If
/// it changed, files signed earlier would no longer verify.
#[test]
fn the_format_does_not_change() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key");
    // The secret key of RFC 8032, section 7.1, test 1, in the PEM format that `openssl` writes.
    let pem = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
        -----END PRIVATE KEY-----\n";
    private_file(&file, pem);
    let key = SigningKey::load(&file).unwrap();
    let signed = sign(COMPONENT, "adamw", "1.2.3", &key).unwrap();
    assert_eq!(key.public_key().id().to_string(), "58fb94a6933f01b8b7707a8b");
    assert_eq!(Digest::of(&signed).to_string(), "3f91054944fa94c9e6222ff42f13a3d2a8c8cb0618f9858dcdc99cb8a6eaf68f");
    let line = key.public_key().to_string();
    assert_eq!(line.parse::<PublicKey>().unwrap(), key.public_key());
    let text = format!("[[publisher]]\nname = 'RFC 8032'\npublic_key = '{line}'");
    assert!(parse(&text).unwrap().verify(signed).is_ok());
}

fn private_file(path: &std::path::Path, content: &str) {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).unwrap();
    file.write_all(content.as_bytes()).unwrap();
}
