//! Every way to bypass the trust store that we could think of, and the error that refuses it.

mod common;

use common::{COMPONENT, SIGNED_CONTENT, World, custom_section, parse, publisher};
use proptest::prelude::*;
use stepbox_trust::{
    Claims, Digest, MANIFEST_SECTION, Revocation, SIGNATURE_SECTION, SignError, SigningKey, TrustError, TrustStore,
    TrustStoreError, fuzz_signature, is_unseen, sign, strip,
};

#[test]
fn a_properly_signed_component_is_verified_with_all_that_is_known_of_it() {
    let world = World::new();
    let verified = world.store.verify(world.signed.clone()).unwrap();
    assert_eq!(verified.manifest().name, "adamw");
    assert_eq!(verified.manifest().version.to_string(), "1.2.3");
    assert_eq!(*verified.publisher(), world.key.public_key().id());
    assert_eq!(verified.publisher_name(), "Example");
    assert_eq!(verified.digest(), Digest::of(&world.signed[SIGNED_CONTENT..]));
    assert_eq!(verified.file_digest(), Digest::of(&world.signed));
    assert_eq!(verified.signers().collect::<Vec<_>>(), [(world.key.public_key().id(), "Example")]);
    assert_eq!(verified.bytes()[..], world.signed);
}

#[test]
fn signing_keeps_the_component_and_is_repeatable() {
    let world = World::new();
    assert_eq!(world.signed[..8], COMPONENT[..8]);
    assert!(world.signed.ends_with(&COMPONENT[8..]));
    assert_eq!(strip(&world.signed).unwrap(), COMPONENT);
    assert_eq!(strip(COMPONENT).unwrap(), COMPONENT);
    assert_eq!(sign(COMPONENT, "adamw", "1.2.3", &world.key).unwrap(), world.signed);
}

#[test]
fn unsigned() {
    let world = World::new();
    for file in [COMPONENT, &COMPONENT[..8], b"\0asm\x0d\0\x01\0\x07\x01\x00"] {
        assert_eq!(refusal(&world.store, file), TrustError::Unsigned);
    }
}

#[test]
fn any_flipped_bit_is_refused() {
    let world = World::new();
    for position in 0..world.signed.len() {
        for bit in 0..8 {
            let mut damaged = world.signed.clone();
            damaged[position] ^= 1 << bit;
            let error = refusal(&world.store, &damaged);
            let expected = match position {
                0..4 => matches!(error, TrustError::NotWebAssembly),
                4..8 => matches!(error, TrustError::NotAComponent { .. }),
                8..SIGNED_CONTENT => matches!(
                    error,
                    TrustError::Unsigned
                        | TrustError::MalformedSignature { .. }
                        | TrustError::UnknownKey { .. }
                        | TrustError::BadSignature { .. }
                ),
                _ => matches!(error, TrustError::BadSignature { .. }),
            };
            assert!(expected, "byte {position} bit {bit}: {error}");
        }
    }
}

#[test]
fn any_truncation_is_refused() {
    let world = World::new();
    for length in 0..world.signed.len() {
        let error = refusal(&world.store, &world.signed[..length]);
        let expected = match length {
            0..8 => matches!(error, TrustError::NotWebAssembly),
            8 => matches!(error, TrustError::Unsigned),
            9..SIGNED_CONTENT => matches!(error, TrustError::MalformedSignature { .. }),
            _ => matches!(error, TrustError::BadSignature { .. }),
        };
        assert!(expected, "{length} bytes: {error}");
    }
}

#[test]
fn appended_inserted_and_removed_sections_are_refused() {
    let world = World::new();
    let extra = custom_section("extra", b"content");
    let mut appended = world.signed.clone();
    appended.extend_from_slice(&extra);
    let mut inserted = world.signed.clone();
    inserted.splice(SIGNED_CONTENT..SIGNED_CONTENT, extra.iter().copied());
    let removed = &world.signed[..world.signed.len() - 10]; // the section `third`
    for file in [&appended, &inserted, removed] {
        assert!(matches!(refusal(&world.store, file), TrustError::BadSignature { .. }));
    }

    let mut before = world.signed.clone();
    before.splice(8..8, extra);
    assert_eq!(refusal(&world.store, &before), TrustError::Unsigned);
}

