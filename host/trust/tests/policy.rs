//! What organizations require of signatures: several signers, key rotation, names, minimum versions; and every way to
//! bypass these that we could think of.

mod common;

use common::{COMPONENT, at, custom_section, key, parse, publisher};
use stepbox_trust::{
    Digest, KeyId, MAX_SIGNATURES, SignError, SigningKey, SigningRequest, Standing, TrustError, TrustStore,
    TrustStoreError, VerifiedComponent, VersionLedger, add_signature, sign,
};

/// Two teams and a board, and a rule that the first team's optimizers also require the board's signature.
struct Organisation {
    team_a: SigningKey,
    team_b: SigningKey,
    board: SigningKey,
    policy: String,
}

impl Organisation {
    fn new() -> Self {
        let [team_a, team_b, board] = [(); 3].map(|()| SigningKey::generate().unwrap());
        let policy = format!(
            "format = 1\n{}namespaces = ['team-a/*']\n{}namespaces = ['team-b/*', 'lion']\n{}namespaces = []\n\
             [[rule]]\nnames = ['team-a/*']\nsigners = ['Team A', 'Release board']\nthreshold = 2\n",
            publisher("Team A", &team_a),
            publisher("Team B", &team_b),
            publisher("Release board", &board),
        );
        Self { team_a, team_b, board, policy }
    }

    fn store(&self) -> TrustStore {
        parse(&self.policy).unwrap()
    }

    /// The policy with lines before its first table.
    fn with(&self, lines: &str) -> TrustStore {
        parse(&format!("{lines}\n{}", self.policy)).unwrap()
    }

    fn signed(&self) -> Vec<u8> {
        let signed = sign(COMPONENT, "team-a/adamw", "1.0.0", &self.team_a).unwrap();
        add_signature(&signed, &self.board).unwrap()
    }
}

/// Offset of the signature count in a file with several signatures, directly after the content's hash.
const COUNT: usize = 8 + 3 + 10 + 4 + 2 + 1 + 32;
/// Length of one signature, including its length prefix.
const SIGNATURE: usize = 80;

/// A file with any signatures in any order, including signature sections that [`add_signature`] would not produce.
fn with_signatures(file: &[u8], signatures: &[&[u8]]) -> Vec<u8> {
    let (hash, content) = parts(file);
    let set = [&[1][..], &hash, &[signatures.len() as u8], &signatures.concat()].concat();
    let mut payload = b"\x09signature\x01\x01\x01\x01".to_vec();
    payload.extend(leb128(set.len()));
    payload.extend(set);
    [&b"\0asm\x0d\0\x01\0\0"[..], &leb128(payload.len()), &payload, content].concat()
}

fn leb128(number: usize) -> Vec<u8> {
    match u8::try_from(number).ok().filter(|byte| *byte < 0x80) {
        Some(byte) => vec![byte],
        None => vec![number as u8 | 0x80, (number >> 7) as u8],
    }
}

/// The signed hash, and the content.
fn parts(file: &[u8]) -> ([u8; 32], &[u8]) {
    let content = (8..file.len()).find(|start| file[*start..].starts_with(b"\x10stepbox:manifest")).unwrap();
    let content = &file[content - 2..];
    let content = if content[0] == 0 { content } else { &file[file.len() - content.len() - 1..] };
    (*Digest::of(content).as_bytes(), content)
}

/// The signatures of a file, each with its length prefix.
fn signatures(file: &[u8]) -> Vec<&[u8]> {
    // With two or more signatures, the length of the set takes two bytes.
    let count = if file[COUNT - 1] < 16 && file[COUNT] == 79 { COUNT - 1 } else { COUNT };
    (0..usize::from(file[count])).map(|index| &file[count + 1 + index * SIGNATURE..][..SIGNATURE]).collect()
}

fn refusal(store: &TrustStore, file: &[u8]) -> TrustError {
    store.verify(file).unwrap_err()
}

#[test]
fn the_parts_of_a_file_are_put_together_again() {
    let organisation = Organisation::new();
    let one = sign(COMPONENT, "team-a/adamw", "1.0.0", &organisation.team_a).unwrap();
    for file in [one, organisation.signed()] {
        assert_eq!(with_signatures(&file, &signatures(&file)), file);
    }
}

