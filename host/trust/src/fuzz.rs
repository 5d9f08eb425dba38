//! Entry points for fuzzing signatures and policies: any bytes may be given, nothing may panic.
//!
//! No fuzzer makes up a signature. So these sign what it made up, with keys that everybody may know, and what comes behind
//! the signatures is reached: manifests, namespaces, rules, thresholds, revocations. Whether a component passes is compared
//! with a second opinion.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::LazyLock;

use crate::policy::{Period, TrustedKey};
use crate::signature::{Signature, SignedFile, message};
use crate::unseen::is_unseen;
use crate::verify::read_manifest;
use crate::{Claims, Digest, MAX_SIGNATURES, Moment, SigningKey, TrustStore, sign, strip};

/// The component that policies are asked about.
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

/// Names and versions that policies are asked about.
const CANDIDATES: [(&str, &str); 3] =
    [("adamw", "1.0.0"), ("team-a/adamw", "1.2.0-rc.1"), ("team-a/vision/adamw-2", "2.0.0")];

/// Two keys that everybody may know: no server may trust them.
#[doc(hidden)]
pub fn fuzz_keys() -> [SigningKey; 2] {
    [1, 2].map(|seed| SigningKey::of_seed(&[seed; 32]))
}

/// The store that signatures are verified by.
static STORE: LazyLock<TrustStore> = LazyLock::new(|| {
    let [one, two] = fuzz_keys().map(|key| key.public_key().to_string());
    let policy = format!(
        "[[publisher]]\nname = 'Team A'\npublic_key = '{one}'\nnamespaces = ['adamw*', 'team-a/*']\n\
         [[publisher]]\nname = 'Board'\npublic_key = '{two}'\nnamespaces = ['board/*']\n\
         [[rule]]\nnames = ['team-a/*']\nsigners = ['Team A', 'Board']\nthreshold = 2\n\
         [minimum_versions]\n'adamw' = '1.0.0'\n[end]\n"
    );
    TrustStore::parse(&policy).unwrap_or_default()
});

/// Components that policies are asked about: each candidate signed by the first key, and by both.
static SIGNED: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let [one, two] = fuzz_keys();
    let by_one = CANDIDATES.iter().filter_map(|(name, version)| sign(COMPONENT, name, version, &one).ok());
    by_one.flat_map(|file| [crate::add_signature(&file, &two).ok(), Some(file)].into_iter().flatten()).collect()
});

/// A `.wasm` that somebody wants deployed: as it is, what it was before it was signed or changed, and signed anew.
#[doc(hidden)]
pub fn fuzz_signature(bytes: &[u8]) {
    let _ = Claims::read(bytes);
    let _ = strip(bytes);
    let mut contents = vec![bytes];
    if let Ok(parsed) = SignedFile::parse(bytes) {
        assert_eq!(parsed.file(), bytes, "two encodings of one set of signatures");
        contents.push(parsed.content);
    }
    assert!(TrustStore::default().verify(bytes).is_err(), "an empty store trusts nobody");
    let now = Moment::now();
    compare(&STORE, bytes, now);
    for content in contents {
        for signers in [&fuzz_keys()[..], &fuzz_keys()[..1]] {
            compare(&STORE, &signed_by(content, signers), now);
        }
    }
}

/// The text of a trust policy, and what is asked of it.
#[doc(hidden)]
pub fn fuzz_trust_policy(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(mut store) = TrustStore::parse(text) else { return };
    let now = Moment::end("2026-06-30").unwrap_or_else(|_| Moment::now());
    for finding in store.findings(now.into()) {
        assert!(!finding.message.is_empty());
    }
    for rule in &store.rules {
        assert!((1..=rule.signers.len()).contains(&rule.threshold));
        assert!(rule.signers.iter().all(|signer| *signer < store.publishers.len()));
    }
    assert!(store.publishers.iter().all(|publisher| !publisher.name.contains(is_unseen)));
    for (name, _) in CANDIDATES {
        if let Some((pattern, rule)) = store.rule(name) {
            assert!(rule.names.iter().any(|other| other.as_str() == pattern && other.takes(name)));
        }
    }
    assert!(store.verify_at(COMPONENT, now.into()).is_err());
    // Where it does not say whose our keys are, they are the first publishers'.
    let publishers = store.publishers.len();
    for (key, position) in fuzz_keys().iter().zip(0..) {
        let key = key.public_key();
        if publishers > 0 {
            let trusted = TrustedKey { key: key.clone(), publisher: position % publishers, period: Period::default() };
            store.keys.entry(key.id()).or_insert(trusted);
        }
    }
    SIGNED.iter().for_each(|file| compare(&store, file, now));
}

/// Signs what a fuzzer made up, whether it is a component or not.
fn signed_by(content: &[u8], keys: &[SigningKey]) -> Vec<u8> {
    let hash = Digest::of(content);
    let signature = |key: &SigningKey| Signature { key: key.public_key().id(), bytes: key.sign(&message(hash)) };
    let mut signatures: Vec<_> = keys.iter().map(signature).collect();
    signatures.sort_by_key(|signature| signature.key);
    SignedFile { hash, signatures, content }.file()
}