#[test]
fn a_second_signature_section_is_refused_wherever_it_stands() {
    let world = World::new();
    let section = world.signed[8..SIGNED_CONTENT].to_vec();
    for position in [8, SIGNED_CONTENT, world.signed.len()] {
        let mut doubled = world.signed.clone();
        doubled.splice(position..position, section.iter().copied());
        let error = refusal(&world.store, &doubled);
        assert!(matches!(error, TrustError::BadSignature { .. }), "at {position}: {error}");
    }

    // Even the publisher cannot sign such a file: the inner signature section might mean something to another reader.
    let mut inner = COMPONENT.to_vec();
    inner.extend_from_slice(&section);
    assert!(matches!(sign(&inner, "adamw", "1.2.3", &world.key), Err(SignError::Signed)));
    assert!(matches!(sign(&world.signed, "adamw", "1.2.4", &world.key), Err(SignError::Signed)));
}

#[test]
fn a_signature_from_another_component_is_refused() {
    let world = World::new();
    let mut other = COMPONENT.to_vec();
    other.extend_from_slice(&custom_section("other", b""));
    let other = sign(&other, "adamw", "1.2.3", &world.key).unwrap();
    let moved = [&other[..SIGNED_CONTENT], &world.signed[SIGNED_CONTENT..]].concat();
    assert!(matches!(refusal(&world.store, &moved), TrustError::BadSignature { .. }));
}

#[test]
fn a_signature_by_a_stranger_is_refused_also_under_a_known_key_id() {
    let world = World::new();
    let stranger = SigningKey::generate().unwrap();
    let id = stranger.public_key().id();
    let signed = sign(COMPONENT, "adamw", "1.2.3", &stranger).unwrap();
    assert_eq!(refusal(&world.store, &signed), TrustError::UnknownKey { key: id });

    let known = world.key.public_key().id();
    let forged = replace_all(&signed, id.as_bytes(), known.as_bytes());
    let forged = replace_all(&forged, id.to_string().as_bytes(), known.to_string().as_bytes());
    assert_eq!(
        refusal(&world.store, &forged),
        TrustError::BadSignature { key: known, publisher: "Example".to_owned() }
    );
}

#[test]
fn revoked_keys_and_digests_are_refused() {
    let world = World::new();
    let lines = publisher("Example", &world.key);
    let id = world.key.public_key().id();
    let digest = Digest::of(&world.signed);
    let content = Digest::of(&world.signed[SIGNED_CONTENT..]);

    let store = parse(&format!("revoked_keys = ['{id}']\n{lines}")).unwrap();
    assert_eq!(refusal(&store, &world.signed), TrustError::RevokedKey { key: id, revocation: Revocation::default() });
    let other = publisher("Other", &SigningKey::generate().unwrap());
    let store = parse(&format!("revoked_keys = ['{id}']\n{other}")).unwrap();
    assert_eq!(refusal(&store, &world.signed), TrustError::RevokedKey { key: id, revocation: Revocation::default() });

    for digest in [digest, content] {
        let store = parse(&format!("revoked_digests = ['{digest}']\n{lines}")).unwrap();
        assert_eq!(
            refusal(&store, &world.signed),
            TrustError::RevokedDigest { digest, revocation: Revocation::default() }
        );
        let other = sign(COMPONENT, "adamw", "1.2.4", &world.key).unwrap();
        assert!(store.verify(other).is_ok());
    }
}