#[test]
fn enough_signers_are_taken_and_named() {
    let organisation = Organisation::new();
    let verified = organisation.store().verify(organisation.signed()).unwrap();
    assert_eq!(*verified.publisher(), organisation.team_a.public_key().id());
    assert_eq!(verified.publisher_name(), "Team A");
    let mut signers: Vec<&str> = verified.signers().map(|(_, publisher)| publisher).collect();
    signers.sort_unstable();
    assert_eq!(signers, ["Release board", "Team A"]);
    let keys: Vec<KeyId> = verified.signers().map(|(key, _)| key).collect();
    assert!(keys.is_sorted());
    let approval = verified.approval();
    assert_eq!((approval.rule.as_deref(), approval.threshold), (Some("team-a/*"), 2));
    assert_eq!(verified.manifest().own_name(), "adamw");
}

#[test]
fn a_threshold_short_by_one_is_not_met() {
    let organisation = Organisation::new();
    let signed = sign(COMPONENT, "team-a/adamw", "1.0.0", &organisation.team_a).unwrap();
    let error = refusal(&organisation.store(), &signed);
    assert_eq!(error.name(), "threshold-not-met");
    let TrustError::ThresholdNotMet(shortfall) = &error else { panic!("{error}") };
    assert_eq!(shortfall.approval.signed_by, ["Team A"]);
    assert!(error.to_string().contains("signed by Release board"), "{error}");

    // A signer who is trusted for other names does not compensate for it.
    let signed = add_signature(&signed, &organisation.team_b).unwrap();
    assert_eq!(refusal(&organisation.store(), &signed).name(), "threshold-not-met");
    assert!(organisation.store().verify(add_signature(&signed, &organisation.board).unwrap()).is_ok());
}

#[test]
fn two_keys_of_one_publisher_count_once() {
    let organisation = Organisation::new();
    let second = SigningKey::generate().unwrap();
    let policy = organisation.policy.replacen(
        "[[publisher]]\nname = 'Team B'",
        &format!("{}[[publisher]]\nname = 'Team B'", key(&second, "")),
        1,
    );
    let store = parse(&policy).unwrap();
    let signed = sign(COMPONENT, "team-a/adamw", "1.0.0", &organisation.team_a).unwrap();
    let signed = add_signature(&signed, &second).unwrap();
    assert_eq!(refusal(&store, &signed).name(), "threshold-not-met");
    assert!(store.verify(add_signature(&signed, &organisation.board).unwrap()).is_ok());
    // One key cannot be two publishers, nor can one name.
    let twice = format!("{}{}", publisher("One", &second), publisher("Two", &second));
    assert!(matches!(parse(&twice), Err(TrustStoreError::Duplicate { .. })));
    let same_name = format!("{}{}", publisher("One", &second), publisher("One", &organisation.board));
    assert!(matches!(parse(&same_name), Err(TrustStoreError::DuplicatePublisher { .. })));
}

#[test]
fn a_duplicate_signature_is_refused() {
    let organisation = Organisation::new();
    let one = sign(COMPONENT, "team-a/adamw", "1.0.0", &organisation.team_a).unwrap();
    let own = signatures(&one)[0];
    let error = refusal(&organisation.store(), &with_signatures(&one, &[own, own]));
    assert!(matches!(error, TrustError::MalformedSignature { reason } if reason.contains("two signatures")), "{error}");
    assert!(matches!(add_signature(&one, &organisation.team_a), Err(SignError::SignedByThisKey { .. })));
}

#[test]
fn reordered_signatures_are_refused() {
    let organisation = Organisation::new();
    let file = organisation.signed();
    let [first, second] = signatures(&file)[..] else { panic!() };
    let error = refusal(&organisation.store(), &with_signatures(&file, &[second, first]));
    assert!(matches!(error, TrustError::MalformedSignature { reason } if reason.contains("order")), "{error}");
}