/// Verifies a file, and asks somebody else whether that is right.
fn compare(store: &TrustStore, file: &[u8], now: Moment) {
    let outcome = store.verify_at(file, now.into());
    assert_eq!(outcome.is_ok(), is_trusted(store, file, now).is_some(), "{:?}", outcome.map(|_| "verified"));
    if let Err(error) = outcome {
        assert!(!error.to_string().contains(is_unseen), "{error:?}");
    }
}

/// Whether a store should take a file: everything that has to be so, in no particular order.
fn is_trusted(store: &TrustStore, file: &[u8], now: Moment) -> Option<()> {
    let must = |holds: bool| holds.then_some(());
    let signed = SignedFile::parse(file).ok()?;
    let manifest = read_manifest(&signed).ok()?;
    must(file.len() <= store.max_component_bytes && signed.signatures.len() <= MAX_SIGNATURES)?;
    must(Digest::of(signed.content) == signed.hash)?;
    for digest in [signed.hash, Digest::of(file)] {
        must(!store.revoked_digests.contains_key(&digest))?;
    }
    let mut signers = BTreeSet::new();
    for signature in &signed.signatures {
        let Some(TrustedKey { key, publisher, period }) = store.keys.get(&signature.key) else { continue };
        must(key.verifies(&message(signed.hash), &signature.bytes))?;
        let has_begun = period.from.is_none_or(|from| from <= now);
        let has_ended = period.until.is_some_and(|until| until <= now);
        if has_begun && !has_ended && !store.revoked_keys.contains_key(&signature.key) {
            signers.insert(*publisher);
        }
    }
    let made_by = store.keys.get(&manifest.publisher)?.publisher;
    must(signers.contains(&made_by))?;
    let oldest = store.minimum_versions.get(&manifest.name);
    must(oldest.is_none_or(|oldest| manifest.version.cmp_precedence(oldest) != Ordering::Less))?;
    match store.rule(&manifest.name) {
        Some((_, rule)) => {
            must(signers.iter().filter(|signer| rule.signers.contains(signer)).count() >= rule.threshold)
        }
        None => match &store.publishers.get(made_by)?.namespaces {
            None => Some(()),
            Some(patterns) => must(patterns.iter().any(|pattern| pattern.takes(&manifest.name))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TrustError;

    /// What the store says of made-up content once it is signed.
    fn verdict(content: &[u8], keys: &[SigningKey]) -> Result<String, TrustError> {
        let file = signed_by(content, keys);
        fuzz_signature(&file);
        STORE.verify(file).map(|verified| verified.manifest().name.clone())
    }

    #[test]
    fn what_is_made_up_gets_past_the_signatures() {
        let [one, two] = fuzz_keys();
        let content = |name, version| {
            let file = sign(COMPONENT, name, version, &one).expect("signed");
            SignedFile::parse(&file).expect("signed").content.to_vec()
        };
        assert_eq!(verdict(&content("adamw", "1.0.0"), &[one_again()]).expect("trusted"), "adamw");
        assert!(matches!(verdict(b"\0\0", &[one_again()]), Err(TrustError::MalformedManifest { .. })));
        assert!(matches!(verdict(&content("adamw", "0.9.0"), &[one_again()]), Err(TrustError::BelowMinimum { .. })));
        assert!(matches!(
            verdict(&content("board/a", "1.0.0"), &[one_again()]),
            Err(TrustError::NameNotAllowed { .. })
        ));
        assert!(matches!(verdict(&content("team-a/a", "1.0.0"), &[one_again()]), Err(TrustError::ThresholdNotMet(_))));
        assert_eq!(verdict(&content("team-a/a", "1.0.0"), &[one_again(), two]).expect("trusted"), "team-a/a");
    }

    fn one_again() -> SigningKey {
        let [one, _] = fuzz_keys();
        one
    }

    #[test]
    fn every_kind_of_policy_is_asked_about_components_that_it_takes_and_others() {
        let [one, _] = fuzz_keys().map(|key| key.public_key());
        for policy in [
            "[[publisher]]\nname = 'a'\npublic_key = 'MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE='"
                .into(),
            format!("[[publisher]]\nname = 'a'\npublic_key = '{one}'\nnamespaces = ['team-a/*']"),
            format!("revoked_keys = ['{}']\n[[publisher]]\nname = 'a'\npublic_key = '{one}'", one.id()),
            format!("[[publisher]]\nname = 'a'\n[[publisher.key]]\npublic_key = '{one}'\nvalid_until = 2026-01-01"),
            format!(
                "[minimum_versions]\n'adamw' = '1.0.1'\n[[publisher]]\nname = 'a'\npublic_key = '{one}'\n\
                 [[rule]]\nnames = ['team-a/*']\nsigners = ['a']\nthreshold = 1"
            ),
        ] {
            let policy = policy + "\n[end]\n";
            assert!(TrustStore::parse(&policy).is_ok(), "{policy}");
            fuzz_trust_policy(policy.as_bytes());
        }
        assert_eq!(SIGNED.len(), 2 * CANDIDATES.len());
    }
}