/// If one signature had two encodings, the second file would have a digest that nobody has revoked.
#[test]
fn a_signature_in_another_encoding_is_refused() {
    let world = World::new();
    let section = &world.signed[8..SIGNED_CONTENT];
    assert_eq!(section[..3], [0, 0x81, 0x01]);
    let longer_size = [&[0, 0x81, 0x81, 0x00], &section[3..]].concat();
    let longer_name = [&[0, 0x82, 0x01, 0x89, 0x00], &section[4..]].concat();
    for section in [longer_size, longer_name] {
        let file = [&world.signed[..8], &section, &world.signed[SIGNED_CONTENT..]].concat();
        let error = refusal(&world.store, &file);
        assert!(matches!(error, TrustError::MalformedSignature { reason } if reason.contains("shortest")), "{error}");
    }
}

#[test]
fn only_names_of_the_publisher_are_allowed() {
    let world = World::new();
    let lines = publisher("Example", &world.key);
    let allows = |patterns: &str, name: &str| {
        let store = parse(&format!("{lines}optimizers = {patterns}")).unwrap();
        let signed = sign(COMPONENT, name, "1.0.0", &world.key).unwrap();
        match store.verify(signed) {
            Ok(_) => true,
            Err(TrustError::NameNotAllowed { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(allows("['lion', 'adamw']", "adamw"));
    assert!(allows("['adam*']", "adamw"));
    assert!(allows("['*']", "adamw"));
    assert!(!allows("[]", "adamw"));
    assert!(!allows("['adam']", "adamw"));
    assert!(!allows("['adamw*']", "adam"));
    assert!(!allows("['lion']", "adamw"));
}

#[test]
fn modules_and_other_files_are_refused() {
    let world = World::new();
    let module = b"\0asm\x01\0\0\0\x00\x07\x05firsta";
    let not_a_component = |error| matches!(error, TrustError::NotAComponent { .. });
    assert!(not_a_component(refusal(&world.store, module)));
    // A signature made for a component does not make a module with the same sections acceptable.
    let mut as_module = world.signed.clone();
    as_module[4..8].copy_from_slice(&[1, 0, 0, 0]);
    assert!(not_a_component(refusal(&world.store, &as_module)));
    assert!(matches!(
        sign(module, "adamw", "1.0.0", &world.key),
        Err(SignError::Component(error)) if not_a_component(error.clone())
    ));
    for other in [&b""[..], b"\0as", b"#!/bin/sh\n", b"\x7fELF\x02\x01\x01\0\0\0"] {
        assert_eq!(refusal(&world.store, other), TrustError::NotWebAssembly);
    }
}

#[test]
fn too_large_files_are_refused_before_anything_else() {
    let world = World::new();
    let limit = world.signed.len();
    let store = world.store.with_max_component_bytes(limit);
    assert!(store.verify(world.signed.clone()).is_ok());
    assert_eq!(refusal(&store, &vec![0xff; limit + 1]), TrustError::TooLarge { bytes: limit + 1, limit });
}

/// Manifests that `sign` would not produce, signed with the right key.
#[test]
fn wrong_manifests_are_refused_even_with_a_good_signature() {
    let world = World::new();
    let id = world.key.public_key().id();
    let good = format!(r#"{{"name":"adamw","version":"1.2.3","publisher":"{id}"}}"#);
    let with = |manifest: &str| custom_section(MANIFEST_SECTION, manifest.as_bytes());
    let sections = [
        ("right", with(&good)),
        ("none", custom_section("other", b"")),
        ("not first", [custom_section("other", b""), with(&good)].concat()),
        ("twice", [with(&good), with(&good)].concat()),
        ("empty", with("")),
        ("not JSON", with("name = 'adamw'")),
        ("white space", with(&good.replace(':', ": "))),
        ("field missing", with(&format!(r#"{{"name":"adamw","publisher":"{id}"}}"#))),
        ("upper case", with(&good.replace("adamw", "AdamW"))),
        ("control character", with(&good.replace("adamw", r"a\u001b[2J"))),
        ("path", with(&good.replace("adamw", "../adamw"))),
        ("no version", with(&good.replace("1.2.3", "1.2"))),
        ("build metadata", with(&good.replace("1.2.3", "1.2.3+4"))),
        ("other key", with(&good.replace(&id.to_string(), "0123456789abcdef01234567"))),
        ("delimiter", [with(&good), custom_section("signature_delimiter", &[7; 16])].concat()),
        ("second signature", [with(&good), custom_section(SIGNATURE_SECTION, b"")].concat()),
        ("broken section", [with(&good), vec![0, 9, 0]].concat()),
    ];
    let sign_anything = signer_of_anything(&world.key);
    for (case, sections) in sections {
        let signed = sign_anything(&sections);
        let result = world.store.verify(signed);
        let expected = match case {
            "right" => result.is_ok(),
            "delimiter" | "second signature" => {
                matches!(result, Err(TrustError::MalformedSignature { .. }))
            }
            "broken section" => matches!(result, Err(TrustError::NotAComponent { .. })),
            _ => matches!(result, Err(TrustError::MalformedManifest { .. })),
        };
        assert!(expected, "{case}: {result:?}");
    }
}

#[test]
fn sign_refuses_names_and_versions_that_verify_would() {
    let key = SigningKey::generate().unwrap();
    let long = "a".repeat(65);
    for name in ["", "AdamW", "-adamw", "1adamw", "adam w", "adam_w", "adamw\n", "../x", &long] {
        let result = sign(COMPONENT, name, "1.0.0", &key);
        assert!(matches!(result, Err(SignError::Manifest(_))), "{name:?}");
    }
    let long = format!("1.0.0-{long}");
    for version in ["", "1", "1.0", "v1.0.0", "1.0.0+build", &long] {
        let result = sign(COMPONENT, "adamw", version, &key);
        assert!(matches!(result, Err(SignError::Manifest(_))), "{version:?}");
    }
}

#[test]
fn claims_are_what_the_file_says_whoever_signed_it() {
    let world = World::new();
    let claims = Claims::read(&world.signed).unwrap();
    assert_eq!(claims.keys, [world.key.public_key().id()]);
    assert_eq!(claims.digest, Digest::of(&world.signed[SIGNED_CONTENT..]));
    assert_eq!(claims.manifest.name, "adamw");
    assert_eq!(Claims::read(COMPONENT), Err(TrustError::Unsigned));
}

/// Claims are read from unverified files, and errors about them are shown in terminals.
#[test]
fn errors_carry_no_control_characters_out_of_a_file() {
    let world = World::new();
    let manifest = custom_section(MANIFEST_SECTION, "{\"\\u001b[2J\":1}".as_bytes());
    let error = Claims::read(&signer_of_anything(&world.key)(&manifest)).unwrap_err();
    assert!(matches!(error, TrustError::MalformedManifest { .. }), "{error}");
    assert!(!error.to_string().contains(is_unseen), "{error:?}");
}

#[test]
fn wrong_trust_files_are_refused() {
    let key = SigningKey::generate().unwrap();
    let lines = publisher("Example", &key);
    let refused = |text: &str| parse(text).map(|_| ()).unwrap_err();
    assert!(matches!(refused("[[publisher]]\nname = 'no key'"), TrustStoreError::NoKey { .. }));
    assert!(matches!(refused(&lines.repeat(2)), TrustStoreError::Duplicate { .. }));
    assert!(matches!(refused(&format!("{lines}optimizers = ['a*b']")), TrustStoreError::Pattern { .. }));
    assert!(matches!(refused("[[publisher]]\nname = 'x'\npublic_key = 'x'"), TrustStoreError::Key { .. }));
    for text in [
        "[[publishers]]\nname = 'misspelt'",
        "revoked_key = []",
        "revoked_keys = ['12']",
        "revoked_digests = ['12']",
        "= nonsense",
    ] {
        assert!(matches!(refused(text), TrustStoreError::Toml(_)), "{text}");
    }

    assert!(matches!(refused("format = 1\nrevoked_keys = []"), TrustStoreError::NoPublishers));
    assert!(TrustStore::default().verify(World::new().signed).is_err());
    let missing = TrustStore::load("/no/such/trust.toml").map(|_| ()).unwrap_err();
    assert!(missing.to_string().contains("/no/such/trust.toml"), "{missing}");
}

/// A public key that is a point of small order would verify signatures that nobody made.
#[test]
fn keys_of_small_order_are_no_keys() {
    // The neutral element, in the encoding of RFC 8032: 1 followed by 31 zero bytes.
    let neutral = "MCowBQYDK2VwAyEAAQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let text = format!("[[publisher]]\nname = 'x'\npublic_key = '{neutral}'");
    assert!(matches!(parse(&text), Err(TrustStoreError::Key { .. })));
}

#[test]
fn the_fuzz_entry_takes_every_damaged_file() {
    let world = World::new();
    fuzz_signature(&world.signed);
    for length in 0..world.signed.len() {
        fuzz_signature(&world.signed[..length]);
    }
    for position in 0..world.signed.len() {
        for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
            let mut damaged = world.signed.clone();
            damaged[position] = value;
            fuzz_signature(&damaged);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_fuzz_entry_takes_any_bytes(
        prefix in 0..SIGNED_CONTENT + 100,
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let signed = World::new().signed;
        fuzz_signature(&bytes);
        fuzz_signature(&[&signed[..prefix.min(signed.len())], &bytes].concat());
    }

    #[test]
    fn what_is_signed_is_verified(
        name in "[a-z][a-z0-9-]{0,63}",
        version in "(0|[1-9][0-9]{0,8})\\.(0|[1-9][0-9]{0,8})\\.(0|[1-9][0-9]{0,8})(-[a-z]{1,20})?",
        content in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let world = World::new();
        let component = [COMPONENT, &custom_section("content", &content)].concat();
        let signed = sign(&component, &name, &version, &world.key).unwrap();
        prop_assert_eq!(strip(&signed).unwrap(), component);
        let verified = world.store.verify(signed).unwrap();
        prop_assert_eq!(&verified.manifest().name, &name);
        prop_assert_eq!(verified.manifest().version.to_string(), version);
    }
}

fn refusal(store: &TrustStore, file: &[u8]) -> TrustError {
    store.verify(file).unwrap_err()
}

fn replace_all(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    assert_eq!(from.len(), to.len());
    for start in 0..=bytes.len() - from.len() {
        if bytes[start..].starts_with(from) {
            bytes[start..start + to.len()].copy_from_slice(to);
        }
    }
    bytes
}

/// Returns a function that signs any sections with a key, including sections that [`sign`] would not produce. The
/// signature comes from the reference implementation, the layout from `docs/signing.md`.
fn signer_of_anything(key: &SigningKey) -> impl Fn(&[u8]) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key");
    key.create_file(&file).unwrap();
    let pem = std::fs::read_to_string(file).unwrap();
    let secret = wasmsign2::SecretKey::from_pem(&pem).unwrap();
    let id = key.public_key().id().as_bytes().to_vec();
    move |sections| {
        let hash = Digest::of(sections);
        let message = [&b"wasmsig\x01\x01\x01"[..], hash.as_bytes()].concat();
        let signature = secret.sk.sign(message, None);
        let signature = [&[12], &id[..], &[1, 64], &signature[..]].concat();
        let set = [&[1], &hash.as_bytes()[..], &[1, 79], &signature].concat();
        let payload = [&b"\x09signature\x01\x01\x01\x01\x72"[..], &set].concat();
        [&b"\0asm\x0d\0\x01\0\0\x81\x01"[..], &payload, sections].concat()
    }
}