#[test]
fn a_co_signers_signature_from_another_component_is_refused() {
    let organisation = Organisation::new();
    let file = organisation.signed();
    let other =
        sign(&[COMPONENT, &custom_section("other", b"")].concat(), "team-a/adamw", "1.0.0", &organisation.team_a);
    let other = add_signature(&other.unwrap(), &organisation.board).unwrap();
    let board = organisation.board.public_key().id();
    let of_board = |file: &[u8]| -> Vec<u8> {
        signatures(file).into_iter().find(|signature| signature[2..14] == board.as_bytes()[..]).unwrap().to_vec()
    };
    let foreign = of_board(&other);
    let mixed: Vec<Vec<u8>> = signatures(&file)
        .into_iter()
        .map(|own| if own == of_board(&file) { foreign.clone() } else { own.to_vec() })
        .collect();
    let mixed = with_signatures(&file, &mixed.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let expected = TrustError::BadSignature { key: board, publisher: "Release board".to_owned() };
    assert_eq!(refusal(&organisation.store(), &mixed), expected);
    // Even if the remaining signatures are sufficient.
    let enough = organisation.policy.replace("threshold = 2", "threshold = 1");
    assert_eq!(refusal(&parse(&enough).unwrap(), &mixed), expected);
}

#[test]
fn signatures_of_strangers_count_for_nothing_and_harm_nothing() {
    let organisation = Organisation::new();
    let stranger = SigningKey::generate().unwrap();
    let signed = add_signature(&organisation.signed(), &stranger).unwrap();
    let verified = organisation.store().verify(signed).unwrap();
    assert_eq!((verified.signatures().len(), verified.signers().count()), (3, 2));
    let unknown = verified.signatures().iter().find(|signature| signature.key == stranger.public_key().id()).unwrap();
    assert_eq!((&unknown.standing, &unknown.publisher), (&Standing::Unknown, &None));

    let lonely = sign(COMPONENT, "team-a/adamw", "1.0.0", &organisation.team_a).unwrap();
    let with_stranger = add_signature(&lonely, &stranger).unwrap();
    assert_eq!(refusal(&organisation.store(), &with_stranger).name(), "threshold-not-met");
}

#[test]
fn who_made_the_manifest_must_be_known_whoever_else_signs() {
    let organisation = Organisation::new();
    let stranger = SigningKey::generate().unwrap();
    let signed = sign(COMPONENT, "team-a/adamw", "1.0.0", &stranger).unwrap();
    let signed = add_signature(&signed, &organisation.team_a).unwrap();
    let signed = add_signature(&signed, &organisation.board).unwrap();
    assert_eq!(refusal(&organisation.store(), &signed), TrustError::UnknownKey { key: stranger.public_key().id() });
    // The stranger's signature cannot be removed either, because the manifest names its key.
    let others: Vec<_> =
        signatures(&signed).into_iter().filter(|s| s[2..14] != stranger.public_key().id().as_bytes()[..]).collect();
    assert_eq!(refusal(&organisation.store(), &with_signatures(&signed, &others)).name(), "malformed-manifest");
}

/// Anyone with a file can remove signatures from it or add one. Its identity does not change, so that neither a
/// revocation nor the ledger can be bypassed this way.
#[test]
fn taking_signatures_off_or_on_changes_no_identity() {
    let organisation = Organisation::new();
    let file = organisation.signed();
    let relaxed = organisation.policy.replace("threshold = 2", "threshold = 1");
    let store = parse(&relaxed).unwrap();
    let verified = store.verify(&*file).unwrap();
    let stripped = sign(COMPONENT, "team-a/adamw", "1.0.0", &organisation.team_a).unwrap();
    let more = add_signature(&file, &organisation.team_b).unwrap();

    let directory = tempfile::tempdir().unwrap();
    let mut ledger = VersionLedger::load(directory.path().join("versions.toml")).unwrap();
    let intent = ledger.record(&verified).unwrap();
    ledger.took_effect(intent).unwrap();
    let revoking = parse(&format!("revoked_digests = ['{}']\n{relaxed}", verified.digest())).unwrap();
    for variant in [&file, &stripped, &more] {
        let variant_verified = store.verify(&**variant).unwrap();
        assert_eq!(variant_verified.digest(), verified.digest());
        ledger.check(&variant_verified).unwrap();
        assert_eq!(refusal(&revoking, variant).name(), "revoked-digest");
    }
    assert_ne!(Digest::of(&stripped), Digest::of(&file));
}

#[test]
fn keys_have_their_time() {
    let signer = SigningKey::generate().unwrap();
    let period = "valid_from = 2026-01-01\nvalid_until = '2026-06-30'";
    let store = parse(&format!("[[publisher]]\nname = 'Example'\n{}", key(&signer, period))).unwrap();
    let signed = sign(COMPONENT, "adamw", "1.0.0", &signer).unwrap();
    let verify = |time: &str| store.verify_at(&*signed, at(time));
    assert_eq!(verify("2025-12-31T23:59:59Z").unwrap_err().name(), "key-not-yet-valid");
    for good in ["2026-01-01", "2026-03-01T12:00:00+02:00", "2026-06-30T23:59:59Z"] {
        verify(good).unwrap();
    }
    let error = verify("2026-07-01").unwrap_err();
    assert_eq!(error.name(), "expired-key");
    assert!(error.to_string().contains("2026-07-01T00:00:00Z") && error.to_string().contains("Example"), "{error}");
}

#[test]
fn a_key_is_changed_with_overlap() {
    let [old, new] = [(); 2].map(|()| SigningKey::generate().unwrap());
    let keys = key(&old, "valid_until = 2026-06-30") + &key(&new, "valid_from = '2026-06-01T00:00:00Z'");
    let store = parse(&format!("[[publisher]]\nname = 'Example'\n{keys}")).unwrap();
    let by_old = sign(COMPONENT, "adamw", "1.0.0", &old).unwrap();
    let by_new = sign(COMPONENT, "adamw", "1.0.1", &new).unwrap();
    let by_both = add_signature(&by_old, &new).unwrap();
    let taken = |file: &[u8], time: &str| store.verify_at(file, at(time)).is_ok();
    for (time, old, new) in [("2026-05-31", true, false), ("2026-06-15", true, true), ("2026-07-01", false, true)] {
        assert_eq!((taken(&by_old, time), taken(&by_new, time), taken(&by_both, time)), (old, new, true), "{time}");
    }
    // The same file and version remain valid after the key change: a deployed optimizer need not be published again.
    let later = store.verify_at(&*by_both, at("2026-07-01")).unwrap();
    assert_eq!(later.signers().map(|(key, _)| key).collect::<Vec<_>>(), [new.public_key().id()]);
    assert_eq!(later.digest(), store.verify_at(&*by_old, at("2026-05-31")).unwrap().digest());
}

/// Whoever has stolen a key can sign, but then the signature of the publisher's other key is missing.
#[test]
fn a_revoked_key_counts_for_nothing_beside_others() {
    let organisation = Organisation::new();
    let board = organisation.board.public_key().id();
    let store =
        organisation.with(&format!("revoked_keys = [{{ key = '{board}', reason = 'stolen', date = 2026-11-02 }}]"));
    let error = refusal(&store, &organisation.signed());
    assert_eq!(error.name(), "threshold-not-met");
    assert!(error.to_string().contains("revoked key (stolen, on 2026-11-02"), "{error}");

    let team_a = organisation.team_a.public_key().id();
    let store = organisation.with(&format!("revoked_keys = ['{team_a}']"));
    assert_eq!(refusal(&store, &organisation.signed()).name(), "revoked-key");
    // The date is informational: a key with a revocation date in the future is revoked.
    let store = organisation.with(&format!("revoked_keys = [{{ key = '{team_a}', date = '2999-01-01' }}]"));
    assert_eq!(refusal(&store, &organisation.signed()).name(), "revoked-key");
}

#[test]
fn names_lie_in_namespaces() {
    let organisation = Organisation::new();
    let store = organisation.store();
    let taken = |name: &str, key: &SigningKey| {
        store.verify(sign(COMPONENT, name, "1.0.0", key).unwrap()).map(|_| ()).map_err(|error| error.name())
    };
    assert_eq!(taken("team-b/adamw", &organisation.team_b), Ok(()));
    assert_eq!(taken("team-b/vision/adamw", &organisation.team_b), Ok(()));
    assert_eq!(taken("lion", &organisation.team_b), Ok(()));
    assert_eq!(taken("lion-2", &organisation.team_b), Err("name-not-allowed"));
    assert_eq!(taken("team-bb/adamw", &organisation.team_b), Err("name-not-allowed"));
    assert_eq!(taken("team-a/adamw", &organisation.team_b), Err("threshold-not-met"));
    assert_eq!(taken("team-b/adamw", &organisation.board), Err("name-not-allowed"));
    assert_eq!(taken("adamw", &organisation.team_a), Err("name-not-allowed"));
    for wrong in ["/adamw", "adamw/", "a//b", "../adamw", "team-a/Adamw", "team-a/1"] {
        assert!(
            matches!(sign(COMPONENT, wrong, "1.0.0", &organisation.team_a), Err(SignError::Manifest(_))),
            "{wrong}"
        );
    }
}

#[test]
fn the_rule_that_says_most_about_a_name_holds() {
    let organisation = Organisation::new();
    let rule =
        |names: &str, signer: &str| format!("[[rule]]\nnames = {names}\nsigners = ['{signer}']\nthreshold = 1\n");
    let policy = organisation.policy.clone()
        + &rule("['*']", "Release board")
        + &rule("['team-a/free/*', 'team-a/adam*']", "Team A")
        + &rule("['team-a/adamw']", "Team B");
    let store = parse(&policy).unwrap();
    let rule_for = |name: &str| {
        let explained = store.explain(&sign(COMPONENT, name, "1.0.0", &organisation.team_a).unwrap(), at("2026-01-01"));
        (explained.approval.unwrap().rule.unwrap(), explained.outcome.is_ok())
    };
    assert_eq!(rule_for("team-a/free/lion"), ("team-a/free/*".to_owned(), true));
    assert_eq!(rule_for("team-a/adamax"), ("team-a/adam*".to_owned(), true));
    assert_eq!(rule_for("team-a/adamw"), ("team-a/adamw".to_owned(), false));
    assert_eq!(rule_for("team-a/lion"), ("team-a/*".to_owned(), false));
    assert_eq!(rule_for("lion"), ("*".to_owned(), false));
    assert!(matches!(
        parse(&(policy + &rule("['team-a/adamw']", "Team A"))),
        Err(TrustStoreError::DuplicateRule { .. })
    ));
}

#[test]
fn versions_below_the_minimum_are_refused() {
    let organisation = Organisation::new();
    let store = parse(&format!("{}[minimum_versions]\n'team-b/adamw' = '1.2.0'\n", organisation.policy)).unwrap();
    let taken = |name: &str, version: &str| {
        store.verify(sign(COMPONENT, name, version, &organisation.team_b).unwrap()).map(|_| ()).map_err(|e| e.name())
    };
    for older in ["1.1.9", "1.2.0-rc.1", "0.1.0"] {
        assert_eq!(taken("team-b/adamw", older), Err("below-minimum-version"), "{older}");
    }
    for newer in ["1.2.0", "1.2.1-rc.1", "10.0.0"] {
        assert_eq!(taken("team-b/adamw", newer), Ok(()), "{newer}");
    }
    assert_eq!(taken("team-b/lion", "0.1.0"), Ok(()));
}

#[test]
fn what_runs_is_held_against_what_is_trusted_now() {
    let organisation = Organisation::new();
    let now = at("2026-05-01");
    let verified: VerifiedComponent = organisation.store().verify_at(organisation.signed(), now).unwrap();
    organisation.store().recheck(&verified, now).unwrap();
    let recheck = |policy: &str| parse(policy).unwrap().recheck(&verified, now).unwrap_err().name();
    let with = |lines: &str| format!("{lines}\n{}", organisation.policy);
    assert_eq!(recheck(&with(&format!("revoked_keys = ['{}']", organisation.team_a.public_key().id()))), "revoked-key");
    assert_eq!(
        recheck(&with(&format!("revoked_keys = ['{}']", organisation.board.public_key().id()))),
        "threshold-not-met"
    );
    assert_eq!(recheck(&with(&format!("revoked_digests = ['{}']", verified.digest()))), "revoked-digest");
    assert_eq!(recheck(&with(&format!("revoked_digests = ['{}']", verified.file_digest()))), "revoked-digest");
    assert_eq!(
        recheck(&(organisation.policy.clone() + "[minimum_versions]\n'team-a/adamw' = '1.0.1'")),
        "below-minimum-version"
    );
    assert_eq!(recheck(&publisher("Other", &SigningKey::generate().unwrap())), "unknown-key");
    let expired = organisation.policy.replace(
        &format!("public_key = '{}'\nnamespaces = ['team-a/*']", organisation.team_a.public_key()),
        &format!("namespaces = ['team-a/*']\n{}", key(&organisation.team_a, "valid_until = 2026-04-30")),
    );
    assert_ne!(expired, organisation.policy);
    assert_eq!(recheck(&expired), "expired-key");
    assert!(parse(&expired).unwrap().recheck(&verified, at("2026-04-30")).is_ok());
}

/// The file with one more signature entry, under the ID of a key that did not make it.
fn with_garbage(signed: &[u8], of: &SigningKey) -> Vec<u8> {
    let verified_order = |other: &KeyId| {
        let ids = stepbox_trust::Claims::read(signed).unwrap().keys;
        ids.iter().map(|id| id < other).collect::<Vec<_>>()
    };
    let of = of.public_key().id();
    // Signatures are listed in the order of their key IDs.
    let other = std::iter::repeat_with(|| SigningKey::generate().unwrap())
        .find(|other| verified_order(&other.public_key().id()) == verified_order(&of))
        .unwrap();
    let mut file = add_signature(signed, &other).unwrap();
    let id = *other.public_key().id().as_bytes();
    let at = file.windows(id.len()).position(|window| window == id).unwrap();
    file[at..at + id.len()].copy_from_slice(of.as_bytes());
    file
}

/// Anyone can add an entry to a file. When the operator later lists the key that it names, the running optimizer
/// continues.
#[test]
fn what_could_not_be_verified_at_first_neither_counts_nor_harms_later() {
    let organisation = Organisation::new();
    let (now, new) = (at("2026-05-01"), SigningKey::generate().unwrap());
    let extended = parse(&format!("{}{}", organisation.policy, publisher("New", &new))).unwrap();
    let signed = organisation.signed();
    let spoilt = with_garbage(&signed, &new);
    let verified = organisation.store().verify(&*spoilt).unwrap();
    extended.recheck(&verified, now).unwrap();
    // For a server that knows the key from the start, the file was changed; a file that a server stored earlier remains
    // valid.
    assert_eq!(refusal(&extended, &spoilt).name(), "bad-signature");
    let stored = extended.verify_stored(&*spoilt).unwrap();
    assert_eq!(stored.signers().count(), 2);
    assert!(stored.signatures().iter().any(|signature| signature.standing == Standing::Bad));
    extended.recheck(&stored, now).unwrap();
    // The same for a revoked key that is not listed.
    let revoked = organisation.with(&format!("revoked_keys = ['{}']", new.public_key().id()));
    let verified = revoked.verify(&*spoilt).unwrap();
    extended.recheck(&verified, now).unwrap();

    // A good signature does not compensate for a signature that has since been lost; the file has to be verified again.
    let by_new = add_signature(&signed, &new).unwrap();
    let verified = organisation.store().verify(&*by_new).unwrap();
    let board = organisation.board.public_key().to_string();
    let replaced = organisation.policy.replace(&board, &new.public_key().to_string());
    let replaced = parse(&replaced).unwrap();
    assert_eq!(replaced.recheck(&verified, now).unwrap_err().name(), "threshold-not-met");
    replaced.recheck(&replaced.verify(&*by_new).unwrap(), now).unwrap();

    // All other checks still apply to a stored file.
    let mut changed = spoilt.clone();
    *changed.last_mut().unwrap() ^= 1;
    assert_eq!(extended.verify_stored(changed).unwrap_err().name(), "bad-signature");
    let of_one = sign(COMPONENT, "team-a/adamw", "1.0.0", &organisation.team_a).unwrap();
    let garbage_of_board = with_garbage(&of_one, &organisation.board);
    let error = organisation.store().verify_stored(garbage_of_board).unwrap_err();
    assert_eq!(error.name(), "threshold-not-met");
}

/// A policy may come to list another key under the ID of a known key: then the earlier verification does not apply to
/// that key.
#[test]
fn a_recheck_does_not_believe_key_ids() {
    let organisation = Organisation::new();
    let verified = organisation.store().verify(organisation.signed()).unwrap();
    let swapped = organisation.policy.replace(
        &organisation.board.public_key().to_string(),
        &SigningKey::generate().unwrap().public_key().to_string(),
    );
    let error = parse(&swapped).unwrap().recheck(&verified, at("2026-01-01")).unwrap_err();
    assert_eq!(error.name(), "threshold-not-met");
}

#[test]
fn signatures_made_elsewhere_are_checked_before_they_are_put_in() {
    let organisation = Organisation::new();
    let request = SigningRequest::new(COMPONENT, "adamw", "1.0.0", &organisation.team_a.public_key()).unwrap();
    let message = request.message();
    assert_eq!(message[..10], *b"wasmsig\x01\x01\x01");
    assert_eq!(message[10..], request.digest().as_bytes()[..]);
    assert!(matches!(request.clone().finish(&[7; 64]), Err(SignError::WrongSignature { .. })));
    let signed = sign(COMPONENT, "adamw", "1.0.0", &organisation.team_a).unwrap();
    let signature: [u8; 64] = signatures(&signed)[0][16..].try_into().unwrap();
    assert_eq!(request.finish(&signature).unwrap(), signed);
}

#[test]
fn signatures_are_added_to_what_was_signed_and_not_too_many() {
    let organisation = Organisation::new();
    let mut signed = organisation.signed();
    let mut damaged = signed.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert!(matches!(add_signature(&damaged, &organisation.team_b), Err(SignError::Changed)));
    assert!(matches!(add_signature(COMPONENT, &organisation.team_b), Err(SignError::Component(TrustError::Unsigned))));
    while signatures(&signed).len() < MAX_SIGNATURES {
        signed = add_signature(&signed, &SigningKey::generate().unwrap()).unwrap();
        organisation.store().verify(&*signed).unwrap();
    }
    assert!(matches!(add_signature(&signed, &organisation.team_b), Err(SignError::TooManySignatures)));
    let all = signatures(&signed);
    let too_many: Vec<_> = all.iter().copied().chain([all[0]]).collect();
    let error = refusal(&organisation.store(), &with_signatures(&signed, &too_many));
    assert!(matches!(error, TrustError::MalformedSignature { .. }), "{error}");
    assert!(matches!(
        refusal(&organisation.store(), &with_signatures(&signed, &[])),
        TrustError::MalformedSignature { .. }
    ));
}

#[test]
fn any_flipped_bit_of_two_signatures_is_refused_where_both_are_needed() {
    let organisation = Organisation::new();
    let (store, signed) = (organisation.store(), organisation.signed());
    for position in 0..signed.len() {
        for bit in 0..8 {
            let mut damaged = signed.clone();
            damaged[position] ^= 1 << bit;
            assert!(store.verify(damaged).is_err(), "byte {position} bit {bit}");
        }
    }
    for length in 0..signed.len() {
        assert!(store.verify(&signed[..length]).is_err(), "{length} bytes");
    }
}

#[test]
fn wrong_policies_are_refused() {
    let organisation = Organisation::new();
    let team_a = publisher("Team A", &organisation.team_a);
    let refused = |text: &str| parse(text).map(|_| ()).unwrap_err();
    let rule = |names: &str, signers: &str, threshold: i32| {
        format!("{team_a}[[rule]]\nnames = {names}\nsigners = {signers}\nthreshold = {threshold}\n")
    };
    // A newer format is reported as such, not by the first unknown field.
    assert!(matches!(refused("format = 2\nquorum = 3"), TrustStoreError::Format { format: 2 }));
    assert!(matches!(refused("format = 0"), TrustStoreError::Format { format: 0 }));
    for (threshold, signers) in [(0, "['Team A']"), (2, "['Team A']"), (0, "[]"), (1, "[]")] {
        assert!(matches!(refused(&rule("['x/*']", signers, threshold)), TrustStoreError::Threshold { .. }));
    }
    assert!(matches!(refused(&rule("['x/*']", "['Team C']", 1)), TrustStoreError::UnknownSigner { .. }));
    assert!(matches!(refused(&rule("['x/*']", "['Team A', 'Team A']", 2)), TrustStoreError::DuplicateSigner { .. }));
    assert!(matches!(refused(&rule("[]", "['Team A']", 1)), TrustStoreError::NoNames { number: 1 }));
    assert!(matches!(refused(&rule("['X']", "['Team A']", 1)), TrustStoreError::Pattern { .. }));
    assert!(matches!(refused(&rule("['x', 'x']", "['Team A']", 1)), TrustStoreError::DuplicateRule { .. }));
    let period = |period: &str| refused(&format!("[[publisher]]\nname = 'x'\n{}", key(&organisation.team_a, period)));
    assert!(matches!(period("valid_from = 2026-02-01\nvalid_until = 2026-01-31"), TrustStoreError::NeverValid { .. }));
    assert!(matches!(period("valid_until = 'soon'"), TrustStoreError::Date { .. }));
    assert!(matches!(period("valid_until = 2026"), TrustStoreError::Date { .. }));
    assert!(matches!(period("valid_until = 2026-01-01T00:00:00"), TrustStoreError::Date { .. }));
    assert!(matches!(refused("[minimum_versions]\nAdamW = '1.0.0'"), TrustStoreError::MinimumName { .. }));
    let name = |name: &str| refused(&publisher(name, &organisation.team_a));
    for wrong in ["", "\t", &"x".repeat(129)] {
        assert!(matches!(name(wrong), TrustStoreError::PublisherName { .. }), "{wrong:?}");
    }
    let id = organisation.team_a.public_key().id();
    let reason = "x".repeat(257);
    assert!(matches!(
        refused(&format!("revoked_keys = [{{ key = '{id}', reason = '{reason}' }}]")),
        TrustStoreError::Reason { .. }
    ));
    for text in [
        "format = '1'".to_owned(),
        rule("['x']", "['Team A']", 1) + "treshold = 1",
        rule("['x']", "['Team A']", -1),
        format!("{team_a}valid_until = 2026-01-01"),
        format!("{team_a}namespaces = []\noptimizers = []"),
        format!("revoked_keys = [{{ key = '{id}', because = 'x' }}]"),
        "revoked_keys = [{ reason = 'x' }]".to_owned(),
        "revoked_keys = [1]".to_owned(),
        "[minimum_versions]\nadamw = '1'".to_owned(),
    ] {
        assert!(matches!(refused(&text), TrustStoreError::Toml(_)), "{text}");
    }
}

#[test]
fn a_policy_is_looked_over() {
    let organisation = Organisation::new();
    let now = at("2026-06-15");
    let codes = |policy: &str| -> Vec<&str> {
        parse(policy).unwrap().findings(now).iter().map(|finding| finding.code).collect()
    };
    assert!(codes(&organisation.policy).is_empty());
    let example = publisher("Example", &organisation.team_a);
    for all_names in ["", "namespaces = ['*']", "namespaces = ['team-a/*', '*']"] {
        assert_eq!(codes(&format!("{example}{all_names}")), ["all-names"], "{all_names}");
    }

    let with_period = |period: &str| {
        organisation.policy.replace(
            &format!("public_key = '{}'\nnamespaces = []", organisation.board.public_key()),
            &format!("namespaces = []\n{}", key(&organisation.board, period)),
        )
    };
    assert!(codes(&with_period("valid_until = 2026-07-31")).is_empty());
    assert_eq!(codes(&with_period("valid_until = 2026-07-01")), ["expiring-key"]);
    assert_eq!(
        codes(&with_period("valid_until = 2026-06-01")),
        ["no-valid-key", "unreachable-threshold", "expired-key"]
    );
    assert_eq!(codes(&with_period("valid_from = 2026-07-01")), ["no-valid-key", "unreachable-threshold"]);
    let next = key(&organisation.team_b, "valid_from = 2026-06-20");
    let rotated = with_period(&format!("valid_until = 2026-07-01\n{next}"));
    let rotated = rotated.replacen(
        &publisher("Team B", &organisation.team_b),
        &publisher("Team B", &SigningKey::generate().unwrap()),
        1,
    );
    assert!(codes(&rotated).is_empty(), "{:?}", codes(&rotated));

    let board = organisation.board.public_key().id();
    let revoked = |entry: String| format!("revoked_keys = [{entry}]\n{}", organisation.policy);
    assert_eq!(codes(&revoked(format!("'{board}'"))), ["no-valid-key", "unreachable-threshold", "revoked-key-listed"]);
    assert_eq!(
        codes(&revoked("{ key = '0123456789abcdef01234567', date = 2026-07-01 }".to_owned())),
        ["future-revocation"]
    );
}

#[test]
fn the_documented_policy_is_one() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/signing.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once("```toml\n").unwrap();
    let store = TrustStore::parse(rest.split_once("```").unwrap().0).unwrap();
    assert!(store.findings(at("2026-12-15")).is_empty(), "{:?}", store.findings(at("2026-12-15")));
    assert_eq!(store.findings(at("2027-01-01")).first().map(|finding| finding.code), Some("expired-key"));
}

#[test]
fn an_explanation_has_everything_also_of_what_is_refused() {
    let organisation = Organisation::new();
    let store = organisation.store();
    let signed = sign(COMPONENT, "team-a/adamw", "1.0.0", &organisation.team_a).unwrap();
    let explained = store.explain(&signed, at("2026-01-01"));
    assert_eq!(explained.name.as_deref(), Some("team-a/adamw"));
    assert_eq!(explained.publisher_name.as_deref(), Some("Team A"));
    assert_eq!(explained.outcome.unwrap_err().name(), "threshold-not-met");
    let approval = explained.approval.unwrap();
    assert_eq!((approval.threshold, &*approval.signed_by), (2, &["Team A".to_owned()][..]));
    assert_eq!(explained.signatures.len(), 1);
    let unsigned = store.explain(COMPONENT, at("2026-01-01"));
    assert!(unsigned.signatures.is_empty() && unsigned.name.is_none());
    assert_eq!(unsigned.outcome.unwrap_err().name(), "unsigned");
}
